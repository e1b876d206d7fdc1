import assert from 'node:assert/strict'
import { test } from 'node:test'
import { limits } from '@sluice/core'
import { addHeaders } from './add-headers.ts'
import { decodeProperties, encodeProperties, type Properties } from './properties.ts'

const ADDED = { traceparent: '00-1-2-01', tracestate: 'a=ü', baggage: undefined }

test('headers are added wherever the table is, and everything else stays as it was', () => {
  const cases: Properties[] = [
    {},
    { contentType: 'text/plain' },
    { contentType: 'text/plain', contentEncoding: 'gzip', messageId: 'm', timestamp: 5 },
    { headers: {}, appId: 'a' },
    { contentEncoding: 'x', headers: { a: 1, b: { c: [true, null] } }, deliveryMode: 2 },
  ]
  for (const properties of cases) {
    const { headers, ...rest } = decodeProperties(addHeaders(encodeProperties(properties), ADDED))
    const { headers: before, ...others } = properties
    assert.deepEqual(rest, others)
    assert.deepEqual(headers, { ...before, traceparent: '00-1-2-01', tracestate: 'a=ü' })
  }
})

test('what is malformed, or would become too long, stays as it is', () => {
  for (const bytes of [Buffer.alloc(0), Buffer.from([0x20, 0]), Buffer.from([0x80, 0, 9])]) {
    assert.equal(addHeaders(bytes, ADDED), bytes)
  }
  const table = Buffer.from([0x20, 0, 0, 0, 0, 9, 1])
  assert.equal(addHeaders(table, ADDED), table)
  const long = encodeProperties({ headers: { a: 'x'.repeat(limits.PROPERTIES_BYTES_MAX - 20) } })
  assert.equal(addHeaders(long, ADDED), long)
  const none = encodeProperties({})
  assert.equal(addHeaders(none, { baggage: undefined }), none)
})
