/**
 * One message in bytes, as every queue keeps it.
 *
 *   ┌───────┬──────┬─────────┬──────────┬─────────────┬────────────┬───────┬────────────┬──────┐
 *   │ size  │ flags│ ttl     │ ordering │ exchange    │ routing    │ size  │ properties │ body │
 *   │ u32   │ u8   │ u48, ms │ u8, key  │ u8, name    │ u8, key    │ u24   │            │      │
 *   └───────┴──────┴─────────┴──────────┴─────────────┴────────────┴───────┴────────────┴──────┘
 *                    if 2      if 4
 *
 *   flags: 1 persistent, 2 has a time to live, 4 has an ordering key, 8 is sealed; the upper half
 *   is the version of the format, 1. `size` counts what follows it and exists only within a batch.
 *   All big endian.
 *
 *   A sealed one has a pseudonym for an ordering key, and behind it what a data key sealed
 *   (data-key.ts): the ordering key (u8, key; empty = none) and all that follows it above. It is
 *   sealed for what stands in front of it, and for where it is kept (`placeOf`).
 *
 * Hot path: one allocation a message, and the same bytes go to every queue that a publish reaches.
 * The scripts read flags, ttl and ordering key (lua/prelude.lua); properties and body pass through.
 */
import type { Message } from '@sluice/core'
import { type DataKey, SEAL_BYTES, sealedBy } from './data-key.ts'

const VERSION = 0x10
const VERSION_MASK = 0xf0
const PERSISTENT = 1
const HAS_TTL = 2
const HAS_ORDERING_KEY = 4
const SEALED = 8

/** Bytes of `size` in front of a record. */
export const SIZE_BYTES = 4

/** A stored message, as a consumer or an operator reads it. */
export interface MessageRecord {
  /** When it was stored, ms of Redis's clock. */
  readonly timeMs: number
  /** When it expires, ms of Redis's clock; 0 = never. */
  readonly expiresMs: number
  readonly exchange: string
  readonly routingKey: string
  /** '' = none. */
  readonly orderingKey: string
  readonly persistent: boolean
  /** The message's own time to live, -1 = none. */
  readonly ttlMs: number
  /** AMQP basic-properties as on the wire; a view of the reply it came in. */
  readonly properties: Buffer
  /** A view of the reply it came in. */
  readonly body: Buffer
  /** Id of the data key that sealed it; absent: none did. */
  readonly sealedBy?: number
  /** The record, while it is sealed: routing key, properties, body and so on are empty. */
  readonly sealed?: Buffer | undefined
  /**
   * Why it cannot be read. shredded: its key is gone, forged: it is not what was stored, both for
   * good; locked: its key cannot be had at the moment.
   */
  readonly unreadable?: 'shredded' | 'forged' | 'locked' | undefined
}

/** The bytes of a message, `size` in front. Names are at most 255 bytes (checked at the edges). */
export function encodeRecord(message: Message): Buffer {
  const { exchange, routingKey, ttlMs, properties, body } = message
  const orderingKey = message.orderingKey ?? ''
  const exchangeSize = Buffer.byteLength(exchange)
  const routingKeySize = Buffer.byteLength(routingKey)
  const orderingKeySize = orderingKey === '' ? -1 : Buffer.byteLength(orderingKey)
  const hasTtl = ttlMs >= 0
  const size =
    1 +
    (hasTtl ? 6 : 0) +
    (orderingKeySize + 1) +
    (1 + exchangeSize) +
    (1 + routingKeySize) +
    3 +
    properties.length +
    body.length

  const bytes = Buffer.allocUnsafe(SIZE_BYTES + size)
  bytes.writeUInt32BE(size, 0)
  bytes[4] =
    VERSION |
    (message.persistent ? PERSISTENT : 0) |
    (hasTtl ? HAS_TTL : 0) |
    (orderingKeySize >= 0 ? HAS_ORDERING_KEY : 0)
  let at = 5
  if (hasTtl) at = bytes.writeUIntBE(ttlMs, at, 6)
  if (orderingKeySize >= 0) at = writeShort(bytes, at, orderingKey, orderingKeySize)
  at = writeShort(bytes, at, exchange, exchangeSize)
  at = writeShort(bytes, at, routingKey, routingKeySize)
  at = bytes.writeUIntBE(properties.length, at, 3)
  properties.copy(bytes, at)
  body.copy(bytes, at + properties.length)
  return bytes
}

