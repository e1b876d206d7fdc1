/**
 * Publishing over HTTP. Whatever is sent again keeps its idempotency key, so that a lost answer
 * doubles nothing.
 */
import { asObject, problemError, SluiceError } from './errors.ts'
import type { CallOptions, Http } from './http.ts'
import { type Body, type MessageOptions, messageFields, placeOf, type Target } from './message.ts'
import { backoffMs, sleep } from './wait.ts'

/** What became of one message. */
export interface Receipt {
  /** Whether any queue was reached. */
  readonly routed: boolean
  /** It had been stored before under its key: perhaps by an earlier try of the same call. */
  readonly duplicate: boolean
  /** The queues reached. */
  readonly queues: readonly string[]
}

/** What became of many messages. Those that did not fail are stored. */
export interface BatchReceipt {
  /** Messages stored, duplicates included. */
  readonly published: number
  /** Those that had been stored before under their key. */
  readonly duplicates: number
  /** Messages that no queue wanted. */
  readonly unrouted: number
  /** Messages that failed for good: their position in the batch, and why. */
  readonly failures: readonly { readonly index: number; readonly error: SluiceError }[]
}

/** One message of a batch. */
export interface BatchMessage<T extends Body = Body> extends MessageOptions {
  readonly body: T
}

/** Messages in one request: failures are listed for as many. */
const REQUEST_MESSAGES_MAX = 100
/** Characters in one request, about; the broker takes 16 MiB. */
const REQUEST_LENGTH_MAX = 4 * 1024 * 1024

/** How a batch is sent. */
export interface SendOptions extends CallOptions {
  /** For items that have none of their own. */
  readonly routingKey?: string
  /** Media type of the request. */
  readonly type?: string
}

interface Totals extends BatchReceipt {
  readonly queues: readonly string[]
}

interface Summary {
  published: number
  duplicates: number
  unrouted: number
  queues: Readonly<Record<string, number>>
  failures: readonly { line: number; code: string; detail: string }[]
}

/**
 * Sends items as one request, and those that failed for a while again. Throws SluiceError when the
 * request as a whole is refused, or stays without an answer.
 */
export async function sendBatch(
  http: Http,
  exchange: string,
  items: readonly unknown[],
  { signal, routingKey = '', type = 'application/json' }: SendOptions,
): Promise<Totals> {
  const path = http.path('exchanges', exchange === '' ? 'amq.default' : exchange, 'batch')
  const totals = { published: 0, duplicates: 0, unrouted: 0 }
  const queues = new Set<string>()
  const failures: { index: number; error: SluiceError }[] = []
  let left = items.map((item, index) => ({ item, index }))
  for (let tries = 1; left.length > 0; tries++) {
    const body = left.map(({ item }) => item)
    const request = { body, contentType: type, signal, query: { routingKey } }
    const summary = await summaryOf(http.request('POST', path, request))
    totals.published += summary.published
    totals.duplicates += summary.duplicates
    totals.unrouted += summary.unrouted
    for (const queue in summary.queues) queues.add(queue)
    const again: typeof left = []
    for (const { line, code, detail } of summary.failures) {
      const failed = left[line - 1]
      if (failed === undefined) continue
      const problem = { type: `urn:sluice:error:${code}`, title: code, detail }
      const error = problemError(problem, 422)
      if (error.retriable && tries < http.retry.attemptsMax) again.push(failed)
      else failures.push({ index: failed.index, error })
    }
    left = again
    if (left.length > 0) await sleep(backoffMs(tries, http.retry), signal)
  }
  return { ...totals, queues: [...queues], failures: failures.sort((a, b) => a.index - b.index) }
}

async function summaryOf(asked: Promise<{ json: unknown }>): Promise<Summary> {
  try {
    return (await asked).json as Summary
  } catch (error) {
    const incomplete = error instanceof SluiceError && error.code === 'batch_incomplete'
    if (!incomplete || !Array.isArray(error.details['failures'])) throw error
    return error.details as unknown as Summary
  }
}

/** Publishes one item. Throws SluiceError when it is not stored. */
export async function sendOne(
  http: Http,
  exchange: string,
  item: unknown,
  options: SendOptions,
): Promise<Receipt> {
  const totals = await sendBatch(http, exchange, [item], options)
  const [failure] = totals.failures
  if (failure) throw failure.error
  const { unrouted, duplicates, queues } = totals
  return { routed: unrouted === 0, duplicate: duplicates > 0, queues }
}

interface Waiting {
  readonly fields: unknown
  readonly length: number
  readonly done: (error: SluiceError | undefined) => void
}

/** How a `Publisher` gathers. */
export interface PublisherOptions {
  /** Messages that may wait; then `publish` does. Default 10 000. */
  readonly pendingMax?: number
  /** Ends it: what waits is given up. */
  readonly signal?: AbortSignal
}

