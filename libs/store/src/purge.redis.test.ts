/** purge.lua: what it removes and what it leaves. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { purge } from './scripts.ts'
import { drain, HOUR_MS, lease, openTestQueue, publish } from './test-queue.ts'

test('everything ready goes: unread, come back, and of every level', async (t) => {
  const { queue } = await openTestQueue(t, { levels: 2 })
  await publish(queue, 'a', { body: 'b', priority: 1 }, 'c')
  const leased = await lease(queue, 2)
  await queue.settle(leased.map(({ token }) => ({ token, outcome: 'release' })))
  await publish(queue, 'd', { body: 'e', priority: 1 })
  assert.equal(await queue.purge(), 5)
  const { ready, bytes, purged } = await queue.stats()
  assert.deepEqual([ready, bytes, purged], [0, 0, 5])
  assert.deepEqual(await lease(queue), [])
  assert.equal(await queue.purge(), 0)
})

test('held, delayed and dead messages stay', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'leased', 'dead')
  const [leased, dead] = await lease(queue)
  await queue.settle([{ token: dead!.token, outcome: 'dead-letter', reason: 'no' }])
  await publish(queue, 'held')
  const [held] = (await queue.take(1, 'never')).batches
  await publish(queue, { body: 'delayed', delayMs: HOUR_MS }, 'ready')
  assert.equal(await queue.purge(), 1)
  const { unacked, delayed, dead: letters } = await queue.stats()
  assert.deepEqual([unacked, delayed, letters], [2, 1, 1])
  assert.deepEqual(await queue.settle([{ token: leased!.token, outcome: 'ack' }]), ['settled'])
  assert.equal(await queue.settleHeld(0, [{ id: held!.id, count: 1 }], []), 's')
})

test('of a batch from which one was picked the others go', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b', 'c')
  const [, b] = (await queue.peek('ready', '', 10)).messages
  const picked = await queue.pick(b!.ref, HOUR_MS, 'operator')
  assert.equal(await queue.purge(), 2)
  await queue.settle([{ token: picked!.token, outcome: 'release' }])
  assert.deepEqual(await drain(queue), ['b'])
})

test('messages behind a busy key go, and the key opens with the next one', async (t) => {
  const { queue } = await openTestQueue(t, { ordered: true })
  const keyed = (body: string) => ({ body, orderingKey: 'k' })
  await publish(queue, keyed('1'), keyed('2'), { body: '3', orderingKey: 'l' })
  const [one, three] = await lease(queue)
  await queue.settle([{ token: three!.token, outcome: 'release' }])
  assert.equal(await queue.purge(), 2)
  await publish(queue, keyed('4'))
  assert.deepEqual(await lease(queue), [])
  await queue.settle([{ token: one!.token, outcome: 'ack' }])
  assert.deepEqual(await drain(queue), ['4'])
})

test('what is published between two passes stays', async (t) => {
  const { store, queue } = await openTestQueue(t)
  for (const body of ['a', 'b', 'c']) await publish(queue, body)
  const first = await purge(store.redis, queue.base, [queue.scriptOptions, 2, ''])
  assert.deepEqual([first.more, first.purged], [true, 2])
  await publish(queue, 'd')
  const second = await purge(store.redis, queue.base, [queue.scriptOptions, 2, first.until])
  assert.deepEqual([second.more, second.purged], [false, 1])
  assert.deepEqual(await drain(queue), ['d'])
})

test('an empty queue and a deleted one have nothing to purge', async (t) => {
  const { queue } = await openTestQueue(t)
  assert.equal(await queue.purge(), 0)
  await queue.drop({})
  assert.equal(await queue.purge(), 0)
})
