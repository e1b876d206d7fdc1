/** What waits, what expires, and where it goes then. */
import assert from 'node:assert/strict'
import { waitFor } from '@sluice/testkit'
import { bodies, promise, takeOne } from './door.ts'

const NOW = { waitMs: 0 }

promise('a delayed message comes after its delay, and does not hold up others', async (door) => {
  await door.declare('q')
  const start = performance.now()
  await door.publish('q', 'later', { delayMs: 1_500 })
  await door.publish('q', 'now')
  assert.deepEqual(bodies(await door.take('q', NOW)), ['now'])
  assert.equal((await door.counts('q')).delayed, 1)
  assert.equal((await takeOne(door, 'q')).body, 'later')
  assert.ok(performance.now() - start >= 1_499)
})

promise('a message for a moment comes then, one for the past at once', async (door) => {
  await door.declare('q')
  const at = Date.now() + 1_500
  await door.publish('q', 'then', { deliverAt: new Date(at) })
  await door.publish('q', 'past', { deliverAt: new Date(0) })
  assert.deepEqual(bodies(await door.take('q', NOW)), ['past'])
  assert.equal((await takeOne(door, 'q')).body, 'then')
  assert.ok(Date.now() >= at - 5)
})

promise('delayed messages become ready without anybody asking', async (door) => {
  await door.declare('q')
  await door.publish('q', 'x', { delayMs: 200 })
  await waitFor(async () => (await door.counts('q')).ready === 1, { what: 'its release' })
})

promise('an expired message goes to the dead letter exchange, consumer or not', async (door) => {
  await door.deadLetterExchange('dlx', 'dead')
  await door.declare('q', { 'x-message-ttl': 200, 'x-dead-letter-exchange': 'dlx' })
  await door.publish('q', 'x', { headers: { Colour: 'blue' } })
  const dead = await takeOne(door, 'dead')
  assert.deepEqual([dead.body, dead.headers['Colour'] ?? dead.headers['colour']], ['x', 'blue'])
  const [death] = dead.headers['x-death'] as Record<string, unknown>[]
  assert.equal(death?.['reason'], 'expired')
  assert.equal(death['queue'], 'q')
  assert.equal(death['count'], 1)
  assert.deepEqual(await door.take('q', NOW), [])
})

promise('the shorter of a message’s and its queue’s time to live counts', async (door) => {
  await door.deadLetterExchange('dlx', 'dead')
  await door.declare('q', { 'x-message-ttl': 60_000, 'x-dead-letter-exchange': 'dlx' })
  await door.publish('q', 'short', { ttlMs: 100 })
  await door.publish('q', 'long')
  assert.equal((await takeOne(door, 'dead')).body, 'short')
  assert.deepEqual(bodies(await door.take('q', NOW)), ['long'])
})

promise('an expired message without a dead letter exchange is dropped', async (door) => {
  await door.declare('q')
  await door.publish('q', 'x', { ttlMs: 50 })
  await waitFor(async () => (await door.counts('q')).ready === 0, { what: 'the drop' })
  assert.deepEqual(await door.take('q', NOW), [])
  assert.equal((await door.counts('amq.dead-letters')).ready, 0)
})

promise('a queue that nobody uses for its expiry is deleted', async (door) => {
  await door.declare('q', { 'x-expires': 300 })
  await door.publish('q', 'x')
  const { topology } = door.broker.deps
  await waitFor(() => !topology.table.queue(door.broker.vhost, 'q'), { what: 'the deletion' })
  assert.equal(await door.publish('q', 'y'), 'unroutable')
})

promise('a queue that somebody waits at does not expire', async (door) => {
  await door.declare('q', { 'x-expires': 1_500 })
  assert.deepEqual(await door.take('q', { waitMs: 3_500 }), [])
  assert.equal(await door.publish('q', 'x'), 'stored')
})
