import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decodeProperties, type Properties } from '@sluice/amqp'
import type { BrokerError, Message } from '@sluice/core'
import {
  Draft,
  MessageFields,
  PublishHeaders,
  readFields,
  readHeaders,
  toMessage,
} from './publish-fields.ts'

const BODY = Buffer.from('body')

function fromHeaders(headers: Record<string, string>): Message {
  const draft = new Draft('key')
  readHeaders(Object.entries(headers).flat(), draft)
  return toMessage(draft, 'events', BODY, 0)
}

function fromFields(fields: unknown, clockAheadMs = 0): Message {
  const draft = new Draft('key')
  readFields(fields as Record<string, unknown>, draft, new Set())
  return toMessage(draft, 'events', BODY, clockAheadMs)
}

const properties = (message: Message): Properties => ({ ...decodeProperties(message.properties) })
const refused = { name: 'BrokerError', code: 'invalid_request' }

const HEADERS = {
  Host: 'x',
  'Content-Type': 'text/plain',
  'Content-Encoding': 'gzip',
  'Sluice-Routing-Key': 'a.b',
  'Sluice-Delay': '5000',
  'Sluice-Ttl': '60000',
  'Sluice-Priority': '7',
  'Sluice-Ordering-Key': 'customer 1',
  'Sluice-Durability': 'replicas=2',
  'Sluice-Persistent': 'false',
  'Idempotency-Key': 'id-1',
  'Sluice-Message-Id': 'm',
  'Sluice-Correlation-Id': 'c',
  'Sluice-Reply-To': 'r',
  'Sluice-Type': 't',
  'Sluice-App-Id': 'a',
  'Sluice-Timestamp': '1700000000',
  'Sluice-Header-X-Tenant': 'T1',
}

const FIELDS = {
  contentType: 'text/plain',
  contentEncoding: 'gzip',
  routingKey: 'a.b',
  delayMs: 5_000,
  ttlMs: 60_000,
  priority: 7,
  orderingKey: 'customer 1',
  durability: 'replicas=2',
  persistent: false,
  idempotencyKey: 'id-1',
  messageId: 'm',
  correlationId: 'c',
  replyTo: 'r',
  type: 't',
  appId: 'a',
  timestamp: 1_700_000_000,
  headers: { 'X-Tenant': 'T1' },
}

test('headers and fields that say the same make the same message', () => {
  const byHeader = fromHeaders(HEADERS)
  assert.deepEqual(byHeader, fromFields(FIELDS))
  const { properties: bytes, ...rest } = byHeader
  assert.deepEqual(rest, {
    exchange: 'events',
    routingKey: 'a.b',
    orderingKey: 'customer 1',
    persistent: false,
    priority: 7,
    ttlMs: 60_000,
    delayMs: 5_000,
    dedupId: 'id-1',
    durability: 'replicas=2',
    body: BODY,
  })
  const { headers, ...decoded } = decodeProperties(bytes)
  assert.deepEqual({ ...headers }, { 'X-Tenant': 'T1' })
  assert.deepEqual(
    { ...decoded },
    {
      contentType: 'text/plain',
      contentEncoding: 'gzip',
      deliveryMode: 1,
      priority: 7,
      correlationId: 'c',
      replyTo: 'r',
      expiration: '60000',
      messageId: 'm',
      timestamp: 1_700_000_000,
      type: 't',
      appId: 'a',
    },
  )
})

test('a plain message is persistent and has nothing else', () => {
  assert.deepEqual(properties(fromHeaders({})), { deliveryMode: 2 })
  assert.deepEqual(properties(fromFields({ contentType: 'a/b' })), {
    contentType: 'a/b',
    deliveryMode: 2,
  })
  assert.deepEqual(properties(fromFields({ contentType: 'c/d' })), {
    contentType: 'c/d',
    deliveryMode: 2,
  })
  const { ttlMs, delayMs, dedupId, durability } = fromHeaders({})
  assert.deepEqual([ttlMs, delayMs, dedupId, durability], [-1, 0, '', null])
})

