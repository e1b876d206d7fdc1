/** create.lua: a queue whose log lost its consumer group, or that lost the log, mends itself. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { withBareRedis } from '@sluice/testkit'
import { audit, openStore, QUEUE_SETTINGS_DEFAULT, type QueueSettings } from './index.ts'
import { bodies, drain, HOUR_MS, lease, publish } from './test-queue.ts'

/** A queue of which one batch is held, one is partly settled, one unread, one message leased. */
async function start(t: TestContext, settings: Partial<QueueSettings> = {}) {
  const { url, vhost } = await withBareRedis(t)
  const reported: string[] = []
  const store = await openStore({ url, report: (error) => reported.push(String(error)) })
  t.after(() => store.close())
  const queue = store.queue(vhost, 'orders', 1, { ...QUEUE_SETTINGS_DEFAULT, ...settings })
  await queue.create()
  await publish(queue, 'a')
  await publish(queue, 'b', 'c')
  const taken = await queue.take(3, 'never')
  const [first, second] = taken.batches
  assert.equal(await queue.settlePartly(0, second!.id, Buffer.from([1])), 's') // 'b'
  await publish(queue, 'd', 'e')
  await publish(queue, { body: 'z', delayMs: HOUR_MS })
  const check = async () => assert.deepEqual(await audit(store, queue), [])
  await check()
  return { store, queue, first: first!, second: second!, reported, check }
}

test('a group that was destroyed is made again: held messages come again, flagged', async (t) => {
  const { store, queue, first, second, reported, check } = await start(t)
  await store.redis.xgroup('DESTROY', `${queue.base}log`, 'delivery')
  const leased = await lease(queue)
  await check()
  assert.deepEqual(bodies(leased), ['a', 'c', 'd', 'e'])
  assert.deepEqual(
    leased.map(({ deliveryCount }) => deliveryCount),
    [2, 2, 1, 1],
  )
  const late = [
    { id: first.id, count: 1 },
    { id: second.id, count: 2 },
  ]
  assert.equal(await queue.settleHeld(0, late, []), 'xx')
  assert.equal(await queue.settlePartly(0, second.id, Buffer.from([3])), 'x')
  await check()
  assert.equal(reported.length, 1)
  assert.match(reported[0]!, /lost its group/)
  await queue.settle(leased.map(({ token }) => ({ token, outcome: 'ack' })))
  await check()
})

test('what is settled before anybody meets the loss stays settled', async (t) => {
  const { store, queue, first, check } = await start(t)
  await store.redis.xgroup('DESTROY', `${queue.base}log`, 'delivery')
  assert.equal(await queue.settleHeld(0, [{ id: first.id, count: 1 }], []), 's')
  assert.equal(
    await queue.returnHeld([
      { place: `0:${first.id}`, ref: 0, action: 'ready', delayMs: 0, failure: '-' },
    ]),
    'x',
  )
  assert.deepEqual((await queue.reclaim(queue.slot, { dead: false })).messages, 0)
  assert.deepEqual(await drain(queue), ['c', 'd', 'e'])
  await check()
})

test('a log that was deleted costs what was in it, and the counters say so', async (t) => {
  const { store, queue, first, reported, check } = await start(t)
  await store.redis.del(`${queue.base}log`)
  assert.deepEqual(await publish(queue, 'f'), ['stored']) // makes the log again, without group
  assert.deepEqual(await drain(queue), ['f'])
  await check()
  assert.match(reported[0]!, /4 messages are gone/)
  assert.equal(await queue.settleHeld(0, [{ id: first.id, count: 1 }], []), 'x')
  const { ready, unacked, delayed, dropped } = await queue.stats()
  assert.deepEqual(
    { ready, unacked, delayed, dropped },
    { ready: 0, unacked: 0, delayed: 1, dropped: 4 },
  )
  await check()
})

test('an append with limits, and a reaper, mend it too', async (t) => {
  const { store, queue, reported, check } = await start(t, { maxLength: 3, overflow: 'drop-head' })
  await store.redis.xgroup('DESTROY', `${queue.base}log`, 'delivery')
  assert.equal((await queue.sweep()).kind, 'missing')
  assert.deepEqual(await publish(queue, 'f', 'g'), ['stored', 'stored'])
  await check()
  assert.equal(reported.length, 1)
})

test('of several levels, those that kept their group are left as they are', async (t) => {
  const { url, vhost } = await withBareRedis(t)
  const store = await openStore({ url, report: () => {} })
  t.after(() => store.close())
  const queue = store.queue(vhost, 'levels', 1, { ...QUEUE_SETTINGS_DEFAULT, levels: 3 })
  await queue.create()
  const given = [0, 1, 2].flatMap((priority) => [{ body: `x${priority}`, priority }])
  await publish(queue, ...given)
  const taken = await queue.take(2, 'never')
  assert.deepEqual(
    taken.batches.map(({ level }) => level),
    [2, 1],
  )
  await store.redis.xgroup('DESTROY', `${queue.base}log:1`, 'delivery')
  await store.redis.del(`${queue.base}log`)
  assert.deepEqual(await drain(queue), ['x1'])
  assert.deepEqual(await audit(store, queue), [])
  assert.equal(await queue.settleHeld(2, [{ id: taken.batches[0]!.id, count: 1 }], []), 's')
  assert.equal(await queue.settleHeld(1, [{ id: taken.batches[1]!.id, count: 1 }], []), 'x')
  assert.deepEqual(await audit(store, queue), [])
})
