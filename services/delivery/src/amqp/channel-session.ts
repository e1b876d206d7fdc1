/**
 * One AMQP channel as the broker sees it: its consumers, what it has and has not settled, its
 * publishes. Numbers in comments are those of docs/amqp.md.
 */
import type { Channel, ChannelHandler, ChannelMethod } from '@sluice/amqp'
import { type Delivery, UNSEEN } from '../handing.ts'
import type { AmqpConsumer } from './consumer.ts'
import { Consuming } from './consuming.ts'
import { withDeliveryCount } from './delivery-count.ts'
import { type Outcome, Outstanding, REJECTED, REQUEUED } from './outstanding.ts'
import { Publishing } from './publishing.ts'
import { notFound, notImplemented, precondition, refused } from './reply.ts'
import { type Answer, REPLY_TO } from './reply-to.ts'
import type { Session } from './session.ts'
import {
  bindExchange,
  bindQueue,
  declareExchange,
  declareQueue,
  deleteExchange,
  deleteQueue,
  purgeQueue,
} from './topology-methods.ts'
import { Transaction } from './transaction.ts'

export class ChannelSession implements ChannelHandler {
  readonly session: Session
  readonly channel: Channel
  readonly #ended: () => void
  readonly #outstanding: Outstanding
  readonly #consuming: Consuming
  readonly #publishing: Publishing
  #transaction: Transaction | undefined
  #lastQueue = ''
  /** Most unsettled deliveries to consumers of the whole channel, 0 = no limit (45). */
  #prefetch = 0
  #looking = false

  constructor(session: Session, channel: Channel, ended: () => void) {
    this.session = session
    this.channel = channel
    this.#ended = ended
    const { ackTimeoutMs, deps } = session.context
    const timeouts = deps.metrics.count('ackTimeouts', {})
    this.#outstanding = new Outstanding(ackTimeoutMs, () => timeouts.value++)
    this.#consuming = new Consuming(this)
    this.#publishing = new Publishing(session, channel)
  }

  /** Deliveries that may be sent before the socket has to be waited for. */
  room(): number {
    return this.channel.open && this.channel.connection.writable ? Number.POSITIVE_INFINITY : 0
  }

  /** Deliveries that the channel's own limit leaves. */
  credit(): number {
    if (this.#prefetch === 0) return Number.POSITIVE_INFINITY
    return this.#prefetch - this.#outstanding.consumed
  }

  /** Whether its consumers share a limit, beside each one's own. */
  get limited(): boolean {
    return this.#prefetch > 0
  }

  /** There may be credit again. */
  look(): void {
    this.#consuming.look()
  }

  deliver(consumer: AmqpConsumer, delivery: Delivery): void {
    const outstanding = this.#outstanding
    const tag = consumer.noAck ? outstanding.next() : outstanding.add(delivery, consumer)
    const { exchange, routingKey, body } = delivery.record
    const properties = withDeliveryCount(delivery)
    const { redelivered } = delivery
    this.#countDelivery(redelivered)
    this.channel.deliver(consumer.tag, tag, redelivered, exchange, routingKey, properties, body)
  }

  #countDelivery(redelivered: boolean): void {
    const { counts } = this.session.context
    counts.leased.value++
    if (redelivered) counts.redelivered.value++
  }

  /** What the user may do has changed. */
  review(): void {
    this.#consuming.review()
  }

  cancelled(consumer: AmqpConsumer): void {
    this.#consuming.cancelled(consumer)
  }

  /** 75: an answer for this channel; it is settled by being sent. */
  deliverReply(consumerTag: string, answer: Answer): void {
    const tag = this.#outstanding.next()
    const { exchange, routingKey, properties, body } = answer
    this.channel.deliver(consumerTag, tag, false, exchange, routingKey, properties, body)
  }

  publish(
    exchange: string,
    routingKey: string,
    mandatory: boolean,
    immediate: boolean,
    properties: Buffer,
    body: Buffer,
  ): void {
    const publishing = this.#publishing
    if (!this.#transaction) {
      publishing.publish(exchange, routingKey, mandatory, immediate, properties, body)
      return
    }
    if (immediate) throw notImplemented('immediate=true')
    const message = publishing.message(exchange, routingKey, properties, body)
    this.#transaction.publish(message, mandatory)
  }

