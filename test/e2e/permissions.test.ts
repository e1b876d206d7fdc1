/**
 * Who may do what over HTTP: every route by what it says it needs, and each door by the permission
 * that is missing. AMQP's doors are in test/amqp/permissions.test.ts.
 */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { type TestContext, test } from 'node:test'
import { waitFor } from '@sluice/testkit'
import { type Answer, type TestBroker, withBroker } from '../support/broker.ts'
import {
  newUser,
  permit,
  permitTopics,
  type Rules,
  succeed,
  type TestUser,
} from '../support/users.ts'

/** Asks as somebody else than the administrator. */
type Ask = (method: string, path: string, body?: unknown) => Promise<Answer>

const asking =
  ({ request }: TestBroker, authorization: string): Ask =>
  (method, path, body) =>
    request(method, path, {
      headers: { Authorization: authorization },
      ...(body !== undefined && { body }),
    })

/** Of an ingest that is open, a request is; of others, the route asks for a credential itself. */
const ASKS_ITSELF = '/v1/requests/nothing'
const OPEN: ReadonlySet<string> = new Set(['/healthz', '/readyz', ASKS_ITSELF])

interface Operation {
  readonly method: string
  readonly path: string
  readonly needs: unknown
}

/** Every operation of every service, with the vhost of the test in its path. */
async function operations(broker: TestBroker): Promise<Operation[]> {
  const { json } = await broker.request('GET', '/openapi.json')
  return Object.entries(
    json.paths as Record<string, Record<string, Record<string, unknown>>>,
  ).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, { 'x-needs': needs }]) => ({
      method: method.toUpperCase(),
      path: path.replace('{vhost}', broker.vhost).replaceAll(/\{\w+\}/g, 'nothing'),
      needs,
    })),
  )
}

test('every route needs something, and refuses whoever has no credential, or nothing but one', async (t) => {
  const broker = await withBroker(t)
  const user = await newUser(broker)
  const ask = asking(broker, user.authorization)
  const all = await operations(broker)
  assert.ok(all.length > 40)
  for (const { method, path, needs } of all) {
    const what = `${method} ${path}`
    assert.ok(needs, `${what} does not say what it needs`)
    const stranger = await asking(broker, '')(method, path)
    assert.equal(needs === 'nothing', OPEN.has(path), `${what}: only these are open`)
    if (OPEN.has(path) && path !== ASKS_ITSELF) continue
    assert.equal(stranger.status, 401, what)
    if (path === ASKS_ITSELF) continue
    const { status } = await ask(method, path)
    if (needs === 'login') assert.notEqual(status, 401, what)
    else assert.equal(status, 403, what)
  }
})

test('a monitoring user looks everywhere and changes nothing', async (t) => {
  const broker = await withBroker(t)
  const user = await newUser(broker, undefined, ['monitoring'])
  const ask = asking(broker, user.authorization)
  for (const { method, path, needs } of await operations(broker)) {
    if (needs === 'nothing' || needs === 'login') continue
    const { status } = await ask(method, path)
    const looks = method === 'GET' && (needs === 'vhost' || needs === 'monitoring')
    assert.equal(status !== 403, looks, `${method} ${path}: ${status}`)
  }
  const { json } = await ask('GET', '/v1/vhosts?pageSize=500')
  assert.ok(json.items.some(({ name }: { name: string }) => name === broker.vhost))
})

const binding = { source: 'x', destination: 'q', routingKey: 'key' }
const publish = { headers: { 'Content-Type': 'text/plain' }, body: 'x' }

/** Door, the permission it needs, on what. */
const DOORS: readonly (readonly [
  method: string,
  path: string,
  keyof Rules,
  what: string,
  unknown?,
])[] = [
  ['POST', '/exchanges/x/messages', 'write', `exchange 'x'`, publish.body],
  ['POST', '/exchanges/x/batch', 'write', `exchange 'x'`, []],
  ['POST', '/queues/q/messages', 'write', `exchange 'amq.default'`, publish.body],
  ['POST', '/queues/q/leases', 'read', `queue 'q'`, {}],
  ['POST', '/queues/q/settlements', 'read', `queue 'q'`, { settlements: [] }],
  ['GET', '/queues/q/messages', 'read', `queue 'q'`],
  ['DELETE', '/queues/q/messages', 'read', `queue 'q'`],
  ['GET', '/queues/q/dead-letters', 'read', `queue 'q'`],
  ['GET', '/queues/q/redrives', 'read', `queue 'q'`],
  ['PUT', '/queues/q/redrives/1', 'read', `queue 'q'`, {}],
  ['PUT', '/queues/q/redrives/1', 'write', `exchange 'amq.default'`, {}],
  ['POST', '/queues/q/dead-letters/1/copies', 'read', `queue 'q'`, {}],
  ['POST', '/queues/q/dead-letters/1/copies', 'write', `exchange 'amq.default'`, {}],
  ['POST', '/queues/q/redrive', 'read', `queue 'q'`, {}],
  ['POST', '/queues/q/redrive', 'write', `exchange 'amq.default'`, {}],
  ['PUT', '/queues/q', 'configure', `queue 'q'`, {}],
  ['DELETE', '/queues/q', 'configure', `queue 'q'`],
  ['PUT', '/exchanges/x', 'configure', `exchange 'x'`, {}],
  ['DELETE', '/exchanges/x', 'configure', `exchange 'x'`],
  ['PUT', '/bindings', 'write', `queue 'q'`, binding],
  ['PUT', '/bindings', 'read', `exchange 'x'`, binding],
  ['DELETE', '/bindings', 'write', `queue 'q'`, binding],
  ['DELETE', '/bindings', 'read', `exchange 'x'`, binding],
  ['PUT', '/queues/q2', 'read', `queue 'q2'`, { arguments: { 'x-dead-letter-exchange': 'x' } }],
  ['PUT', '/queues/q2', 'write', `exchange 'x'`, { arguments: { 'x-dead-letter-exchange': 'x' } }],
  ['PUT', '/exchanges/x2', 'read', `exchange 'x2'`, { arguments: { 'alternate-exchange': 'x' } }],
  ['PUT', '/exchanges/x2', 'write', `exchange 'x'`, { arguments: { 'alternate-exchange': 'x' } }],
]

