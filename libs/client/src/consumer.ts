/**
 * Consuming: deliveries to a handler, so many at a time, and their ends back to the broker.
 *
 * A handler that returns acknowledges; one that throws asks for a retry, or with `DeadLetter` gives
 * up. Where the deliveries come from, a WebSocket or leases over HTTP, is a `Source`.
 */
import { Delivery, type Settlement, settlementFor } from './delivery.ts'

/** Works on one delivery. */
export type Handler<T> = (delivery: Delivery<T>) => unknown

/** How messages are consumed. */
export interface ConsumeOptions<T = unknown> {
  /** Deliveries that are worked on at the same time. Default 1. */
  readonly concurrency?: number
  /** Deliveries that wait here besides, so that the next is at hand. Default: `concurrency`. */
  readonly prefetch?: number
  /** Checks and types a body. One that it throws on is dead-lettered. */
  readonly parse?: (body: unknown) => T
  /** Drains the consumer, as `drain` does. */
  readonly signal?: AbortSignal
  /** Over a WebSocket, or by leases over HTTP. Default: websocket. */
  readonly via?: 'websocket' | 'http'
  /** WebSocket: higher is served first. Default 0. */
  readonly priority?: number
  /** WebSocket: be the only consumer of the queue, or fail with `in_use`. */
  readonly exclusive?: boolean
  /** HTTP: how long a lease lasts, ms; it is extended while the handler runs. Default 30 000. */
  readonly leaseMs?: number
  /** Hears of errors that end nothing: a lost connection, a handler that threw. */
  readonly onError?: (error: unknown) => void
}

/** A delivery as its source knows it. */
export interface RawDelivery {
  readonly fields: unknown
  /** Aborted by the source when the delivery is lost. */
  readonly lost: AbortController
  /** Tells the broker. */
  readonly settle: (settlement: Settlement) => void
}

/** What a source tells its consumer. */
export interface Sink {
  deliver(raw: RawDelivery): void
  /** It cannot go on. */
  failed(error: unknown): void
  /** Something went wrong, and the source goes on. */
  hint(error: unknown): void
}

/** Where deliveries come from. */
export interface Source {
  /** Begins, with at most `credit` unsettled deliveries at a time. */
  start(sink: Sink, credit: number): void
  /** No further delivery comes. */
  stop(): Promise<void>
  /** The broker has been told of every settlement; what is unsettled comes again. */
  close(): Promise<void>
}

/** A running consumer. Ends by `drain`, by its signal, or when it cannot go on. */
export class Consumer<T = unknown> {
  /** Settles when it has ended. Rejects when it could not go on: the queue is gone, say. */
  readonly closed: Promise<void>
  readonly #queue: string
  readonly #handler: Handler<T>
  readonly #options: ConsumeOptions<T>
  readonly #source: Source
  readonly #waiting: RawDelivery[] = []
  readonly #ended = Promise.withResolvers<void>()
  #idle: (() => void)[] = []
  #running = 0
  #draining: Promise<void> | undefined

  /** Made by `Sluice.consume`. */
  constructor(queue: string, handler: Handler<T>, options: ConsumeOptions<T>, source: Source) {
    this.#queue = queue
    this.#handler = handler
    this.#options = options
    this.#source = source
    this.closed = this.#ended.promise
    this.closed.catch(() => {}) // whoever wants to know asks for it
    const { concurrency = 1, prefetch = concurrency, signal } = options
    const sink: Sink = {
      deliver: (raw) => this.#take(raw),
      failed: (error) => this.#fail(error),
      hint: (error) => options.onError?.(error),
    }
    if (signal?.aborted) {
      this.#ended.resolve()
      this.#draining = this.closed
      return
    }
    const drain = () => void this.drain().catch((error) => options.onError?.(error))
    signal?.addEventListener('abort', drain, { once: true })
    const forget = () => signal?.removeEventListener('abort', drain)
    this.closed.then(forget, forget)
    source.start(sink, concurrency + prefetch)
  }

  /**
   * Stops in order: takes nothing more, gives back what nobody has begun to work on, waits for the
   * handlers, and tells the broker how they ended.
   */
  drain(): Promise<void> {
    this.#draining ??= this.#drain()
    return this.#draining
  }

  /** The same as `drain`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.drain()
  }

  async #drain(): Promise<void> {
    const stopping = this.#source.stop()
    this.#releaseWaiting()
    await stopping.catch((error) => this.#options.onError?.(error))
    this.#releaseWaiting()
    if (this.#running > 0) await new Promise<void>((resolve) => this.#idle.push(resolve))
    await this.#source.close()
    this.#ended.resolve()
  }

  #releaseWaiting(): void {
    for (const { settle, lost } of this.#waiting.splice(0)) {
      if (!lost.signal.aborted) settle({ outcome: 'release' })
    }
  }

  #fail(error: unknown): void {
    this.#ended.reject(error)
    this.drain().catch(() => {}) // why it ended is known
  }

  #take(raw: RawDelivery): void {
    if (this.#draining !== undefined) {
      raw.settle({ outcome: 'release' })
      return
    }
    this.#waiting.push(raw)
    this.#next()
  }

  #next(): void {
    const { concurrency = 1 } = this.#options
    while (this.#running < concurrency && this.#waiting.length > 0) {
      const raw = this.#waiting.shift()!
      if (raw.lost.signal.aborted) continue // it comes again
      this.#running++
      this.#work(raw)
        .catch((error) => this.#options.onError?.(error))
        .finally(() => {
          this.#running--
          this.#next()
          if (this.#running > 0) return
          for (const resolve of this.#idle.splice(0)) resolve()
        })
        .catch(() => {}) // onError threw: its own affair
    }
  }

  async #work({ fields, lost, settle }: RawDelivery): Promise<void> {
    let delivery: Delivery<T>
    try {
      delivery = new Delivery(this.#queue, fields, this.#options.parse, lost.signal, settle)
    } catch (error) {
      settle({ ...settlementFor(error), outcome: 'dead-letter' }) // its body is not what it should be
      throw error
    }
    try {
      await this.#handler(delivery)
      delivery.ack()
    } catch (error) {
      const settlement = settlementFor(error)
      if (settlement.outcome === 'dead-letter') delivery.deadLetter(settlement.reason)
      else if (settlement.outcome === 'retry') delivery.retry(settlement)
      throw error
    }
  }
}
