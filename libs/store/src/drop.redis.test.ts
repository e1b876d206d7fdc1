/** create.lua and drop.lua: a queue's beginning and end, and what becomes of an old one's name. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { audit } from './index.ts'
import { drain, HOUR_MS, lease, openTestQueue, pass, publish } from './test-queue.ts'

test('creating a queue again changes nothing', async (t) => {
  const { queue, another } = await openTestQueue(t)
  const { queue: elsewhere } = await another()
  await publish(queue, 'a')
  assert.equal(await elsewhere.create(), true)
  assert.deepEqual(await drain(queue), ['a'])
})

test('a deleted queue leaves nothing but the memory of it', async (t) => {
  const { store, queue } = await openTestQueue(t, { ordered: true, levels: 2 })
  const keyed = (body: string) => ({ body, orderingKey: 'k', dedupId: body })
  await publish(queue, keyed('a'), keyed('b'), { body: 'c', delayMs: HOUR_MS }, 'd')
  const [a] = await lease(queue)
  await queue.settle([{ token: a!.token, outcome: 'dead-letter', reason: 'no' }])
  await queue.take(1, true)
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

test('a queue made over one that was never deleted has nothing of it', async (t) => {
  const { store, queue, vhost } = await openTestQueue(t, { ordered: true })
  const keyed = (body: string) => ({ body, orderingKey: 'k' })
  await publish(queue, keyed('a'), keyed('b'), keyed('c'), 'd', { body: 'e', delayMs: HOUR_MS })
  await lease(queue, 1)
  const next = store.queue(vhost, 'orders', 2, queue.settings)
  assert.equal(await next.create(), true)
  assert.deepEqual(await audit(store, next), [])
  assert.deepEqual(await drain(next), [])
  await next.drop({})
})

test('a later queue of the same name starts empty, and the earlier one is gone', async (t) => {
  const { store, queue, vhost, another } = await openTestQueue(t)
  const { queue: behind } = await another()
  await publish(queue, { body: 'old', dedupId: 'x' })
  const [held] = await lease(queue)
  const next = store.queue(vhost, 'orders', 2, queue.settings)
  assert.equal(await next.create(), true)
  assert.deepEqual(await publish(next, { body: 'new', dedupId: 'x' }), ['stored'])
  assert.deepEqual(await publish(behind, 'late'), ['gone'])
  assert.deepEqual(await behind.settle([{ token: held!.token, outcome: 'ack' }]), ['stale'])
  assert.deepEqual(await behind.drop({}), { kind: 'gone' })
  assert.deepEqual(await drain(next), ['new'])
  await next.drop({})
})
