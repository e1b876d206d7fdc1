/**
 * What one script call may do at most: bytes in a reply, messages in a pass; and what the slow
 * sweeps find.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type TestMessage, waitFor } from '@sluice/testkit'
import { type QueueStore, queueHolders, storedQueues } from './index.ts'
import { lease, openTestQueue, publish } from './test-queue.ts'

const MB = 1024 * 1024

const many = (queue: QueueStore, count: number, more: TestMessage = {}) =>
  publish(queue, ...Array.from({ length: count }, (_, i) => ({ ...more, body: String(i) })))

const leaseAll = (queue: QueueStore, max = 1_000) => lease(queue, max)

test('a lease of large messages ends at the byte limit, and the next one goes on', async (t) => {
  const { queue } = await openTestQueue(t)
  for (let i = 0; i < 12; i++) await publish(queue, { body: Buffer.alloc(MB, i) })
  const first = await leaseAll(queue)
  assert.equal(first.length, 8)
  const returned = first.map(({ token }) => ({ token, outcome: 'release' }) as const)
  await queue.settle(returned)
  const again = await leaseAll(queue)
  assert.ok(again.length >= 7 && again.length <= 8, `${again.length}`)
  const rest = await leaseAll(queue)
  assert.equal(again.length + rest.length, 12)
  assert.deepEqual(
    [...again, ...rest].map(({ record }) => record.body[0]),
    Array.from({ length: 12 }, (_, i) => i),
  )
})

test('a message larger than the byte limit is leased, on its own', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, { body: Buffer.alloc(9 * MB) })
  await publish(queue, 'small')
  assert.equal((await leaseAll(queue)).length, 1)
  assert.equal((await leaseAll(queue)).length, 1)
})

test('a peek ends at the byte limit, and its cursor goes on', async (t) => {
  const { queue } = await openTestQueue(t)
  for (let i = 0; i < 10; i++) await publish(queue, { body: Buffer.alloc(MB, i) })
  const first = await queue.peek('ready', '', 100)
  const second = await queue.peek('ready', first.cursor, 100)
  assert.equal(first.messages.length, 8)
  assert.equal(second.messages.length, 2)
  assert.equal(second.cursor, '')
})

test('a peek shows messages behind another of their ordering key last, page by page', async (t) => {
  const { queue } = await openTestQueue(t, { ordered: true })
  const bodiesIn = ['a1', 'a2', 'a3', 'b1', 'b2'] // one batch, which the lease unpacks
  await publish(queue, ...bodiesIn.map((body) => ({ body, orderingKey: body[0]! })))
  const [first] = await leaseAll(queue, 1)
  assert.equal(String(first?.record.body), 'a1')
  const bodies: string[] = []
  let cursor = ''
  do {
    const page = await queue.peek('ready', cursor, 1)
    bodies.push(...page.messages.map(({ record }) => String(record.body)))
    cursor = page.cursor
  } while (cursor !== '')
  assert.deepEqual(bodies.slice(0, 1), ['b1'])
  assert.deepEqual(bodies.sort(), ['a2', 'a3', 'b1', 'b2'])
})

test('a thousand expired messages at the head hold up no consumer', async (t) => {
  const { queue } = await openTestQueue(t)
  await many(queue, 3_000, { ttlMs: 1 })
  await publish(queue, 'alive')
  const [message] = await queue.lease({ max: 1, leaseMs: 1_000, waitMs: 10_000, consumer: 'c' })
  assert.equal(String(message?.record.body), 'alive')
  assert.equal((await queue.stats()).expired, 3_000)
})

test('a sweep trims a queue whose limit was lowered, some at a time, oldest first', async (t) => {
  const { queue } = await openTestQueue(t)
  await many(queue, 1_000)
  queue.settings = { ...queue.settings, maxLength: 10 }
  const swept = await queue.sweep()
  assert.ok(swept.kind === 'ok' && swept.nextMs === 0)
  assert.ok((await queue.stats()).ready > 10)
  await waitFor(async () => {
    const { kind, ...rest } = await queue.sweep()
    return kind === 'ok' && 'nextMs' in rest && rest.nextMs === -1
  })
  assert.deepEqual(
    (await leaseAll(queue)).map(({ record }) => String(record.body)),
    Array.from({ length: 10 }, (_, i) => String(990 + i)),
  )
})

test('dead letters that nobody claimed are due at once, claimed ones when the claim lapses', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'x')
  const [message] = await leaseAll(queue)
  await queue.settle([{ token: message!.token, outcome: 'dead-letter', reason: 'no' }])
  const before = await queue.sweep()
  assert.ok(before.kind === 'ok' && before.dead === 1 && before.nextMs === 0)
  const [letter] = await queue.claimDead(10, 60_000)
  const after = await queue.sweep()
  assert.ok(after.kind === 'ok' && after.nextMs > 50_000, JSON.stringify(after))
  assert.deepEqual(await queue.claimDead(10, 60_000), [])
  assert.equal(await queue.bury([letter!.ref], 'deadLettered'), 1)
})

test('a purge removes everything that is ready, in passes', async (t) => {
  const { queue } = await openTestQueue(t)
  await many(queue, 2_000)
  const [held] = await leaseAll(queue, 1)
  assert.equal(await queue.purge(), 1_999)
  assert.deepEqual(await leaseAll(queue), [])
  assert.deepEqual(await queue.settle([{ token: held!.token, outcome: 'ack' }]), ['settled'])
  const { ready, bytes, unacked } = await queue.stats()
  assert.deepEqual({ ready, bytes, unacked }, { ready: 0, bytes: 0, unacked: 0 })
})

test('what a dead slot holds is reclaimed in passes', async (t) => {
  const { queue, another } = await openTestQueue(t)
  await many(queue, 2_000)
  const other = await another()
  await other.queue.take(2_000, 'never')
  const { name } = other.store.slot
  await other.store.close()
  const { unacked } = await queue.stats()
  let passes = 0
  for (let more = true; more; passes++) ({ more } = await queue.reclaim(name, { dead: true }))
  assert.ok(passes >= unacked / 512, `${passes} passes for ${unacked}`)
  const back = []
  for (let some = await leaseAll(queue); some.length > 0; some = await leaseAll(queue)) {
    back.push(...some)
  }
  assert.equal(back.length, 2_000)
  assert.ok(back.every(({ redelivered }, index) => redelivered === index < unacked))
  assert.deepEqual(
    back.map(({ record }) => Number(record.body)),
    Array.from({ length: 2_000 }, (_, i) => i),
  )
})

test('one message is found wherever it is', async (t) => {
  const { queue } = await openTestQueue(t)
  await many(queue, 3)
  const { messages } = await queue.peek('ready', '', 10)
  const [, second, third] = messages
  assert.equal((await queue.find(third!.ref))?.state, 'ready')
  await queue.pick(second!.ref, 60_000, 'c')
  assert.equal((await queue.find(second!.ref))?.state, 'held')
  await publish(queue, { body: 'later', delayMs: 60_000 })
  const [delayed] = (await queue.peek('delayed', '', 10)).messages
  const found = await queue.find(delayed!.ref)
  assert.equal(found?.state, 'delayed')
  assert.equal(String(found.message.record.body), 'later')
  await leaseAll(queue, 1)
  assert.equal((await queue.find(third!.ref))?.state, 'ready')
  assert.equal(await queue.find('f'.repeat(24)), undefined)
  assert.equal(await queue.find('nonsense'), undefined)
})

test('the slots that a queue knows of are those that took, wait or wrote', async (t) => {
  const { store, queue, another } = await openTestQueue(t)
  await many(queue, 10)
  const other = await another()
  await other.queue.take(3, 'never')
  const holders = await queueHolders(store.redis, queue)
  assert.deepEqual(holders.sort(), [store.slot.name, other.store.slot.name].sort())
})

test('queues with keys are listed until they are deleted', async (t) => {
  const { store, vhost, queue } = await openTestQueue(t)
  const mine = async () => {
    const all = []
    for await (const page of storedQueues(store.redis)) all.push(...page)
    return all.filter((stored) => stored.vhost === vhost)
  }
  assert.deepEqual(await mine(), [{ vhost, name: 'orders', epoch: 1 }])
  await queue.drop({})
  assert.deepEqual(await mine(), [])
})
