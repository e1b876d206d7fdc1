/** reclaim.lua: what a dead slot held, and what a living one holds without knowing it. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { queueHolders } from './index.ts'
import { append } from './scripts.ts'
import { bodies, drain, HOUR_MS, lease, openTestQueue, publish, recordOf } from './test-queue.ts'

const DEAD = { dead: true }

test('what a dead slot held is ready again in its old order, flagged, as failed', async (t) => {
  const { queue, another } = await openTestQueue(t)
  const { store, queue: elsewhere } = await another()
  await publish(queue, 'a', 'b')
  await publish(queue, 'c', 'd')
  await elsewhere.take(2, 'never')
  await elsewhere.take(1, 'never')
  await publish(queue, 'e')
  assert.deepEqual(await queue.reclaim(store.slot.name, DEAD), { more: false, messages: 3 })
  const leased = await lease(queue)
  assert.deepEqual(bodies(leased), ['a', 'b', 'c', 'd', 'e'])
  assert.deepEqual(
    leased.map(({ redelivered }) => redelivered),
    [true, true, true, false, false],
  )
  assert.deepEqual(
    leased.map(({ failedCount }) => failedCount),
    [1, 1, 1, 0, 0],
  )
})

test('the last append of a dead slot is remembered: sent again, it stores nothing', async (t) => {
  const { store, queue } = await openTestQueue(t)
  const send = (writer: string) =>
    append(store.redis, queue.base, [
      ...[queue.scriptOptions, 1, writer, 7, 1, recordOf({ body: writer })],
      ...[-1, -1, queue.scriptLimits, HOUR_MS, '', ''],
    ])
  const writers = async () =>
    (await store.redis.hkeys(`${queue.base}meta`)).filter((field) => /^[wd]:/.test(field))
  await send('d7:0')
  await queue.reclaim('d7', DEAD)
  await queue.reclaim('d7', DEAD)
  assert.deepEqual(await send('d7:0'), { kind: 'stored' })
  assert.deepEqual(await drain(queue), ['d7:0'])

  await store.redis.hincrby(`${queue.base}meta`, 'd:d7', -HOUR_MS - 1)
  await queue.reclaim('d7', DEAD)
  assert.deepEqual(await writers(), [], 'an hour later nobody sends it again')
})

test('two reapers that find the same dead slot take its messages back once', async (t) => {
  const { queue, another } = await openTestQueue(t)
  const [{ store, queue: dead }, { queue: reaper }] = [await another(), await another()]
  await publish(queue, ...'abcdef')
  await dead.take(6, 'never')
  const both = [queue, reaper].map((each) => each.reclaim(store.slot.name, DEAD))
  const moved = (await Promise.all(both)).map(({ messages }) => messages)
  assert.deepEqual(moved.sort(), [0, 6])
  assert.deepEqual(await drain(queue), [...'abcdef'])
})

test('messages that killed too many slots are dead letters', async (t) => {
  const { queue, another } = await openTestQueue(t, { deliveryLimit: 0 })
  const { store, queue: elsewhere } = await another()
  await publish(queue, 'a', 'b')
  await elsewhere.take(10, 'never')
  await queue.reclaim(store.slot.name, DEAD)
  const letters = await queue.claimDead(10, HOUR_MS)
  assert.deepEqual(bodies(letters), ['a', 'b'])
  const { reason, holder, failed } = letters[0]!
  assert.deepEqual([reason, holder, failed], ['delivery_limit', store.slot.name, 1])
})

test('what others hold, and what was leased, stays where it is', async (t) => {
  const { queue, another } = await openTestQueue(t)
  const [{ store, queue: dead }, { queue: living }] = [await another(), await another()]
  for (const letter of 'abc') await publish(queue, letter)
  await dead.take(1, 'never')
  const [held] = (await living.take(1, 'never')).batches
  const [leased] = await lease(dead)
  assert.deepEqual(await queue.reclaim(store.slot.name, DEAD), { more: false, messages: 1 })
  assert.equal(await living.settleHeld(0, [{ id: held!.id, count: 1 }], []), 's')
  assert.deepEqual(await queue.settle([{ token: leased!.token, outcome: 'ack' }]), ['settled'])
  assert.deepEqual(await drain(queue), ['a'])
})

test('a living slot that lost a reply gives back what it does not know of, not as failed', async (t) => {
  const { queue } = await openTestQueue(t)
  for (const letter of 'ab') await publish(queue, letter)
  await publish(queue, 'c', 'd', 'e')
  const [known, unknown] = (await queue.take(2, 'never')).batches
  const [c] = (await queue.take(1, 'never')).messages
  const [d] = (await queue.take(1, 'never')).messages
  await queue.recover([`0:${known!.id}`, d!.ref])

  const leased = await lease(queue)
  assert.deepEqual(bodies(leased), ['b', 'c', 'e'])
  assert.deepEqual(
    leased.map(({ deliveryCount, failedCount }) => [deliveryCount, failedCount]),
    [2, 2, 1].map((count) => [count, 0]),
  )
  assert.equal(await queue.settleHeld(0, [{ id: known!.id, count: 1 }], [d!.ref]), 'ss')
  assert.equal(await queue.settleHeld(0, [{ id: unknown!.id, count: 1 }], [c!.ref]), 'xx')
})

test('a page full of kept batches hides nothing behind it', async (t) => {
  const { queue } = await openTestQueue(t)
  for (let n = 0; n < 150; n++) await publish(queue, String(n))
  const keep: string[] = []
  while (keep.length < 149) {
    const { batches } = await queue.take(149 - keep.length, 'never')
    keep.push(...batches.map(({ id }) => `0:${id}`))
  }
  await queue.take(1, 'never')
  await queue.recover(keep)
  assert.deepEqual(await drain(queue), ['149'])
})

test('a dead slot that holds nothing leaves nothing of its name behind', async (t) => {
  const { store, queue, another } = await openTestQueue(t, { levels: 2 })
  const { store: dying, queue: elsewhere } = await another()
  await publish(queue, 'a', { body: 'b', priority: 1 })
  await elsewhere.take(1, 'never')
  await elsewhere.lease({ max: 1, leaseMs: HOUR_MS, waitMs: 0, consumer: 'c' })
  await elsewhere.take(1, 'empty')
  const { name } = dying.slot
  assert.ok((await queueHolders(store.redis, queue)).includes(name))
  await queue.reclaim(name, DEAD)
  const left = await queueHolders(store.redis, queue)
  assert.deepEqual(left, [store.slot.name], 'which published')
})

test('a dead slot that only waited is told of nothing more', async (t) => {
  const { store, queue, another } = await openTestQueue(t)
  const { store: dying, queue: elsewhere } = await another()
  await elsewhere.take(1, 'empty')
  await queue.reclaim(dying.slot.name, DEAD)
  assert.deepEqual(await queueHolders(store.redis, queue), [])
})

test('a key whose message a dead slot held opens with that message', async (t) => {
  const { queue, another } = await openTestQueue(t, { ordered: true })
  const { store, queue: elsewhere } = await another()
  await publish(queue, { body: 'a', orderingKey: 'k' }, { body: 'b', orderingKey: 'k' })
  await elsewhere.take(10, 'never')
  assert.deepEqual(await lease(queue), [])
  await queue.reclaim(store.slot.name, DEAD)
  assert.deepEqual(await drain(queue), ['a', 'b'])
})

test('a slot that is unknown, or of a deleted queue, held nothing', async (t) => {
  const { queue } = await openTestQueue(t)
  assert.deepEqual(await queue.reclaim('d999999', DEAD), { more: false, messages: 0 })
  await queue.drop({})
  assert.deepEqual(await queue.reclaim('d999999', DEAD), { more: false, messages: 0 })
})