test('header values are UTF-8, and what is not is refused', () => {
  const latin1 = Buffer.from('grün').toString('latin1')
  assert.equal(fromHeaders({ 'Sluice-Routing-Key': latin1 }).routingKey, 'grün')
  assert.throws(() => fromHeaders({ 'Sluice-Routing-Key': '\xff' }), refused)
})

test('deliver-at is a time in RFC 3339 or in milliseconds, and the past is now', () => {
  const soon = Date.now() + 60_000
  for (const at of [String(soon), new Date(soon).toISOString()]) {
    const { delayMs } = fromHeaders({ 'Sluice-Deliver-At': at })
    assert.ok(delayMs > 50_000 && delayMs <= 60_000, String(delayMs))
  }
  const byRedis = fromFields({ deliverAt: soon }, 20_000).delayMs // its clock is 20 s ahead
  assert.ok(byRedis > 30_000 && byRedis <= 40_000, String(byRedis))
  assert.throws(() => fromFields({ deliverAt: soon, delayMs: 5 }), refused)
  assert.equal(fromFields({ deliverAt: '2001-01-01T00:00:00+01:00' }).delayMs, 0)
  for (const at of ['tomorrow', '2001-13-41T00:00:00Z', '', '-5', '1e9']) {
    assert.throws(() => fromHeaders({ 'Sluice-Deliver-At': at }), refused, at)
  }
})

test('values out of bounds or of another type are refused, and the field is named', () => {
  const wrong: unknown[] = [
    { priority: 256 },
    { priority: -1 },
    { priority: 1.5 },
    { priority: '1' },
    { delayMs: Number.NaN },
    { ttlMs: 1e15 },
    { mandatory: 'true' },
    { routingKey: 'ä'.repeat(128) },
    { idempotencyKey: 'x'.repeat(256) },
    { messageId: 5 },
    { durability: 'disk' },
    { durability: 'replicas=0' },
    { headers: [] },
    { headers: null },
    { timestamp: -1 },
    { unknown: 1 },
    JSON.parse('{"__proto__":{"priority":1}}'),
    { constructor: 1 },
  ]
  for (const fields of wrong) {
    const name = Object.keys(fields as object)[0]
    assert.throws(
      () => fromFields(fields),
      (error: BrokerError) => error.code === 'invalid_request' && error.details['at'] === name,
      JSON.stringify(fields),
    )
  }
  for (const [name, value] of [
    ['Sluice-Priority', '0x10'],
    ['Sluice-Delay', '-1'],
    ['Sluice-Mandatory', 'yes'],
    ['Sluice-Persistent', ''],
    ['Sluice-Unknown', '1'],
  ] as const) {
    assert.throws(() => fromHeaders({ [name]: value }), refused, name)
  }
})

test('headers called __proto__ are headers like others, and none comes twice', () => {
  const { headers } = properties(fromHeaders({ 'Sluice-Header-__proto__': 'x' }))
  assert.deepEqual(Object.entries(headers ?? {}), [['__proto__', 'x']])
  assert.throws(() => readHeaders(['Sluice-Ttl', '1', 'sluice-ttl', '2'], new Draft('')), refused)
  const draft = new Draft('')
  assert.throws(() => readHeaders(['Sluice-Header-a', '1', 'sluice-header-a', '2'], draft), refused)
})

test('every documented header and field is understood', () => {
  const samples: Record<string, string> = {
    'Sluice-Durability': 'memory',
    'Sluice-Deliver-At': '5',
    'Sluice-Mandatory': 'true',
    'Sluice-Persistent': 'true',
  }
  for (const name of Object.keys(PublishHeaders.shape))
    fromHeaders({ [name]: samples[name] ?? '1' })
  const fields = MessageFields.parse({
    body: 1,
    bodyBase64: '',
    routingKey: 'k',
    headers: { a: 1 },
  })
  assert.ok(fields)
  assert.equal(MessageFields.safeParse({ unknown: 1 }).success, false)
})
