/**
 * One AMQP connection as the broker sees it: who it is, which vhost it works in, and what is
 * exclusive to it. Knows no frame; libs/amqp does.
 */
import type { Channel, ChannelHandler, Connection, ConnectionHandler } from '@sluice/amqp'
import type { Deps } from '@sluice/server'
import type { QueueEntry } from '@sluice/topology'
import type { Feeds } from '../feeds.ts'
import { ChannelSession } from './channel-session.ts'
import { locked, notAllowed, notFound } from './reply.ts'
import type { ReplyTo } from './reply-to.ts'

type Credentials = Parameters<ConnectionHandler['authenticate']>[0]

/** What all sessions of a process share. */
export interface AmqpContext {
  readonly deps: Deps
  readonly feeds: Feeds
  readonly replyTo: ReplyTo
  readonly messageBytesMax: number
  /** A delivery that is not settled for this long goes back, ms; 0 = never. */
  readonly ackTimeoutMs: number
}

let sessions = 0

export class Session implements ConnectionHandler {
  readonly context: AmqpContext
  readonly connection: Connection
  /** Names this connection among all of all processes, as the owner of exclusive queues. */
  readonly id: string
  vhost = ''
  user = ''
  readonly #channels = new Set<ChannelSession>()
  /** Names of queues that go with this connection. */
  readonly #exclusive = new Set<string>()

  /** Whom the transport has proven, by a client certificate; undefined = nobody. */
  readonly #certified: string | undefined

  constructor(context: AmqpContext, connection: Connection, certified: string | undefined) {
    this.context = context
    this.#certified = certified
    this.connection = connection
    this.id = `${context.deps.store.slot.name}:${++sessions}`
  }

  async authenticate(credentials: Credentials): Promise<boolean> {
    if (credentials.mechanism === 'EXTERNAL') {
      this.user = this.#certified ?? ''
      return this.user !== '' && this.context.deps.credentials.isUser(this.user)
    }
    const { user, password } = credentials
    const basic = Buffer.from(`${user}:${password}`).toString('base64')
    const principal = this.context.deps.credentials.authenticate(`Basic ${basic}`)
    this.user = principal?.name ?? ''
    return principal !== undefined
  }

  async open(vhost: string): Promise<void> {
    const { topology } = this.context.deps
    if (!topology.table.hasVhost(vhost)) await topology.refresh()
    if (!topology.table.hasVhost(vhost)) {
      throw notAllowed(`access to vhost '${vhost}' refused for user '${this.user}': not found`)
    }
    this.vhost = vhost
  }

  async updateSecret(secret: string): Promise<void> {
    const credentials = { mechanism: 'PLAIN', user: this.user, password: secret } as const
    const { user } = this
    if (!(await this.authenticate(credentials))) {
      this.user = user
      throw notAllowed('the new secret was refused')
    }
  }

  channel(channel: Channel): ChannelHandler {
    const session = new ChannelSession(this, channel, () => this.#channels.delete(session))
    this.#channels.add(session)
    return session
  }

  writable(): void {
    for (const channel of this.#channels) channel.look()
  }

  async closed(): Promise<void> {
    const { topology } = this.context.deps
    for (const name of this.#exclusive) await topology.deleteQueue(this.vhost, name)
  }

  /** The queue goes with this connection. */
  own(name: string): void {
    this.#exclusive.add(name)
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
    throw locked(
      `cannot obtain exclusive access to locked queue '${name}' in vhost '${this.vhost}'. It could ` +
        'be originally declared on another connection or the exclusive property value does not ' +
        'match that of the original declaration.',
    )
  }
}
