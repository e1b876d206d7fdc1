/** The client: publish, consume, declare. */
import { type CloudEvent, completeEvent } from './cloud-event.ts'
import { type ConsumeOptions, Consumer, type Handler } from './consumer.ts'
import { DeadLetters } from './dead-letters.ts'
import type { Message } from './delivery.ts'
import { SluiceError } from './errors.ts'
import { type CallOptions, Http, type SluiceOptions } from './http.ts'
import { LeaseSource } from './lease-source.ts'
import { type Body, type MessageOptions, messageFields, placeOf, type Target } from './message.ts'
import {
  type BatchMessage,
  type BatchReceipt,
  Publisher,
  type PublisherOptions,
  type Receipt,
  sendAll,
  sendOne,
} from './publish.ts'
import { Socket } from './socket.ts'
import { Topology } from './topology.ts'
import { type WatchOptions, watch } from './watch.ts'

const EVENTS_TYPE = 'application/cloudevents-batch+json'

/** What goes along with a request. */
export interface ApiRequest {
  readonly query?: Readonly<Record<string, string | number | boolean | undefined>>
  /** Sent as JSON. */
  readonly body?: unknown
  /** How long the broker may wait before it answers, ms. */
  readonly waitMs?: number
}

/**
 * A broker, as one user sees it in one vhost. Nothing is connected until it is needed.
 *
 *     const sluice = new Sluice({ url: 'http://127.0.0.1:8080', user: 'admin', password })
 *     await sluice.topology.declareQueue('jobs')
 *     await sluice.publish({ queue: 'jobs' }, { photo: 7 })
 *     const consumer = sluice.consume('jobs', async ({ body }) => resize(body), { concurrency: 8 })
 *     process.once('SIGTERM', () => consumer.drain())
 */
export class Sluice {
  readonly #http: Http
  readonly #socket: Socket
  /** Declaring, deleting and looking at what the broker has. */
  readonly topology: Topology

  constructor(options: SluiceOptions) {
    this.#http = new Http(options)
    this.#socket = new Socket(this.#http, false)
    this.topology = new Topology(this.#http)
  }

  /**
   * Publishes one message. Resolves once it is stored; what may succeed later is tried again, with
   * the same idempotency key. Rejects with SluiceError.
   */
  publish<T extends Body>(
    target: Target,
    body: T,
    { signal, ...options }: MessageOptions & CallOptions = {},
  ): Promise<Receipt> {
    const fields = messageFields(target, body, options, this.#http.options.trace?.())
    return sendOne(this.#http, placeOf(target).exchange, fields, { signal })
  }

  /** Publishes many messages to one target, in order. */
  publishBatch<T extends Body>(
    target: Target,
    messages: readonly BatchMessage<T>[],
    { signal }: CallOptions = {},
  ): Promise<BatchReceipt> {
    const trace = this.#http.options.trace?.()
    const items = messages.map(({ body, ...options }) =>
      messageFields(target, body, options, trace),
    )
    return sendAll(this.#http, placeOf(target).exchange, items, { signal })
  }

  /**
   * Publishes a CloudEvent; its `source` and `id` de-duplicate. To an exchange it goes under its
   * `type` where the target has no routing key.
   */
  async publishEvent<T>(
    target: Target,
    event: CloudEvent<T>,
    { signal }: CallOptions = {},
  ): Promise<Receipt> {
    const { exchange, routingKey } = placeOf(target)
    const options = { routingKey, type: EVENTS_TYPE, signal }
    const receipt = await sendOne(this.#http, exchange, completeEvent(event), options)
    if (receipt.routed || !('queue' in target)) return receipt
    throw new SluiceError('unroutable', `There is no queue ${JSON.stringify(routingKey)}.`)
  }

  /** Publishes many CloudEvents, in order. */
  publishEvents<T>(
    target: Target,
    events: readonly CloudEvent<T>[],
    { signal }: CallOptions = {},
  ): Promise<BatchReceipt> {
    const { exchange, routingKey } = placeOf(target)
    const options = { routingKey, type: EVENTS_TYPE, signal }
    return sendAll(this.#http, exchange, events.map(completeEvent), options)
  }

  /** For many publishes one by one: gathers them into few requests. */
  publisher(options: PublisherOptions = {}): Publisher {
    return new Publisher(this.#http, options)
  }

  /** A WebSocket to publish over; connects when it is first used, and again when it breaks. */
  socket(): Socket {
    return new Socket(this.#http, true)
  }

  /**
   * Hands the messages of a queue to a handler. One that returns acknowledges; one that throws asks
   * for another delivery: after the queue's back-off, after that of a `Retry`, or with `DeadLetter`
   * never. All consumers of a client share one WebSocket.
   */
  consume<T = unknown>(
    queue: string,
    handler: Handler<T>,
    options: ConsumeOptions<T> = {},
  ): Consumer<T> {
    const source =
      options.via === 'http'
        ? new LeaseSource(this.#http, queue, options.leaseMs)
        : this.#socket.source(queue, options)
    return new Consumer(queue, handler, options, source)
  }

  /**
   * What is published to an exchange from now on, without consuming it: every reader sees every
   * message. Goes on where it was when the connection breaks; ends with the signal's reason.
   *
   *     for await (const { routingKey, body } of sluice.watch('events', { bindingKey: 'order.#' })) ...
   */
  watch<T = unknown>(
    exchange: string,
    options: WatchOptions<T> = {},
  ): AsyncGenerator<Message<T>, void, void> {
    return watch(this.#http, exchange, options)
  }

  /** The dead letters in a queue. Default: where they lie unless a queue says otherwise. */
  deadLetters(queue = 'amq.dead-letters'): DeadLetters {
    return new DeadLetters(this.#http, queue)
  }

  /**
   * A request of the HTTP API that has no method of its own here, e.g. `('GET', '/v1/whoami')`. The
   * answer's JSON. What may succeed later is tried again, so it should be safe to repeat.
   */
  async request(
    method: string,
    path: string,
    { signal, ...options }: ApiRequest & CallOptions = {},
  ): Promise<unknown> {
    return (await this.#http.request(method, path, { ...options, signal })).json
  }

  /** A queue whose messages are all of one type. `parse` checks what comes. */
  queue<T>(name: string, parse?: (body: unknown) => T): Queue<T> {
    return new Queue(this, name, parse)
  }

  /** Ends the connections. Consumers that still run end, too: drain them first. */
  async close(): Promise<void> {
    await this.#socket.close()
  }

  /** The same as `close`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/** A queue whose messages are all of type `T`. */
export class Queue<T> {
  readonly name: string
  readonly #sluice: Sluice
  readonly #parse: ((body: unknown) => T) | undefined

  /** Made by `Sluice.queue`. */
  constructor(sluice: Sluice, name: string, parse?: (body: unknown) => T) {
    this.#sluice = sluice
    this.name = name
    this.#parse = parse
  }

  /** See `Sluice.publish`. */
  publish(body: T, options: MessageOptions & CallOptions = {}): Promise<Receipt> {
    return this.#sluice.publish({ queue: this.name }, body, options)
  }

  /** See `Sluice.publishBatch`. */
  publishBatch(
    messages: readonly BatchMessage<T>[],
    options: CallOptions = {},
  ): Promise<BatchReceipt> {
    return this.#sluice.publishBatch({ queue: this.name }, messages, options)
  }

  /** See `Sluice.consume`. */
  consume(handler: Handler<T>, options: ConsumeOptions<T> = {}): Consumer<T> {
    const parse = options.parse ?? this.#parse
    return this.#sluice.consume(this.name, handler, { ...options, ...(parse && { parse }) })
  }
}
