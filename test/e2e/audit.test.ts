/** The audit log: acts and refusals over HTTP and AMQP, exported, and verified by `sluice audit`. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { type TestContext, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { privateRedis } from '@sluice/testkit'
import { Redis } from 'ioredis'
import { declareQueue, withAmqp } from '../support/amqp-broker.ts'
import { newUser, succeed } from '../support/users.ts'

const MAIN = fileURLToPath(new URL('../../services/all-in-one/src/main.ts', import.meta.url))
const AUDIT_KEY = 'a key for the audit log'

async function setup(t: TestContext) {
  const { url } = await privateRedis(t)
  const broker = await withAmqp(t, { redisUrl: url, env: { SLUICE_AUDIT_KEY: AUDIT_KEY } })
  const entries = async (): Promise<Record<string, string>[]> => {
    const { text } = await succeed(broker, 'GET', '/v1/audit')
    return text
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line))
  }
  /** Whether there is such an entry: who, what, outcome. */
  const noted = async (who: string, what: string, outcome: string) => {
    const all = await entries()
    const found = all.some(
      (one) => one['who'] === who && one['what'] === what && one['outcome'] === outcome,
    )
    assert.ok(
      found,
      `${who}: ${what}: ${outcome}\n${all.map((one) => JSON.stringify(one)).join('\n')}`,
    )
  }
  return { broker, url, entries, noted }
}

function verify(redisUrl: string, ...args: string[]) {
  const { status, stdout } = spawnSync(process.execPath, [MAIN, 'audit', 'verify', ...args], {
    encoding: 'utf8',
    env: {
      PATH: process.env['PATH'],
      REDIS_URL: redisUrl,
      SLUICE_AUDIT_KEY: AUDIT_KEY,
      NODE_NO_WARNINGS: '1',
    },
  })
  return { status, text: stdout }
}

test('acts are noted with who did them, over HTTP and AMQP; messages are not', async (t) => {
  const { broker, noted, entries } = await setup(t)
  const { vhost } = broker
  const { user, password } = await newUser(broker, { configure: '.*', write: '.*', read: '.*' })
  await noted('admin', `PUT /v1/users/${user}`, 'done')
  await noted('admin', `PUT /v1/users/${user}/permissions/${vhost}`, 'done')
  const peer = await broker.client({ user, password })
  await peer.queue('q')
  await peer.queue('q')
  await noted(user, `queue.declare queue 'q' in vhost '${vhost}'`, 'done')
  const { json } = await succeed(broker, 'POST', '/v1/api-keys', { owner: user })
  await broker.request('PUT', '/queues/by-key', {
    headers: { Authorization: `Bearer ${json.key}` },
    body: {},
  })
  await noted(`${user} by key ${json.id}`, `PUT /v1/vhosts/${vhost}/queues/by-key`, 'done')
  const before = (await entries()).length
  await peer.queue('q')
  await succeed(broker, 'POST', '/queues/q/messages', 'x')
  await succeed(broker, 'POST', '/queues/q/leases', {})
  assert.equal(await peer.get('q'), undefined)
  assert.equal((await entries()).length, before, 'a declare that changes nothing is no act')
})

test('whoever is refused is noted: logins by the name if it is one, and operations', async (t) => {
  const { broker, noted, entries } = await setup(t)
  const { vhost, request } = broker
  await succeed(broker, 'PUT', '/queues/q', {})
  const { user, password, authorization } = await newUser(broker, { read: '^nothing$' })
  const guess = (name: string) => `Basic ${Buffer.from(`${name}:wrong`).toString('base64')}`
  await request('GET', '/v1/users', { headers: { Authorization: guess(user) } })
  await noted(user, 'login over HTTP', 'refused')
  await request('GET', '/v1/users', { headers: { Authorization: guess('a password, perhaps') } })
  await noted('', 'login over HTTP', 'refused')
  await request('POST', '/queues/q/leases', { headers: { Authorization: authorization }, body: {} })
  await noted(user, `POST /v1/vhosts/${vhost}/queues/q/leases`, 'refused')
  const peer = await broker.client({ user, password })
  await peer.refused(declareQueue('q'))
  await noted(user, `configure queue 'q' in vhost '${vhost}'`, 'refused')
  await assert.rejects(broker.client({ user, password: 'wrong' }))
  await noted(user, 'login over AMQP', 'refused')
  const all = await entries()
  assert.ok(all.every(({ from }) => from === '127.0.0.1' || from === '::ffff:127.0.0.1'))
  assert.doesNotMatch(JSON.stringify(all), /perhaps/)
})

test('`sluice audit verify` says whether the log is intact, and since when', async (t) => {
  const { broker, url, entries } = await setup(t)
  await succeed(broker, 'PUT', '/queues/q', {})
  await entries()
  const first = verify(url)
  assert.equal(first.status, 0, first.text)
  const [, noted] = /the last one, to be noted: (\d+:[\w-]{43})$/m.exec(first.text) ?? []
  await succeed(broker, 'DELETE', '/queues/q')
  await entries()
  assert.equal(verify(url, noted!).status, 0)
  const redis = new Redis(url)
  t.after(() => redis.disconnect())
  const [[id, [, entry, , hash]]] = (await redis.xrange(
    'sluice:{audit}:log',
    '-',
    '+',
    'COUNT',
    1,
  )) as [[string, string[]]]
  const rest = await redis.xrange('sluice:{audit}:log', `(${id}`, '+')
  await redis.del('sluice:{audit}:log')
  await redis.xadd('sluice:{audit}:log', id, 'entry', entry!.replace('admin', 'eve'), 'hash', hash!)
  for (const [next, fields] of rest) await redis.xadd('sluice:{audit}:log', next, ...fields)
  const broken = verify(url)
  assert.equal(broken.status, 1)
  assert.match(broken.text, /^broken at entry 1: its hash is not that of what it says/)
  assert.equal(verify(url, 'nonsense').status, 2)
})
