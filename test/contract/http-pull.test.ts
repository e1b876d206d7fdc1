/** What the HTTP door promises beyond what every door does: forms, bounds and refusals. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { encodeProperties } from '@sluice/amqp'
import { httpApp } from '@sluice/server'
import { plainMessage, type TestMessage, waitFor } from '@sluice/testkit'
import { appendTo } from '@sluice/topology'
import request from 'supertest'
import { pullRoutes } from '../../services/delivery/src/http-pull.ts'
import { LeaseSpans } from '../../services/delivery/src/lease-spans.ts'
import { AUTHORIZATION, type TestBroker, withBroker } from '../support/broker.ts'

const leases = '/queues/q/leases'

async function publish(broker: TestBroker, body: Buffer | string, headers = {}) {
  const { status, text } = await broker.request('POST', '/queues/q/messages', { body, headers })
  assert.equal(status, 200, text)
}

async function leaseOne(broker: TestBroker, query = '') {
  const { json, text } = await broker.request('POST', leases + query, { body: { waitMs: 10_000 } })
  return json.messages[0] ?? assert.fail(text)
}

async function store(broker: TestBroker, given: TestMessage) {
  const entry = broker.deps.topology.table.queue(broker.vhost, 'q')!
  assert.equal(await appendTo(entry, plainMessage({ routingKey: 'q', ...given })), 'stored')
}

test('text comes as text, everything else as base64, and all of it as base64 when asked', async (t) => {
  const broker = await withBroker(t)
  await broker.request('PUT', '/queues/q', { body: {} })
  for (const [type, body, text] of [
    ['text/plain', 'grüße', true],
    ['application/json', '{"a":1}', true],
    ['application/vnd.x+json; charset=utf-8', '[]', true],
    ['text/plain', Buffer.from([0xff, 0xfe]), false],
    ['application/octet-stream', 'abc', false],
    ['text/plain', '', true],
  ] as const) {
    await publish(broker, body, { 'Content-Type': type })
    const message = await leaseOne(broker)
    const bytes = Buffer.from(body)
    assert.equal(message.body, text ? String(body) : undefined, type)
    assert.equal(message.bodyBase64, text ? undefined : bytes.toString('base64'), type)
    assert.equal(message.properties.contentType, type)
  }
  await publish(broker, 'grüße', { 'Content-Type': 'text/plain' })
  const { bodyBase64, body } = await leaseOne(broker, '?encoding=base64')
  assert.deepEqual([body, bodyBase64], [undefined, Buffer.from('grüße').toString('base64')])
})

test('header values of every kind have a form in JSON', async (t) => {
  const broker = await withBroker(t)
  await broker.request('PUT', '/queues/q', { body: {} })
  const headers = {
    text: 'a',
    number: 1.5,
    huge: 2n ** 60n,
    flag: true,
    none: null,
    bytes: Buffer.from([1, 2]),
    time: new Date('2026-01-02T03:04:05Z'),
    list: [1, 'b', { deep: 2 }],
    ['__proto__']: 'x',
  }
  await store(broker, { properties: encodeProperties({ headers, timestamp: 1_700_000_000 }) })
  const message = await leaseOne(broker)
  assert.deepEqual(JSON.parse(JSON.stringify(message.headers)), {
    text: 'a',
    number: 1.5,
    huge: '1152921504606846976',
    flag: true,
    none: null,
    bytes: { base64: 'AQI=' },
    time: '2026-01-02T03:04:05.000Z',
    list: [1, 'b', { deep: 2 }],
    ['__proto__']: 'x',
  })
  assert.deepEqual(message.properties, { timestamp: 1_700_000_000 })
})

test('a message whose properties are malformed is delivered with a note', async (t) => {
  const broker = await withBroker(t)
  await broker.request('PUT', '/queues/q', { body: {} })
  await store(broker, { properties: Buffer.from([0xff, 0xff, 0xff]), body: 'x' })
  const message = await leaseOne(broker)
  assert.equal(message.body, 'x')
  assert.match(message.note, /properties cannot be read/)
  const settlements = [{ token: message.token, outcome: 'dead-letter', reason: 'odd' }]
  await broker.request('POST', '/queues/q/settlements', { body: { settlements } })
  const dead = await broker.request('POST', '/queues/amq.dead-letters/leases', {
    body: { waitMs: 10_000 },
  })
  assert.equal(dead.json.messages[0].body, 'x')
})

test('requests that do not fit are refused and change nothing', async (t) => {
  const broker = await withBroker(t)
  await broker.request('PUT', '/queues/q', { body: {} })
  await publish(broker, 'x')
  for (const [path, body] of [
    [leases, { max: 0 }],
    [leases, { max: 100_000 }],
    [leases, { waitMs: -1 }],
    [leases, { waitMs: 3_600_000 }],
    [leases, { leaseMs: 1 }],
    [leases, { consumer: '' }],
    [leases, { amount: 1 }],
    [leases, []],
    [`${leases}?wait=1`, {}],
    ['/queues/q/settlements', { settlements: [] }],
    ['/queues/q/settlements', { settlements: [{ token: 'x', outcome: 'nack' }] }],
    ['/queues/q/settlements', { settlements: [{ token: 'x', outcome: 'ack', delayMs: 1 }] }],
    ['/queues/q/settlements', { settlements: [{ token: 'x', outcome: 'retry', delayMs: -1 }] }],
    ['/queues/q/settlements', { settlements: [{ token: 'x', outcome: 'extend' }] }],
  ] as const) {
    const { status, json } = await broker.request('POST', path, { body })
    assert.deepEqual([status, json.title], [400, 'invalid_request'], JSON.stringify(body))
  }
  const { json } = await broker.request('GET', '/queues/q')
  assert.equal(json.messages.ready, 1)
})

test('a queue that is not there is 404, for each request', async (t) => {
  const broker = await withBroker(t)
  for (const [method, path, body] of [
    ['POST', '/queues/none/leases', {}],
    ['POST', '/queues/none/settlements', { settlements: [{ token: 'x', outcome: 'ack' }] }],
    ['GET', '/queues/none/messages', undefined],
    ['DELETE', '/queues/none/messages', undefined],
    ['GET', '/queues/none/dead-letters', undefined],
    ['POST', '/queues/none/redrive', {}],
  ] as const) {
    const { status, json } = await broker.request(method, path, { body })
    assert.deepEqual([status, json.title], [404, 'queue_not_found'], `${method} ${path}`)
  }
  const { json } = await broker.request('POST', '/v1/vhosts/none/queues/q/leases', { body: {} })
  assert.equal(json.title, 'vhost_not_found')
})

test('a queue that is deleted ends the wait of those who poll it', async (t) => {
  const broker = await withBroker(t)
  await broker.request('PUT', '/queues/q', { body: {} })
  const waiting = broker.request('POST', leases, { body: { waitMs: 20_000 } })
  await broker.request('DELETE', '/queues/q')
  const { status, json } = await waiting
  assert.deepEqual([status, json.title], [404, 'queue_not_found'])
})

test('settlements in a batch get an outcome each, in order', async (t) => {
  const broker = await withBroker(t)
  await broker.request('PUT', '/queues/q', { body: {} })
  for (const body of ['1', '2', '3', '4', '5']) await publish(broker, body)
  const { json } = await broker.request('POST', leases, { body: { max: 5 } })
  const [one, two, three, four, five] = json.messages.map((m: { token: string }) => m.token)
  const settlements = [
    { token: one, outcome: 'ack' },
    { token: 'nonsense', outcome: 'ack' },
    { token: two, outcome: 'retry', delayMs: 60_000 },
    { token: three, outcome: 'dead-letter' },
    { token: four, outcome: 'extend', leaseMs: 60_000 },
    { token: five, outcome: 'release' },
    { token: one, outcome: 'ack' },
  ]
  const answer = await broker.request('POST', '/queues/q/settlements', { body: { settlements } })
  assert.deepEqual(answer.json, {
    outcomes: ['settled', 'stale', 'retried', 'dead-lettered', 'extended', 'released', 'stale'],
  })
})

test('a peek shows pages of messages, finds one by id or header, and touches nothing', async (t) => {
  const broker = await withBroker(t)
  await broker.request('PUT', '/queues/q', { body: {} })
  for (let i = 0; i < 30; i++) {
    await publish(broker, `${i}`, {
      'Content-Type': 'text/plain',
      'Sluice-Header-parity': i % 2 ? 'odd' : 'even',
    })
  }
  const peek = (query: string) => broker.request('GET', `/queues/q/messages?${query}`)
  const seen: string[] = []
  let next: string | undefined = ''
  do {
    const { json } = await peek(`limit=7&after=${encodeURIComponent(next)}`)
    seen.push(...json.messages.map(({ body }: { body: string }) => body))
    next = json.next
  } while (next !== undefined)
  assert.deepEqual(
    seen,
    Array.from({ length: 30 }, (_, i) => `${i}`),
  )
  const odd = (await peek('limit=500&header=parity:odd')).json.messages
  assert.equal(odd.length, 15)
  const [found] = (await peek(`id=${odd[3].id}`)).json.messages
  assert.deepEqual([found.body, found.state], [odd[3].body, 'ready'])
  assert.equal((await peek('id=nonsense')).json.title, 'message_not_found')
  assert.equal((await peek('after=nonsense')).json.title, 'invalid_request')
  assert.equal((await peek('header=parity')).json.title, 'invalid_request')
  const first = await leaseOne(broker)
  assert.deepEqual([first.body, first.redelivered], ['0', false])
  const held = (await peek('state=held')).json.messages
  assert.deepEqual([held[0].body, held[0].heldBy], ['0', 'admin'])
  assert.ok(Date.parse(held[0].heldUntil) > Date.now())
})

test('a purge removes what is ready and says how much', async (t) => {
  const broker = await withBroker(t)
  await broker.request('PUT', '/queues/q', { body: {} })
  for (let i = 0; i < 5; i++) await publish(broker, `${i}`)
  await leaseOne(broker)
  assert.deepEqual((await broker.request('DELETE', '/queues/q/messages')).json, { messages: 4 })
  assert.deepEqual((await broker.request('DELETE', '/queues/q/messages')).json, { messages: 0 })
})

test('a message that never died is not redriven, nor one whose queue is gone', async (t) => {
  const broker = await withBroker(t)
  await broker.request('PUT', '/queues/q', { body: {} })
  await publish(broker, 'x')
  const [{ id }] = (await broker.request('GET', '/queues/q/messages')).json.messages
  const redrive = (queue: string, body: object) =>
    broker.request('POST', `/queues/${queue}/redrive`, { body })
  assert.equal((await redrive('q', { id })).json.title, 'invalid_request')
  assert.equal((await redrive('q', { id: 'none' })).json.title, 'message_not_found')
  const properties = encodeProperties({ headers: { 'x-last-death-queue': 'gone' } })
  await store(broker, { properties })
  const [, letter] = (await broker.request('GET', '/queues/q/messages')).json.messages
  assert.equal((await redrive('q', { id: letter.id })).json.title, 'queue_not_found')
  const { json } = await broker.request('GET', '/queues/q')
  assert.deepEqual([json.messages.ready, json.messages.unacked], [2, 0])
  assert.equal((await broker.request('GET', '/queues/q/redrives/999999')).status, 404)
})

test('past the number of requests that may wait, one more is told when to come again', async (t) => {
  const broker = await withBroker(t)
  await broker.request('PUT', '/queues/q', { body: {} })
  const { credentials, report } = broker.deps
  const routes = pullRoutes(broker.deps, new LeaseSpans(broker.deps), 1)
  const app = httpApp({ routes, credentials, report })
  const server = app.listen(0, '127.0.0.1')
  t.after(() => server.close())
  const lease = (waitMs: number) =>
    request(server)
      .post(`/v1/vhosts/${broker.vhost}/queues/q/leases`)
      .set('Authorization', AUTHORIZATION)
      .send({ waitMs })
  const first = lease(20_000).then(({ body }) => body.messages.length)
  const refused = await waitFor(async () => {
    const answer = await lease(1)
    return answer.status === 429 && answer
  })
  assert.equal(refused.body.title, 'too_many_requests')
  assert.ok(Number(refused.headers['retry-after']) >= 1)
  assert.equal((await lease(0)).status, 200, 'who does not wait is served')
  await publish(broker, 'x')
  assert.equal(await first, 1)
  await waitFor(async () => (await lease(1)).status === 200, { what: 'its place to be free' })
})
