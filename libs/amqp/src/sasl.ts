/**
 * What a client says of itself in connection.start-ok, by mechanism. All three end in one step:
 * clients such as amqplib do not answer connection.secure.
 */
import { AmqpError, REPLY_CODES } from './amqp-error.ts'
import type { FieldValue } from './values.ts'
import { ValueReader } from './values.ts'

export type Mechanism = 'PLAIN' | 'AMQPLAIN' | 'EXTERNAL'

export type Credentials =
  | { readonly mechanism: 'PLAIN' | 'AMQPLAIN'; readonly user: string; readonly password: string }
  /** Whoever the transport says it is: a TLS client certificate. */
  | { readonly mechanism: 'EXTERNAL' }

/**
 * Throws AmqpError: 503 for a mechanism that is not offered, 502 for a malformed response. The
 * texts name neither user nor password.
 */
export function readCredentials(
  mechanism: string,
  response: Buffer,
  offered: readonly Mechanism[],
): Credentials {
  if (!offered.includes(mechanism as Mechanism)) {
    throw new AmqpError(REPLY_CODES.commandInvalid, 'unknown authentication mechanism')
  }
  if (mechanism === 'EXTERNAL') return { mechanism }
  return mechanism === 'PLAIN' ? readPlain(response) : readAmqplain(response)
}

/** NUL, user, NUL, password: without an identity to act as (RFC 4616), as RabbitMQ. */
function readPlain(response: Buffer): Credentials {
  const middle = response.indexOf(0, 1)
  if (response[0] !== 0 || middle < 0 || response.indexOf(0, middle + 1) >= 0) {
    throw new AmqpError(REPLY_CODES.syntaxError, 'PLAIN response is invalid')
  }
  const user = response.toString('utf8', 1, middle)
  return { mechanism: 'PLAIN', user, password: response.toString('utf8', middle + 1) }
}

/** The fields of a table, without the size that tables have elsewhere. */
function readAmqplain(response: Buffer): Credentials {
  const sized = Buffer.alloc(4 + response.length)
  sized.writeUInt32BE(response.length)
  response.copy(sized, 4)
  const table = new ValueReader(sized).table()
  const user = asText(table['LOGIN'])
  const password = asText(table['PASSWORD'])
  if (user === undefined || password === undefined) {
    throw new AmqpError(
      REPLY_CODES.syntaxError,
      'AMQPLAIN response is missing LOGIN or PASSWORD field',
    )
  }
  return { mechanism: 'AMQPLAIN', user, password }
}

function asText(value: FieldValue | undefined): string | undefined {
  if (Buffer.isBuffer(value)) return value.toString('utf8')
  return typeof value === 'string' ? value : undefined
}
