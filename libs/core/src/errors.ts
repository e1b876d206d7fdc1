/**
 * The broker's refusals: every reason a well-formed request can be turned down.
 *
 * A `BrokerError` is an answer to a caller, never a bug report; broken invariants are `assert`ed
 * instead. This file knows no protocol. Each edge maps the whole list, and the compiler makes it
 * complete: `libs/server/src/http/problem.ts` to HTTP. Documented in docs/errors.md, which a test
 * holds to this list.
 */
export const ERROR_CODES = [
  'invalid_request',
  'unauthenticated',
  'forbidden',
  'not_found',
  'method_not_allowed',
  'vhost_not_found',
  'exchange_not_found',
  'queue_not_found',
  'binding_not_found',
  'policy_not_found',
  'message_not_found',
  'ingest_not_found',
  'subscription_not_found',
  'request_not_found',
  'declaration_conflict',
  'in_use',
  'not_empty',
  'unroutable',
  'batch_incomplete',
  'idempotency_key_reused',
  'request_failed',
  'message_too_large',
  'unsupported_media_type',
  'uri_too_long',
  'headers_too_large',
  'request_timeout',
  'too_many_requests',
  'queue_full',
  'memory_high',
  'overloaded',
  'durability_unavailable',
  'encryption_unavailable',
  'store_unavailable',
  'draining',
] as const

export type ErrorCode = (typeof ERROR_CODES)[number]

export class BrokerError extends Error {
  override readonly name = 'BrokerError'
  readonly code: ErrorCode
  /** Facts for the caller, safe to send out: names, limits, counts. Never a body or a secret. */
  readonly details: Readonly<Record<string, string | number | boolean>>

  constructor(
    code: ErrorCode,
    message: string,
    options: { details?: Record<string, string | number | boolean>; cause?: unknown } = {},
  ) {
    super(message, { cause: options.cause })
    this.code = code
    this.details = options.details ?? {}
  }
}
