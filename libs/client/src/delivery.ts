/** A message in the hands of a consumer, and the ways in which that ends. */
import { type CloudEvent, eventOf } from './cloud-event.ts'
import { asObject } from './errors.ts'
import type { TraceContext } from './http.ts'
import { decodeBody, type Properties } from './message.ts'

/** How a delivery ends, as the broker is told. */
export type Settlement =
  | { readonly outcome: 'ack' }
  | { readonly outcome: 'retry'; readonly delayMs?: number; readonly reason?: string }
  | { readonly outcome: 'release' }
  | { readonly outcome: 'dead-letter'; readonly reason?: string }

/** Thrown by a handler: again after `delayMs`, or after the back-off of the queue. */
export class Retry extends Error {
  override readonly name = 'Retry'
  /** undefined = the queue's back-off. */
  readonly delayMs: number | undefined

  constructor(reason = '', options: { delayMs?: number; cause?: unknown } = {}) {
    super(reason, { cause: options.cause })
    this.delayMs = options.delayMs
  }
}

/** Thrown by a handler: the message is given up, and goes to the dead letters. */
export class DeadLetter extends Error {
  override readonly name = 'DeadLetter'
}

/** Bytes of a reason that the broker keeps. */
const REASON_LENGTH_MAX = 300

/** One message as a reader gets it. `T` is what its body is, once parsed. */
export class Message<T = unknown> {
  /** JSON parsed, text as a string, everything else as a Uint8Array; then what `parse` made of it. */
  readonly body: T
  /** Names the message within its queue. */
  readonly id: string
  /** Where it was published; '' = the default exchange. */
  readonly exchange: string
  readonly routingKey: string
  readonly properties: Properties
  readonly headers: Readonly<Record<string, unknown>>
  /** When it was stored: RFC 3339. */
  readonly storedAt: string
  readonly #rawBody: unknown

  /** Made by readers and consumers. */
  constructor(fields: unknown, parse: ((body: unknown) => T) | undefined) {
    const known = asObject(fields)
    this.#rawBody = decodeBody(fields)
    this.body = parse ? parse(this.#rawBody) : (this.#rawBody as T)
    this.id = String(known['id'])
    this.exchange = String(known['exchange'] ?? '')
    this.routingKey = String(known['routingKey'] ?? '')
    this.properties = asObject(known['properties'])
    this.headers = asObject(known['headers'])
    this.storedAt = String(known['storedAt'])
  }

  /** The CloudEvent that the message is; undefined when it is none. */
  get event(): CloudEvent<T> | undefined {
    return eventOf(this.headers, this.properties.contentType, this.#rawBody)
  }

  /** The trace that the message belongs to, for spans and for what is published on its behalf. */
  get trace(): TraceContext | undefined {
    const { traceparent, tracestate } = this.headers
    if (typeof traceparent !== 'string') return undefined
    return { traceparent, ...(typeof tracestate === 'string' && { tracestate }) }
  }
}

/** One delivery of one message, to be settled once. */
export class Delivery<T = unknown> extends Message<T> {
  /** The queue it came from. */
  readonly queue: string
  /** Deliveries so far, this one included. */
  readonly deliveryCount: number
  /** Deliveries so far that failed. */
  readonly failedCount: number
  /** Whether it may have been worked on before. */
  readonly redelivered: boolean
  /** Aborts when the delivery is lost: its connection or its lease is gone, it comes again. */
  readonly signal: AbortSignal
  #settle: ((settlement: Settlement) => void) | undefined

  /** Made by consumers. */
  constructor(
    queue: string,
    fields: unknown,
    parse: ((body: unknown) => T) | undefined,
    signal: AbortSignal,
    settle: (settlement: Settlement) => void,
  ) {
    super(fields, parse)
    const { deliveryCount, failedCount, redelivered } = asObject(fields)
    this.queue = queue
    this.deliveryCount = Number(deliveryCount)
    this.failedCount = Number(failedCount)
    this.redelivered = redelivered === true
    this.signal = signal
    this.#settle = settle
  }

  /** Whether its end has been told. */
  get settled(): boolean {
    return this.#settle === undefined
  }

  /** Done: the message is gone. What a handler that returns does by itself. */
  ack(): void {
    this.#end({ outcome: 'ack' })
  }

  /** Failed: again after `delayMs`, or after the back-off of the queue. */
  retry(options: { delayMs?: number; reason?: string } = {}): void {
    this.#end({ outcome: 'retry', ...options })
  }

  /** Not tried: back to its old place, at once. */
  release(): void {
    this.#end({ outcome: 'release' })
  }

  /** Given up: to the dead letters. */
  deadLetter(reason = ''): void {
    this.#end({ outcome: 'dead-letter', reason })
  }

  /** The first end counts. */
  #end(settlement: Settlement): void {
    const settle = this.#settle
    this.#settle = undefined
    settle?.(settlement)
  }
}

/** What an error of a handler means for its message. */
export function settlementFor(error: unknown): Settlement {
  const reason = (error instanceof Error ? error.message : String(error)).slice(
    0,
    REASON_LENGTH_MAX,
  )
  if (error instanceof DeadLetter) return { outcome: 'dead-letter', reason }
  const delayMs = error instanceof Retry ? error.delayMs : undefined
  return { outcome: 'retry', reason, ...(delayMs !== undefined && { delayMs }) }
}
