/** /readyz means it: each thing that keeps a process from serving, and its end. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { privateRedis, waitFor } from '@sluice/testkit'
import { type BrokerOptions, type TestBroker, withBroker } from '../support/broker.ts'
import { startProcess } from '../support/processes.ts'

async function setup(
  t: TestContext,
  options: BrokerOptions,
  redisOptions: Parameters<typeof privateRedis>[1] = {},
) {
  const redis = await privateRedis(t, redisOptions)
  const broker = await withBroker(t, { ...options, redisUrl: redis.url })
  return { redis, broker }
}

const ready = async (broker: TestBroker) => {
  const response = await fetch(`${broker.http}/readyz`)
  const { title = '', detail = '' } = (await response.json()) as Record<string, string>
  return { status: response.status, title, detail }
}

async function until(broker: TestBroker, title: string) {
  await waitFor(async () => (await ready(broker)).title === title, { what: title || 'ready' })
  const { status, detail } = await ready(broker)
  assert.equal(status, title === '' ? 200 : 503)
  return detail
}

test('not ready while the durability promised cannot be had', async (t) => {
  const env = { SLUICE_DURABILITY: 'fsync' }
  const { redis, broker } = await setup(t, { env }, { fsync: 'always' })
  await until(broker, '')
  await redis.redis.config('SET', 'appendfsync', 'everysec')
  assert.match(await until(broker, 'durability_unavailable'), /fsync/)
  const { text } = await broker.request('GET', '/metrics')
  assert.match(text, /^sluice_promises_broken 1$/m)
  await redis.redis.config('SET', 'appendfsync', 'always')
  await until(broker, '')
  await redis.redis.config('SET', 'appendonly', 'no')
  assert.match(await until(broker, 'durability_unavailable'), /fsync/)
})

test('not ready while replicas that were promised are missing', async (t) => {
  const { broker } = await setup(t, { env: { SLUICE_DURABILITY: 'replicas=1' } })
  assert.match(await until(broker, 'durability_unavailable'), /replicas=1/)
})

test('not ready once Redis may throw messages away', async (t) => {
  const { redis, broker } = await setup(t, {})
  await until(broker, '')
  await redis.redis.config('SET', 'maxmemory-policy', 'allkeys-lru')
  assert.match(await until(broker, 'durability_unavailable'), /allkeys-lru/)
  await redis.redis.config('SET', 'maxmemory-policy', 'noeviction')
  await until(broker, '')
})

test('not ready while Redis cannot write to its disk', async (t) => {
  const args = ['--enable-protected-configs', 'yes']
  const { redis, broker } = await setup(t, {}, { aof: false, args })
  await until(broker, '')
  await redis.redis.config('SET', 'dir', '/proc')
  await redis.redis.bgsave().catch(() => {})
  assert.match(await until(broker, 'durability_unavailable'), /snapshot/)
})

test('ready while memory is short: consumers must be let in', async (t) => {
  const { redis, broker } = await setup(t, {})
  await redis.redis.config('SET', 'maxmemory', '1mb')
  await waitFor(() => broker.deps.store.memoryHigh, { what: 'memory to be short' })
  assert.equal((await ready(broker)).status, 200)
  await redis.redis.config('SET', 'maxmemory', '0')
  broker.reported.length = 0 // what a loop could not write
})

test('ready while a key of encryption is away: the rest is served, and it is told', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-keys-'))
  t.after(() => rmSync(folder, { recursive: true }))
  const file = join(folder, 'keys')
  const key = '5e'.repeat(32)
  writeFileSync(file, key)
  const env = { SLUICE_ENCRYPTION_KEY_FILE: file }
  const { broker } = await setup(t, { env })
  for (const [queue, args] of Object.entries({ open: {}, sealed: { 'x-encryption': true } })) {
    await broker.request('PUT', `/queues/${queue}`, { body: { arguments: args } })
  }
  const send = (queue: string) => {
    const headers = { 'Content-Type': 'text/plain' }
    return broker.request('POST', `/queues/${queue}/messages`, { body: 'x', headers })
  }
  assert.equal((await send('sealed')).status, 200)
  const impaired = async () => (await broker.request('GET', '/readyz')).json.impaired
  assert.equal(await impaired(), undefined)

  rmSync(file)
  await waitFor(impaired, { what: 'the key to be missed' })
  const { status, json } = await broker.request('GET', '/readyz')
  assert.deepEqual([status, json.status], [200, 'ready'])
  assert.match(json.impaired.join(), /1 data key .*no key is set/)
  assert.equal((await send('open')).status, 200)
  assert.equal((await send('sealed')).json.title, 'encryption_unavailable')
  const metrics = async () => (await broker.request('GET', '/metrics')).text
  const told = await metrics()
  assert.match(told, /^sluice_promises_broken 0$/m)
  assert.match(told, /^sluice_data_keys_locked 1$/m)
  assert.match(told, /^sluice_wrapping_key_away 1$/m)

  writeFileSync(file, key)
  await waitFor(async () => (await impaired()) === undefined, { what: 'the key to be back' })
  assert.match(await metrics(), /^sluice_data_keys_locked 0$/m)
  assert.match(await metrics(), /^sluice_wrapping_key_away 0$/m)
  assert.equal((await send('sealed')).status, 200)
})

test('not ready while Redis is away', async (t) => {
  const { redis, broker } = await setup(t, {})
  await until(broker, '')
  redis.pause()
  await until(broker, 'store_unavailable')
  redis.cont()
  await until(broker, '')
  broker.reported.length = 0
})

test('the log level changes on every process, for a while, by an administrator', async (t) => {
  const { redis, broker } = await setup(t, {})
  const other = await withBroker(t, { redisUrl: redis.url })
  const put = (body: object) => broker.request('PUT', '/v1/log-level', { body })
  assert.equal((await put({ level: 'loud' })).status, 400)
  assert.equal((await put({ level: 'fatal', forMs: 1_500 })).status, 200)
  await waitFor(() => other.deps.log.level === 'fatal', { what: 'the other process' })
  const { json } = await other.request('GET', '/v1/log-level')
  assert.equal(json.level, 'fatal')
  assert.ok(Date.parse(json.until) > Date.now() - 5_000)
  await waitFor(() => other.deps.log.level === 'silent', { what: 'its own level again' })
  await put({ level: 'fatal' })
  await waitFor(() => other.deps.log.level === 'fatal', { what: 'fatal again' })
  assert.equal((await broker.request('DELETE', '/v1/log-level')).status, 204)
  await waitFor(() => other.deps.log.level === 'silent', { what: 'its own level at once' })
})

test('the log says once when Redis goes and comes, and when a promise breaks and holds again', async (t) => {
  const redis = await privateRedis(t)
  const process = await startProcess(t, { redisUrl: redis.url, env: { SLUICE_LOG_LEVEL: 'info' } })
  const lines = (text: string) =>
    process.log.split('\n').filter((line) => line.includes(`"msg":"${text}`))
  const said = (text: string) => waitFor(() => lines(text).length === 1, { what: text })
  await redis.redis.config('SET', 'maxmemory-policy', 'allkeys-lru')
  await said('a promise cannot be kept')
  await redis.redis.config('SET', 'maxmemory-policy', 'noeviction')
  await said('a promise is kept again')
  await redis.kill9()
  await said('Redis does not answer')
  await redis.restart()
  await said('Redis answers again')
  assert.match(lines('a promise cannot be kept')[0]!, /"level":"error".*allkeys-lru/)
})
