/**
 * One AMQP connection as the broker sees it: who it is, which vhost it works in, and what is
 * exclusive to it. Knows no frame; libs/amqp does.
 */
import assert from 'node:assert/strict'
import {
  AmqpError,
  type Channel,
  type ChannelHandler,
  type Connection,
  type ConnectionHandler,
  REPLY_CODES,
} from '@sluice/amqp'
import { BrokerError } from '@sluice/core'
import {
  describePrincipal,
  type Grants,
  type Operation,
  type Principal,
  type Resource,
} from '@sluice/security'
import type { Deps } from '@sluice/server'
import type { QueueEntry } from '@sluice/topology'
import type { Feeds } from '../feeds.ts'
import { insist } from '../insist.ts'
import { ChannelSession } from './channel-session.ts'
import type { ConnectionLimits } from './connection-limits.ts'
import type { AmqpCounts } from './counts.ts'
import { locked, notAllowed, notFound, refused } from './reply.ts'
import type { ReplyTo } from './reply-to.ts'

type Credentials = Parameters<ConnectionHandler['authenticate']>[0]

/** What all sessions of a process share. */
export interface AmqpContext {
  readonly deps: Deps
  readonly feeds: Feeds
  readonly replyTo: ReplyTo
  readonly limits: ConnectionLimits
  readonly messageBytesMax: number
  /** A delivery that is not settled for this long goes back, ms; 0 = never. */
  readonly ackTimeoutMs: number
  readonly counts: AmqpCounts
}

/** What is known of a connection's client before it says who it is. */
export interface Peer {
  readonly address: string
  /** Whom its certificate names, once the listener has verified it; undefined = nobody. */
  readonly certified: string | undefined
}

/** Kinds of principals that are proven for a time. */
const EXPIRES: ReadonlySet<Principal['kind']> = new Set(['token', 'api-key'])

const LOST = "broker forced connection closure with reason 'away for longer than its heartbeat'"

let sessions = 0

export class Session implements ConnectionHandler {
  readonly context: AmqpContext
  readonly connection: Connection
  /** Names this connection among all of all processes, as the owner of exclusive queues. */
  id: string
  /** Has, or had, what is in the name of this process: a consumer, deliveries, exclusive queues. */
  rooted = false
  vhost = ''
  #principal: Principal | undefined
  #grants: Grants | undefined
  #unfollow: () => void = () => {}
  readonly #channels = new Set<ChannelSession>()
  /** Names of queues that go with this connection. */
  readonly #exclusive = new Set<string>()
  /** A declare of an exclusive queue failed, and may have happened. */
  #ownsMore = false
  readonly #peer: Peer
  /** Where it counts as a connection. */
  readonly #counted: ['vhost' | 'user', name: string][] = []
  #ended = false

  constructor(context: AmqpContext, connection: Connection, peer: Peer) {
    this.context = context
    this.#peer = peer
    this.connection = connection
    this.id = this.#newId()
  }

