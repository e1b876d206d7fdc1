/** Publishing over HTTP against a real broker, store and Redis. */
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { connect } from 'node:net'
import { test } from 'node:test'
import { decodeProperties } from '@sluice/amqp'
import { privateRedis, waitFor } from '@sluice/testkit'
import { type Answer, AUTHORIZATION, type TestBroker, withBroker } from '../support/broker.ts'

function assertRefused(answer: Answer, status: number, code: string) {
  assert.equal(answer.status, status, answer.text)
  assert.equal(answer.json.title, code)
}

async function lease({ deps, vhost }: TestBroker, queue: string) {
  const entry = deps.topology.table.queue(vhost, queue)
  assert.ok(entry)
  return entry.store.lease({ max: 100, leaseMs: 30_000, waitMs: 0, consumer: 'test' })
}

const ready = async (broker: TestBroker, queue: string) =>
  (await broker.request('GET', `/queues/${queue}`)).json.messages.ready

test('a body of any bytes and its properties arrive as they were sent', async (t) => {
  const broker = await withBroker(t, { services: ['router'] })
  await broker.request('PUT', '/queues/in')
  const body = randomBytes(300_000)
  const headers = {
    'Content-Type': 'application/x-thing; v=1',
    'Sluice-Header-X-Tenant': 'T1',
    'Sluice-Correlation-Id': 'c-1',
  }
  const answer = await broker.request('POST', '/queues/in/messages', { body, headers })
  assert.equal(answer.status, 200, answer.text)
  assert.deepEqual(answer.json, {
    routed: true,
    queues: ['in'],
    duplicate: false,
    durability: 'memory',
  })
  const [message] = await lease(broker, 'in')
  assert.ok(message)
  const sha = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')
  assert.equal(sha(message.record.body), sha(body))
  const properties = decodeProperties(message.record.properties)
  assert.equal(properties.contentType, 'application/x-thing; v=1')
  assert.equal(properties.correlationId, 'c-1')
  assert.equal(properties.headers?.['x-tenant'] ?? properties.headers?.['X-Tenant'], 'T1')
})

test('the answer names every queue reached, and says when none was', async (t) => {
  const broker = await withBroker(t, { services: ['router'] })
  const { request } = broker
  await request('PUT', '/exchanges/events', { body: { type: 'topic' } })
  for (const [queue, routingKey] of [
    ['all', '#'],
    ['orders', 'order.*'],
  ]) {
    await request('PUT', `/queues/${queue}`)
    await request('PUT', '/bindings', {
      body: { source: 'events', destination: queue, routingKey },
    })
  }
  const send = (key: string, headers = {}) =>
    request('POST', `/exchanges/events/messages?routingKey=${key}`, { body: 'x', headers })
  assert.deepEqual((await send('order.created')).json.queues.sort(), ['all', 'orders'])
  assert.deepEqual((await send('other')).json.queues, ['all'])

  await request('DELETE', '/queues/all')
  const unrouted = await send('other')
  assert.equal(unrouted.status, 200)
  assert.deepEqual([unrouted.json.routed, unrouted.json.queues], [false, []])
  assertRefused(await send('other', { 'Sluice-Mandatory': 'true' }), 422, 'unroutable')
})

test('a second publish with the same Idempotency-Key answers duplicate and adds nothing', async (t) => {
  const broker = await withBroker(t, { services: ['router'] })
  await broker.request('PUT', '/queues/in')
  const send = (key: string) =>
    broker.request('POST', '/queues/in/messages', {
      body: 'x',
      headers: { 'Idempotency-Key': key },
    })
  assert.equal((await send('k1')).json.duplicate, false)
  const again = await send('k1')
  assert.equal(again.status, 200)
  assert.equal(again.json.duplicate, true)
  assert.equal((await send('k2')).json.duplicate, false)
  assert.equal(await ready(broker, 'in'), 2)
})

test('a delayed message is not ready, and an expired one is not delivered', async (t) => {
  const broker = await withBroker(t, { services: ['router'] })
  await broker.request('PUT', '/queues/in')
  const soon = new Date(Date.now() + 60_000).toISOString()
  for (const headers of [{ 'Sluice-Delay': '60000' }, { 'Sluice-Deliver-At': soon }]) {
    await broker.request('POST', '/queues/in/messages', { body: 'x', headers })
  }
  await broker.request('POST', '/queues/in/messages', { body: 'x', headers: { 'Sluice-Ttl': '0' } })
  const { messages } = (await broker.request('GET', '/queues/in')).json
  assert.equal(messages.delayed, 2)
  assert.deepEqual(await lease(broker, 'in'), [])
})

