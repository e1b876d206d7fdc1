/** Every way a call of the client fails: one class, with a code to switch on. */
import type { BROKER_ERROR_CODES } from './broker-error-codes.ts'

/** What the client itself finds. */
export const CLIENT_ERROR_CODES = [
  /** No answer: whether the request took effect is unknown. */
  'connection_failed',
  /** No answer in time: whether the request took effect is unknown. */
  'timed_out',
  /** An answer that is none of the broker's, or `internal_error`. */
  'unexpected_answer',
  /** A webhook that was not signed with one of the keys, or not in time. */
  'signature_invalid',
  /** The consumer, publisher or client was closed before. */
  'closed',
] as const

/**
 * A code of `SluiceError`. A broker may be newer than the client and answer a code that is not in
 * the list, hence the open end.
 */
export type ErrorCode =
  | (typeof BROKER_ERROR_CODES)[number]
  | (typeof CLIENT_ERROR_CODES)[number]
  | (string & {})

/** Codes after which the same call may succeed. */
const RETRIABLE: ReadonlySet<ErrorCode> = new Set([
  'connection_failed',
  'timed_out',
  'request_timeout',
  'too_many_requests',
  'queue_full',
  'memory_high',
  'overloaded',
  'durability_unavailable',
  'encryption_unavailable',
  'store_unavailable',
  'draining',
])

/** A call that failed. `message` is for people, `code` for programs. */
export class SluiceError extends Error {
  override readonly name = 'SluiceError'
  /** What went wrong. */
  readonly code: ErrorCode
  /** Status of the HTTP answer; 0 when there was none. */
  readonly status: number
  /** Further facts of the broker's answer, e.g. `errors`: which fields do not fit. */
  readonly details: Readonly<Record<string, unknown>>
  /** How long the broker asks to wait before the next try, ms; 0 = it does not say. */
  readonly retryAfterMs: number

  constructor(
    code: ErrorCode,
    message: string,
    options: {
      status?: number
      details?: Readonly<Record<string, unknown>>
      retryAfterMs?: number
      cause?: unknown
    } = {},
  ) {
    super(message, { cause: options.cause })
    this.code = code
    this.status = options.status ?? 0
    this.details = options.details ?? {}
    this.retryAfterMs = options.retryAfterMs ?? 0
  }

  /** Whether the same call may succeed later. */
  get retriable(): boolean {
    return RETRIABLE.has(this.code)
  }
}

const GATEWAY: ReadonlySet<number> = new Set([502, 503, 504])

/** A problem (RFC 9457) of the broker as an error. */
export function problemError(problem: unknown, status: number, retryAfterMs = 0): SluiceError {
  const { title, detail, type, status: _, ...details } = asObject(problem)
  const known = typeof title === 'string' && typeof type === 'string'
  const refusal = known && type.startsWith('urn:sluice:error:')
  // Without a problem, these are words of a proxy that did not reach the broker.
  const unreached = GATEWAY.has(status) ? 'connection_failed' : 'unexpected_answer'
  const code = refusal ? title : unreached
  const message = typeof detail === 'string' ? detail : `The broker answered ${status || title}.`
  return new SluiceError(code, message, { status, details, retryAfterMs })
}

/** Any value as an object, to look into. */
export function asObject(value: unknown): Record<string, unknown> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
}