/** A message in the bytes of the queues it goes to, each made once: as it is, and for each key. */
export interface Encodings {
  record: Buffer | undefined
  sealed: Map<DataKey, Buffer> | undefined
}

/**
 * What a message is sealed for: no record opens elsewhere. A vhost's key seals the same bytes for
 * all queues of it, a queue's own key for the one queue in which they are kept.
 */
export function placeOf(vhost: string, queue: string): Buffer {
  return Buffer.from(JSON.stringify(queue === '' ? [vhost] : [vhost, queue]))
}

/** The same, sealed. `place` is where it is kept (`placeOf`). */
export function encodeSealed(message: Message, key: DataKey, place: Buffer): Buffer {
  const { exchange, routingKey, ttlMs, persistent, properties, body } = message
  const orderingKey = message.orderingKey ?? ''
  const pseudonym = orderingKey === '' ? '' : key.pseudonym('ordering key', orderingKey)
  const hasTtl = ttlMs >= 0
  const front = Buffer.allocUnsafe(
    1 + (hasTtl ? 6 : 0) + (pseudonym === '' ? 0 : 1 + pseudonym.length),
  )
  front[0] =
    VERSION |
    SEALED |
    (persistent ? PERSISTENT : 0) |
    (hasTtl ? HAS_TTL : 0) |
    (pseudonym === '' ? 0 : HAS_ORDERING_KEY)
  const at = hasTtl ? front.writeUIntBE(ttlMs, 1, 6) : 1
  if (pseudonym !== '') writeShort(front, at, pseudonym, pseudonym.length)

  const sizes = [
    Buffer.byteLength(orderingKey),
    Buffer.byteLength(exchange),
    Buffer.byteLength(routingKey),
  ] as const
  const headSize = 6 + sizes[0] + sizes[1] + sizes[2]
  const plain = Buffer.allocUnsafe(headSize + properties.length + body.length)
  let inPlain = writeShort(plain, 0, orderingKey, sizes[0])
  inPlain = writeShort(plain, inPlain, exchange, sizes[1])
  inPlain = writeShort(plain, inPlain, routingKey, sizes[2])
  inPlain = plain.writeUIntBE(properties.length, inPlain, 3)
  properties.copy(plain, inPlain)
  body.copy(plain, inPlain + properties.length)

  const sealed = key.seal([place, front], plain)
  const size = Buffer.allocUnsafe(SIZE_BYTES)
  size.writeUInt32BE(front.length + SEAL_BYTES + plain.length)
  return Buffer.concat([size, front, ...sealed])
}

function writeShort(bytes: Buffer, at: number, text: string, size: number): number {
  bytes[at] = size
  bytes.write(text, at + 1, size, 'utf8')
  return at + 1 + size
}

/**
 * Reads a record that lies at [start, end) of `bytes`; a sealed one stays so until `openRecord`.
 * Throws on a format it does not know.
 */
export function decodeRecord(
  bytes: Buffer,
  start: number,
  end: number,
  timeMs: number,
  queueExpiresMs: number,
): MessageRecord {
  const flags = bytes[start]!
  if ((flags & VERSION_MASK) !== VERSION) {
    throw new Error(`a stored message has format ${flags >> 4}, which this version cannot read`)
  }
  let at = start + 1
  let ttlMs = -1
  if (flags & HAS_TTL) {
    ttlMs = bytes.readUIntBE(at, 6)
    at += 6
  }
  let orderingKey = ''
  if (flags & HAS_ORDERING_KEY) {
    orderingKey = bytes.toString('utf8', at + 1, at + 1 + bytes[at]!)
    at += 1 + bytes[at]!
  }
  const expiresMs = earliest(queueExpiresMs, ttlMs < 0 ? 0 : timeMs + ttlMs)
  const persistent = (flags & PERSISTENT) !== 0
  if (flags & SEALED) {
    const sealed = bytes.subarray(start, end)
    const by = sealedBy(bytes.subarray(at, end))
    return {
      timeMs,
      expiresMs,
      exchange: '',
      routingKey: '',
      orderingKey,
      persistent,
      ttlMs,
      properties: NO_PROPERTIES,
      body: NO_BODY,
      sealedBy: by,
      sealed,
    }
  }
  const exchange = bytes.toString('utf8', at + 1, at + 1 + bytes[at]!)
  at += 1 + bytes[at]!
  const routingKey = bytes.toString('utf8', at + 1, at + 1 + bytes[at]!)
  at += 1 + bytes[at]!
  const propertiesSize = bytes.readUIntBE(at, 3)
  at += 3
  return {
    timeMs,
    expiresMs,
    exchange,
    routingKey,
    orderingKey,
    persistent,
    ttlMs,
    properties: bytes.subarray(at, at + propertiesSize),
    body: bytes.subarray(at + propertiesSize, end),
  }
}