test('what is not there, internal, full or too large is refused with its code', async (t) => {
  const env = { SLUICE_MESSAGE_BYTES_MAX: '1000' }
  const { request, vhost } = await withBroker(t, { services: ['router'], env })
  const send = (path: string, body: string | Buffer = 'x', headers = {}) =>
    request('POST', path, { body, headers })
  assertRefused(await send('/queues/none/messages'), 404, 'queue_not_found')
  assertRefused(await send('/exchanges/none/messages'), 404, 'exchange_not_found')
  assertRefused(
    await send('/v1/vhosts/none/exchanges/amq.default/messages'),
    404,
    'vhost_not_found',
  )
  assertRefused(await send(`/v1/vhosts/${vhost}x/queues/q/messages`), 404, 'vhost_not_found')

  await request('PUT', '/exchanges/inside', { body: { internal: true } })
  assertRefused(await send('/exchanges/inside/messages'), 403, 'forbidden')

  const args = { 'x-max-length': 1, 'x-overflow': 'reject-publish' }
  await request('PUT', '/queues/small', { body: { arguments: args } })
  assert.equal((await send('/queues/small/messages')).status, 200)
  const full = await send('/queues/small/messages')
  assertRefused(full, 429, 'queue_full')
  assert.equal(full.headers.get('retry-after'), '1')

  assertRefused(await send('/queues/small/messages', Buffer.alloc(1_001)), 413, 'message_too_large')
  const fsync = { 'Sluice-Durability': 'replicas=9' }
  await request('PUT', '/queues/big')
  assertRefused(await send('/queues/big/messages', 'x', fsync), 503, 'durability_unavailable')
  assertRefused(
    await send('/queues/big/messages', 'x', { 'Sluice-Oops': '1' }),
    400,
    'invalid_request',
  )
  assertRefused(await send('/queues/big/messages?routingKey=x'), 400, 'invalid_request')
})

test('above the memory mark publishes answer 429 memory_high with Retry-After', async (t) => {
  const redis = await privateRedis(t, { aof: false, maxMemoryBytes: 400 * 1024 * 1024 })
  const env = { SLUICE_MEMORY_HIGH: '0.1' }
  const { request } = await withBroker(t, { services: ['router'], redisUrl: redis.url, env })
  await request('PUT', '/queues/in')
  const send = () => request('POST', '/queues/in/messages', { body: Buffer.alloc(500_000) })
  const answer = await waitFor(async () => {
    const sent = await send()
    return sent.status !== 200 && sent
  })
  assertRefused(answer, 429, 'memory_high')
  assert.equal(answer.headers.get('retry-after'), '5')
})

test('while Redis is away publishes are refused, and served again once it is back', async (t) => {
  const redis = await privateRedis(t)
  const { request, reported } = await withBroker(t, { services: ['router'], redisUrl: redis.url })
  await request('PUT', '/queues/in')
  await redis.kill9()
  const away = request('POST', '/queues/in/messages', {
    body: 'x',
    headers: { 'Idempotency-Key': 'k' },
  })
  await waitFor(async () => (await request('GET', '/readyz')).status === 503)
  await redis.restart()
  const answer = await away // was waiting: stored after all, or refused
  assert.ok([200, 503].includes(answer.status), answer.text)
  const again = await waitFor(async () => {
    const headers = { 'Idempotency-Key': 'k' }
    const sent = await request('POST', '/queues/in/messages', { body: 'x', headers })
    return sent.status === 200 && sent
  })
  assert.equal(again.json.duplicate, answer.status === 200)
  await waitFor(async () => (await request('GET', '/readyz')).status === 200)
  reported.length = 0 // Redis was away: that is what was reported
})

test('a client that leaves in the middle of its body publishes nothing and breaks nothing', async (t) => {
  const broker = await withBroker(t, { services: ['router'] })
  await broker.request('PUT', '/queues/in')
  const { port } = new URL(broker.http)
  const socket = connect(Number(port), '127.0.0.1')
  const path = `/v1/vhosts/${broker.vhost}/queues/in/messages`
  socket.write(
    `POST ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: ${AUTHORIZATION}\r\nContent-Length: 100\r\n\r\nhalf`,
    () => socket.destroy(),
  )
  await once(socket, 'close')
  await broker.request('POST', '/queues/in/messages', { body: 'whole' })
  const messages = await lease(broker, 'in')
  assert.deepEqual(
    messages.map(({ record }) => record.body.toString()),
    ['whole'],
  )
})
