/** take.lua: what a slot gets whole or one by one, what a lease gets, and in which order. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { TestMessage } from '@sluice/testkit'
import type { Hint, QueueStore, Taken } from './index.ts'
import { bodies, drain, HOUR_MS, lease, openTestQueue, pass, publish } from './test-queue.ts'

const batchesOf = ({ batches }: Taken) =>
  batches.map(({ records }) => records.map(({ body }) => `${body}`))
const keyed = (key: string, body: string): TestMessage => ({ body, orderingKey: key })
const ack = (queue: QueueStore, messages: readonly { token: string }[]) =>
  queue.settle(messages.map(({ token }) => ({ token, outcome: 'ack' })))

test('a slot gets whole batches while they fit its credit', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b')
  await publish(queue, 'c', 'd')
  await publish(queue, 'e')
  const taken = await queue.take(10, 'never')
  assert.deepEqual(batchesOf(taken), [['a', 'b'], ['c', 'd'], ['e']])
  assert.deepEqual(taken.messages, [])
  const { ready, unacked, bytes, delivered } = await queue.stats()
  assert.deepEqual([ready, unacked, bytes, delivered], [0, 5, 0, 5])
})

test('a batch that does not fit waits while there is something else, and is split when not', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b')
  await publish(queue, 'c', 'd')
  assert.deepEqual(batchesOf(await queue.take(3, 'never')), [['a', 'b']])
  const { batches, messages } = await queue.take(1, 'never')
  assert.deepEqual([batches, bodies(messages)], [[], ['c']])
  assert.deepEqual(bodies((await queue.take(1, 'never')).messages), ['d'])
})

test('a credit of one is exact, and what it leaves is for anyone', async (t) => {
  const { queue, another } = await openTestQueue(t)
  const { queue: elsewhere } = await another()
  await publish(queue, 'a', 'b', 'c', 'd')
  assert.deepEqual(bodies((await queue.take(1, 'never')).messages), ['a'])
  assert.deepEqual(bodies((await elsewhere.take(2, 'never')).messages), ['b', 'c'])
  assert.deepEqual(bodies(await lease(queue)), ['d'])
})

test('messages that came back are handed out first, at their old positions', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b', 'c')
  await publish(queue, 'd', 'e')
  const leased = await lease(queue, 3)
  const back = [leased[2]!, leased[0]!]
  await queue.settle(back.map(({ token }) => ({ token, outcome: 'release' })))
  const { messages, batches } = await queue.take(10, 'never')
  assert.deepEqual(bodies(messages), ['a', 'c'])
  assert.deepEqual(
    messages.map(({ acquired, failed }) => [acquired, failed]),
    [
      [2, 0],
      [2, 0],
    ],
  )
  assert.deepEqual(batches.length, 1)
  assert.equal((await queue.stats()).redelivered, 2)
})

test('leases and slots see the same messages, each once', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b', 'c')
  const [a] = await lease(queue, 1)
  const { messages } = await queue.take(10, 'never')
  assert.deepEqual(bodies(messages), ['b', 'c'])
  assert.deepEqual(await lease(queue), [])
  assert.deepEqual([a!.deliveryCount, a!.failedCount, a!.redelivered], [1, 0, false])
  assert.match(a!.token, /^[0-9a-f]{24}\.1\.0$/)
})

test('a lapsed lease is taken back by the next who asks, as a failed delivery', async (t) => {
  const { store, queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b')
  const [first] = await lease(queue, 1, 1)
  await pass(store, 1)
  const again = await lease(queue)
  assert.deepEqual(bodies(again), ['a', 'b'])
  assert.deepEqual(
    again.map(({ deliveryCount, failedCount, redelivered }) => [
      deliveryCount,
      failedCount,
      redelivered,
    ]),
    [
      [2, 1, true],
      [1, 0, false],
    ],
  )
  assert.deepEqual(await ack(queue, [first!]), ['stale'])
})

test('a lease that lapsed too often is dead, not handed out', async (t) => {
  const { store, queue } = await openTestQueue(t, { deliveryLimit: 1 })
  await publish(queue, 'a')
  for (const expected of [['a'], ['a'], []]) {
    assert.deepEqual(bodies(await lease(queue, 1, 1)), expected)
    await pass(store, 1)
  }
  const [letter] = await queue.claimDead(1, HOUR_MS)
  assert.deepEqual(
    [letter!.reason, letter!.failed, letter!.holder],
    ['delivery_limit', 2, 'tester'],
  )
})

for (const [deadLetters, dead, dropped] of [
  ['exchange', 2, 0],
  ['queue', 0, 2],
  ['none', 0, 2],
] as const) {
  test(`expired messages are not handed out (dead letters: ${deadLetters})`, async (t) => {
    const { store, queue } = await openTestQueue(t, { deadLetters })
    await publish(queue, { body: 'x', ttlMs: 1 }, 'a', { body: 'y', ttlMs: 1 }, 'b')
    await pass(store, 1)
    const { batches, messages } = await queue.take(10, 'never')
    assert.deepEqual([batches, bodies(messages)], [[], ['a', 'b']])
    const stats = await queue.stats()
    assert.deepEqual([stats.expired, stats.dead, stats.dropped], [2, dead, dropped])
    for (const { reason } of await queue.claimDead(9, 1)) assert.equal(reason, 'expired')
  })
}

test('a message that expired while it was out is not handed out again', async (t) => {
  const { store, queue } = await openTestQueue(t)
  await publish(queue, { body: 'a', ttlMs: 50 }, 'b')
  const [a] = await lease(queue, 1)
  await pass(store, 50)
  assert.deepEqual(await queue.settle([{ token: a!.token, outcome: 'release' }]), ['released'])
  assert.deepEqual(await drain(queue), ['b'])
})

test('higher levels go first, whether they came back or were never out', async (t) => {
  const { queue } = await openTestQueue(t, { levels: 3 })
  await publish(queue, 'a', { body: 'b', priority: 2 }, { body: 'c', priority: 1 }, 'd')
  const [b, c] = await lease(queue, 2)
  assert.deepEqual(bodies([b!, c!]), ['b', 'c'])
  await publish(queue, { body: 'e', priority: 1 })
  await queue.settle([{ token: c!.token, outcome: 'release' }])
  assert.deepEqual(await drain(queue), ['c', 'e', 'a', 'd'])
})

test('a batch that waits for more credit is not overtaken by lower levels', async (t) => {
  const { queue } = await openTestQueue(t, { levels: 2 })
  await publish(queue, { body: 'a', priority: 1 }, { body: 'b', priority: 1 })
  await publish(queue, { body: 'c', priority: 1 }, { body: 'd', priority: 1 })
  await publish(queue, 'low')
  const first = await queue.take(3, 'never')
  assert.deepEqual([batchesOf(first), first.messages], [[['a', 'b']], []])
  const second = await queue.take(3, 'never')
  assert.deepEqual(batchesOf(second), [['c', 'd'], ['low']])
})

test('of an ordering key one message is out at a time, in order, while others flow', async (t) => {
  const { queue } = await openTestQueue(t, { ordered: true })
  await publish(queue, keyed('k', '1'), keyed('k', '2'), keyed('l', '3'), '4')
  await publish(queue, '5', keyed('k', '6'))
  const first = await lease(queue)
  assert.deepEqual(bodies(first), ['1', '3', '4', '5'])
  assert.deepEqual(await lease(queue), [])
  await ack(queue, first.slice(1))
  assert.deepEqual(await lease(queue), [], 'settling other keys opens nothing')
  await ack(queue, first.slice(0, 1))
  const [second] = await lease(queue)
  assert.deepEqual(bodies([second!]), ['2'])
  await ack(queue, [second!])
  assert.deepEqual(await drain(queue), ['6'])
})

test('a slot gets no whole batch where there are ordering keys', async (t) => {
  const { queue } = await openTestQueue(t, { ordered: true })
  await publish(queue, keyed('k', '1'), keyed('k', '2'))
  const taken = await queue.take(10, 'never')
  assert.deepEqual([taken.batches, bodies(taken.messages)], [[], ['1']])
  await queue.settleHeld(0, [], [taken.messages[0]!.ref])
  assert.deepEqual(bodies((await queue.take(10, 'never')).messages), ['2'])
})

test('a failing message keeps its key closed until it is due again', async (t) => {
  const { store, queue } = await openTestQueue(t, { ordered: true })
  await publish(queue, keyed('k', '1'), keyed('k', '2'), keyed('l', '3'))
  const [one] = await lease(queue, 1)
  await queue.settle([{ token: one!.token, outcome: 'retry', delayMs: 20 }])
  assert.deepEqual(bodies(await lease(queue)), ['3'])
  await pass(store, 20)
  assert.deepEqual(await drain(queue), ['1', '2'])
})

test('an expired or dead message opens its key', async (t) => {
  const { store, queue } = await openTestQueue(t, { ordered: true })
  await publish(queue, { ...keyed('k', 'x'), ttlMs: 1 }, keyed('k', '1'), keyed('k', '2'))
  await pass(store, 1)
  const [one] = await lease(queue)
  assert.deepEqual(bodies([one!]), ['1'])
  await queue.settle([{ token: one!.token, outcome: 'dead-letter', reason: 'no' }])
  assert.deepEqual(await drain(queue), ['2'])
})

test('a key opens to a higher level in the same take', async (t) => {
  const { store, queue } = await openTestQueue(t, { ordered: true, levels: 2 })
  await publish(queue, { ...keyed('k', 'low'), ttlMs: 2, delayMs: 1 })
  await publish(queue, { ...keyed('k', 'high'), priority: 1 })
  await pass(store, 2)
  assert.deepEqual(bodies(await lease(queue)), ['high'])
})

test('a key that opens to a higher level in a take goes before what is left of the lower', async (t) => {
  const { store, queue } = await openTestQueue(t, { ordered: true, levels: 2 })
  const expiring = { ...keyed('k', 'low'), ttlMs: 2, delayMs: 1 }
  await publish(queue, { ...keyed('k', 'high'), priority: 1 }, expiring)
  await publish(queue, 'next', 'last')
  await pass(store, 3)
  assert.deepEqual(bodies(await lease(queue, 1)), ['high'])
  assert.deepEqual(await drain(queue), ['next', 'last'])
})

test('keys that start alike, or hold a NUL, are different keys', async (t) => {
  const { queue } = await openTestQueue(t, { ordered: true })
  const keys = ['a', 'a\0', 'a\0b', 'ab', '\0']
  await publish(queue, ...keys.flatMap((key, n) => [keyed(key, `${n}.1`), keyed(key, `${n}.2`)]))
  for (const turn of ['1', '2']) {
    const leased = await lease(queue)
    assert.deepEqual(
      bodies(leased),
      keys.map((_, n) => `${n}.${turn}`),
    )
    await ack(queue, leased)
  }
})

test('a deliverable message is found however much waits behind a busy key before it', async (t) => {
  const { queue } = await openTestQueue(t, { ordered: true })
  await publish(queue, keyed('busy', 'first'))
  await lease(queue)
  for (let n = 0; n < 40; n++) await publish(queue, keyed('busy', String(n)))
  await publish(queue, 'free')
  assert.deepEqual(bodies(await lease(queue)), ['free'])
})

test('a take says when the next delayed message is due', async (t) => {
  const { queue } = await openTestQueue(t)
  assert.equal((await queue.take(1, 'never')).wakeMs, -1)
  await publish(queue, { body: 'later', delayMs: HOUR_MS })
  const { wakeMs } = await queue.take(1, 'never')
  assert.ok(wakeMs > HOUR_MS - 60_000 && wakeMs <= HOUR_MS, `${wakeMs}`)
})

test('a slot waits for more when nothing was there, or whenever it had credit to spare', async (t) => {
  const { queue } = await openTestQueue(t)
  const joins = async (credit: number, hint: Hint) => (await queue.take(credit, hint)).joined
  await publish(queue, 'a', 'b')
  assert.equal(await joins(2, 'drained'), false, 'who knows whether there is more')
  assert.equal(await joins(2, 'drained'), true)
  await publish(queue, 'c')
  assert.equal(await joins(2, 'empty'), false)
  await publish(queue, 'd')
  assert.equal(await joins(2, 'drained'), true, 'that was all')
  await publish(queue, 'e', 'f', 'g')
  await publish(queue, 'h', 'i', 'j')
  assert.equal(await joins(4, 'drained'), false, 'the next batch is left for a greater credit')
  assert.equal(await joins(4, 'never'), false)
  assert.equal(await joins(4, 'never'), false)
})

test('a deleted queue has nothing to take, and says so', async (t) => {
  const { queue } = await openTestQueue(t)
  await queue.drop({})
  await assert.rejects(queue.take(1, 'never'), { code: 'queue_not_found' })
  await assert.rejects(lease(queue), { code: 'queue_not_found' })
})

test('a queue without keys is made by the first who asks', async (t) => {
  const { store, queue, vhost } = await openTestQueue(t)
  const fresh = store.queue(vhost, 'fresh', 3, queue.settings)
  assert.deepEqual((await fresh.take(1, 'never')).messages, [])
  assert.deepEqual(await publish(fresh, 'a'), ['stored'])
})
