/** Topology over HTTP against a real broker, store and Redis. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type Answer, withBroker } from '../support/broker.ts'

function assertRefused(answer: Answer, status: number, code: string) {
  assert.equal(answer.status, status, answer.text)
  assert.equal(answer.json.title, code)
}

const names = ({ json }: Answer): string[] => json.items.map(({ name }: { name: string }) => name)

test('a declare answers 201, the same again 200, a different one 409', async (t) => {
  const { request } = await withBroker(t, { services: ['router'] })
  for (const [path, body, other] of [
    ['/exchanges/x', { type: 'topic' }, { type: 'fanout' }],
    ['/queues/q', { arguments: { 'x-max-priority': 3 } }, { arguments: {} }],
  ] as const) {
    assert.equal((await request('PUT', path, { body })).status, 201)
    assert.equal((await request('PUT', path, { body })).status, 200)
    assertRefused(await request('PUT', path, { body: other }), 409, 'declaration_conflict')
  }
  const binding = { source: 'x', destination: 'q', routingKey: 'a.*' }
  assert.equal((await request('PUT', '/bindings', { body: binding })).status, 201)
  assert.equal((await request('PUT', '/bindings', { body: binding })).status, 200)
})

test('what was declared is shown, listed, and gone once deleted', async (t) => {
  const { request } = await withBroker(t, { services: ['router'] })
  await request('PUT', '/exchanges/x', { body: { type: 'headers', internal: true } })
  await request('PUT', '/queues/q%2F1')
  const binding = { source: 'x', destination: 'q/1', arguments: { 'x-match': 'any', a: 1 } }
  await request('PUT', '/bindings', { body: binding })
  const policy = { pattern: '^q', applyTo: 'queues', definition: { 'max-length': 5 } }
  assert.equal((await request('PUT', '/policies/short', { body: policy })).status, 201)

  const exchange = (await request('GET', '/exchanges/x')).json
  assert.deepEqual([exchange.type, exchange.internal], ['headers', true])
  const queue = (await request('GET', '/queues/q%2F1')).json
  assert.deepEqual([queue.name, queue.policy, queue.messages.ready], ['q/1', 'short', 0])
  const bindings = (await request('GET', '/bindings?source=x')).json.items
  assert.deepEqual(bindings, [{ destinationType: 'queue', routingKey: '', ...binding }])
  assert.equal((await request('GET', '/policies/short')).json.definition['max-length'], 5)
  assert.equal((await request('GET', '/exchanges/amq.default')).json.type, 'direct')

  assertRefused(await request('DELETE', '/exchanges/x?ifUnused=true'), 409, 'in_use')
  assert.equal((await request('DELETE', '/bindings', { body: binding })).status, 204)
  assert.equal((await request('DELETE', '/exchanges/x?ifUnused=true')).status, 204)
  assert.equal((await request('DELETE', '/policies/short')).status, 204)
  assert.equal((await request('DELETE', '/queues/q%2F1')).json.messages, 0)
  assertRefused(await request('GET', '/exchanges/x'), 404, 'exchange_not_found')
  assertRefused(await request('GET', '/queues/q%2F1'), 404, 'queue_not_found')
  assertRefused(await request('GET', '/policies/short'), 404, 'policy_not_found')
  assert.equal((await request('DELETE', '/queues/q%2F1')).status, 200)
})

test('a queue with messages is not deleted if it must be empty', async (t) => {
  const { request } = await withBroker(t, { services: ['router'] })
  await request('PUT', '/queues/q')
  await request('POST', '/queues/q/messages', { body: 'x' })
  assertRefused(await request('DELETE', '/queues/q?ifEmpty=true'), 409, 'not_empty')
  assert.equal((await request('GET', '/queues/q')).json.messages.ready, 1)
  assert.equal((await request('DELETE', '/queues/q')).json.messages, 1)
})

test('lists come a page at a time, filtered by text or pattern, with live counts', async (t) => {
  const { request } = await withBroker(t, { services: ['router'] })
  for (let i = 0; i < 7; i++) await request('PUT', `/queues/job${i}`)
  await request('POST', '/queues/job3/messages', { body: 'x' })
  const page = await request('GET', '/queues?name=job&page=2&pageSize=3')
  assert.deepEqual(names(page), ['job3', 'job4', 'job5'])
  assert.equal(page.json.total, 7)
  assert.equal(page.json.items[0].messages.ready, 1)
  assert.deepEqual(names(await request('GET', '/queues?pattern=%5Ejob%5B56%5D%24')), [
    'job5',
    'job6',
  ])
  for (const query of ['page=0', 'pageSize=501', 'pattern=(', 'pgae=1', 'page=x']) {
    assertRefused(await request('GET', `/queues?${query}`), 400, 'invalid_request')
  }
})

test('what one process declares, another shows at once', async (t) => {
  const one = await withBroker(t, { services: ['router'] })
  const other = await withBroker(t, { services: ['router'] })
  const vhost = `/v1/vhosts/${one.vhost}`
  await one.request('PUT', `${vhost}/queues/q`)
  assert.equal((await other.request('GET', `${vhost}/queues/q`)).status, 200)
  await other.request('DELETE', `${vhost}/queues/q`)
  assert.equal((await one.request('GET', `${vhost}/queues/q`)).status, 404)
})

test('reserved names, wrong arguments and unknown fields are refused', async (t) => {
  const { request } = await withBroker(t, { services: ['router'] })
  const put = (path: string, body: unknown) => request('PUT', path, { body })
  assertRefused(await put('/queues/amq.mine', {}), 403, 'forbidden')
  assertRefused(await put('/exchanges/amq.mine', {}), 403, 'forbidden')
  assertRefused(await put('/exchanges/amq.default', {}), 403, 'forbidden')
  assertRefused(
    await put('/queues/q', { arguments: { 'x-message-ttl': 'soon' } }),
    400,
    'invalid_request',
  )
  assertRefused(await put('/queues/q', { argumnets: {} }), 400, 'invalid_request')
  assertRefused(await put('/exchanges/x', { type: 'magic' }), 400, 'invalid_request')
  assertRefused(await put(`/queues/${'x'.repeat(256)}`, {}), 400, 'invalid_request')
  assertRefused(await put('/policies/p', { pattern: '(', definition: {} }), 400, 'invalid_request')
  assertRefused(
    await put('/bindings', { source: 'none', destination: 'q' }),
    404,
    'exchange_not_found',
  )
  assertRefused(await put('/v1/vhosts/none/queues/q', {}), 404, 'vhost_not_found')
  const proto = await request('PUT', '/queues/q', {
    headers: { 'Content-Type': 'application/json' },
    body: '{"arguments":{"__proto__":{"x-message-ttl":1}}}',
  })
  assert.ok(proto.status === 201 || proto.status === 400, proto.text)
  assert.equal(({} as Record<string, unknown>)['x-message-ttl'], undefined)
})

test('vhosts are declared, shown, listed and deleted with all that is in them', async (t) => {
  const { request, vhost } = await withBroker(t, { services: ['router'] })
  const path = `/v1/vhosts/${vhost}-b`
  assert.equal((await request('PUT', path)).status, 201)
  assert.equal((await request('PUT', path)).status, 200)
  await request('PUT', `${path}/queues/q`)
  assert.deepEqual(names(await request('GET', `/v1/vhosts?name=${vhost}`)), [vhost, `${vhost}-b`])
  assert.equal((await request('DELETE', path)).status, 204)
  assertRefused(await request('GET', path), 404, 'vhost_not_found')
  assertRefused(await request('GET', `${path}/queues`), 404, 'vhost_not_found')
})
