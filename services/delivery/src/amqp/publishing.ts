/**
 * basic.publish on one channel: checks, confirms, returns, transactions.
 *
 * Hot path: a publish costs one Message and one Pending (libs/topology/src/publish.ts). Numbers in
 * comments are those of docs/amqp.md.
 */
import {
  AmqpError,
  type Channel,
  decodeProperties,
  encodeProperties,
  METHOD_IDS,
  REPLY_CODES,
  type Table,
} from '@sluice/amqp'
import { DEFAULT_EXCHANGE, limits, type Message } from '@sluice/core'
import { storedIdentity } from '@sluice/server'
import type { Published, PublishReply, QueueEntry } from '@sluice/topology'
import {
  furtherKeys,
  headersOf,
  type PublishProperties,
  readPublishProperties,
} from './publish-properties.ts'
import { notFound, notImplemented, precondition, refused } from './reply.ts'
import { REPLY_TO } from './reply-to.ts'
import type { Session } from './session.ts'

/** The header that carries a message's ordering key, where it is not its routing key. */
const ORDERING_KEY_HEADER = 'x-ordering-key'
const DELAY_HEADER = 'x-delay'
const ETA_HEADER = 'eta'

/** Publishes refused for want of memory or disk are tried again this often, ms. */
const HELD_RETRY_MS = 250

/** A publish under way. */
interface Open {
  /** Counts the channel's publishes. */
  readonly token: number
  readonly message: Message
  readonly mandatory: boolean
  /** Number of its confirm; 0 = the channel does not confirm. */
  readonly number: number
  /** For a transaction: whether it is stored. */
  readonly done: ((stored: boolean) => void) | undefined
}

export class Publishing implements PublishReply {
  readonly #session: Session
  readonly #channel: Channel
  readonly #open = new Map<number, Open>()
  /** Who waits until nothing is under way. */
  #idle: (() => void)[] = []
  #nextToken = 1
  /**
   * Since one was refused for want of memory or disk, until all are stored: those that are not, and
   * those after them. They are sent again once nothing is under way that could overtake them.
   */
  #held: Open[] = []
  #holding = false
  #retry: NodeJS.Timeout | undefined
  confirming = false
  /** The channel's address for direct replies; '' = nobody consumes them here. */
  replyAddress = ''

  constructor(session: Session, channel: Channel) {
    this.#session = session
    this.#channel = channel
  }

  /** While Redis is away its client waits, as it does for memory (18). */
  get patient(): boolean {
    return this.#channel.open
  }

  /** @throws AmqpError what closes the channel or the connection. */
  publish(
    exchange: string,
    routingKey: string,
    mandatory: boolean,
    immediate: boolean,
    properties: Buffer,
    body: Buffer,
  ): void {
    if (immediate) throw notImplemented('immediate=true') // 55
    const number = this.confirming ? this.#channel.confirms.add() : 0
    const message = this.message(exchange, routingKey, properties, body)
    if (exchange === DEFAULT_EXCHANGE && this.#session.context.replyTo.isAddress(routingKey)) {
      this.#sendReply(message, mandatory, number)
    } else {
      this.#send(message, mandatory, number, undefined)
    }
  }