async function withUser(t: TestContext, rules: Rules) {
  const broker = await withBroker(t)
  await succeed(broker, 'PUT', '/queues/q', {})
  await succeed(broker, 'PUT', '/exchanges/x', { type: 'topic' })
  const user = await newUser(broker, rules)
  return { broker, ...user, ask: asking(broker, user.authorization) }
}

test('each door is shut without its permission, and open with it', async (t) => {
  const { broker, user, ask } = await withUser(t, {})
  const every = { configure: '.*', write: '.*', read: '.*' }
  for (const [method, path, missing, what, body] of DOORS) {
    await permit(broker, user, { ...every, [missing]: '' })
    const refused = await ask(method, path, body)
    assert.equal(refused.status, 403, `${method} ${path} without ${missing}`)
    const text = `${missing} access to ${what} in vhost '${broker.vhost}' refused for user '${user}'`
    assert.equal(refused.json.detail, text, `${method} ${path}`)
  }
  await permit(broker, user, every)
  for (const [method, path, , , body] of DOORS) {
    const { status } = await ask(method, path, body)
    assert.notEqual(status, 403, `${method} ${path} with every permission`)
    if (method === 'DELETE') {
      await succeed(broker, 'PUT', '/queues/q', {})
      await succeed(broker, 'PUT', '/exchanges/x', { type: 'topic' })
    }
  }
})

test('a document is replaced, paused and deleted only by whom what it works on is open to', async (t) => {
  const { broker, user, ask } = await withUser(t, {})
  await permit(broker, user, { configure: '^mine', write: '^mine', read: '^mine' })
  await succeed(broker, 'PUT', '/queues/mine', {})
  const unique = `i-${randomUUID()}`
  const endpoint = { url: 'https://example.com/' }
  const kinds = [
    [
      'schedules/s',
      (to: string) => ({ everyMs: 60_000, exchange: to, message: { body: '' } }),
      'x',
    ],
    [`ingests/${unique}`, (to: string) => ({ queue: to }), 'q'],
    ['subscriptions/s', (to: string) => ({ queue: to, endpoint }), 'q'],
  ] as const
  for (const [path, body, theirs] of kinds) {
    await succeed(broker, 'PUT', `/${path}`, body(theirs))
    const at = `/v1/vhosts/${broker.vhost}/${path}`
    const pausing = path.startsWith('ingests') ? [] : [`${at}/pause`, `${at}/resume`]
    const asked = [ask('PUT', at, body('mine')), ask('DELETE', at)]
    const answers = await Promise.all([...asked, ...pausing.map((path) => ask('POST', path))])
    assert.deepEqual(new Set(answers.map(({ status }) => status)), new Set([403]), path)
    const { json } = await succeed(broker, 'GET', `/${path}`)
    assert.deepEqual([json.exchange ?? json.queue, json.paused ?? false], [theirs, false], path)
  }
})

test('routing keys are limited where they are published and bound: one message, a batch, a binding', async (t) => {
  const { broker, user, ask } = await withUser(t, { write: '.*', read: '.*' })
  await permitTopics(broker, user, [{ exchange: 'x', write: '^mine\\.', read: '^mine\\.' }])
  const message = (routingKey: string) => ({ routingKey, body: 'x' })
  const one = (key: string) => ask('POST', `/exchanges/x/messages?routingKey=${key}`, 'x')
  assert.equal((await one('mine.1')).status, 200)
  const refused = await one('other')
  assert.equal(refused.status, 403)
  assert.match(refused.json.detail, /^write access to topic 'other' in exchange 'x'/)
  const batch = await ask('POST', '/exchanges/x/batch', [message('mine.1'), message('other')])
  assert.equal(batch.json.failed, 1)
  assert.equal(batch.json.failures[0].code, 'forbidden')
  const bound = (routingKey: string) => ask('PUT', '/bindings', { ...binding, routingKey })
  assert.equal((await bound('mine.#')).status, 201)
  assert.equal((await bound('#')).status, 403)
})

