/**
 * One HTTP request and its answer, bounded whatever the other side does: it ends within its time,
 * keeps the first bytes of the answer only, and never throws.
 *
 * An answer is whole once its body has ended. One that is longer than anybody reads here is cut
 * off, at the price of its connection, and counts all the same. One that breaks, or that is still
 * coming when the time is up, does not: what its status says may not have come true.
 *
 * Hot path: undici's handler interface, no stream and no AbortSignal a request.
 */
import type { Dispatcher } from 'undici'
import { RefusedAddress } from './guard.ts'
import type { PushRequest } from './request.ts'
import type { Pressure } from './subscription.ts'

/** Of an answer's body: what is kept, and what is read so that its connection lives on. Bytes. */
const KEPT_BYTES_MAX = 1024
const READ_BYTES_MAX = 64 * 1024
/** Most that is kept for whoever sent a request through an ingest. */
const ANSWER_BYTES_MAX = 1024 * 1024

export interface Exchange {
  /** Absent: no answer. */
  status?: number
  /** Name and value in turn, as they came: bytes. */
  rawHeaders: readonly (Buffer | string)[]
  headers: Readonly<Record<string, string | string[] | undefined>>
  /** The first KEPT_BYTES_MAX bytes; of a replayed request one more than its sender may read. */
  body: Buffer
  /** Why there is no answer, or no whole one. */
  failure?: Failure
  /** What is to be said of an answer that counts all the same. */
  note?: string
  /** From the start to the answer's head, ms; absent when there was none. */
  headMs?: number
}

interface Failure {
  readonly reason: string
  readonly pressure: Pressure
}

const NOTHING = Buffer.alloc(0)
const ENOUGH = new Error('enough was read')
const LATE = new Error('the time is up')

