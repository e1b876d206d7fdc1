/** basic.consume and basic.cancel on one channel. Numbers are those of docs/amqp.md. */
import { randomBytes } from 'node:crypto'
import type { FieldValue } from '@sluice/amqp'
import { BrokerError, type Report } from '@sluice/core'
import type { QueueStore } from '@sluice/store'
import type { QueueEntry } from '@sluice/topology'
import type { ChannelSession } from './channel-session.ts'
import { AmqpConsumer } from './consumer.ts'
import { insist } from './insist.ts'
import { notAllowed, precondition, refused } from './reply.ts'
import { REPLY_TO } from './reply-to.ts'

/** Consumers of one channel: each costs a registration in Redis and some memory. */
const CONSUMERS_MAX = 10_000

/** How often a consumer that is not the active one asks whether it is: a hint may be lost. */
const ACTIVE_LOOK_MS = 1_000

/** Tells consumers apart that have the same tag one after the other. */
let consumersMade = 0

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
  readonly entry: QueueEntry
  /** Stops asking whether it is active, and listening for the queue's end. */
  readonly stop: () => void
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

  get #report(): Report {
    return this.#channel.session.context.deps.report
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
    session.require('read', { kind: 'queue', name: queue }) // 84
    const entry = await session.queue(queue)
    const single = entry.definition.arguments['x-single-active-consumer'] === true
    if (single && exclusive) throw refused('exclusive consumers are not possible on this queue')
    const priority = priorityOf(method.arguments['x-priority'])
    const id = `${session.id}:${this.#channel.channel.id}:${++consumersMade}:${tag}`
    const options = { priority, exclusive, single }
    const attached = await this.#register(entry, id, options)
    if (attached.kind === 'exclusive') {
      throw refused(`queue '${queue}' in vhost '${session.vhost}' in exclusive use`) // 65
    }
    const { prefetch } = this
    const consumer = new AmqpConsumer(this.#channel, { tag, id, priority, noAck, prefetch })
    const stopAsking = attached.active ? () => {} : this.#waitForTurn(entry, consumer, options)
    const forgotten = () => this.cancelled(consumer)
    entry.store.onForgotten.add(forgotten)
    const stop = () => {
      stopAsking()
      entry.store.onForgotten.delete(forgotten)
    }
    this.#consumers.set(tag, { consumer, entry, stop })
    if (!method.noWait) this.#channel.channel.send({ name: 'basic.consume-ok', consumerTag: tag })
    if (attached.active) this.#activate(consumer, entry)
  }

  async #register(
    entry: QueueEntry,
    id: string,
    options: { priority: number; exclusive: boolean; single: boolean },
  ): ReturnType<QueueStore['attach']> {
    try {
      return await entry.store.attach(id, options)
    } catch (error) {
      this.#forget(entry, id).catch(this.#report) // it may have happened all the same
      throw error
    }
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
    registered.stop()
    this.#consumers.delete(consumer.tag)
    this.#leaveFeed(consumer)
    if (channel.connection.capabilities.has('consumer_cancel_notify')) {
      channel.send({ name: 'basic.cancel', consumerTag: consumer.tag, noWait: true })
    }
  }

  /** 17, 68: consumers of queues that the user may no longer read are cancelled. */
  review(): void {
    const { session, channel } = this.#channel
    for (const { consumer, entry } of [...this.#consumers.values()]) {
      const { name } = entry.definition
      if (session.grants.allows('read', 'queue', name)) continue
      if (channel.connection.capabilities.has('consumer_cancel_notify')) {
        this.cancelled(consumer)
        this.#forget(entry, consumer.id).catch(this.#report)
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
    for (const [, { consumer, stop }] of all) {
      stop()
      this.#leaveFeed(consumer)
    }
    return Promise.all(all.map(([tag, registered]) => this.#remove(tag, registered))).then(() => {})
  }

  #leaveFeed(consumer: AmqpConsumer): void {
    consumer.feed?.detach(consumer)
    consumer.feed = undefined
  }

  /** A feed that nobody uses ends: it is looked up when it is used. */
  #activate(consumer: AmqpConsumer, { store }: QueueEntry): void {
    consumer.feed = this.#channel.session.context.feeds.of(store)
    consumer.feed.attach(consumer)
  }

  async #remove(tag: string, { consumer, entry, stop }: Registered): Promise<void> {
    stop()
    this.#consumers.delete(tag)
    this.#leaveFeed(consumer)
    await this.#forget(entry, consumer.id)
  }

  /** Takes a consumer off its queue, as soon as Redis is there. */
  async #forget({ store, definition, vhost }: QueueEntry, id: string): Promise<void> {
    const { topology, stopping } = this.#channel.session.context.deps
    const { name, epoch, autoDelete } = definition
    try {
      const left = await insist(stopping, () => store.detach(id))
      if (left > 0 || !autoDelete) return
      // 52: its last consumer has left.
      await insist(stopping, () => topology.deleteQueue(vhost, name, { ifUnused: true, epoch }))
    } catch (error) {
      // Reapers do the same for a dead process; the queue may be gone, or in use again.
      if (!(error instanceof BrokerError)) this.#report(error)
    }
  }

  /** 69: of a queue with a single active consumer, the others wait until they are it. */
  #waitForTurn(
    entry: QueueEntry,
    consumer: AmqpConsumer,
    options: { priority: number; exclusive: boolean; single: boolean },
  ): () => void {
    const { report } = this.#channel.session.context.deps
    const ask = () => {
      entry.store.attach(consumer.id, options).then(
        (attached) => {
          if (attached.kind !== 'ok' || !attached.active || stopped) return
          stop()
          this.#activate(consumer, entry)
        },
        (error) => {
          if (!(error instanceof BrokerError)) report(error)
          else if (error.code === 'queue_not_found' && !stopped) this.cancelled(consumer)
        },
      )
    }
    let stopped = false
    const timer = setInterval(ask, ACTIVE_LOOK_MS)
    const unwatch = entry.store.watch(() => {
      ask()
      return false // the hint may be about a message, which is not for this one yet
    })
    const stop = () => {
      stopped = true
      clearInterval(timer)
      unwatch()
    }
    return stop
  }

  /** 75. */
  #consumeReplies({ noAck, noWait }: Consume, tag: string): void {
    if (!noAck) throw precondition('reply consumer cannot acknowledge')
    if (this.#replyTag !== '') throw precondition('reply consumer already set')
    const { channel, session } = this.#channel
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
