/** return.lua, through leases and through what a slot holds. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { limits } from '@sluice/core'
import { failureOf, type HeldReturn, type QueueStore } from './index.ts'
import { bodies, drain, HOUR_MS, lease, openTestQueue, pass, publish } from './test-queue.ts'

const READY = { action: 'ready', delayMs: 0, failure: '-' } as const

/** Records of the one batch that a slot took, by index. */
async function takeBatch(queue: QueueStore) {
  const [batch] = (await queue.take(100, 'never')).batches
  const place = `0:${batch!.id}`
  const item = (ref: number, how: Partial<HeldReturn> = {}) => ({ place, ref, ...READY, ...how })
  return { batch: batch!, item }
}

test('a released message is ready at its old position, and has not failed', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b', 'c')
  const leased = await lease(queue, 2)
  const outcomes = await queue.settle(leased.map(({ token }) => ({ token, outcome: 'release' })))
  assert.deepEqual(outcomes, ['released', 'released'])
  const again = await lease(queue)
  assert.deepEqual(bodies(again), ['a', 'b', 'c'])
  assert.deepEqual([again[0]!.deliveryCount, again[0]!.failedCount], [2, 0])
})

test('a retried message waits, then comes at its old position, as failed', async (t) => {
  const { store, queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b')
  const [a] = await lease(queue, 1)
  const retry = { token: a!.token, outcome: 'retry', delayMs: 20, reason: 'busy' } as const
  assert.deepEqual(await queue.settle([retry, retry]), ['retried', 'stale'])
  const [b] = await lease(queue)
  await queue.settle([{ token: b!.token, outcome: 'release' }])
  assert.equal((await queue.stats()).delayed, 1)
  await pass(store, 20)
  const again = await lease(queue)
  assert.deepEqual(bodies(again), ['a', 'b'])
  assert.deepEqual([again[0]!.deliveryCount, again[0]!.failedCount], [2, 1])
})

test('a retry without a delay is ready at once', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a')
  const [a] = await lease(queue)
  const retry = { token: a!.token, outcome: 'retry', delayMs: 0 } as const
  assert.deepEqual(await queue.settle([retry]), ['retried'])
  assert.deepEqual(await drain(queue), ['a'])
})

test("without a delay of its own a retry waits for the queue's back-off", async (t) => {
  const retry = { baseMs: HOUR_MS, factor: 1, maxMs: HOUR_MS, jitter: 0 }
  const { store, queue } = await openTestQueue(t, { retry })
  await publish(queue, 'a')
  const [a] = await lease(queue)
  await queue.settle([{ token: a!.token, outcome: 'retry' }])
  const [waiting] = (await queue.peek('delayed', '', 1)).messages
  const waitMs = waiting!.atMs - (await store.nowMs())
  assert.ok(waitMs > HOUR_MS - 60_000 && waitMs <= HOUR_MS, `${waitMs}`)
})

test('failures past the limit make a dead letter, releases never do', async (t) => {
  const { queue } = await openTestQueue(t, { deliveryLimit: 1 })
  await publish(queue, 'a')
  const settleAs = async (outcome: 'release' | 'retry', reason?: string) => {
    const [message] = await lease(queue)
    const rest = outcome === 'retry' ? { delayMs: 0, reason } : {}
    return (await queue.settle([{ token: message!.token, outcome, ...rest }]))[0]
  }
  assert.equal(await settleAs('release'), 'released')
  assert.equal(await settleAs('retry', 'first'), 'retried')
  assert.equal(await settleAs('release'), 'released')
  assert.equal(await settleAs('retry', 'second'), 'dead-lettered')
  const [letter] = await queue.claimDead(1, HOUR_MS)
  const { reason, acquired, failed, failure, holder } = letter!
  assert.deepEqual([reason, acquired, failed], ['delivery_limit', 4, 2])
  assert.deepEqual([failure, holder], ['second', 'tester'])
})

test('a rejected message is dead with its reason, or dropped where nobody wants the dead', async (t) => {
  for (const deadLetters of ['exchange', 'queue', 'none'] as const) {
    const { queue } = await openTestQueue(t, { deadLetters })
    await publish(queue, 'a')
    const [a] = await lease(queue)
    const reject = { token: a!.token, outcome: 'dead-letter', reason: 'schläft\nnie' } as const
    assert.deepEqual(await queue.settle([reject]), ['dead-lettered'])
    const letters = await queue.claimDead(1, HOUR_MS)
    const found = letters.map(({ reason, failure }) => [reason, failure])
    assert.deepEqual(found, deadLetters === 'none' ? [] : [['rejected', 'schläft\nnie']])
    assert.equal((await queue.stats()).dropped, deadLetters === 'none' ? 1 : 0)
  }
})

