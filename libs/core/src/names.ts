/** Names of vhosts, exchanges, queues and policies: what is allowed, and the reserved ones. */
import { BrokerError } from './errors.ts'
import { NAME_BYTES_MAX } from './limits.ts'

/** RabbitMQ's default virtual host. In a URL path it is `%2F`. */
export const DEFAULT_VHOST = '/'

/** The default exchange: '' on the wire, `amq.default` where a name cannot be empty. */
export const DEFAULT_EXCHANGE = ''
export const DEFAULT_EXCHANGE_ALIAS = 'amq.default'

/** The exchange that a path or a frame names; the default one goes by its alias there. */
export function exchangeName(name: string): string {
  return name === DEFAULT_EXCHANGE_ALIAS ? DEFAULT_EXCHANGE : name
}

/** Where messages end that died in a queue without a dead letter exchange; one a vhost. */
export const DEAD_LETTER_QUEUE = 'amq.dead-letters'

/** Names that only the broker may create (AMQP 0-9-1, exchange.declare and queue.declare). */
export const RESERVED_PREFIX = 'amq.'

/**
 * The name as it is kept. CR and LF are stripped, as RabbitMQ does.
 * Throws invalid_request when it is empty, longer than 255 bytes, holds a NUL or is no Unicode text
 * (half a surrogate pair).
 */
export function parseName(kind: string, name: string): string {
  const kept = name.replace(/[\r\n]/g, '')
  if (kept === '') throw new BrokerError('invalid_request', `A ${kind} name must not be empty.`)
  if (Buffer.byteLength(kept) > NAME_BYTES_MAX) {
    throw new BrokerError(
      'invalid_request',
      `A ${kind} name has at most ${NAME_BYTES_MAX} bytes in UTF-8.`,
    )
  }
  if (kept.includes('\0')) {
    throw new BrokerError('invalid_request', `A ${kind} name must not hold a NUL.`)
  }
  if (!kept.isWellFormed()) {
    throw new BrokerError('invalid_request', `A ${kind} name must be Unicode text.`)
  }
  return kept
}