/** Settles within `timeoutMs`, or at once when the signal aborts. Never rejects. */
export function exchange(
  dispatcher: Dispatcher,
  { method, path, headers, body, replayed }: PushRequest,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<Exchange> {
  return new Promise((resolve) => {
    const wanted = Math.min(replayed?.keepBytes ?? 0, ANSWER_BYTES_MAX) + 1
    const handler = new Handler(timeoutMs, signal, Math.max(wanted, KEPT_BYTES_MAX), resolve)
    const dispatched = body.length > 0 || !BODILESS.has(method) ? body : null
    try {
      dispatcher.dispatch(
        { path, method, headers, body: dispatched, headersTimeout: 0, bodyTimeout: 0 },
        handler,
      )
    } catch (error) {
      handler.onResponseError(null, error as Error)
    }
  })
}

/** Sent without a length when they have no body (RFC 9110, 8.6). */
const BODILESS = new Set(['GET', 'HEAD', 'OPTIONS', 'DELETE', 'TRACE'])

class Handler implements Dispatcher.DispatchHandler {
  readonly #resolve: (exchange: Exchange) => void
  readonly #signal: AbortSignal
  readonly #keptMax: number
  readonly #startedMs = performance.now()
  readonly #timer: NodeJS.Timeout
  readonly #exchange: Exchange = { rawHeaders: [], headers: {}, body: NOTHING }
  #controller: Dispatcher.DispatchController | undefined
  /** The first bytes of the body, and room for more. */
  #kept: Buffer = NOTHING
  #size = 0
  #ended = false

  constructor(
    timeoutMs: number,
    signal: AbortSignal,
    keptMax: number,
    resolve: (exchange: Exchange) => void,
  ) {
    this.#resolve = resolve
    this.#signal = signal
    this.#keptMax = keptMax
    this.#timer = setTimeout(() => this.#giveUp(LATE, timeoutMs), timeoutMs)
    signal.addEventListener('abort', this)
    if (signal.aborted) this.handleEvent()
  }

  /** The signal's. */
  handleEvent(): void {
    this.#exchange.failure = { reason: 'was given up: the process stops', pressure: 'none' }
    this.#end()
    this.#controller?.abort(ENOUGH)
  }

  /** A request may still wait for its connection when its time is up: then it ends here. */
  onRequestStart(controller: Dispatcher.DispatchController): void {
    if (this.#ended) controller.abort(LATE)
    else this.#controller = controller
  }

  onResponseStart(
    controller: Dispatcher.DispatchController,
    status: number,
    headers: Exchange['headers'],
  ): void {
    if (status < 200) return
    const exchange = this.#exchange
    exchange.status = status
    exchange.headers = headers
    exchange.rawHeaders = (controller.rawHeaders ?? []) as Buffer[]
    exchange.headMs = performance.now() - this.#startedMs
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    if (this.#size < this.#keptMax) this.#keep(chunk)
    this.#size += chunk.length
    const readMax = Math.max(READ_BYTES_MAX, this.#keptMax)
    if (this.#size <= readMax || this.#ended) return
    this.#exchange.note = `the answer is longer than ${readMax} bytes: the rest was not read`
    this.#end()
    controller.abort(ENOUGH)
  }

  /** Into one buffer: an answer in chunks of a byte each would cost a hundred times its size. */
  #keep(chunk: Buffer): void {
    const size = Math.min(this.#size + chunk.length, this.#keptMax)
    if (size > this.#kept.length) {
      const larger = Buffer.allocUnsafe(Math.min(Math.max(size, 2 * this.#size), this.#keptMax))
      this.#kept.copy(larger, 0, 0, this.#size)
      this.#kept = larger
    }
    chunk.copy(this.#kept, this.#size)
  }

  onResponseEnd(): void {
    this.#end()
  }

  onResponseError(_controller: Dispatcher.DispatchController | null, error: Error): void {
    if (this.#ended) return
    this.#exchange.failure = failureOf(error)
    this.#end()
  }

  #giveUp(error: Error, timeoutMs: number): void {
    const { status } = this.#exchange
    const what =
      status !== undefined
        ? 'the answer did not end'
        : this.#controller
          ? 'there was no answer'
          : 'there was no connection'
    this.#exchange.failure = { reason: `${what} within ${timeoutMs} ms`, pressure: 'overload' }
    this.#end()
    this.#controller?.abort(error)
  }

  #end(): void {
    if (this.#ended) return
    this.#ended = true
    clearTimeout(this.#timer)
    this.#signal.removeEventListener('abort', this)
    this.#exchange.body = this.#kept.subarray(0, Math.min(this.#size, this.#keptMax))
    this.#resolve(this.#exchange)
  }
}

/** Node's and undici's codes in words that help whoever runs the endpoint. */
const REASONS: Readonly<Record<string, string>> = {
  ECONNREFUSED: 'the connection was refused',
  ECONNRESET: 'the connection was reset',
  EPIPE: 'the connection was closed while the request was sent',
  EHOSTUNREACH: 'the host cannot be reached',
  ENETUNREACH: 'the network cannot be reached',
  ENOTFOUND: 'the name of the endpoint does not resolve',
  EAI_AGAIN: 'the name server did not answer',
  ETIMEDOUT: 'the connection timed out',
  UND_ERR_CONNECT_TIMEOUT: 'the connection timed out',
  UND_ERR_HEADERS_OVERFLOW: 'the headers of the answer are too large',
  UND_ERR_SOCKET: 'the connection was closed before the answer was whole',
}

function failureOf(error: Error & { code?: string }): Failure {
  if (error instanceof RefusedAddress) return { reason: error.message, pressure: 'down' }
  const { code = '' } = error
  const known = REASONS[code]
  if (known !== undefined) return { reason: `${known} (${code})`, pressure: 'down' }
  const kind = /TLS|CERT|SSL|SELF_SIGNED|UNABLE_TO/.test(code) ? 'TLS failed: ' : ''
  return { reason: `${kind}${error.message} (${code || error.name})`, pressure: 'down' }
}