test('a reason is kept to its first thousand bytes, and until there is a newer one', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a')
  for (const reason of ['x'.repeat(5_000), '']) {
    const [a] = await lease(queue)
    await queue.settle([{ token: a!.token, outcome: 'retry', delayMs: 0, reason }])
  }
  const [waiting] = (await queue.peek('ready', '', 1)).messages
  assert.equal(waiting!.failure, 'x'.repeat(limits.REASON_BYTES_MAX))
})

test('attempts stay with the message, newest first, in bounded number and bytes', async (t) => {
  const { queue } = await openTestQueue(t, { deliveryLimit: 100 })
  await publish(queue, 'a')
  const attempt = async (text: string, error: string) => {
    const { batches, messages } = await queue.take(1, 'never')
    const [{ id } = { id: '' }] = batches
    const place = id === '' ? '' : `0:${id}`
    const failure = failureOf('-', error, text)
    await queue.returnHeld([{ ...READY, place, ref: messages[0]?.ref ?? 0, failure }])
    return (await queue.peek('ready', '', 1)).messages[0]!
  }
  for (let n = 0; n < 25; n++) await attempt(`{"n":${n}}`, n === 3 ? 'late\x1e' : '')
  const kept = await attempt('{"n":25}', '')
  assert.equal(kept.failure, 'late ')
  const newest = Array.from({ length: 20 }, (_, n) => `{"n":${25 - n}}`)
  assert.deepEqual(kept.attempts, newest)
  const large = await attempt('x'.repeat(16_000), 'large')
  assert.deepEqual([large.attempts.length, large.failure, large.failed], [21 - 1, 'large', 0])
  assert.equal((await attempt('y'.repeat(20_000), '')).attempts.length, 1)
  assert.deepEqual((await attempt('z', '')).attempts, ['z'])

  const [leased] = await lease(queue)
  await queue.settle([{ token: leased!.token, outcome: 'dead-letter', reason: 'no' }])
  const [letter] = await queue.claimDead(1, HOUR_MS)
  assert.deepEqual([letter!.failure, letter!.attempts], ['no', ['z']])
})

test('an extended lease lapses later, one that is cut short sooner, under the same token', async (t) => {
  const { store, queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b')
  const [a, b] = await lease(queue, 2, 1)
  const outcomes = await queue.settle([
    { token: a!.token, outcome: 'extend', leaseMs: HOUR_MS },
    { token: b!.token, outcome: 'extend', leaseMs: 2 },
  ])
  assert.deepEqual(outcomes, ['extended', 'extended'])
  await pass(store, 2)
  const again = await lease(queue)
  assert.deepEqual(bodies(again), ['b'])
  const [late] = await queue.settle([{ token: b!.token, outcome: 'extend', leaseMs: HOUR_MS }])
  assert.equal(late, 'stale')
  assert.deepEqual(await queue.settle([{ token: a!.token, outcome: 'ack' }]), ['settled'])
})

test('records leave a batch one by one, each in its own way', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, ...'abcde')
  const { item } = await takeBatch(queue)
  const letters = await queue.returnHeld([
    item(3),
    item(0, { action: 'due', delayMs: HOUR_MS, failure: '+later' }),
    item(1, { action: 'dead', failure: '+no' }),
    item(3),
    item(5),
  ])
  assert.equal(letters, 'rdlxx')
  const { ready, delayed, dead, unacked } = await queue.stats()
  assert.deepEqual([ready, delayed, dead, unacked], [1, 1, 1, 2])
  const [back] = await lease(queue)
  assert.deepEqual([String(back!.record.body), back!.deliveryCount, back!.failedCount], ['d', 2, 0])
})

test('what no consumer saw comes back as it was before it was taken', async (t) => {
  const { queue } = await openTestQueue(t)
  const delivered = async () => {
    const { delivered, redelivered } = await queue.stats()
    return [delivered, redelivered]
  }
  await publish(queue, 'a', 'b')
  const { item } = await takeBatch(queue)
  const second = item(1, { action: 'unseen', delayMs: 2 })
  assert.equal(await queue.returnHeld([item(0, { failure: '+it broke' }), second]), 'rr')
  assert.deepEqual(await delivered(), [1, 0])
  const { messages, handed } = await queue.take(2, 'never')
  assert.deepEqual([handed, ...(await delivered())], [3, 2, 1])
  const unseen = (n: number) =>
    ({ place: '', ref: messages[n]!.ref, action: 'unseen', delayMs: n + 2, failure: '-' }) as const
  assert.equal(await queue.returnHeld([unseen(1), unseen(0)]), 'rr')
  assert.deepEqual(await delivered(), [1, 0])
  assert.deepEqual(
    (await lease(queue)).map(({ record, deliveryCount, failedCount, redelivered }) => [
      String(record.body),
      ...[deliveryCount, failedCount, redelivered],
    ]),
    [
      ['a', 2, 1, true],
      ['b', 1, 0, false],
    ],
  )
})

