/**
 * Properties and field values as bytes.
 *
 * Method: vectors written out by hand from the specification, round trips of random properties,
 * and random or damaged bytes, which may be refused with AmqpError and in no other way.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BrokerError } from '@sluice/core'
import fc from 'fast-check'
import {
  AmqpError,
  decodeProperties,
  encodeProperties,
  type FieldValue,
  type Properties,
  type Table,
} from './index.ts'
import { TABLE_DEPTH_MAX } from './values.ts'

const hex = (text: string) => Buffer.from(text.replace(/\s/g, ''), 'hex')

/** Properties whose only field is a headers table with these entries, in hexadecimal. */
function headersOf(entries: string): Buffer {
  const table = hex(entries)
  const size = Buffer.alloc(4)
  size.writeUInt32BE(table.length)
  return Buffer.concat([hex('2000'), size, table])
}

const refusedWith = (replyCode: number) => (error: unknown) =>
  error instanceof AmqpError && error.replyCode === replyCode

test('no properties are two zero octets', () => {
  assert.deepEqual(encodeProperties({}), hex('0000'))
  assert.deepEqual(decodeProperties(hex('0000')), {})
})

test('flags run from the highest bit down, values follow in their order', () => {
  const properties: Properties = { contentType: 'a/b', deliveryMode: 2, clusterId: 'c' }
  const bytes = hex('9004 03 612f62 02 01 63')
  assert.deepEqual(encodeProperties(properties), bytes)
  assert.deepEqual(decodeProperties(bytes), properties)
})

const letters: [string, string, FieldValue][] = [
  ['t', '01', true],
  ['b', 'ff', -1],
  ['B', 'ff', 255],
  ['s', 'fffe', -2],
  ['u', 'fffe', 65534],
  ['I', 'ffffffff', -1],
  ['i', 'ffffffff', 4294967295],
  ['l', 'ffffffffffffffff', -1],
  ['L', 'ffffffffffffffff', -1],
  ['l', '7fffffffffffffff', 9223372036854775807n],
  ['f', '3fc00000', 1.5],
  ['d', '3ff8000000000000', 1.5],
  ['D', '02 00000096', 1.5],
  ['S', '00000002 c3a4', 'ä'],
  ['S', '00000001 ff', Buffer.from([255])],
  ['x', '00000001 61', Buffer.from('a')],
  ['T', '000000000000003c', new Date(60_000)],
  ['T', 'ffffffffffffffff', 9223372036854775807n],
  ['A', '00000002 7401', [true]],
  ['F', '00000004 01 61 74 01', { a: true }],
  ['V', '', null],
]
for (const [letter, bytes, value] of letters) {
  test(`field type ${letter} ${bytes} reads as ${typeof value}`, () => {
    const field = Buffer.from(letter).toString('hex') + bytes
    assert.deepEqual(decodeProperties(headersOf(`01 6b ${field}`)), { headers: { k: value } })
  })
}

test('where a key stands twice the first counts', () => {
  assert.deepEqual(decodeProperties(headersOf('01 6b 74 01 01 6b 74 00')).headers, { k: true })
})

test('a key named __proto__ is a field like any other', () => {
  const { headers } = decodeProperties(encodeProperties({ headers: JSON.parse('{"__proto__":1}') }))
  assert.deepEqual(Object.keys(headers!), ['__proto__'])
  assert.equal(Object.getPrototypeOf(headers), Object.prototype)
})

const malformed: [string, Buffer, number][] = [
  ['no flags', hex(''), 502],
  ['half the flags', hex('00'), 502],
  ['a continuation flag', hex('0001 0000'), 502],
  ['an unused flag', hex('0002'), 502],
  ['a short string that ends early', hex('8000 05 61'), 502],
  ['a short string that is not UTF-8', hex('8000 01 ff'), 501],
  ['bytes after the last value', hex('0000 00'), 502],
  ['a table longer than the rest', hex('2000 00000005 00'), 502],
  ['a nested table longer than its parent', headersOf('01 6b 46 00000009 016b'), 502],
  ['a value longer than its table', Buffer.concat([headersOf('01 6b 49 0000'), hex('0000')]), 502],
  ['an unknown field type', headersOf('01 6b 3f'), 502],
]
for (const [what, bytes, replyCode] of malformed) {
  test(`${what} is refused with ${replyCode}`, () => {
    assert.throws(() => decodeProperties(bytes), refusedWith(replyCode))
  })
}

