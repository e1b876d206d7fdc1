import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import type { Message } from '@sluice/core'
import { plainMessage, seedFromEnv } from '@sluice/testkit'
import fc from 'fast-check'
import { DataKey, KEY_MATERIAL_SIZE, newKeyMaterial } from './data-key.ts'
import {
  decodeRecord,
  encodeSealed,
  type MessageRecord,
  openRecord,
  placeOf,
  SIZE_BYTES,
} from './record.ts'

const OF_QUEUE = { vhost: '/', queue: 'q', generation: 1 }
const newKey = (id = 1) => new DataKey({ id, ...OF_QUEUE }, randomBytes(KEY_MATERIAL_SIZE))
const PLACE = placeOf('/', 'q')
const TIME_MS = 1_790_000_000_000

const bytes = (maxLength: number) => fc.uint8Array({ maxLength }).map((array) => Buffer.from(array))
const name = fc
  .string({ unit: 'binary', maxLength: 255 })
  .filter((text) => Buffer.byteLength(text) <= 255 && text.isWellFormed())

const messages: fc.Arbitrary<Message> = fc.record({
  exchange: name,
  routingKey: name,
  orderingKey: name,
  persistent: fc.boolean(),
  priority: fc.constant(0),
  ttlMs: fc.oneof(fc.constant(-1), fc.integer({ min: 0, max: 2 ** 48 - 1 })),
  delayMs: fc.constant(0),
  dedupId: fc.constant(''),
  durability: fc.constant(null),
  properties: bytes(300),
  body: bytes(300),
})

function decode(encoded: Buffer): MessageRecord {
  assert.equal(encoded.readUInt32BE(0), encoded.length - SIZE_BYTES)
  return decodeRecord(encoded, SIZE_BYTES, encoded.length, TIME_MS, 0)
}

test('what was sealed opens as it was, and says nothing of itself before', () => {
  const key = newKey(2 ** 48 - 1)
  const sealsItself = fc.property(messages, (message) => {
    const sealed = decode(encodeSealed(message, key, PLACE))
    assert.equal(sealed.sealedBy, key.id)
    assert.equal(sealed.routingKey + sealed.exchange + sealed.body, '')
    if (message.orderingKey !== '') assert.notEqual(sealed.orderingKey, message.orderingKey)
    const opened = openRecord(sealed, key, PLACE)
    const { exchange, routingKey, orderingKey, persistent, ttlMs, properties, body } = message
    const expiresMs = ttlMs < 0 ? 0 : TIME_MS + ttlMs
    const kept = { exchange, routingKey, orderingKey, persistent, ttlMs, properties, body }
    assert.deepEqual(opened, { ...kept, timeMs: TIME_MS, expiresMs, sealedBy: key.id })
  })
  fc.assert(sealsItself, { seed: seedFromEnv(), numRuns: 300 })
})

test('a record of which one bit was flipped does not open', () => {
  const key = newKey()
  const refuses = fc.property(messages, fc.nat(), (message, at) => {
    const encoded = encodeSealed(message, key, PLACE)
    const bit = SIZE_BYTES * 8 + (at % ((encoded.length - SIZE_BYTES) * 8))
    encoded[bit >> 3]! ^= 1 << (bit & 7)
    let opened: MessageRecord
    try {
      opened = decode(encoded)
    } catch {
      return // a format that is none
    }
    if (opened.sealed === undefined || opened.sealedBy !== key.id) return // no key would be found
    assert.equal(openRecord(opened, key, PLACE).unreadable, 'forged')
  })
  fc.assert(refuses, { seed: seedFromEnv(), numRuns: 500 })
})

const PLAIN = plainMessage({ exchange: 'x', routingKey: 'r', body: 'body' })

test('a record opens in the queue for which it was sealed, and nowhere else', () => {
  const key = newKey()
  const sealed = decode(encodeSealed(PLAIN, key, PLACE))
  for (const elsewhere of [placeOf('/', 'other'), placeOf('other', 'q'), placeOf('/', '')]) {
    assert.equal(openRecord(sealed, key, elsewhere).unreadable, 'forged')
  }
  assert.equal(openRecord(sealed, newKey(), PLACE).unreadable, 'forged')
  assert.equal(openRecord(sealed, key, PLACE).body.toString(), 'body')
})

test('processes with one key open what the others sealed, and no nonce comes twice', () => {
  const material = randomBytes(KEY_MATERIAL_SIZE)
  const processes = Array.from({ length: 100 }, () => new DataKey({ id: 1, ...OF_QUEUE }, material))
  const seen = new Set<string>()
  for (let round = 0; round < 3; round++) {
    for (const each of processes) {
      const record = encodeSealed(PLAIN, each, PLACE)
      seen.add(record.toString('latin1', 5, 5 + 22))
      assert.equal(openRecord(decode(record), processes[0], PLACE).body.toString(), 'body')
    }
  }
  assert.equal(seen.size, 300)
})

test('pseudonyms outlive a rotation, and differ by what they stand for and by queue', () => {
  const first = newKey()
  const next = new DataKey({ id: 2, ...OF_QUEUE }, newKeyMaterial(first))
  const name = first.pseudonym('ordering key', 'ann')
  assert.equal(next.pseudonym('ordering key', 'ann'), name)
  assert.notEqual(first.pseudonym('message id', 'ann'), name)
  assert.notEqual(newKey().pseudonym('ordering key', 'ann'), name)
})

test('a key that was forgotten neither seals nor opens', () => {
  const key = newKey()
  const sealed = decode(encodeSealed(PLAIN, key, PLACE))
  key.forget()
  assert.throws(() => encodeSealed(PLAIN, key, PLACE))
  assert.equal(openRecord(sealed, key, PLACE).unreadable, 'forged')
})