  /** The same for a transaction, which waits: whether it is stored, or reached nobody. */
  sendOne(message: Message, mandatory: boolean): Promise<boolean> {
    return new Promise((done) => this.#send(message, mandatory, 0, done))
  }

  /** Resolves when nothing is under way; what is held for want of memory or disk does not count. */
  settled(): Promise<void> | undefined {
    if (this.#open.size === 0) return undefined
    return new Promise((resolve) => this.#idle.push(resolve))
  }

  #send(message: Message, mandatory: boolean, number: number, done: Open['done']): void {
    // Not read on while too much of this connection is on its way to Redis.
    this.#channel.connection.waiting(sizeOf(message))
    const open = { token: this.#nextToken++, message, mandatory, number, done }
    if (this.#holding) this.#hold(open)
    else this.#publish(open)
  }

  #publish(open: Open): void {
    const { token, message } = open
    this.#open.set(token, open)
    this.#session.context.deps.publisher.publish(this.#session.vhost, message, this, token)
  }

  published(token: number, outcome: Published, queues: readonly QueueEntry[]): void {
    const open = this.#open.get(token)!
    this.#open.delete(token)
    this.#ended(open, outcome, queues)
    if (this.#open.size > 0) return
    if (this.#holding && this.#retry === undefined) this.#release()
    if (this.#open.size === 0) for (const resolve of this.#idle.splice(0)) resolve()
  }

  #ended(open: Open, outcome: Published, queues: readonly QueueEntry[]): void {
    const { message, mandatory, number, done } = open
    const { publish } = this.#session.context.counts
    publish[outcome].value++
    publish.bytes.value += message.body.length
    if ((outcome === 'memory-high' || outcome === 'disk-low') && this.#channel.open) {
      this.#refused(open) // 18
      return
    }
    this.#channel.connection.waiting(-sizeOf(message))
    if (outcome === 'exchange-missing') {
      const { vhost } = this.#session
      const why = notFound(`no exchange '${message.exchange}' in vhost '${vhost}'`)
      this.#channel.fail(why, METHOD_IDS['basic.publish'])
      done?.(false)
      return
    }
    // 56: returned first, then confirmed.
    if (queues.length === 0 && mandatory) this.#return(message)
    const stored = STORED.has(outcome)
    if (done) done(stored)
    else if (number > 0) this.#channel.confirms.settle(number, stored)
    else if (!stored && outcome !== 'full') {
      // Nobody hears of a nack here, and silence would be a loss.
      this.#channel.fail(
        new AmqpError(REPLY_CODES.internalError, `a message could not be stored (${outcome})`),
        METHOD_IDS['basic.publish'],
      )
    }
  }

  /** The channel is gone: what is held was never confirmed. */
  close(): void {
    clearTimeout(this.#retry)
    for (const { message, done } of this.#held.splice(0)) {
      this.#channel.connection.waiting(-sizeOf(message))
      done?.(false)
    }
  }

  #refused(open: Open): void {
    this.#holding = true
    this.#hold(open)
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined
      if (this.#open.size === 0) this.#release()
    }, HELD_RETRY_MS)
  }

  /** All that is held goes again, as it was published. */
  #release(): void {
    const held = this.#held.splice(0).sort((one, other) => one.token - other.token)
    this.#holding = held.length > 0
    for (const open of held) this.#publish(open)
  }

  #hold(open: Open): void {
    const { message } = open
    // It may take long, and must not keep the socket's buffer that it is a view of.
    const kept = { properties: Buffer.from(message.properties), body: Buffer.from(message.body) }
    this.#held.push({ ...open, message: { ...message, ...kept } })
    this.#channel.connection.published() // tells why its confirm does not come
  }

  #return({ exchange, routingKey, properties, body }: Message): void {
    this.#channel.returned(exchange, routingKey, properties, body)
  }

