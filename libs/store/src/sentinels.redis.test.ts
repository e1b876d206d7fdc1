/** Connections that follow the primary which sentinels name. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { privateSentinel, type RedisGroup, waitFor } from '@sluice/testkit'
import { openStore, QUEUE_SETTINGS_DEFAULT } from './index.ts'
import { publish } from './test-queue.ts'

const FAILOVER_MS_MAX = 30_000

async function openQueue(t: Parameters<typeof privateSentinel>[0], { url }: RedisGroup) {
  const appendTimeoutMs = FAILOVER_MS_MAX // a failover on a busy machine takes its time
  // The heartbeat fails while nobody serves.
  const store = await openStore({ url, appendTimeoutMs, report: () => {} })
  t.after(() => store.close())
  const queue = store.queue('/', 'q', 1, QUEUE_SETTINGS_DEFAULT)
  await queue.create()
  return queue
}

test('an answer of a primary that was replaced meanwhile is not believed', async (t) => {
  const group = await privateSentinel(t, { replicas: 1 })
  const queue = await openQueue(t, group)
  const [before] = await group.primaries()
  assert.deepEqual(await publish(queue, 'a'), ['stored'])
  assert.equal(await before!.redis.wait(1, 5_000), 1)

  before!.pause()
  const published = publish(queue, 'b')
  const after = await waitFor(async () => (await group.primaries()).find((one) => one !== before), {
    timeoutMs: FAILOVER_MS_MAX,
  })
  before!.cont()
  assert.deepEqual(await published, ['stored'])
  assert.equal(await after.redis.hget(`${queue.base}meta`, 'published'), '2')
})

test('a store is closed while nobody serves, too', async (t) => {
  const group = await privateSentinel(t, { replicas: 1 })
  const store = await openStore({ url: group.url, report: () => {} })
  const [primary] = await group.primaries()
  await primary!.kill9()
  await waitFor(async () => !(await store.ping()))
  await store.close()
})
