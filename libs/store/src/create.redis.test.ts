/** create.lua: a queue's beginning, and what it finds of an earlier one of its name. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { audit } from './index.ts'
import { drain, HOUR_MS, lease, openTestQueue, publish } from './test-queue.ts'

test('creating a queue again changes nothing', async (t) => {
  const { queue, another } = await openTestQueue(t)
  const { queue: elsewhere } = await another()
  await publish(queue, 'a')
  assert.equal(await elsewhere.create(), true)
  assert.deepEqual(await drain(queue), ['a'])
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
