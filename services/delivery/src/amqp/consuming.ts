/** basic.consume and basic.cancel on one channel. Numbers are those of docs/amqp.md. */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import type { FieldValue } from '@sluice/amqp'
import { BrokerError } from '@sluice/core'
import type { QueueStore } from '@sluice/store'
import type { QueueEntry } from '@sluice/topology'
import type { ChannelSession } from './channel-session.ts'
import { AmqpConsumer } from './consumer.ts'
import { notAllowed, precondition, refused } from './reply.ts'
import { REPLY_TO } from './reply-to.ts'

/** Consumers of one channel: each costs a registration in Redis and some memory. */
const CONSUMERS_MAX = 10_000

/** How often a consumer that is not the active one asks whether it is: a hint may be lost. */
const ACTIVE_LOOK_MS = 1_000

/** A consumer that left is forgotten as soon as Redis is back, if that is within ten minutes. */
const FORGET_ATTEMPTS = 1_200
const FORGET_EVERY_MS = 500

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

  look(): void {
    for (const { consumer } of this.#consumers.values()) {
      if (consumer.attached) consumer.feed.look()
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
    const id = `${session.id}:${this.#channel.channel.id}:${tag}`
    const options = { priority, exclusive, single }
    const attached = await entry.store.attach(id, options)
    if (attached.kind === 'exclusive') {
      throw refused(`queue '${queue}' in vhost '${session.vhost}' in exclusive use`) // 65
    }
    const feed = session.context.feeds.of(entry.store)
    const consumer = new AmqpConsumer(this.#channel, feed, {
      tag,
      id,
      priority,
      noAck,
      prefetch: this.prefetch,
    })
    const stopAsking = attached.active ? () => {} : this.#waitForTurn(entry, consumer, options)
    const forgotten = () => this.cancelled(consumer)
    entry.store.onForgotten.add(forgotten)
    const stop = () => {
      stopAsking()
      entry.store.onForgotten.delete(forgotten)
    }
    this.#consumers.set(tag, { consumer, entry, stop })
    if (!method.noWait) this.#channel.channel.send({ name: 'basic.consume-ok', consumerTag: tag })
    if (attached.active) this.#activate(consumer)
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
    if (consumer.attached) consumer.feed.detach(consumer)
    consumer.attached = false
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
        entry.store.detach(consumer.id).catch(session.context.deps.report)
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
    if (consumer.attached) consumer.feed.detach(consumer)
    consumer.attached = false
  }

  #activate(consumer: AmqpConsumer): void {
    consumer.attached = true
    consumer.feed.attach(consumer)
  }

  async #remove(tag: string, { consumer, entry, stop }: Registered): Promise<void> {
    stop()
    this.#consumers.delete(tag)
    this.#leaveFeed(consumer)
    const { session } = this.#channel
    const { report, topology } = session.context.deps
    try {
      const left = await forget(entry.store, consumer.id)
      if (left === 0 && entry.definition.autoDelete) {
        // 52: its last consumer has left.
        const { name } = entry.definition
        await topology.deleteQueue(session.vhost, name, { ifUnused: true })
      }
    } catch (error) {
      // A reaper forgets the consumers of a dead process; the queue may be gone.
      if (!(error instanceof BrokerError)) report(error)
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
          this.#activate(consumer)
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

/**
 * Takes a consumer off its queue; tries again while Redis is away, since one that stays registered
 * would keep an exclusive queue taken, or be the active one for ever.
 */
async function forget(store: QueueStore, id: string): Promise<number> {
  for (let left = FORGET_ATTEMPTS; ; left--) {
    try {
      return await store.detach(id)
    } catch (error) {
      const away = error instanceof BrokerError && error.code === 'store_unavailable'
      if (!away || left === 0) throw error
      await sleep(FORGET_EVERY_MS)
    }
  }
}
