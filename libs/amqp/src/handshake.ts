/**
 * The pure parts of opening a connection: the protocol header, and what tuning may agree on.
 */
import { AmqpError, REPLY_CODES } from './amqp-error.ts'
import { FRAME_MAX_MIN } from './frame-reader.ts'
import { type ConnectionTuneOk, METHOD_IDS } from './spec.ts'
import type { Table } from './values.ts'

export const PROTOCOL_HEADER = Buffer.from('AMQP\0\0\x09\x01', 'latin1')
/** What 0-9 clients say; the dialect they speak is the same. */
const PROTOCOL_HEADER_0_9 = Buffer.from('AMQP\x01\x01\0\x09', 'latin1')

/** What the first bytes of a connection turned out to be. */
type Greeting = 'amqp' | 'unfinished' | 'http' | 'tls' | 'other-version' | 'unknown'

/** @param bytes everything received so far. */
export function readGreeting(bytes: Buffer): Greeting {
  if (bytes.length < PROTOCOL_HEADER.length) return 'unfinished'
  const header = bytes.subarray(0, PROTOCOL_HEADER.length)
  if (header.equals(PROTOCOL_HEADER) || header.equals(PROTOCOL_HEADER_0_9)) return 'amqp'
  const text = header.toString('latin1')
  if (text.startsWith('AMQP')) return 'other-version'
  if (/^(GET|POST|PUT|HEAD|OPTIONS) /.test(text)) return 'http'
  return header[0] === 0x16 && header[1] === 0x03 ? 'tls' : 'unknown'
}

/** What to tell the operator of a greeting that was refused. */
export const GREETING_HINTS = {
  http: 'an HTTP request on the AMQP port',
  tls: 'a TLS handshake on a port without TLS',
  'other-version': 'a version of AMQP other than 0-9-1',
  unknown: 'bytes that are not AMQP',
} as const satisfies Record<Exclude<Greeting, 'amqp' | 'unfinished'>, string>

export const CAPABILITIES: Table = {
  publisher_confirms: true,
  exchange_exchange_bindings: true,
  'basic.nack': true,
  consumer_cancel_notify: true,
  'connection.blocked': true,
  consumer_priorities: true,
  authentication_failure_close: true,
  per_consumer_qos: true,
  direct_reply_to: true,
}

export interface Tuning {
  /** Bytes of a whole frame, at least 4096. */
  readonly frameMax: number
  /** Channels open at once; 0 = no limit. */
  readonly channelMax: number
  /** Seconds; 0 = none. */
  readonly heartbeatS: number
}

/** Throws AmqpError 530 unless the client stays within what the server offered. */
export function checkTuneOk(offered: Tuning, { frameMax, channelMax }: ConnectionTuneOk): void {
  checkTuned('frame_max', FRAME_MAX_MIN, offered.frameMax, frameMax)
  checkTuned('channel_max', 1, offered.channelMax, channelMax)
}

function checkTuned(field: string, min: number, max: number, value: number): void {
  if (value !== 0 && value < min) {
    throw refused(`negotiated ${field} = ${value} is lower than the minimum allowed value (${min})`)
  }
  if (max !== 0 && (value === 0 || value > max)) {
    const detail = value === 0 ? ' (no limit)' : ''
    throw refused(
      `negotiated ${field} = ${value}${detail} is higher than the maximum allowed value (${max})`,
    )
  }
}

function refused(explanation: string): AmqpError {
  return new AmqpError(REPLY_CODES.notAllowed, explanation, METHOD_IDS['connection.tune'])
}
