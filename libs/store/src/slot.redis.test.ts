/**
 * A process's name, and the wake-ups it hears.
 *
 * Method: each test has a Redis of its own, and no interval fires by itself: heartbeats and looks
 * without a hint happen when the test says so. What arrives without that was woken by a hint.
 */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { limits } from '@sluice/core'
import { privateRedis, waitFor } from '@sluice/testkit'
import { Redis } from 'ioredis'
import type { LeasedMessage, QueueStore } from './index.ts'
import { openStore, QUEUE_SETTINGS_DEFAULT } from './index.ts'
import { wakeChannel } from './keys.ts'
import type { Slot } from './slot.ts'
import { bodies, drain, HOUR_MS, lease, pass, publish } from './test-queue.ts'

const aliveKey = (slot: string) => `sluice:{slots}:alive:${slot}`

async function setup(t: TestContext) {
  t.mock.timers.enable({ apis: ['setInterval'] })
  const { url } = await privateRedis(t, { aof: false })
  const redis = new Redis(url)
  t.after(() => redis.disconnect())
  const reported: unknown[] = []
  const open = async () => {
    const store = await openStore({ url, report: (error) => reported.push(error) })
    t.after(() => store.close())
    return { store, slot: store.slot, queue: store.queue('/', 'orders', 1, QUEUE_SETTINGS_DEFAULT) }
  }
  const one = await open()
  await one.queue.create()
  return { redis, reported, open, ...one }
}

const beat = (t: TestContext) => t.mock.timers.tick(limits.SLOT_HEARTBEAT_MS)
const waiting = (queue: QueueStore, signal?: AbortSignal): Promise<LeasedMessage[]> =>
  queue.lease({
    max: 1,
    leaseMs: HOUR_MS,
    waitMs: 30_000,
    consumer: 'c',
    ...(signal && { signal }),
  })

/** Returns once so many processes wait for something in the queue. */
const untilWaiting = (redis: Redis, queue: QueueStore, count: number) =>
  waitFor(async () => (await redis.scard(`${queue.base}waiting`)) === count, { what: 'waiters' })

test('each process has a name of its own, alive until it closes', async (t) => {
  const { slot, open } = await setup(t)
  const { store, slot: other } = await open()
  assert.match(slot.name, /^d\d+$/)
  assert.equal(slot.name, `d${slot.number}`)
  assert.notEqual(other.name, slot.name)
  assert.deepEqual((await slot.alive()).sort(), [slot.name, other.name].sort())
  await store.close()
  assert.deepEqual(await slot.alive(), [slot.name])
  assert.deepEqual(await slot.dead(), [{ slot: other.name, bases: [] }])
})

test('hints that reach a process as it closes are passed on or dropped, without an error', async (t) => {
  const { redis, reported, open, slot } = await setup(t)
  const { store, queue, slot: closing } = await open()
  await queue.take(1, 'never')
  let closed = false
  const hinting = (async () => {
    while (!closed) {
      const hints = redis.pipeline()
      for (let i = 0; i < 100; i++) hints.publish(wakeChannel(closing.name), queue.base)
      await hints.exec()
    }
  })()
  await store.close()
  closed = true
  await hinting
  await slot.alive() // what failed of itself has been reported by then
  assert.deepEqual(reported, [])
})

test('no name comes again, though Redis has forgotten all that there were', async (t) => {
  const { redis, slot, open } = await setup(t)
  const names = new Set([slot.name])
  for (let start = 2; start <= 5; start++) {
    await redis.flushall()
    names.add((await open()).slot.name)
    assert.equal(names.size, start)
  }
})

test('a heartbeat keeps the name alive', async (t) => {
  const { redis, slot } = await setup(t)
  await redis.pexpire(aliveKey(slot.name), 1_000)
  beat(t)
  await waitFor(async () => (await redis.pttl(aliveKey(slot.name))) > limits.SLOT_TTL_MS / 2)
})

