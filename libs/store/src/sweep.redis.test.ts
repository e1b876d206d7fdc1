/** sweep.lua: what time changes in a queue that nobody consumes. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import type { QueueSettings, QueueStore } from './index.ts'
import { bodies, drain, HOUR_MS, lease, openTestQueue, pass, publish } from './test-queue.ts'

/** A pass over a queue that is there. */
async function sweep(queue: QueueStore) {
  const swept = await queue.sweep()
  assert.ok(swept.kind === 'ok')
  return swept
}

const peeked = async (queue: QueueStore) => bodies((await queue.peek('ready', '', 100)).messages)

async function withExpired(t: TestContext, settings: Partial<QueueSettings>) {
  const test = await openTestQueue(t, settings)
  await publish(test.queue, { body: 'x', ttlMs: 1 }, 'a', { body: 'y', ttlMs: 1 }, 'b')
  await publish(test.queue, 'c', { body: 'z', ttlMs: 1 })
  await pass(test.store, 1)
  return test
}

test('due messages become ready at their old positions', async (t) => {
  const { store, queue } = await openTestQueue(t)
  await publish(queue, { body: 'a', delayMs: 1 })
  await publish(queue, { body: 'b', delayMs: HOUR_MS }, { body: 'c', delayMs: 1 })
  await pass(store, 1)
  const { nextMs } = await sweep(queue)
  assert.ok(nextMs > HOUR_MS - 60_000 && nextMs <= HOUR_MS, `${nextMs}`)
  assert.deepEqual(await peeked(queue), ['a', 'c'])
})

test('lapsed leases are taken back as failed, living ones stay', async (t) => {
  const { store, queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b')
  const [a, b] = await lease(queue)
  await queue.settle([{ token: a!.token, outcome: 'extend', leaseMs: 1 }])
  await pass(store, 1)
  const { nextMs } = await sweep(queue)
  assert.ok(nextMs > HOUR_MS - 60_000 && nextMs <= HOUR_MS, `${nextMs}`)
  const [message] = (await queue.peek('ready', '', 10)).messages
  assert.deepEqual([String(message!.record.body), message!.acquired, message!.failed], ['a', 1, 1])
  const settled = [a!, b!].map(({ token }) => ({ token, outcome: 'ack' }) as const)
  assert.deepEqual(await queue.settle(settled), ['stale', 'settled'])
})

test('a batch with expired messages loses them when it is at the head', async (t) => {
  const { queue } = await withExpired(t, {})
  await sweep(queue)
  assert.deepEqual(await peeked(queue), ['a', 'b', 'c'])
  const { expired, dropped } = await queue.stats()
  assert.deepEqual([expired, dropped], [3, 3])
})

test('with a dead letter exchange the expired are dead letters, and due at once', async (t) => {
  const { queue } = await withExpired(t, { deadLetters: 'exchange' })
  const swept = await sweep(queue)
  assert.deepEqual([swept.dead, swept.nextMs], [3, 0])
  const letters = await queue.claimDead(10, HOUR_MS)
  assert.deepEqual(bodies(letters), ['x', 'y', 'z'])
  assert.deepEqual(
    letters.map(({ reason }) => reason),
    ['expired', 'expired', 'expired'],
  )
})

test('an expired message behind a living one waits for its turn', async (t) => {
  const { store, queue } = await openTestQueue(t)
  await publish(queue, 'alive')
  await publish(queue, { body: 'x', ttlMs: 1 })
  await pass(store, 1)
  assert.equal((await sweep(queue)).nextMs, -1)
  assert.deepEqual(await peeked(queue), ['alive', 'x'])
  assert.deepEqual(await drain(queue), ['alive'])
  assert.equal((await queue.stats()).expired, 1)
})

test('the head of each level is looked at, also of what came back', async (t) => {
  const { store, queue } = await openTestQueue(t, { levels: 3 })
  const ttlMs = 50
  await publish(queue, { body: 'x', ttlMs }, { body: 'y', ttlMs, priority: 1 })
  await publish(queue, { body: 'a', priority: 2 })
  const leased = await lease(queue)
  await queue.settle(leased.map(({ token }) => ({ token, outcome: 'release' })))
  await publish(queue, { body: 'z', ttlMs, priority: 1 })
  const before = await sweep(queue)
  assert.ok(before.nextMs >= 0 && before.nextMs <= ttlMs, `${before.nextMs}`)
  await pass(store, ttlMs)
  while ((await sweep(queue)).nextMs >= 0);
  assert.deepEqual(await peeked(queue), ['a'])
})

test('more than one pass can take is taken in several', async (t) => {
  const { store, queue } = await openTestQueue(t)
  const many = Array.from({ length: 1_000 }, (_, n) => ({ body: String(n), delayMs: 1, ttlMs: 2 }))
  await publish(queue, ...many)
  await pass(store, 2)
  let passes = 1
  for (; (await sweep(queue)).nextMs >= 0; passes++) assert.ok(passes < 20)
  assert.ok(passes >= 4, `${passes} passes`)
  const { ready, delayed, expired } = await queue.stats()
  assert.deepEqual([ready, delayed, expired], [0, 0, 1_000])
})

test('nothing in sight, nothing changed: any number may sweep', async (t) => {
  const { queue, another } = await openTestQueue(t)
  const { queue: elsewhere } = await another()
  await publish(queue, 'a', 'b')
  const [one, two] = await Promise.all([sweep(queue), sweep(elsewhere)])
  assert.deepEqual([one.nextMs, one.dead, two.nextMs, two.dead], [-1, 0, -1, 0])
  assert.deepEqual(await drain(queue), ['a', 'b'])
})

test('a sweep tells for how long nobody consumed', async (t) => {
  const { store, queue } = await openTestQueue(t)
  await pass(store, 20)
  await sweep(queue)
  assert.ok((await sweep(queue)).unusedMs >= 20)
  await lease(queue)
  assert.ok((await sweep(queue)).unusedMs < 20_000)
})

test('a queue that is gone, or not there yet, says so', async (t) => {
  const { store, queue, vhost } = await openTestQueue(t)
  const later = store.queue(vhost, 'orders', 2, queue.settings)
  assert.deepEqual(await later.sweep(), { kind: 'missing' })
  await queue.drop({})
  assert.deepEqual(await queue.sweep(), { kind: 'gone' })
})