function nested(depth: number): Table {
  let table: Table = {}
  for (let i = 1; i < depth; i++) table = { a: table }
  return table
}

test('tables nest up to their limit and no deeper, in both directions', () => {
  const headers = nested(TABLE_DEPTH_MAX)
  assert.deepEqual(decodeProperties(encodeProperties({ headers })), { headers })
  assert.throws(() => encodeProperties({ headers: { a: headers } }), BrokerError)

  let entries = ''
  for (let i = 0; i < 1_000; i++) {
    const size = Buffer.alloc(4)
    size.writeUInt32BE(entries.length / 2)
    entries = `0161${Buffer.from('F').toString('hex')}${size.toString('hex')}${entries}`
  }
  assert.throws(() => decodeProperties(headersOf(entries)), refusedWith(502))
})

test('what has no encoding is refused as a request, not as a protocol violation', () => {
  for (const properties of [
    { contentType: 'a'.repeat(256) },
    { priority: 256 },
    { priority: -1 },
    { deliveryMode: 1.5 },
    { timestamp: -1 },
    { headers: { a: 2n ** 63n } },
    { headers: { a: new Date(Number.NaN) } },
    { headers: { ['k'.repeat(256)]: 1 } },
  ] as Properties[]) {
    assert.throws(
      () => encodeProperties(properties),
      (error) => error instanceof BrokerError && error.code === 'invalid_request',
    )
  }
})

test('properties past their size limit are refused', () => {
  const properties = { headers: { a: 'x'.repeat(200_000) } }
  assert.throws(
    () => encodeProperties(properties),
    (error) => error instanceof BrokerError && error.code === 'message_too_large',
  )
  assert.equal(encodeProperties(properties, 300_000).length, 200_013)
  assert.throws(() => decodeProperties(Buffer.alloc(1_000_000)), refusedWith(502))
})

const text = fc.string({ unit: 'grapheme', maxLength: 20 })
const { value: anyValue } = fc.letrec<{ value: FieldValue }>((tie) => ({
  value: fc.oneof(
    { depthSize: 'small' },
    text,
    fc.integer(),
    fc.maxSafeInteger(),
    fc.double(),
    fc.boolean(),
    fc.constant(null),
    fc.bigInt({ min: 2n ** 53n, max: 2n ** 63n - 1n }),
    fc.uint8Array({ maxLength: 20 }).map((bytes) => Buffer.from(bytes)),
    fc.nat(4_102_444_800).map((seconds) => new Date(seconds * 1000)),
    fc.array(tie('value'), { maxLength: 4 }),
    fc.dictionary(text, tie('value'), { maxKeys: 4, noNullPrototype: true }),
  ),
}))
const anyProperties: fc.Arbitrary<Properties> = fc.record(
  {
    contentType: text,
    contentEncoding: text,
    headers: fc.dictionary(text, anyValue, { maxKeys: 6, noNullPrototype: true }),
    deliveryMode: fc.constantFrom(1, 2),
    priority: fc.nat(255),
    correlationId: text,
    replyTo: text,
    expiration: text,
    messageId: text,
    timestamp: fc.maxSafeNat(),
    type: text,
    userId: text,
    appId: text,
    clusterId: text,
  },
  { requiredKeys: [], noNullPrototype: true },
)

test('random properties come back as they were', () => {
  fc.assert(
    fc.property(anyProperties, (properties) => {
      assert.deepEqual(decodeProperties(encodeProperties(properties)), properties)
    }),
    { numRuns: 1_000 },
  )
})

function decodesOrRefuses(bytes: Buffer): void {
  try {
    encodeProperties(decodeProperties(bytes), Number.MAX_SAFE_INTEGER)
  } catch (error) {
    if (!(error instanceof AmqpError)) throw error
  }
}

test('random bytes are decoded, and then encodable, or refused with AmqpError', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      decodesOrRefuses(Buffer.from(bytes))
      decodesOrRefuses(headersOf(Buffer.from(bytes).toString('hex')))
    }),
    { numRuns: 3_000 },
  )
})

test('damaged properties are decoded, and then encodable, or refused with AmqpError', () => {
  fc.assert(
    fc.property(anyProperties, fc.nat(), fc.nat(255), fc.nat(), (properties, at, octet, cut) => {
      const bytes = encodeProperties(properties)
      bytes[at % bytes.length] = octet
      decodesOrRefuses(bytes)
      decodesOrRefuses(bytes.subarray(0, cut % (bytes.length + 1)))
    }),
    { numRuns: 3_000 },
  )
})