/** AMQP properties of which none is set. */
const NO_PROPERTIES = Buffer.from([0, 0])
const NO_BODY = Buffer.alloc(0)

/**
 * Opens a sealed record with the key that its `sealedBy` names, or without: then it never will be
 * read, and says why.
 */
export function openRecord(
  record: MessageRecord,
  key: DataKey | undefined,
  place: Buffer,
): MessageRecord {
  const sealed = record.sealed!
  if (key === undefined) return { ...record, sealed: undefined, unreadable: 'shredded' }
  const at = frontSize(sealed)
  const plain = key.open([place, sealed.subarray(0, at)], sealed.subarray(at))
  if (plain === undefined) return { ...record, sealed: undefined, unreadable: 'forged' }
  const orderingKeyEnd = 1 + plain[0]!
  const exchangeEnd = orderingKeyEnd + 1 + plain[orderingKeyEnd]!
  const routingKeyEnd = exchangeEnd + 1 + plain[exchangeEnd]!
  const propertiesAt = routingKeyEnd + 3
  const bodyAt = propertiesAt + plain.readUIntBE(routingKeyEnd, 3)
  return {
    timeMs: record.timeMs,
    expiresMs: record.expiresMs,
    exchange: plain.toString('utf8', orderingKeyEnd + 1, exchangeEnd),
    routingKey: plain.toString('utf8', exchangeEnd + 1, routingKeyEnd),
    orderingKey: plain.toString('utf8', 1, orderingKeyEnd),
    persistent: record.persistent,
    ttlMs: record.ttlMs,
    properties: plain.subarray(propertiesAt, bodyAt),
    body: plain.subarray(bodyAt),
    sealedBy: key.id,
  }
}

/** Bytes in front of what was sealed. */
function frontSize(record: Buffer): number {
  const flags = record[0]!
  const at = 1 + (flags & HAS_TTL ? 6 : 0)
  return flags & HAS_ORDERING_KEY ? at + 1 + record[at]! : at
}

function earliest(a: number, b: number): number {
  if (a === 0) return b
  return b === 0 ? a : Math.min(a, b)
}

/** Bytes in front of the record of a message that left its batch. */
export const VALUE_HEADER_SIZE = 16

/** Reads a message that left its batch: time, expiry, record (lua/prelude.lua, side). */
export function decodeValue(value: Buffer): MessageRecord {
  const expiresMs = value.readDoubleBE(8)
  const record = decodeRecord(value, VALUE_HEADER_SIZE, value.length, value.readDoubleBE(0), 0)
  return { ...record, expiresMs }
}

/** Bytes in front of the first record of a batch. */
export const BATCH_HEADER_SIZE = 27

/** How many records a batch holds. */
export const batchCount = (blob: Buffer): number => blob.readUInt16BE(1)

/** Reads every record of a batch, in order. */
export function decodeBatch(blob: Buffer): MessageRecord[] {
  const count = batchCount(blob)
  const timeMs = blob.readDoubleBE(3)
  const expiresMs = blob.readDoubleBE(19)
  const records = new Array<MessageRecord>(count)
  let at = BATCH_HEADER_SIZE
  for (let index = 0; index < count; index++) {
    const start = at + SIZE_BYTES
    at = start + blob.readUInt32BE(at)
    records[index] = decodeRecord(blob, start, at, timeMs, expiresMs)
  }
  return records
}
