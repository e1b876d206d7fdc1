/**
 * AMQP 0-9-1 basic-properties, the bytes of a content header after the body size: 16 property
 * flags, highest bit first, then the values that are present (specification 4.2.6.1).
 *
 * The broker keeps these bytes as the publisher sent them. They are decoded where a header is
 * needed: headers exchanges, dead-lettering, and the doors that speak something other than AMQP.
 */
import { BrokerError, limits } from '@sluice/core'
import { AmqpError, REPLY_CODES } from './amqp-error.ts'
import { type Table, ValueReader, ValueWriter } from './values.ts'

export interface Properties {
  contentType?: string
  contentEncoding?: string
  headers?: Table
  /** 2 = persistent. */
  deliveryMode?: number
  priority?: number
  correlationId?: string
  replyTo?: string
  /** Time to live: milliseconds, as a decimal string. */
  expiration?: string
  messageId?: string
  /** Seconds since 1970. */
  timestamp?: number
  type?: string
  userId?: string
  appId?: string
  clusterId?: string
}

type Kind = 'shortstr' | 'octet' | 'timestamp' | 'table'

/** In the order of the flags, from bit 15 down. Bit 1 is unused, bit 0 announces more flags. */
const FIELDS: readonly (readonly [keyof Properties, Kind])[] = [
  ['contentType', 'shortstr'],
  ['contentEncoding', 'shortstr'],
  ['headers', 'table'],
  ['deliveryMode', 'octet'],
  ['priority', 'octet'],
  ['correlationId', 'shortstr'],
  ['replyTo', 'shortstr'],
  ['expiration', 'shortstr'],
  ['messageId', 'shortstr'],
  ['timestamp', 'timestamp'],
  ['type', 'shortstr'],
  ['userId', 'shortstr'],
  ['appId', 'shortstr'],
  ['clusterId', 'shortstr'],
]
const UNKNOWN_FLAGS = 0b11

/**
 * Most bytes ever decoded: what a publisher may send (PROPERTIES_BYTES_MAX) and, on top of it, the
 * history that dead-lettering adds.
 */
export const PROPERTIES_DECODED_BYTES_MAX = 4 * limits.PROPERTIES_BYTES_MAX

const EMPTY = Buffer.from([0, 0])
const writer = new ValueWriter() // one is enough: encoding never awaits

/**
 * The wire form of `properties`.
 *
 * Throws BrokerError: invalid_request for a value that has no encoding (a short string past 255
 * bytes, an octet out of range), message_too_large past `bytesMax`.
 */
export function encodeProperties(
  properties: Properties,
  bytesMax: number = limits.PROPERTIES_BYTES_MAX,
): Buffer {
  writer.reset()
  writer.short(0)
  let flags = 0
  for (let index = 0; index < FIELDS.length; index++) {
    const [name, kind] = FIELDS[index]!
    const value = properties[name]
    if (value === undefined) continue
    flags |= 0x8000 >> index
    write(name, kind, value)
  }
  if (flags === 0) return EMPTY
  if (writer.size > bytesMax) {
    throw new BrokerError('message_too_large', `Properties have at most ${bytesMax} bytes.`, {
      details: { propertiesBytesMax: bytesMax },
    })
  }
  const bytes = writer.bytes()
  bytes.writeUInt16BE(flags)
  return bytes
}

function write(name: string, kind: Kind, value: string | number | Table): void {
  if (kind === 'shortstr' && typeof value === 'string') {
    writer.shortstr(value)
  } else if (kind === 'table' && typeof value === 'object') {
    writer.table(value)
  } else if (kind === 'octet' && isWhole(value, 255)) {
    writer.octet(value)
  } else if (kind === 'timestamp' && isWhole(value, Number.MAX_SAFE_INTEGER)) {
    writer.longlong(value)
  } else {
    throw new BrokerError('invalid_request', `Property ${name} is out of range.`)
  }
}

function isWhole(value: unknown, max: number): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= max
}

/**
 * Properties from their wire form. Throws AmqpError when the bytes are malformed: 502, or 501 for
 * a short string that is not UTF-8.
 *
 * @param wide 64-bit integers of headers are bigint, for what is encoded again: programs in Java
 * tell a Long from an Integer.
 */
export function decodeProperties(bytes: Buffer, { wide = false } = {}): Properties {
  if (bytes.length > PROPERTIES_DECODED_BYTES_MAX) {
    throw new AmqpError(REPLY_CODES.syntaxError, 'properties are too long')
  }
  const reader = new ValueReader(bytes)
  reader.wide = wide
  const flags = reader.short()
  if ((flags & UNKNOWN_FLAGS) !== 0) {
    throw new AmqpError(REPLY_CODES.syntaxError, 'unknown property flags')
  }
  const properties: Record<string, string | number | Table> = {}
  for (let index = 0; index < FIELDS.length; index++) {
    if ((flags & (0x8000 >> index)) === 0) continue
    const [name, kind] = FIELDS[index]!
    properties[name] = read(reader, kind)
  }
  if (reader.left > 0) throw new AmqpError(REPLY_CODES.syntaxError, 'bytes follow the properties')
  return properties
}

function read(reader: ValueReader, kind: Kind): string | number | Table {
  switch (kind) {
    case 'shortstr':
      return reader.shortstr()
    case 'octet':
      return reader.octet()
    case 'table':
      return reader.table()
    case 'timestamp': // past 2^53 (some clients write nanoseconds) it is held at the edge
      return Math.min(reader.longlong(), Number.MAX_SAFE_INTEGER)
  }
}
