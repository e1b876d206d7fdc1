/** What the slow sweep and visits repair after processes that died at the wrong moment. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openStore, QUEUE_SETTINGS_DEFAULT, storedQueues } from '@sluice/store'
import { DeadLetters } from './dead-letter.ts'
import { reclaimDeadSlots } from './reclaim.ts'
import { dropLeftovers, reclaimOrphans } from './sweep.ts'
import { bodies, openWorld, publish } from './testing.ts'
import { visitor } from './visit.ts'

const running = new AbortController().signal

/** Another process's store that took everything of a queue and then lost its heartbeat. */
async function deadHolder(url: string, vhost: string, epoch: number) {
  const store = await openStore({ url, report: () => {} })
  await store.queue(vhost, 'q', epoch, QUEUE_SETTINGS_DEFAULT).take(1_000, 'never')
  const { name } = store.slot
  await store.close()
  return name
}

test('what a dead process held is ready again, and its name forgotten', async (t) => {
  const world = await openWorld(t)
  const q = await world.declare('q')
  for (const body of ['1', '2', '3']) await publish(q, body)
  const name = await deadHolder(world.url, world.vhost, q.definition.epoch)
  assert.deepEqual(await bodies(q), [])
  await reclaimDeadSlots(world, running)
  assert.deepEqual(await bodies(q), ['1', '2', '3'])
  assert.equal(await world.redis.sismember('sluice:{slots}:all', name), 0)
})

test('what an unregistered dead process holds is found by the slow sweep', async (t) => {
  const world = await openWorld(t)
  const q = await world.declare('q')
  for (const body of ['1', '2', '3']) await publish(q, body)
  const name = await deadHolder(world.url, world.vhost, q.definition.epoch)
  await world.redis.del(`sluice:{slots}:queues:${name}`)
  await world.redis.srem('sluice:{slots}:all', name)
  await reclaimDeadSlots(world, running)
  assert.deepEqual(await bodies(q), [])
  await reclaimOrphans(world, running)
  assert.deepEqual(await bodies(q), ['1', '2', '3'])
})

test('what a living process holds stays with it', async (t) => {
  const world = await openWorld(t)
  const q = await world.declare('q')
  for (const body of ['1', '2', '3']) await publish(q, body)
  await q.store.take(1_000, 'never')
  await reclaimDeadSlots(world, running)
  await reclaimOrphans(world, running)
  assert.deepEqual(await bodies(q), [])
  assert.equal((await q.store.stats()).unacked, 3)
})

test('keys that no definition names are deleted, those of declared queues are not', async (t) => {
  const world = await openWorld(t)
  const q = await world.declare('q')
  await publish(q, 'x')
  const left = world.store.queue(world.vhost, 'left', 1, QUEUE_SETTINGS_DEFAULT)
  await left.create()
  await dropLeftovers(world, running)
  const names = []
  for await (const page of storedQueues(world.redis)) {
    names.push(...page.filter(({ vhost }) => vhost === world.vhost).map(({ name }) => name))
  }
  assert.deepEqual([...new Set(names)].sort(), ['amq.dead-letters', 'q'])
  assert.deepEqual(await bodies(q), ['x'])
})

test('a visit finishes a deletion that stopped after the keys', async (t) => {
  const world = await openWorld(t)
  const q = await world.declare('q')
  await q.store.drop({})
  const visit = visitor(world, new DeadLetters(world))
  assert.equal(await visit(q.store.base), undefined)
  assert.equal(world.topology.table.queue(world.vhost, 'q'), undefined)
})

test('a visit makes the keys of a queue that was declared and not created', async (t) => {
  const world = await openWorld(t)
  const q = await world.declare('q')
  await world.redis.del(`${q.store.base}meta`)
  const visit = visitor(world, new DeadLetters(world))
  await visit(q.store.base)
  assert.equal((await q.store.sweep()).kind, 'ok')
})

test('a visit releases, expires and moves, and says when to come again', async (t) => {
  const world = await openWorld(t)
  const dead = await world.declare('dead')
  const q = await world.declare('q', {
    'x-dead-letter-exchange': '',
    'x-dead-letter-routing-key': 'dead',
    'x-message-ttl': 1,
  })
  const visit = visitor(world, new DeadLetters(world))
  await publish(q, 'x')
  while ((await q.store.stats()).expired === 0) await q.store.sweep()
  assert.equal(await visit(q.store.base), undefined)
  assert.deepEqual(await bodies(dead), ['x'])
  const inMs = await visit(dead.store.base)
  assert.ok(inMs !== undefined && inMs > 50_000 && inMs <= 60_000, `the lease ends in ${inMs}`)
  assert.equal(await visit('sluice:{nothing/here}:'), undefined)
})

test('an unused queue is deleted at its expiry, not before', async (t) => {
  const world = await openWorld(t)
  const q = await world.declare('q', { 'x-expires': 60_000 })
  const visit = visitor(world, new DeadLetters(world))
  const inMs = await visit(q.store.base)
  assert.ok(inMs !== undefined && inMs > 50_000 && inMs <= 60_000)
  await world.redis.hset(`${q.store.base}meta`, 'used', Date.now() - 60_001)
  assert.equal(await visit(q.store.base), undefined)
  assert.equal(world.topology.table.queue(world.vhost, 'q'), undefined)
})
