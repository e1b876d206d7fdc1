/** The one place where a refusal becomes an AMQP answer. Codes are those of the specification. */
import { AmqpError, REPLY_CODES } from '@sluice/amqp'
import { BrokerError, type ErrorCode } from '@sluice/core'

/** Of codes that AMQP's methods can meet; any other is a failed precondition. */
const REPLY = {
  invalid_request: REPLY_CODES.preconditionFailed,
  unauthenticated: REPLY_CODES.accessRefused,
  forbidden: REPLY_CODES.accessRefused,
  not_found: REPLY_CODES.notFound,
  vhost_not_found: REPLY_CODES.notAllowed,
  exchange_not_found: REPLY_CODES.notFound,
  queue_not_found: REPLY_CODES.notFound,
  binding_not_found: REPLY_CODES.notFound,
  policy_not_found: REPLY_CODES.notFound,
  message_not_found: REPLY_CODES.notFound,
  declaration_conflict: REPLY_CODES.preconditionFailed,
  in_use: REPLY_CODES.preconditionFailed,
  not_empty: REPLY_CODES.preconditionFailed,
  unroutable: REPLY_CODES.noRoute,
  message_too_large: REPLY_CODES.preconditionFailed,
  unsupported_media_type: REPLY_CODES.preconditionFailed,
  too_many_requests: REPLY_CODES.resourceError,
  queue_full: REPLY_CODES.resourceError,
  memory_high: REPLY_CODES.resourceError,
  durability_unavailable: REPLY_CODES.preconditionFailed,
  encryption_unavailable: REPLY_CODES.resourceError,
  store_unavailable: REPLY_CODES.internalError,
  draining: REPLY_CODES.connectionForced,
} as const satisfies Partial<Record<ErrorCode, number>>

/** What AMQP calls a refusal; undefined for an error that is none. */
export function refusal(error: unknown): AmqpError | undefined {
  if (!(error instanceof BrokerError)) return undefined
  const code: number = REPLY[error.code as keyof typeof REPLY] ?? REPLY_CODES.preconditionFailed
  return new AmqpError(code, error.message)
}

export const notFound = (what: string): AmqpError => new AmqpError(REPLY_CODES.notFound, what)
export const refused = (why: string): AmqpError => new AmqpError(REPLY_CODES.accessRefused, why)
export const precondition = (why: string): AmqpError =>
  new AmqpError(REPLY_CODES.preconditionFailed, why)
export const notAllowed = (why: string): AmqpError => new AmqpError(REPLY_CODES.notAllowed, why)
export const notImplemented = (why: string): AmqpError =>
  new AmqpError(REPLY_CODES.notImplemented, why)

/** For a queue that goes with another connection, or that was declared otherwise on this one. */
export function locked(queue: string, vhost: string): AmqpError {
  return new AmqpError(
    REPLY_CODES.resourceLocked,
    `cannot obtain exclusive access to locked queue '${queue}' in vhost '${vhost}'. It could be ` +
      'originally declared on another connection or the exclusive property value does not match ' +
      'that of the original declaration.',
  )
}