test('the connection that hears hints is asked whether it still does', async (t) => {
  const { redis } = await setup(t)
  beat(t)
  const asked = async () => {
    const clients = String(await redis.client('LIST')).split('\n')
    return clients.some((client) => /name=sluice-subscriber .* cmd=ping /.test(client))
  }
  await waitFor(asked, { what: 'a ping' })
})

test('a dead name is listed with the queues it took from, until it is forgotten', async (t) => {
  const { slot, open } = await setup(t)
  const { store, queue, slot: other } = await open()
  await queue.take(1, 'never')
  await store.close()
  const dead = [{ slot: other.name, bases: [queue.base] }]
  assert.deepEqual(await slot.dead(), dead)
  await slot.forget(other.name, [])
  assert.deepEqual(await slot.dead(), dead)
  await slot.forget(other.name, [queue.base])
  assert.deepEqual(await slot.dead(), [])
})

/** Lets a name die as if its process had been away, and waits for the next. */
async function renamed(t: TestContext, redis: Redis, slot: Slot): Promise<void> {
  const before = slot.name
  await redis.del(aliveKey(before))
  beat(t)
  beat(t) // a second one before the first was answered
  await waitFor(() => slot.name !== before, { what: 'a new name' })
}

test('a process that was away goes on under one new name, and hears of it', async (t) => {
  const { redis, reported, slot, queue, open } = await setup(t)
  const { slot: observer } = await open()
  const before = slot.name
  await renamed(t, redis, slot)
  await redis.ping()
  assert.deepEqual((await observer.alive()).sort(), [slot.name, observer.name].sort())
  assert.deepEqual(
    (await observer.dead()).map(({ slot }) => slot),
    [before],
  )
  assert.equal(reported.length, 1)
  const woken = waiting(queue)
  await untilWaiting(redis, queue, 1)
  await publish(queue, 'a')
  assert.deepEqual(bodies(await woken), ['a'])
})

test('what a process held under its old name is taken back, and its settlements are stale', async (t) => {
  const { redis, slot, queue, open } = await setup(t)
  const { queue: reaper } = await open()
  await publish(queue, 'a', 'b')
  const before = slot.name
  const [a] = (await queue.take(1, 'never')).messages
  await renamed(t, redis, slot)
  assert.equal(await queue.settleHeld(0, [], [a!.ref]), 'x')
  await reaper.reclaim(before, { dead: true })
  assert.deepEqual(await drain(queue), ['a', 'b'])
})

test('what a process takes under a name that was forgotten is found when it has a new one', async (t) => {
  const { redis, slot, queue, open } = await setup(t)
  const { slot: reaper, queue: elsewhere } = await open()
  await publish(queue, 'a')
  await queue.take(0, 'never')
  const before = slot.name
  await redis.del(aliveKey(before))
  await elsewhere.reclaim(before, { dead: true })
  await reaper.forget(before, [queue.base])

  await queue.take(1, 'never')
  await renamed(t, redis, slot)
  const found = await waitFor(async () => (await reaper.dead())[0])
  assert.deepEqual(found, { slot: before, bases: [queue.base] })
})

test('a waiting lease returns when another process publishes', async (t) => {
  const { redis, queue, open } = await setup(t)
  const { queue: elsewhere } = await open()
  for (const body of ['a', 'b', 'c']) {
    const woken = waiting(queue)
    await untilWaiting(redis, queue, 1)
    await publish(elsewhere, body)
    assert.deepEqual(bodies(await woken), [body])
  }
})

test('several leases that wait in one process are each woken', async (t) => {
  const { redis, queue, open } = await setup(t)
  const { queue: elsewhere } = await open()
  const woken = [waiting(queue), waiting(queue), waiting(queue)]
  await untilWaiting(redis, queue, 1)
  await publish(elsewhere, 'a', 'b', 'c')
  assert.deepEqual(bodies((await Promise.all(woken)).flat()).sort(), ['a', 'b', 'c'])
})

