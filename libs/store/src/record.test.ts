import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Message } from '@sluice/core'
import { plainMessage, seedFromEnv } from '@sluice/testkit'
import fc from 'fast-check'
import {
  BATCH_HEADER_SIZE,
  decodeBatch,
  decodeRecord,
  decodeValue,
  encodeRecord,
  SIZE_BYTES,
  VALUE_HEADER_SIZE,
} from './record.ts'

const TIME_MS = 1_790_000_000_000
const TTL_MS_MAX = 2 ** 48 - 1

const bytes = (maxLength: number) => fc.uint8Array({ maxLength }).map((array) => Buffer.from(array))
/** At most 255 bytes of UTF-8, of any characters. */
const name = fc
  .string({ unit: 'binary', maxLength: 255 })
  .filter((text) => Buffer.byteLength(text) <= 255 && text.isWellFormed())

const messages: fc.Arbitrary<Message> = fc.record({
  exchange: name,
  routingKey: name,
  orderingKey: name,
  persistent: fc.boolean(),
  priority: fc.nat({ max: 255 }),
  ttlMs: fc.oneof(fc.constant(-1), fc.integer({ min: 1, max: TTL_MS_MAX })),
  delayMs: fc.constant(0),
  dedupId: fc.constant(''),
  durability: fc.constant(null),
  properties: bytes(300),
  body: bytes(300),
})

const plain = plainMessage({ routingKey: '', persistent: false, properties: Buffer.alloc(0) })

function decode(encoded: Buffer, timeMs = TIME_MS, queueExpiresMs = 0) {
  assert.equal(encoded.readUInt32BE(0), encoded.length - SIZE_BYTES)
  return decodeRecord(encoded, SIZE_BYTES, encoded.length, timeMs, queueExpiresMs)
}

/** What a decoded message must be. */
function expected({ exchange, routingKey, orderingKey, persistent, ...rest }: Message) {
  const { ttlMs, properties, body } = rest
  const expiresMs = ttlMs < 0 ? 0 : TIME_MS + ttlMs
  const names = { exchange, routingKey, orderingKey }
  return { timeMs: TIME_MS, expiresMs, ...names, persistent, ttlMs, properties, body }
}

test('what was encoded is decoded again', () => {
  fc.assert(
    fc.property(messages, (message) => {
      assert.deepEqual(decode(encodeRecord(message)), expected(message))
    }),
    { seed: seedFromEnv() },
  )
})

test('the records of a batch are decoded in order, with its time and the earlier expiry', () => {
  const several = fc.array(messages, { maxLength: 10 })
  fc.assert(
    fc.property(several, fc.constantFrom(0, TIME_MS + 60_000), (all, queueExpiresMs) => {
      const header = Buffer.alloc(BATCH_HEADER_SIZE)
      header.writeUInt8(1, 0)
      header.writeUInt16BE(all.length, 1)
      header.writeDoubleBE(TIME_MS, 3)
      header.writeDoubleBE(queueExpiresMs, 19)
      const batch = decodeBatch(Buffer.concat([header, ...all.map(encodeRecord)]))
      const wanted = all.map((message) => {
        const { expiresMs, ...rest } = expected(message)
        const both = [expiresMs, queueExpiresMs].filter((at) => at > 0)
        return { ...rest, expiresMs: both.length > 0 ? Math.min(...both) : 0 }
      })
      assert.deepEqual(batch, wanted)
    }),
    { seed: seedFromEnv() },
  )
})

test('a message on its own keeps the expiry that it was given when it left its batch', () => {
  const header = Buffer.alloc(VALUE_HEADER_SIZE)
  header.writeDoubleBE(TIME_MS, 0)
  header.writeDoubleBE(TIME_MS + 5, 8)
  const record = encodeRecord({ ...plain, ttlMs: 60_000, body: Buffer.from('a') })
  const { timeMs, expiresMs, ttlMs, body } = decodeValue(
    Buffer.concat([header, record.subarray(SIZE_BYTES)]),
  )
  assert.deepEqual([timeMs, expiresMs, ttlMs, body.toString()], [TIME_MS, TIME_MS + 5, 60_000, 'a'])
})

test('the emptiest message takes ten bytes, its size included', () => {
  const encoded = encodeRecord(plain)
  assert.equal(encoded.length, 10)
  assert.deepEqual(decode(encoded), expected(plain))
})

test('names of 255 bytes fit, in one byte characters and in longer ones', () => {
  for (const longest of ['x'.repeat(255), `${'€'.repeat(85)}`, '\0'.repeat(255)]) {
    const message = { ...plain, exchange: longest, routingKey: longest, orderingKey: longest }
    assert.deepEqual(decode(encodeRecord(message)), expected(message))
  }
})

test('large bodies and properties come back whole', () => {
  const body = Buffer.alloc(32 * 1024 * 1024, 'body')
  const properties = Buffer.alloc(128 * 1024, 'p')
  const decoded = decode(encodeRecord({ ...plain, properties, body }))
  assert.ok(decoded.body.equals(body))
  assert.ok(decoded.properties.equals(properties))
})

test('a time to live of 0 is one', () => {
  assert.equal(decode(encodeRecord({ ...plain, ttlMs: 0 })).ttlMs, 0)
})

test('a record of a format that this version does not know is an error, not a message', () => {
  for (const version of [0, 2, 15]) {
    const encoded = encodeRecord(plain)
    encoded[SIZE_BYTES] = version << 4
    assert.throws(() => decode(encoded), new RegExp(`format ${version}, which this version cannot`))
  }
})

test('properties and body are views, not copies', () => {
  const encoded = encodeRecord({ ...plain, properties: Buffer.from('p'), body: Buffer.from('b') })
  const { properties, body } = decode(encoded)
  encoded.fill('x', encoded.length - 2)
  assert.equal(`${properties}${body}`, 'xx')
})
