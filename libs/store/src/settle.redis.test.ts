/**
 * settle.lua, from the points of view that differ: who holds the message, who held it before, and
 * who never did.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bodies, drain, lease, openTestQueue, pass, publish } from './test-queue.ts'

test('the holder of a batch settles it whole, once', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b', 'c')
  const [batch] = (await queue.take(10, 'never')).batches
  const settled = [{ id: batch!.id, count: 3 }]
  assert.equal(await queue.settleHeld(0, settled, []), 's')
  assert.equal(await queue.settleHeld(0, settled, []), 'x')
  const { acked, unacked } = await queue.stats()
  assert.deepEqual([acked, unacked], [3, 0])
})

test('of several batches each has its own answer', async (t) => {
  const { queue, another } = await openTestQueue(t)
  const { queue: elsewhere } = await another()
  for (const letter of 'abc') await publish(queue, letter)
  const ids = (await queue.take(10, 'never')).batches.map(({ id }) => ({ id, count: 1 }))
  await queue.settleHeld(0, [ids[1]!], [])
  assert.equal(await elsewhere.settleHeld(0, [{ id: '1-1', count: 5 }], []), 'x')
  assert.equal(await queue.settleHeld(0, ids, []), 'sxs')
  assert.equal((await queue.stats()).acked, 3)
})

test('a batch that is named twice in one call counts once', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b')
  const [batch] = (await queue.take(10, 'never')).batches
  const settled = { id: batch!.id, count: 2 }
  assert.equal(await queue.settleHeld(0, [settled, settled], []), 'sx')
  assert.equal((await queue.stats()).acked, 2)
})

test('a slot that died settles nothing of what was taken back', async (t) => {
  const { queue, another } = await openTestQueue(t)
  const { store, queue: elsewhere } = await another()
  await publish(queue, 'a', 'b')
  const [batch] = (await elsewhere.take(2, 'never')).batches
  await publish(queue, 'c', 'd')
  const [single] = (await elsewhere.take(1, 'never')).messages
  await queue.reclaim(store.slot.name, { dead: true })

  assert.equal(await elsewhere.settleHeld(0, [{ id: batch!.id, count: 2 }], [single!.ref]), 'xx')
  assert.equal(await elsewhere.settlePartly(0, batch!.id, Buffer.from([1])), 'x')
  assert.deepEqual(await drain(queue), ['a', 'b', 'c', 'd'])
})

test('a slot settles none of the single messages or half batches that another one holds', async (t) => {
  const { queue, another } = await openTestQueue(t)
  const { queue: elsewhere } = await another()
  await publish(queue, 'a', 'b')
  const [single] = (await queue.take(1, 'never')).messages
  await publish(queue, 'c', 'd')
  await lease(queue, 1)
  const [batch] = (await queue.take(2, 'never')).batches
  assert.equal(await elsewhere.settleHeld(0, [], [single!.ref]), 'x')
  assert.equal(await elsewhere.settlePartly(0, batch!.id, Buffer.from([1])), 'x')
  assert.equal(await queue.settleHeld(0, [], [single!.ref, single!.ref]), 'sx')
})

test('what a slot holds is not settled by a lease token, nor a lease by a slot', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b')
  const [leased] = await lease(queue, 1)
  const [held] = (await queue.take(1, 'never')).messages
  assert.equal(await queue.settleHeld(0, [], [leased!.id]), 'x')
  assert.deepEqual(await queue.settle([{ token: `${held!.ref}.1`, outcome: 'ack' }]), ['stale'])
  assert.deepEqual(await queue.settle([{ token: leased!.token, outcome: 'ack' }]), ['settled'])
})

test('a lease is settled by whoever has its token, from any process, once', async (t) => {
  const { queue, another } = await openTestQueue(t)
  const { queue: elsewhere } = await another()
  await publish(queue, 'a')
  const [{ token } = { token: '' }] = await lease(queue)
  const twice = [
    { token, outcome: 'ack' },
    { token, outcome: 'ack' },
  ] as const
  assert.deepEqual(await elsewhere.settle(twice), ['settled', 'stale'])
  assert.deepEqual(await queue.settle(twice), ['stale', 'stale'])
})

test('a lease that lapsed can be settled until somebody takes it back', async (t) => {
  const { store, queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b')
  const [a, b] = await lease(queue, 2, 1)
  await pass(store, 1)
  assert.deepEqual(await queue.settle([{ token: a!.token, outcome: 'ack' }]), ['settled'])
  const [again] = await lease(queue)
  assert.deepEqual(await queue.settle([{ token: b!.token, outcome: 'ack' }]), ['stale'])
  assert.deepEqual(await queue.settle([{ token: again!.token, outcome: 'ack' }]), ['settled'])
})

test('nonsense for a token is stale, whatever is asked', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a')
  const [{ id } = { id: '' }] = await lease(queue)
  for (const token of ['', 'x', id, `${id}.0`, `${id}.2`, `${id}.01`, `${id}.1 `, `${id}.-1`]) {
    const outcomes = await queue.settle([
      { token, outcome: 'ack' },
      { token, outcome: 'retry' },
      { token, outcome: 'extend', leaseMs: 1 },
    ])
    assert.deepEqual(outcomes, ['stale', 'stale', 'stale'], token)
  }
})

test('of a half settled batch a crash brings back the other half', async (t) => {
  const { queue, another } = await openTestQueue(t)
  const { store, queue: elsewhere } = await another()
  await publish(queue, ...'abcdefghij')
  const [batch] = (await elsewhere.take(10, 'never')).batches
  assert.equal(await elsewhere.settlePartly(0, batch!.id, Buffer.from([0b1010_1010, 0b01])), 's')
  assert.equal(await elsewhere.settlePartly(0, batch!.id, Buffer.from([0b1010_1010, 0b01])), 's')
  const { acked, unacked } = await queue.stats()
  assert.deepEqual([acked, unacked], [5, 5])
  await queue.reclaim(store.slot.name, { dead: true })
  assert.deepEqual(await drain(queue), ['a', 'c', 'e', 'g', 'j'])
})

test('a half settled batch counts its other half when it is settled', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b', 'c')
  const [batch] = (await queue.take(10, 'never')).batches
  await queue.settlePartly(0, batch!.id, Buffer.from([0b001]))
  const back = { action: 'ready', delayMs: 0, failure: '-' } as const
  await queue.returnHeld([{ place: `0:${batch!.id}`, ref: 1, ...back }])
  await queue.settlePartly(0, batch!.id, Buffer.from([0b001]))
  assert.equal(await queue.settleHeld(0, [{ id: batch!.id, count: 3 }], []), 's')
  assert.equal((await queue.stats()).acked, 2)
  assert.deepEqual(await drain(queue), ['b'])
})

test('batches of each level are settled apart', async (t) => {
  const { queue } = await openTestQueue(t, { levels: 2 })
  await publish(queue, 'a', { body: 'b', priority: 1 }, { body: 'c', priority: 1 })
  const { batches } = await queue.take(10, 'never')
  const [high, low] = batches
  assert.deepEqual([high!.level, low!.level], [1, 0])
  assert.equal(await queue.settleHeld(1, [{ id: high!.id, count: 2 }], []), 's')
  assert.equal(await queue.settleHeld(0, [{ id: low!.id, count: 1 }], []), 's')
})

test('settling a message of an ordering key lets the next one go', async (t) => {
  const { queue } = await openTestQueue(t, { ordered: true })
  await publish(queue, { body: 'a', orderingKey: 'k' }, { body: 'b', orderingKey: 'k' })
  const [a] = (await queue.take(10, 'never')).messages
  assert.equal(await queue.settleHeld(0, [], [a!.ref]), 's')
  assert.deepEqual(bodies((await queue.take(10, 'never')).messages), ['b'])
})

test('any number of batches and messages is settled in one call', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a')
  const [batch] = (await queue.take(1, 'never')).batches
  const stale = Array.from({ length: 9_000 }, (_, n) => ({ id: `1-${n + 1}`, count: 1 }))
  const letters = await queue.settleHeld(0, [...stale, { id: batch!.id, count: 1 }], [])
  assert.equal(letters, `${'x'.repeat(9_000)}s`)
  const refs = stale.map((_, n) => n.toString(16).padStart(24, '0'))
  assert.equal(await queue.settleHeld(0, [], refs), 'x'.repeat(9_000))
})

test('what was held of a deleted queue is stale', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b')
  const [batch] = (await queue.take(10, 'never')).batches
  await queue.drop({})
  assert.equal(await queue.settleHeld(0, [{ id: batch!.id, count: 2 }], ['0'.repeat(24)]), 'xx')
  assert.equal(await queue.settlePartly(0, batch!.id, Buffer.from([1])), 'x')
})