test('an API key does at most what it says, and never more than its owner may', async (t) => {
  const { broker, user, ask, authorization } = await withUser(t, { write: '.*', read: '^q$' })
  const { vhost } = broker
  const permissions = [{ vhost, configure: '.*', write: '', read: '.*' }]
  const made = await ask('POST', '/v1/api-keys', { permissions, description: 'for leases' })
  assert.equal(made.status, 201)
  const { id, key } = made.json
  assert.match(key, /^sluice_[0-9a-f]{16}_[\w-]{43}$/)
  for (const sent of [`Bearer ${key}`, `Basic ${Buffer.from(`x:${key}`).toString('base64')}`]) {
    const asKey = asking(broker, sent)
    assert.equal((await asKey('POST', '/queues/q/leases', {})).status, 200)
    assert.equal((await asKey('POST', '/queues/q2/leases', {})).status, 403, 'its owner may not')
    assert.equal((await asKey('PUT', '/queues/q2', {})).status, 403, 'its owner may not')
    assert.equal((await asKey('POST', '/queues/q/messages', 'x')).status, 403, 'it may not itself')
    assert.equal((await asKey('POST', '/v1/api-keys', {})).status, 403, 'it makes no keys')
    assert.equal((await asKey('GET', '/v1/whoami')).json.name, user)
  }
  const listed = await asking(broker, authorization)('GET', '/v1/api-keys')
  assert.deepEqual(
    listed.json.items.map((item: { id: string }) => item.id),
    [id],
  )
  assert.ok(
    !JSON.stringify(listed.json).includes(key.slice('sluice_0123456789abcdef_'.length)),
    'it is shown once',
  )
  assert.equal((await ask('DELETE', `/v1/api-keys/${id}`)).status, 204)
  await waitFor(
    async () => (await asking(broker, `Bearer ${key}`)('GET', '/v1/whoami')).status === 401,
  )
})

test('nobody makes keys for others, deletes theirs, or gives a key tags that its owner lacks', async (t) => {
  const { broker, ask } = await withUser(t, { read: '.*' })
  const other: TestUser = await newUser(broker, { read: '.*' })
  assert.equal((await ask('POST', '/v1/api-keys', { owner: other.user })).status, 403)
  assert.equal((await ask('POST', '/v1/api-keys', { owner: 'admin' })).status, 403)
  const theirs = await asking(broker, other.authorization)('POST', '/v1/api-keys', {})
  assert.equal((await ask('DELETE', `/v1/api-keys/${theirs.json.id}`)).status, 403)
  const { json } = await ask('POST', '/v1/api-keys', { tags: ['administrator'] })
  assert.equal((await asking(broker, `Bearer ${json.key}`)('GET', '/v1/users')).status, 403)
})

test('a user administers with the tag alone; vhosts need a permission still', async (t) => {
  const broker = await withBroker(t)
  await succeed(broker, 'PUT', '/queues/q', {})
  const { user, authorization } = await newUser(broker, undefined, ['administrator'])
  const ask = asking(broker, authorization)
  assert.equal((await ask('GET', '/v1/users')).status, 200)
  assert.equal((await ask('POST', '/queues/q/leases', {})).status, 403)
  const rules = { configure: '', write: '', read: '.*' }
  assert.equal(
    (await ask('PUT', `/v1/users/${user}/permissions/${broker.vhost}`, rules)).status,
    201,
  )
  assert.equal((await ask('POST', '/queues/q/leases', {})).status, 200)
  const { json } = await ask('GET', `/v1/users/${user}/permissions`)
  assert.deepEqual(json, [{ vhost: broker.vhost, ...rules, topics: [] }])
})

test('passwords go in and do not come out; the administrator of the settings is not changed', async (t) => {
  const broker = await withBroker(t)
  const { user, password } = await newUser(broker)
  const { text } = await succeed(broker, 'GET', `/v1/users/${user}`)
  const unlimited = { maxConnections: -1, maxChannels: -1 }
  assert.deepEqual(JSON.parse(text), { name: user, tags: [], hasPassword: true, ...unlimited })
  const stored = JSON.stringify(broker.deps.topology.table.documents.get('user', '', user))
  assert.ok(!stored.includes(password))
  const put = (name: string, body: unknown) => broker.request('PUT', `/v1/users/${name}`, { body })
  assert.equal((await put('admin', { password: 'something else' })).status, 403)
  assert.equal((await put(user, { password: 'short' })).status, 400)
  assert.equal((await put('a:b', {})).status, 400)
})

test('a user with a hash that RabbitMQ made logs in with its password', async (t) => {
  const broker = await withBroker(t)
  const { user } = await newUser(broker)
  // The example of RabbitMQ's documentation (password hashing): salt 908dc60a, SHA-256.
  const passwordHash = 'kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR'
  await succeed(broker, 'PUT', `/v1/users/${user}`, { passwordHash })
  const ask = (password: string) =>
    asking(broker, `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`)
  assert.equal((await ask('test12')('GET', '/v1/whoami')).status, 200)
  assert.equal((await ask('test13')('GET', '/v1/whoami')).status, 401)
})
