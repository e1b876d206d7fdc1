/** Moving dead letters when reapers die, work side by side, or are not let in. */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { type TestContext, test } from 'node:test'
import { messageIdentity } from '@sluice/store'
import { waitFor } from '@sluice/testkit'
import { deadLetter, requestTable } from '@sluice/topology'
import { DeadLetters } from './dead-letter.ts'
import { bodies, kill, lease, openWorld, publish } from './testing.ts'

async function setup(t: TestContext, args: Record<string, unknown> = {}) {
  const world = await openWorld(t)
  const dead = await world.declare('dead', args)
  const q = await world.declare('q', {
    'x-dead-letter-exchange': '',
    'x-dead-letter-routing-key': 'dead',
  })
  return { ...world, dead, q, deadLetters: new DeadLetters(world) }
}

test('letters arrive in the order in which they died, and are gone from where they died', async (t) => {
  const { q, dead, deadLetters } = await setup(t)
  await kill(q, 100)
  while ((await deadLetters.move(q)) > 0);
  assert.deepEqual(
    await bodies(dead),
    Array.from({ length: 100 }, (_, i) => `${i}`),
  )
  const stats = await q.store.stats()
  assert.deepEqual([stats.dead, stats.deadLettered], [0, 100])
})

test('a letter whose reaper died after storing it arrives once', async (t) => {
  const { q, dead, deadLetters, publisher, vhost } = await setup(t)
  await kill(q, 1)
  const [letter] = await q.store.claimDead(1, 1) // a claim that lapses at once
  const death = {
    queue: 'q',
    reason: 'rejected',
    timeMs: Date.now(),
    deliveryCount: 1,
    error: '',
    holder: '',
    attempts: [],
  } as const
  const { message } = deadLetter(
    letter!.record,
    death,
    { exchange: '', routingKey: 'dead' },
    messageIdentity(q.store, letter!.ref),
  )
  assert.equal((await publisher.publishOne(vhost, message)).outcome, 'stored')

  await waitFor(() => deadLetters.move(q).then((moved) => moved === 1))
  assert.equal((await lease(dead)).length, 1)
  assert.equal((await q.store.stats()).dead, 0)
})

test('reapers side by side move each letter once', async (t) => {
  const { q, dead, ...world } = await setup(t)
  await kill(q, 500)
  // Short claims: a letter that could not be stored for the moment is tried again soon.
  const reapers = Array.from({ length: 3 }, () => new DeadLetters(world, 1_000))
  const moved = async () => {
    await Promise.all(reapers.map((each) => each.move(q)))
    return (await q.store.stats()).dead === 0
  }
  await waitFor(moved, { what: 'all letters to be moved', timeoutMs: 20_000 })
  assert.equal((await q.store.stats()).deadLettered, 500)
  assert.equal(new Set(await bodies(dead)).size, 500)
  assert.deepEqual(await lease(dead), [])
})

test('letters wait while their queue is full, and go when it has room', async (t) => {
  const { q, dead, ...world } = await setup(t, {
    'x-max-length': 2,
    'x-overflow': 'reject-publish',
  })
  const deadLetters = new DeadLetters(world, 1)
  await kill(q, 3)
  assert.equal(await deadLetters.move(q), 2)
  assert.equal((await q.store.stats()).dead, 1)
  assert.equal((await lease(dead)).length, 2)
  await waitFor(() => deadLetters.move(q).then((moved) => moved === 1))
  assert.equal((await lease(dead)).length, 1)
})

test('of a fanout in which one queue would close a circle the others get the letter', async (t) => {
  const { topology, vhost, declare, ...world } = await openWorld(t)
  const exchange = { name: 'dlx', type: 'fanout', durable: true } as const
  await topology.declareExchange(vhost, {
    ...exchange,
    autoDelete: false,
    internal: false,
    arguments: {},
  })
  const other = await declare('other')
  const q = await declare('q', { 'x-dead-letter-exchange': 'dlx', 'x-message-ttl': 1 })
  for (const destination of ['q', 'other']) {
    const binding = { source: 'dlx', destination, destinationType: 'queue' } as const
    await topology.bind(vhost, { ...binding, routingKey: '', arguments: {} })
  }
  const deadLetters = new DeadLetters({ topology, ...world })
  await publish(q, 'x')
  await waitFor(async () => {
    await q.store.sweep()
    return (await deadLetters.move(q)) === 1
  })
  assert.deepEqual(await bodies(other), ['x'])
  const { ready, dead } = await q.store.stats()
  assert.deepEqual([ready, dead], [0, 0])
})

test('whoever sent a letter as a request through an ingest finds out that it is dead', async (t) => {
  const { q, deadLetters, store } = await setup(t)
  const headers = requestTable({
    ingest: 'shop',
    id: randomUUID(),
    method: 'POST',
    path: '',
    query: undefined,
    headers: {},
    keepMs: 60_000,
    keepBytes: 0,
  })
  await publish(q, 'order', headers)
  const [leased] = await lease(q)
  await q.store.settle([{ token: leased!.token, outcome: 'dead-letter', reason: 'no' }])
  assert.equal(await deadLetters.move(q), 1)
  assert.equal((await store.requests.find(String(headers['x-request-id'])))?.state, 'dead')
})