  #sendReply(message: Message, mandatory: boolean, number: number): void {
    const { replyTo, deps } = this.#session.context
    replyTo
      .send(message.routingKey, message)
      .then(
        (sent) => {
          if (!sent && mandatory) this.#return(message)
          if (number > 0) this.#channel.confirms.settle(number, true)
        },
        (error) => {
          deps.report(error)
          if (number > 0) this.#channel.confirms.settle(number, false)
        },
      )
      .catch(deps.report)
  }

  /** The message as it is stored. */
  message(exchange: string, routingKey: string, properties: Buffer, body: Buffer): Message {
    const known = readPublishProperties(properties)
    this.#checkExchange(exchange, routingKey)
    this.#checkProperties(exchange, known)
    let kept = properties
    const headers = known.headersSize > 0 ? headersOf(properties) : undefined
    if (known.replyTo === REPLY_TO) {
      const { replyAddress: replyTo } = this
      kept = encodeProperties({ ...decodeProperties(kept, WIDE), replyTo })
    }
    const { cc, bcc } = headers ? furtherKeys(headers) : NO_KEYS
    const further = cc.length + bcc.length > 0 ? [...cc, ...bcc] : NO_KEYS.cc
    for (const key of further) this.#checkExchange(exchange, key)
    if (bcc.length > 0 && headers) {
      const { headers: all = {}, ...others } = decodeProperties(kept, WIDE)
      const { BCC: _, ...rest } = all
      kept = encodeProperties({ ...others, headers: rest })
    }
    return {
      exchange,
      routingKey,
      furtherKeys: further,
      orderingKey: textOf(headers?.[ORDERING_KEY_HEADER]) ?? null,
      persistent: known.persistent,
      priority: known.priority,
      ttlMs: known.ttlMs,
      delayMs: delayOf(headers?.[DELAY_HEADER]) || this.#untilEta(headers?.[ETA_HEADER]),
      dedupId: '',
      messageId: this.#identity(known, headers, body),
      durability: null,
      properties: kept,
      body,
    }
  }

  /** What names the message in queues that remember such names: an event's source and id. */
  #identity({ event, messageId }: PublishProperties, headers: Table | undefined, body: Buffer) {
    if (!event && headers === undefined) return messageId
    return storedIdentity(headers ?? {}, event, body) ?? messageId
  }

  /** Where the vhost holds tasks until their time, which Celery says in a header: ms until then. */
  #untilEta(eta: unknown): number {
    if (typeof eta !== 'string') return 0
    const { topology, store } = this.#session.context.deps
    if (!topology.table.vhostOptions(this.#session.vhost).holdEta) return 0
    const aheadMs = timeOf(eta) - (Date.now() + store.state.clockAheadMs)
    return aheadMs > 0 ? Math.min(aheadMs, limits.DURATION_MS_MAX) : 0
  }

  /** 62, 33; that the exchange is missing is found out on the way. */
  #checkExchange(exchange: string, routingKey: string): void {
    const { vhost, context, grants } = this.#session
    if (!grants.allows('write', 'exchange', exchange)) {
      this.#session.require('write', { kind: 'exchange', name: exchange })
    }
    if (exchange === DEFAULT_EXCHANGE) return
    const known = context.deps.topology.table.exchange(vhost, exchange)
    if (known?.internal) {
      throw refused(`cannot publish to internal exchange '${exchange}' in vhost '${vhost}'`)
    }
    if (known?.type === 'topic' && !grants.allowsTopic('write', exchange, routingKey)) {
      this.#session.require('write', { kind: 'exchange', name: exchange }, routingKey)
    }
  }

  /** In RabbitMQ's order: 63, 60, 61. */
  #checkProperties(exchange: string, { replyTo, ttlMs, expiration, userId }: PublishProperties) {
    const { user } = this.#session
    if (replyTo === REPLY_TO && this.replyAddress === '') {
      throw this.#unlessMissing(exchange, 'fast reply consumer does not exist')
    }
    if (Number.isNaN(ttlMs)) {
      const text = `invalid expiration '${expiration.slice(0, 64)}': not a number of milliseconds`
      throw this.#unlessMissing(exchange, text)
    }
    if (userId !== '' && userId !== user && !this.#mayImpersonate()) {
      const text = `user_id property set to '${userId}' but authenticated user was '${user}'`
      throw this.#unlessMissing(exchange, text)
    }
  }

  #mayImpersonate(): boolean {
    const { context, principal } = this.#session
    return (
      principal.kind !== 'administrator' && context.deps.access.tags(principal).has('impersonator')
    )
  }

  /** 56: that the exchange is missing counts for more than what is wrong with the message. */
  #unlessMissing(exchange: string, why: string): AmqpError {
    const { vhost, context } = this.#session
    if (context.deps.topology.table.exchange(vhost, exchange)) return precondition(why)
    return notFound(`no exchange '${exchange}' in vhost '${vhost}'`)
  }
}

const NO_KEYS = { cc: [], bcc: [] }

/** Of properties that are encoded again: integers keep their width. */
const WIDE = { wide: true }

/** What counts as confirmed: a message that no queue wanted is done with. */
const STORED: ReadonlySet<Published> = new Set(['stored', 'duplicate', 'unroutable'])

const sizeOf = ({ body, properties }: Message): number => body.length + properties.length

function textOf(value: unknown): string | undefined {
  if (typeof value === 'string') return value
  return Buffer.isBuffer(value) ? value.toString('utf8') : undefined
}

/** A time in ISO 8601; without a zone it is UTC, as Celery means it. NaN for anything else. */
function timeOf(text: string): number {
  if (!/^\d{4}-\d\d-\d\dT/.test(text)) return Number.NaN
  return Date.parse(/(Z|[+-]\d\d:?\d\d)$/.test(text) ? text : `${text}Z`)
}

/** As the delayed-message exchange has it: milliseconds in a header. */
function delayOf(value: unknown): number {
  const ms = typeof value === 'bigint' ? Number(value) : value
  return typeof ms === 'number' && Number.isSafeInteger(ms) && ms > 0 ? ms : 0
}