test('what no consumer saw says that it was delivered, when a later message has gone before it', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b')
  const [a] = (await queue.take(1, 'never')).messages
  const [b] = await lease(queue)
  const unseen = { ...READY, place: '', ref: a!.ref, action: 'unseen', delayMs: 1 } as const
  assert.equal(await queue.returnHeld([unseen]), 'r')
  assert.deepEqual(bodies([b!]), ['b'])
  const [again] = await lease(queue)
  assert.deepEqual([String(again!.record.body), again!.redelivered], ['a', true])
})

test('when its last record leaves, so does the batch', async (t) => {
  const { store, queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b')
  const { batch, item } = await takeBatch(queue)
  assert.equal(await queue.returnHeld([item(1)]), 'r')
  assert.equal(await store.redis.xlen(`${queue.base}log`), 1)
  assert.equal(await queue.returnHeld([item(0)]), 'r')
  assert.equal(await store.redis.xlen(`${queue.base}log`), 0)
  assert.equal(await queue.settleHeld(0, [{ id: batch.id, count: 2 }], []), 'x')
  assert.deepEqual(await drain(queue), ['a', 'b'])
})

test('a slot gives back only what it holds itself', async (t) => {
  const { queue, another } = await openTestQueue(t)
  const { queue: elsewhere } = await another()
  await publish(queue, 'a', 'b')
  const { item } = await takeBatch(queue)
  await publish(queue, 'c', 'd')
  const [single] = (await queue.take(1, 'never')).messages
  const [leased] = await lease(queue)
  const singles = [single!.ref, leased!.id].map((ref) => ({ place: '', ref, ...READY }))
  assert.equal(await elsewhere.returnHeld([item(0), ...singles]), 'xxx')
  assert.equal(await queue.returnHeld(singles), 'rx')
})

test('a slot that died gives nothing back', async (t) => {
  const { queue, another } = await openTestQueue(t)
  const { store, queue: elsewhere } = await another()
  await publish(queue, 'a', 'b')
  const { item } = await takeBatch(elsewhere)
  await queue.reclaim(store.slot.name, { dead: true })
  const dead = { action: 'dead', failure: '+too late' } as const
  assert.equal(await elsewhere.returnHeld([item(0, dead), item(1, dead)]), 'xx')
  assert.deepEqual(await drain(queue), ['a', 'b'])
})

test('a message given back is ready for a consumer that waits', async (t) => {
  const { queue, another } = await openTestQueue(t)
  const { queue: elsewhere } = await another()
  await publish(queue, 'a')
  const [a] = await lease(queue)
  const waiting = elsewhere.lease({ max: 1, leaseMs: HOUR_MS, waitMs: 30_000, consumer: 'c' })
  await queue.settle([{ token: a!.token, outcome: 'release' }])
  assert.deepEqual(bodies(await waiting), ['a'])
})

test('what was held of a deleted queue is stale', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b')
  const { item } = await takeBatch(queue)
  await queue.drop({})
  const single = { place: '', ref: '0'.repeat(24), ...READY }
  assert.equal(await queue.returnHeld([item(0), single]), 'xx')
})

test('where a message that comes back makes a queue too long, the oldest goes', async (t) => {
  const { queue, another } = await openTestQueue(t, { maxLength: 2, deadLetters: 'exchange' })
  await publish(queue, 'a', 'b')
  const [a, b] = await lease(queue)
  await publish(queue, 'c')
  assert.deepEqual(await queue.settle([{ token: b!.token, outcome: 'release' }]), ['released'])
  assert.deepEqual(bodies((await queue.peek('ready', '', 10)).messages), ['b', 'c'])
  assert.deepEqual(await queue.settle([{ token: a!.token, outcome: 'release' }]), ['released'])
  assert.deepEqual(bodies((await queue.peek('ready', '', 10)).messages), ['b', 'c'])
  const [letter] = await queue.claimDead(10, HOUR_MS)
  assert.deepEqual([letter!.record.body.toString(), letter!.reason], ['a', 'maxlen'])

  const { store, queue: dying } = await another()
  await dying.take(1, 'never')
  await publish(queue, 'd', 'e')
  await queue.reclaim(store.slot.name, { dead: true })
  assert.deepEqual(await drain(queue), ['d', 'e'])
})

test('a limit that refuses publishes refuses nothing that comes back', async (t) => {
  const { queue } = await openTestQueue(t, { maxLength: 1, overflow: 'reject-publish' })
  await publish(queue, 'a')
  const [a] = await lease(queue)
  await publish(queue, 'b')
  await queue.settle([{ token: a!.token, outcome: 'release' }])
  assert.deepEqual(await drain(queue), ['a', 'b'])
})
