/** drop.lua: a queue's end, and when it is refused. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { drain, HOUR_MS, lease, openTestQueue, pass, publish } from './test-queue.ts'

test('a deleted queue leaves nothing but the memory of it', async (t) => {
  const { store, queue } = await openTestQueue(t, { ordered: true, levels: 2 })
  const keyed = (body: string) => ({ body, orderingKey: 'k', dedupId: body })
  await publish(queue, keyed('a'), keyed('b'), { body: 'c', delayMs: HOUR_MS }, 'd')
  const [a] = await lease(queue)
  await queue.settle([{ token: a!.token, outcome: 'dead-letter', reason: 'no' }])
  await queue.take(1, 'empty')
  assert.deepEqual(await queue.drop({}), { kind: 'dropped', messages: 0 })
  const pattern = `${queue.base.replace(/[{}]/g, '?')}*`
  const left = (await store.redis.keys(pattern)).filter((key) => !key.includes(':dedup:'))
  assert.deepEqual(left, [`${queue.base}meta`])
  for (const key of await store.redis.keys(pattern))
    assert.ok((await store.redis.pttl(key)) > 0, key)
})

test('a deleted queue says how many were ready, is deleted once, and not made again', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b')
  assert.deepEqual(await queue.drop({}), { kind: 'dropped', messages: 2 })
  assert.deepEqual(await queue.drop({}), { kind: 'gone' })
  assert.equal(await queue.create(), false)
  assert.deepEqual(await publish(queue, 'c'), ['gone'])
})

test('only an empty queue is deleted where that was asked: held and delayed ones count', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b', { body: 'c', delayMs: HOUR_MS })
  const [a] = await lease(queue, 1)
  assert.deepEqual(await queue.drop({ ifEmpty: true }), { kind: 'not-empty', messages: 3 })
  await queue.settle([{ token: a!.token, outcome: 'ack' }])
  await drain(queue)
  assert.deepEqual(await queue.drop({ ifEmpty: true }), { kind: 'not-empty', messages: 1 })
  const [{ ref } = { ref: '' }] = (await queue.peek('delayed', '', 1)).messages
  const picked = await queue.pick(ref, HOUR_MS, 'operator')
  await queue.settle([{ token: picked!.token, outcome: 'ack' }])
  assert.deepEqual(await queue.drop({ ifEmpty: true }), { kind: 'dropped', messages: 0 })
})

test('a queue that somebody used lately is not deleted as unused', async (t) => {
  const { store, queue } = await openTestQueue(t)
  await pass(store, 30)
  await lease(queue)
  assert.deepEqual(await queue.drop({ unusedMs: HOUR_MS }), { kind: 'in-use' })
  await pass(store, 1)
  assert.deepEqual(await queue.drop({ unusedMs: 1 }), { kind: 'dropped', messages: 0 })
})