/**
 * Publishes many messages one by one, in few requests: what is published while a request is on its
 * way goes out together with the next one. The order within an exchange is kept.
 *
 *     await using publisher = sluice.publisher()
 *     for (const job of jobs) void publisher.publish({ queue: 'jobs' }, job).catch(report)
 *     await publisher.flush()
 */
export class Publisher {
  readonly #http: Http
  readonly #pendingMax: number
  readonly #signal: AbortSignal | undefined
  /** By exchange. */
  readonly #lines = new Map<string, Waiting[]>()
  readonly #sending = new Set<Promise<void>>()
  #pending = 0
  #room: (() => void)[] = []
  #closed = false

  /** Made by `Sluice.publisher`. */
  constructor(http: Http, { pendingMax = 10_000, signal }: PublisherOptions = {}) {
    this.#http = http
    this.#pendingMax = pendingMax
    this.#signal = signal
  }

  /** Resolves once the message is stored. Rejects with SluiceError. */
  async publish(target: Target, body: Body, options: MessageOptions = {}): Promise<void> {
    const fields = messageFields(target, body, options, this.#http.options.trace?.())
    while (this.#pending >= this.#pendingMax) {
      await new Promise<void>((resolve) => this.#room.push(resolve))
    }
    if (this.#closed) throw new SluiceError('closed', 'The publisher was closed.')
    this.#pending++
    const error = await this.#enqueue(placeOf(target).exchange, fields)
    this.#pending--
    for (const go of this.#room.splice(0)) go()
    if (error) throw error
  }

  /** Resolves once everything published so far has its outcome. */
  async flush(): Promise<void> {
    while (this.#sending.size > 0) await Promise.all(this.#sending)
  }

  /** Takes no more, and flushes. */
  async close(): Promise<void> {
    this.#closed = true
    await this.flush()
  }

  /** The same as `close`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #enqueue(exchange: string, fields: unknown): Promise<SluiceError | undefined> {
    return new Promise((done) => {
      const waiting = { fields, length: JSON.stringify(fields).length, done }
      const line = this.#lines.get(exchange)
      if (line) {
        line.push(waiting)
        return
      }
      const started = [waiting]
      this.#lines.set(exchange, started)
      const sending = this.#run(exchange, started).finally(() => this.#sending.delete(sending))
      this.#sending.add(sending)
    })
  }

  async #run(exchange: string, line: Waiting[]): Promise<void> {
    await Promise.resolve() // what this turn publishes goes together
    while (line.length > 0) await this.#send(exchange, cut(line))
    this.#lines.delete(exchange)
  }

  /** Never rejects: the failures are those of the messages. */
  async #send(exchange: string, batch: readonly Waiting[]): Promise<void> {
    const failed = new Map<number, SluiceError>()
    try {
      const items = batch.map(({ fields }) => fields)
      const { failures } = await sendBatch(this.#http, exchange, items, { signal: this.#signal })
      for (const { index, error } of failures) failed.set(index, error)
    } catch (cause) {
      const error =
        cause instanceof SluiceError
          ? cause
          : new SluiceError('closed', 'The publisher was ended.', { cause })
      for (const index of batch.keys()) failed.set(index, error)
    }
    for (const [index, { done }] of batch.entries()) done(failed.get(index))
  }
}

/** Takes as many as go into one request. */
function cut(line: Waiting[]): Waiting[] {
  let count = 0
  let length = 0
  while (count < line.length && count < REQUEST_MESSAGES_MAX) {
    length += line[count]!.length
    if (count > 0 && length > REQUEST_LENGTH_MAX) break
    count++
  }
  return line.splice(0, count)
}

/** Sends any number of items, in requests of their own, in order. */
export async function sendAll(
  http: Http,
  exchange: string,
  items: readonly unknown[],
  options: SendOptions,
): Promise<BatchReceipt> {
  const totals = { published: 0, duplicates: 0, unrouted: 0 }
  const failures: { index: number; error: SluiceError }[] = []
  for (let at = 0; at < items.length; at += REQUEST_MESSAGES_MAX) {
    const some = items.slice(at, at + REQUEST_MESSAGES_MAX)
    const sent = await sendBatch(http, exchange, some, options)
    totals.published += sent.published
    totals.duplicates += sent.duplicates
    totals.unrouted += sent.unrouted
    for (const { index, error } of sent.failures) failures.push({ index: at + index, error })
  }
  return { ...totals, failures }
}

/** A receipt from what a WebSocket publish answers. */
export function receiptOf(frame: unknown): Receipt {
  const { routed, duplicate, queues } = asObject(frame)
  return {
    routed: routed === true,
    duplicate: duplicate === true,
    queues: Array.isArray(queues) ? queues.map(String) : [],
  }
}