test('a hint to a process where nobody waits any more goes on to one where somebody does', async (t) => {
  const { redis, queue, open } = await setup(t)
  const { queue: elsewhere } = await open()
  // Which of the two is told is chance: over ten rounds it is each of them.
  for (let round = 0; round < 10; round++) {
    const hangUp = new AbortController()
    const gone = waiting(queue, hangUp.signal)
    await untilWaiting(redis, queue, 1)
    hangUp.abort()
    assert.deepEqual(await gone, [])
    const woken = waiting(elsewhere)
    await untilWaiting(redis, queue, 2)
    await publish(queue, String(round))
    assert.deepEqual(bodies(await woken), [String(round)])
  }
})

test('a message that arrives while a lease asks for it is not missed', async (t) => {
  const { queue, open } = await setup(t)
  const { queue: elsewhere } = await open()
  for (let round = 0; round < 300; round++) {
    const woken = waiting(queue)
    await publish(elsewhere, String(round))
    assert.deepEqual(bodies(await woken), [String(round)])
  }
})

test('a lease whose hint was lost looks by itself', async (t) => {
  const { redis, queue } = await setup(t)
  const woken = waiting(queue)
  await untilWaiting(redis, queue, 1)
  await redis.del(`${queue.base}waiting`)
  await publish(queue, 'a')
  t.mock.timers.tick(limits.IDLE_LOOK_MS)
  assert.deepEqual(bodies(await woken), ['a'])
})

test('a waiting lease returns when a delayed message is due', async (t) => {
  const { queue } = await setup(t)
  await publish(queue, { body: 'a', delayMs: 50 })
  assert.deepEqual(bodies(await waiting(queue)), ['a'])
})

test('a lease that finds nothing answers once its wait is over', async (t) => {
  const { store, queue } = await setup(t)
  const before = await store.nowMs()
  assert.deepEqual(await queue.lease({ max: 1, leaseMs: 1, waitMs: 30, consumer: 'c' }), [])
  assert.ok((await store.nowMs()) - before >= 29)
})

test('a caller that hung up while its lease was under way leaves the messages to others', async (t) => {
  const { queue } = await setup(t)
  await publish(queue, 'a')
  const hangUp = new AbortController()
  const gone = queue.lease({
    ...{ max: 1, leaseMs: HOUR_MS, waitMs: 0, consumer: 'c' },
    signal: hangUp.signal,
  })
  hangUp.abort()
  assert.deepEqual(await gone, [])
  const [again] = await lease(queue)
  assert.deepEqual([again!.deliveryCount, again!.failedCount], [2, 0])
})

test('a lease that waits in a queue that is deleted says so', async (t) => {
  const { redis, queue } = await setup(t)
  const woken = waiting(queue)
  await untilWaiting(redis, queue, 1)
  await queue.drop({})
  t.mock.timers.tick(limits.IDLE_LOOK_MS)
  await assert.rejects(woken, { code: 'queue_not_found' })
})

test('reapers hear when something is to be done next', async (t) => {
  const { store, queue, open } = await setup(t)
  const { slot } = await open()
  const heard: [string, number][] = []
  await slot.onAgenda((base, atMs) => heard.push([base, atMs]))
  const before = await store.nowMs()
  await publish(queue, { body: 'a', delayMs: HOUR_MS }, { body: 'b', ttlMs: 2 * HOUR_MS })
  await publish(queue, { body: 'c', delayMs: 60_000 })
  const [first, second] = await waitFor(() => heard.length >= 2 && heard)
  assert.deepEqual([first![0], second![0]], [queue.base, queue.base])
  assert.ok(first![1] >= before + HOUR_MS && first![1] < before + HOUR_MS + 30_000)
  assert.ok(second![1] >= before + 60_000 && second![1] < before + 90_000)
  await pass(store, 1)
  assert.equal(heard.length, 2, 'a later time is no news')
})