  #newId(): string {
    return `${this.context.deps.store.slot.name}:${++sessions}`
  }

  /**
   * This process was taken for dead: what it held went to others, and nobody counts its consumers
   * any more (16). A connection that has only published goes on.
   */
  lost(): void {
    if (this.rooted) this.#force(LOST)
    else this.id = this.#newId()
  }

  /** Who has logged in. */
  get principal(): Principal {
    assert(this.#principal, 'nobody has logged in')
    return this.#principal
  }

  get user(): string {
    return this.#principal?.name ?? ''
  }

  /** What it may do in its vhost. */
  get grants(): Grants {
    assert(this.#grants, 'no vhost is open')
    return this.#grants
  }

  async authenticate(credentials: Credentials): Promise<boolean> {
    this.#principal = await this.#prove(credentials)
    if (this.#principal === undefined) {
      const claimed = 'user' in credentials ? credentials.user : (this.#peer.certified ?? '')
      const who = this.context.deps.credentials.known(claimed)
      this.#note(who, 'login over AMQP', 'refused')
    }
    return this.#principal !== undefined
  }

  async #prove(credentials: Credentials): Promise<Principal | undefined> {
    const { address, certified } = this.#peer
    const known = this.context.deps.credentials
    if (credentials.mechanism === 'EXTERNAL') {
      return certified === undefined ? undefined : known.certified(certified)
    }
    try {
      return await known.login(credentials.user, credentials.password, address)
    } catch (error) {
      if (error instanceof BrokerError) return undefined // refused unheard, after too many failures
      throw error
    }
  }

  async open(vhost: string): Promise<void> {
    const { topology } = this.context.deps
    if (!topology.table.hasVhost(vhost)) await topology.refresh()
    if (!topology.table.hasVhost(vhost)) {
      throw notAllowed(`access to vhost '${vhost}' refused for user '${this.user}': not found`)
    }
    this.vhost = vhost
    this.#admit(this.principal)
    await this.#count('vhost', vhost, (most) => {
      return `${this.#noEntry}: vhost connection limit (${most}) is reached`
    })
    await this.#count('user', this.user, (most) => {
      return `connection refused for user '${this.user}': user connection limit (${most}) is reached`
    })
  }

  /** 9. */
  async #count(what: 'vhost' | 'user', name: string, full: (most: number) => string) {
    const { limits } = this.context
    const most = await limits.enter(what, name)
    if (most !== undefined) throw notAllowed(full(most))
    if (this.#ended) limits.leave(what, name)
    else this.#counted.push([what, name])
  }

  /**
   * 17: a new token or key of the same user; what it allows is looked at again. Whoever logged in
   * by what does not expire needs none: as in RabbitMQ, any is taken, and changes nothing.
   */
  async updateSecret(secret: string): Promise<void> {
    const { user, principal } = this
    const proven = await this.#prove({ mechanism: 'PLAIN', user, password: secret })
    if (proven?.name === user) this.#admit(proven)
    else if (EXPIRES.has(principal.kind)) throw notAllowed('the new secret was refused')
    this.#review()
  }

  /** Lets a principal into the vhost, and follows what it may do there. Throws AmqpError 530. */
  #admit(principal: Principal): void {
    const { access } = this.context.deps
    if (!access.enters(principal, this.vhost)) {
      this.#note(describePrincipal(principal), `enter vhost '${this.vhost}'`, 'refused')
      throw notAllowed(this.#noEntry)
    }
    this.#unfollow()
    this.#principal = principal
    this.#grants = access.grants(principal, this.vhost)
    this.#unfollow = access.follow(principal, () => this.#review())
  }

  /** 16: what the principal may no longer do ends. */
  #review(): void {
    const { access } = this.context.deps
    const why = access.ended(this.principal)
    if (why !== undefined) this.#force(why)
    else if (!access.enters(this.principal, this.vhost)) this.#force(this.#noEntry)
    else for (const channel of this.#channels) channel.review()
  }

  #force(why: string): void {
    this.connection.close(new AmqpError(REPLY_CODES.connectionForced, why))
  }

  get #noEntry(): string {
    return `access to vhost '${this.vhost}' refused for user '${this.user}'`
  }

  /** 84: throws 403 unless the user may do this. Not for every message. */
  require(operation: Operation, resource: Resource, routingKey?: string): void {
    const why = this.grants.refusal(operation, resource, routingKey)
    if (why === undefined) return
    this.#note(
      describePrincipal(this.principal),
      `${operation} ${this.#named(resource)}`,
      'refused',
    )
    throw refused(why)
  }

  /** For the audit log: something was declared, deleted, bound or purged. */
  acted(method: string, resource: Resource): void {
    this.#note(describePrincipal(this.principal), `${method} ${this.#named(resource)}`, 'done')
  }

  #named({ kind, name }: Resource): string {
    return `${kind} '${name}' in vhost '${this.vhost}'`
  }

  #note(who: string, what: string, outcome: string): void {
    this.context.deps.audit.note({ who, from: this.#peer.address, what, outcome })
  }

  channel(channel: Channel): ChannelHandler {
    const { limits, counts } = this.context
    const { channels } = counts
    const { user } = this
    const most = limits.enterChannel(user)
    if (most !== undefined) {
      throw notAllowed(
        `number of channels opened for user '${user}' has reached the maximum allowed user limit of (${most})`,
      )
    }
    const session = new ChannelSession(this, channel, () => {
      if (!this.#channels.delete(session)) return
      channels.open--
      limits.leave('channels', user)
    })
    this.#channels.add(session)
    channels.open++
    channels.opened.value++
    return session
  }

  writable(): void {
    for (const channel of this.#channels) channel.look()
  }

  async closed(): Promise<void> {
    this.#unfollow()
    this.#ended = true
    for (const [what, name] of this.#counted.splice(0)) this.context.limits.leave(what, name)
    if (this.#exclusive.size === 0 && !this.#ownsMore) return
    const { topology, stopping } = this.context.deps
    await insist(stopping, async () => {
      await topology.refresh()
      for (const name of this.#owned()) {
        // By then somebody else may have a queue of that name.
        const there = topology.table.queue(this.vhost, name)?.definition
        if (there?.exclusive !== this.id) continue
        await topology.deleteQueue(this.vhost, name, { epoch: there.epoch }).catch(unlessVhostGone)
      }
    })
  }

  #owned(): Iterable<string> {
    if (!this.#ownsMore) return this.#exclusive
    const all = [...this.context.deps.topology.table.queues(this.vhost)]
    return all.map(({ definition }) => definition.name)
  }

  /** The queue goes with this connection. */
  own(name: string): void {
    this.#exclusive.add(name)
  }

  /** A queue may have been declared that goes with this connection. */
  mayOwn(): void {
    this.#ownsMore = true
  }

  disown(name: string): void {
    this.#exclusive.delete(name)
  }

  /**
   * A queue of this vhost, read again before it is called missing: it may have been declared
   * elsewhere a moment ago. Throws 404, and 405 when it is exclusive to another connection.
   */
  async queue(name: string): Promise<QueueEntry> {
    const { topology } = this.context.deps
    let entry = topology.table.queue(this.vhost, name)
    if (!entry) {
      await topology.refresh()
      entry = topology.table.queue(this.vhost, name)
    }
    if (!entry) throw notFound(`no queue '${name}' in vhost '${this.vhost}'`)
    this.checkAccess(entry)
    return entry
  }

  checkAccess({ definition: { name, exclusive } }: QueueEntry): void {
    if (exclusive === '' || exclusive === this.id) return
    throw locked(name, this.vhost)
  }
}

/** With a vhost go its queues. */
function unlessVhostGone(error: unknown): void {
  if (!(error instanceof BrokerError) || error.code !== 'vhost_not_found') throw error
}
