/**
 * What a Redis says, or does not say, that cannot serve at the moment, each met on purpose: work is
 * refused as store_unavailable or waits, appends are sent again, and all goes on by itself.
 */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { BrokerError } from '@sluice/core'
import { openStore, QUEUE_SETTINGS_DEFAULT, REDIS_ACL, type Store } from '@sluice/store'
import { moveSlot, privateCluster, privateRedis, type RedisGroup, waitFor } from '@sluice/testkit'
import { drain, publish } from '../../libs/store/src/test-queue.ts'
import { tcpProxy } from '../support/tcp-proxy.ts'

/** How long a Redis with a hundred keys takes to start, where that matters. */
const LOAD_MS = 1_500

/** A store and a queue with a message in it. */
async function start(t: TestContext, url: string) {
  const store = await openStore({ url, report: () => {} }) // heartbeats that fail
  t.after(() => store.close())
  const queue = store.queue('/', 'q', 1, QUEUE_SETTINGS_DEFAULT)
  await queue.create()
  assert.deepEqual(await publish(queue, 'before'), ['stored'])
  return { store, queue }
}

/** Asks until Redis answers; every refusal on the way must be one that says to try again. */
async function until(store: Store, ready: number, queue = 'q'): Promise<void> {
  const asked = store.queue('/', queue, 1, QUEUE_SETTINGS_DEFAULT)
  await waitFor(
    async () => {
      try {
        return (await asked.stats()).ready === ready
      } catch (error) {
        assert(error instanceof BrokerError && error.code === 'store_unavailable', String(error))
        return false
      }
    },
    { what: 'an answer', timeoutMs: 30_000 },
  )
}

/** The errors that a cluster's servers have answered so far. */
async function said({ servers }: RedisGroup): Promise<string> {
  return (await Promise.all(servers.map(({ redis }) => redis.info('errorstats')))).join()
}

test('READONLY: a primary that was demoted is left, and appends wait for it', async (t) => {
  const { url, redis } = await privateRedis(t, { aof: false })
  const { store, queue } = await start(t, url)
  await redis.call('REPLICAOF', '127.0.0.1', '1')
  const published = publish(queue, 'during')
  await waitFor(async () => /errorstat_READONLY/.test(await redis.info('errorstats')))
  await redis.call('REPLICAOF', 'NO', 'ONE')
  assert.deepEqual(await published, ['stored'])
  await until(store, 2)
})

test('LOADING: a Redis that still reads its AOF is waited for', async (t) => {
  const args = [
    '--key-load-delay',
    `${(LOAD_MS / 100) * 1_000}`,
    '--loading-process-events-interval-bytes',
    '1024',
  ]
  const server = await privateRedis(t, { fsync: 'always', args })
  for (let key = 0; key < 100; key++) await server.redis.set(`k${key}`, 'x'.repeat(1_000))
  const { store, queue } = await start(t, server.url)
  const from = performance.now()
  const restarted = server.restart()
  const published = publish(queue, 'during')
  assert.deepEqual(await published, ['stored'])
  await restarted
  await until(store, 2)
  assert(performance.now() - from > LOAD_MS, 'it was loading')
})

test('no group: a Redis that came back empty gets keys and groups again', async (t) => {
  const server = await privateRedis(t, { aof: false })
  const { store, queue } = await start(t, server.url)
  await server.restart()
  await until(store, 0)
  assert.deepEqual(await drain(queue), [])
  assert.deepEqual(await publish(queue, 'after'), ['stored'])
  assert.deepEqual(await drain(queue), ['after'])
})

test('a half-open socket is given up, and appends arrive once', async (t) => {
  const { port } = await privateRedis(t, { aof: false })
  const proxy = await tcpProxy(port)
  t.after(() => t.after(() => proxy.close())) // last: a store would look for it
  const { store, queue } = await start(t, `redis://127.0.0.1:${proxy.port}`)
  proxy.stall()
  const published = publish(queue, 'during')
  const healed = new Promise<void>((resolve) => setTimeout(resolve, 500))
  proxy.strand(healed) // it arrives late, and again
  assert.deepEqual(await published, ['stored'])
  await healed
  await until(store, 2)
})

test('MOVED and ASK: a slot that moves while it is used is followed', async (t) => {
  const group = await privateCluster(t, { aof: false })
  const { store, queue } = await start(t, group.url)
  let moving = true
  let stored = 1
  const publishing = (async () => {
    for (; moving; stored++) assert.deepEqual(await publish(queue, `${stored}`), ['stored'])
  })()
  for (let moves = 0; moves < 3 || !/errorstat_MOVED/.test(await said(group)); moves++) {
    assert(moves < 20, 'the client meets a move')
    const before = stored
    await moveSlot(group, `${queue.base}meta`)
    await waitFor(() => stored > before, { what: 'a publish after the move' })
  }
  moving = false
  await publishing
  await until(store, stored)
})

test('TRYAGAIN: while a slot moves, its queues wait instead of beginning anew', async (t) => {
  const group = await privateCluster(t, { aof: false })
  const { store, queue } = await start(t, group.url)
  let published: Promise<string[]> | undefined
  await moveSlot(group, `${queue.base}meta`, async () => {
    published ??= publish(queue, 'during')
    const answered = async () => /errorstat_TRYAGAIN/.test(await said(group))
    await waitFor(answered, { what: 'TRYAGAIN' })
  })
  assert.deepEqual(await published, ['stored'])
  await until(store, 2)
  assert.deepEqual(await drain(queue), ['before', 'during'])
})

test('the ACL that is advised is enough in a cluster', async (t) => {
  const group = await privateCluster(t, { aof: false })
  const login = ['sluice', 'on', '>secret', ...REDIS_ACL] as const
  for (const { redis } of group.servers) await redis.acl('SETUSER', ...login)
  const url = group.url.replace('://', '://sluice:secret@')
  const store = await openStore({
    url,
    report: (error) => assert.fail(String(error)),
    durability: 'replicas=1',
  })
  t.after(() => store.close())
  const queue = store.queue('/', 'q', 1, QUEUE_SETTINGS_DEFAULT)
  await queue.create()
  assert.deepEqual(await publish(queue, 'a'), ['stored'])
  assert.deepEqual(await drain(queue), ['a'])
})