  ack(tag: number, multiple: boolean): void {
    this.#settle(tag, multiple, 'ack')
  }

  /** 72. */
  nack(tag: number, multiple: boolean, requeue: boolean): void {
    this.#settle(tag, multiple, requeue ? REQUEUED : REJECTED)
  }

  #settle(tag: number, multiple: boolean, how: Outcome): void {
    const outstanding = this.#outstanding
    const transaction = this.#transaction
    const { counts } = this.session.context
    outstanding.take(tag, multiple, (held, of) => {
      counts.settled(how)
      if (transaction) transaction.settle(held, of, how)
      else outstanding.end(held, how)
    })
    if (!transaction) this.#lookSoon()
  }

  /** A limit of the whole channel may hold back consumers of queues where nothing was settled. */
  #lookSoon(): void {
    if (!this.limited || this.#looking) return
    this.#looking = true
    setImmediate(() => {
      this.#looking = false
      if (this.channel.open) this.look()
    })
  }

  /** What goes back is told on the connection to Redis that what comes next asks on. */
  settled(): Promise<void> | undefined {
    this.#outstanding.flush().catch(this.session.context.deps.report)
    return this.#publishing.settled()
  }

  async closed(): Promise<void> {
    this.#ended()
    const forgotten = this.#consuming.close()
    this.#transaction?.rollback()
    const returned = this.#outstanding.close() // 74
    this.#publishing.close()
    await Promise.all([forgotten, returned])
  }

  async method(method: ChannelMethod): Promise<void> {
    switch (method.name) {
      case 'exchange.declare':
        await declareExchange(this.session, method)
        return this.#ok(method, { name: 'exchange.declare-ok' })
      case 'exchange.delete':
        await deleteExchange(this.session, method)
        return this.#ok(method, { name: 'exchange.delete-ok' })
      case 'exchange.bind':
        await bindExchange(this.session, method)
        return this.#ok(method, { name: 'exchange.bind-ok' })
      case 'exchange.unbind':
        await bindExchange(this.session, method)
        return this.#ok(method, { name: 'exchange.unbind-ok' })
      case 'queue.declare':
      case 'queue.bind':
      case 'queue.unbind':
      case 'queue.purge':
      case 'queue.delete':
        return this.#queueMethod(method)
      case 'basic.qos':
        return this.#qos(method.prefetchSize, method.prefetchCount, method.global)
      case 'basic.consume': {
        await this.#consuming.consume({ ...method, queue: this.#queueName(method.queue) })
        this.#publishing.replyAddress = this.#consuming.replyAddress // 75
        return
      }
      case 'basic.cancel':
        await this.#consuming.cancel(method.consumerTag)
        this.#publishing.replyAddress = this.#consuming.replyAddress
        return this.#ok(method, { name: 'basic.cancel-ok', consumerTag: method.consumerTag })
      case 'basic.get':
        return this.#get(this.#queueName(method.queue), method.noAck)
      case 'basic.recover':
      case 'basic.recover-async':
        return this.#recover(method.name === 'basic.recover', method.requeue)
      case 'confirm.select':
        if (this.#transaction) throw precondition('cannot switch from tx to confirm mode')
        this.#publishing.confirming = true
        return this.#ok(method, { name: 'confirm.select-ok' })
      case 'tx.select':
      case 'tx.commit':
      case 'tx.rollback':
        return this.#tx(method.name)
    }
  }

  #ok(method: object, answer: Parameters<Channel['send']>[0]): void {
    const silent = 'noWait' in method && method.noWait === true
    if (!silent) this.channel.send(answer)
  }

  async #queueMethod(method: Extract<ChannelMethod, { name: `queue.${string}` }>): Promise<void> {
    switch (method.name) {
      case 'queue.declare': {
        if (this.session.context.replyTo.isReplyQueue(method.queue)) {
          return this.#declareReplyQueue(method.queue)
        }
        const { entry, messages, consumers } = await declareQueue(this.session, method)
        const { name: queue } = entry.definition
        this.#lastQueue = queue
        const counts = { messageCount: messages, consumerCount: consumers }
        return this.#ok(method, { name: 'queue.declare-ok', queue, ...counts })
      }
      case 'queue.bind':
      case 'queue.unbind': {
        const queue = this.#queueName(method.queue)
        if (this.session.context.replyTo.isReplyQueue(queue)) {
          throw refused('cannot bind or unbind to a volatile (direct reply-to) queue') // 75
        }
        // 42: without queue and key, the key is the queue's name.
        const own = method.queue === '' && method.routingKey === ''
        await bindQueue(this.session, method, queue, own ? queue : method.routingKey)
        return this.#ok(method, { name: `${method.name}-ok` })
      }
      case 'queue.purge': {
        const messageCount = await purgeQueue(this.session, this.#queueName(method.queue))
        return this.#ok(method, { name: 'queue.purge-ok', messageCount })
      }
      case 'queue.delete': {
        const messageCount = await deleteQueue(this.session, method, this.#queueName(method.queue))
        return this.#ok(method, { name: 'queue.delete-ok', messageCount })
      }
    }
  }

  /** 54: the name that all consume is there; an address is while somebody waits at it. */
  async #declareReplyQueue(queue: string): Promise<void> {
    if (queue !== REPLY_TO && !(await this.session.context.replyTo.knows(queue))) {
      throw notFound(`no queue '${queue}' in vhost '${this.session.vhost}'`)
    }
    this.channel.send({ name: 'queue.declare-ok', queue, messageCount: 0, consumerCount: 1 })
  }

  /** 42: '' stands for the queue that the channel declared last. */
  #queueName(name: string): string {
    const queue = name.replace(/[\r\n]/g, '') || this.#lastQueue
    if (queue === '') throw notFound('no previously declared queue')
    return queue
  }

  /** 45. */
  #qos(prefetchSize: number, prefetchCount: number, global: boolean): void {
    if (prefetchSize !== 0) throw notImplemented('prefetch_size!=0 (' + prefetchSize + ')')
    if (global) this.#prefetch = prefetchCount
    else this.#consuming.prefetch = prefetchCount
    this.channel.send({ name: 'basic.qos-ok' })
    this.look()
  }

  async #get(queue: string, noAck: boolean): Promise<void> {
    this.session.rooted = true
    this.session.require('read', { kind: 'queue', name: queue }) // 84
    const entry = await this.session.queue(queue)
    const feed = this.session.context.feeds.of(entry.store)
    const delivery = await feed.get()
    if (!delivery) return this.channel.send({ name: 'basic.get-empty' })
    const { ready } = await entry.store.stats()
    if (!this.channel.open) return feed.giveBack(delivery, UNSEEN)
    const tag = noAck ? this.#outstanding.next() : this.#outstanding.add(delivery, undefined)
    const { exchange, routingKey, body } = delivery.record
    const properties = withDeliveryCount(delivery)
    const { redelivered } = delivery
    this.#countDelivery(redelivered)
    this.channel.getOk(tag, redelivered, exchange, routingKey, ready, properties, body)
    if (noAck) feed.ack(delivery)
  }

  /** 73. */
  #recover(answers: boolean, requeue: boolean): void {
    if (!requeue) throw notImplemented('requeue=false')
    this.#outstanding.giveBack()
    this.#lookSoon()
    if (answers) this.channel.send({ name: 'basic.recover-ok' })
  }

  /** 58. */
  async #tx(name: 'tx.select' | 'tx.commit' | 'tx.rollback'): Promise<void> {
    if (name === 'tx.select') {
      if (this.#publishing.confirming) throw precondition('cannot switch from confirm to tx mode')
      this.#transaction ??= new Transaction(this.#publishing, this.#outstanding)
      return this.channel.send({ name: 'tx.select-ok' })
    }
    if (!this.#transaction) throw precondition('channel is not transactional')
    if (name === 'tx.commit') await this.#transaction.commit()
    else this.#transaction.rollback()
    this.#lookSoon()
    this.channel.send({ name: `${name}-ok` })
  }
}
