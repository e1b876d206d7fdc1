/** basic.consume and basic.cancel on one channel. Numbers are those of docs/amqp.md. */
import { randomBytes } from 'node:crypto'
import type { FieldValue } from '@sluice/amqp'
import { type Registration, register } from '../registration.ts'
import type { ChannelSession } from './channel-session.ts'
import { AmqpConsumer } from './consumer.ts'
import { notAllowed, precondition, refused } from './reply.ts'
import { REPLY_TO } from './reply-to.ts'

/** Consumers of one channel: each costs a registration in Redis and some memory. */
const CONSUMERS_MAX = 10_000

interface Consume {
  readonly queue: string
  readonly consumerTag: string
  readonly noAck: boolean
  readonly exclusive: boolean
  readonly noWait: boolean
  readonly arguments: Readonly<Record<string, FieldValue>>
}

interface Registered {
  readonly consumer: AmqpConsumer
  readonly registration: Registration
}

export class Consuming {
  readonly #channel: ChannelSession
  readonly #consumers = new Map<string, Registered>()
  /** The consumer of direct replies, if there is one: its tag. */
  #replyTag = ''
  replyAddress = ''
  /** For consumers that come, 0 = no limit (45). */
  prefetch = 0

  constructor(channel: ChannelSession) {
    this.#channel = channel
  }

  look(): void {
    for (const { consumer } of this.#consumers.values()) {
      consumer.feed?.look()
    }
  }

  async consume(method: Consume): Promise<void> {
    const { queue, noAck, exclusive } = method
    const tag = method.consumerTag || `amq.ctag-${randomBytes(16).toString('base64url')}`
    if (this.#consumers.has(tag) || tag === this.#replyTag)
      throw notAllowed(`attempt to reuse consumer tag '${tag}'`) // 64
    if (this.#consumers.size >= CONSUMERS_MAX) {
      throw notAllowed(`reached maximum (${CONSUMERS_MAX}) of consumers per channel`)
    }
    if (queue === REPLY_TO) return this.#consumeReplies(method, tag)
    const { session } = this.#channel
    session.rooted = true
    session.require('read', { kind: 'queue', name: queue }) // 84
    const entry = await session.queue(queue)
    const single = entry.definition.arguments['x-single-active-consumer'] === true
    if (single && exclusive) throw refused('exclusive consumers are not possible on this queue')
    const priority = priorityOf(method.arguments['x-priority'])
    const { prefetch } = this
    const consumer = new AmqpConsumer(this.#channel, { tag, priority, noAck, prefetch })
    const name = `${session.id}:${this.#channel.channel.id}:${tag}`
    const registration = await register(
      session.context.deps,
      entry,
      name,
      { priority, exclusive, single },
      { active: () => this.#activate(tag), gone: () => this.cancelled(consumer) },
    )
    if (registration === 'exclusive') {
      throw refused(`queue '${queue}' in vhost '${session.vhost}' in exclusive use`) // 65
    }
    this.#consumers.set(tag, { consumer, registration })
    if (!method.noWait) this.#channel.channel.send({ name: 'basic.consume-ok', consumerTag: tag })
    if (registration.active) this.#activate(tag)
  }

  /** 67: an unknown tag is no error; what was delivered stays with the channel. */
  async cancel(tag: string): Promise<void> {
    if (tag !== '' && tag === this.#replyTag) {
      this.#channel.session.context.replyTo.forget(this.replyAddress)
      this.#replyTag = ''
      this.replyAddress = ''
    }
    const registered = this.#consumers.get(tag)
    if (registered) await this.#remove(tag, registered)
  }

  /** 68: the queue is gone. */
  cancelled(consumer: AmqpConsumer): void {
    const { channel } = this.#channel
    const registered = this.#consumers.get(consumer.tag)
    if (registered?.consumer !== consumer) return
    registered.registration.stop()
    this.#consumers.delete(consumer.tag)
    this.#leaveFeed(consumer)
    if (channel.connection.capabilities.has('consumer_cancel_notify')) {
      channel.send({ name: 'basic.cancel', consumerTag: consumer.tag, noWait: true })
    }
  }

  /** 17, 68: consumers of queues that the user may no longer read are cancelled. */
  review(): void {
    const { session, channel } = this.#channel
    for (const { consumer, registration } of [...this.#consumers.values()]) {
      const { name } = registration.entry.definition
      if (session.grants.allows('read', 'queue', name)) continue
      if (channel.connection.capabilities.has('consumer_cancel_notify')) {
        this.cancelled(consumer)
        registration.leave().catch(session.context.deps.report)
      } else {
        const resource = { kind: 'queue', name } as const
        channel.fail(refused(session.grants.refusal('read', resource) ?? ''), 0)
        return
      }
    }
  }

  /** No delivery comes any more once this has been called; settles when Redis has been told. */
  close(): Promise<void> {
    if (this.replyAddress !== '') {
      this.#channel.session.context.replyTo.forget(this.replyAddress)
    }
    const all = [...this.#consumers]
    // First no further delivery, at once; then Redis is told, which may take as long as it is away.
    for (const [, { consumer, registration }] of all) {
      registration.stop()
      this.#leaveFeed(consumer)
    }
    return Promise.all(all.map(([tag, registered]) => this.#remove(tag, registered))).then(() => {})
  }

  #leaveFeed(consumer: AmqpConsumer): void {
    consumer.feed?.detach(consumer)
    consumer.feed = undefined
  }

  /** A feed that nobody uses ends: it is looked up when it is used. */
  #activate(tag: string): void {
    const { consumer, registration } = this.#consumers.get(tag)!
    consumer.feed = this.#channel.session.context.feeds.of(registration.entry.store)
    consumer.feed.attach(consumer)
  }

  async #remove(tag: string, { consumer, registration }: Registered): Promise<void> {
    this.#consumers.delete(tag)
    this.#leaveFeed(consumer)
    await registration.leave()
  }

  /** 75. */
  #consumeReplies({ noAck, noWait }: Consume, tag: string): void {
    if (!noAck) throw precondition('reply consumer cannot acknowledge')
    if (this.#replyTag !== '') throw precondition('reply consumer already set')
    const { channel, session } = this.#channel
    session.rooted = true // the address says which process knows it
    this.#replyTag = tag
    this.replyAddress = session.context.replyTo.address((record) =>
      this.#channel.deliverReply(tag, record),
    )
    if (!noWait) channel.send({ name: 'basic.consume-ok', consumerTag: tag })
  }
}

/** 69: an integer, or absent. */
function priorityOf(value: FieldValue | undefined): number {
  if (value === undefined) return 0
  const priority = typeof value === 'bigint' ? Number(value) : value
  if (typeof priority === 'number' && Number.isInteger(priority)) return priority
  throw precondition("invalid arg 'x-priority': not an integer")
}
