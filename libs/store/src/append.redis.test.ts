/**
 * append.lua through QueueStore; where a call is sent twice, through the script's wrapper.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import { privateRedis, waitFor } from '@sluice/testkit'
import { Appender } from './appender.ts'
import type { QueueStore, Store } from './index.ts'
import { append } from './scripts.ts'
import {
  bodies,
  drain,
  HOUR_MS,
  lease,
  openTestQueue,
  pass,
  publish,
  recordOf,
} from './test-queue.ts'

const sized = (letter: string) => ({ body: letter.repeat(100) })
const RECORD_BYTES = recordOf(sized('a')).length - 4

test('messages are stored in the order they were published, batch after batch', async (t) => {
  const { queue } = await openTestQueue(t)
  assert.deepEqual(await publish(queue, 'a', 'b'), ['stored', 'stored'])
  await publish(queue, 'c')
  await publish(queue, 'd', 'e', 'f')

  const { ready, published, bytes } = await queue.stats()
  assert.deepEqual([ready, published], [6, 6])
  assert.equal(bytes, 6 * (recordOf({ body: 'a' }).length - 4))
  assert.deepEqual(await drain(queue), ['a', 'b', 'c', 'd', 'e', 'f'])
})

test('a call that is sent again answers what it answered, and stores nothing', async (t) => {
  const { store, queue } = await openTestQueue(t, { maxLength: 2, overflow: 'reject-publish' })
  const records = Buffer.concat(['a', 'b', 'c'].map((body) => recordOf({ body })))
  const send = (writer: string, sequence: number) =>
    append(store.redis, queue.base, [
      ...[queue.scriptOptions, 1, writer, sequence, 3, records],
      ...[-1, -1, queue.scriptLimits, HOUR_MS, '', ''],
    ])
  const first = await send('d1:0', 1)

  assert.ok(first.kind === 'stored' && first.letters?.toString() === 'ssf')
  assert.deepEqual(await send('d1:0', 1), first)
  assert.equal((await queue.stats()).ready, 2)
  await queue.purge()
  assert.deepEqual(await send('d1:0', 1), first)
  assert.equal((await queue.stats()).ready, 0)
  assert.deepEqual(await send('d1:0', 2), first, 'its next call is another')
  await queue.purge()
  assert.deepEqual(await send('d1:1', 2), first, 'and so is another lane')
  assert.equal((await queue.stats()).ready, 2)
})

test('a call that arrives after a later one of its writer stores nothing', async (t) => {
  const { store, queue } = await openTestQueue(t)
  const send = (sequence: number) =>
    append(store.redis, queue.base, [
      ...[queue.scriptOptions, 1, 'd1:0', sequence, 1, recordOf({ body: `${sequence}` })],
      ...[-1, -1, queue.scriptLimits, HOUR_MS, '', ''],
    ])
  await send(9)
  await send(10)
  assert.deepEqual(await send(9), { kind: 'late' })
  assert.deepEqual(await drain(queue), ['9', '10'])
})

/** An appender of the test's own, over the connection of the store's that it may use as well. */
const openAppender = (store: Store, queue: QueueStore, replicas: number) =>
  new Appender<QueueStore>({
    ...{ redis: store.redis, queue, replicas, replicaWaitMs: 1, timeoutMs: 5_000 },
    slot: () => store.slot.name,
    schedule: setImmediate,
    backlog: () => {},
    restore: () => queue.create(),
    report: (error) => assert.fail(String(error)),
  })

test('what waits behind a batch that Redis refuses does not overtake it', async (t) => {
  const { url } = await privateRedis(t, { aof: false })
  const { store, queue } = await openTestQueue(t, {}, url)
  const appender = openAppender(store, queue, 0)
  const { promise, resolve } = Promise.withResolvers<void>()
  const outcomes: string[] = []
  const appended = (_: number, outcome: string) => {
    // There is memory again before what waits could be sent.
    if (outcomes.push(outcome) === 1) store.redis.config('SET', 'maxmemory', 0).catch(assert.fail)
    else resolve()
  }
  await store.redis.config('SET', 'maxmemory', 1)
  appender.append(recordOf({ body: 'first' }), 0, -1, 0, '', { appended }, 0)
  await turn() // it is on its way
  appender.append(recordOf({ body: 'second' }), 0, -1, 0, '', { appended }, 0)
  await promise
  assert.deepEqual(outcomes, ['memory-high', 'memory-high'])
  assert.deepEqual(await drain(queue), [])
})

test('appends of different durability are different writers', async (t) => {
  const { store, queue } = await openTestQueue(t)
  const outcomes: string[] = []
  const { promise, resolve } = Promise.withResolvers<void>()
  const appended = (_: number, outcome: string) => {
    if (outcomes.push(outcome) === 2) resolve()
  }
  for (const replicas of [1, 2]) {
    const appender = openAppender(store, queue, replicas)
    appender.append(recordOf({ body: `${replicas}` }), 0, -1, 0, '', { appended }, 0)
  }
  await promise
  assert.deepEqual(outcomes, ['not-durable', 'not-durable'], 'there is no replica')
  assert.deepEqual((await drain(queue)).sort(), ['1', '2'])
})

test('a full queue refuses what does not fit, message by message', async (t) => {
  const { queue } = await openTestQueue(t, { maxLength: 3, overflow: 'reject-publish' })
  assert.deepEqual(await publish(queue, 'a', 'b'), ['stored', 'stored'])
  assert.deepEqual(await publish(queue, 'c', 'd', 'e'), ['stored', 'full', 'full'])
  assert.deepEqual(await drain(queue), ['a', 'b', 'c'])
  assert.deepEqual(await publish(queue, 'f'), ['stored'])
})

test('a limit in bytes refuses the message that would exceed it', async (t) => {
  const { queue } = await openTestQueue(t, {
    maxBytes: 2 * RECORD_BYTES,
    overflow: 'reject-publish',
  })
  const outcomes = await publish(queue, sized('a'), sized('b'), sized('c'))
  assert.deepEqual(outcomes, ['stored', 'stored', 'full'])
  assert.equal((await queue.stats()).bytes, 2 * RECORD_BYTES)
})

test('only ready messages count against the limits', async (t) => {
  const { queue } = await openTestQueue(t, { maxLength: 1, overflow: 'reject-publish' })
  await publish(queue, 'held')
  const [held] = await lease(queue)
  assert.deepEqual(await publish(queue, 'ready'), ['stored'])
  assert.deepEqual(await publish(queue, { body: 'later', delayMs: HOUR_MS }), ['stored'])
  assert.deepEqual(await publish(queue, 'too many'), ['full'])
  await queue.settle([{ token: held!.token, outcome: 'ack' }])
})

test('what a full queue refuses goes to its dead letter exchange, if asked and if it has one', async (t) => {
  const settings = { maxLength: 1, overflow: 'reject-publish-dlx' } as const
  const { queue } = await openTestQueue(t, { ...settings, deadLetters: 'exchange' })
  assert.deepEqual(await publish(queue, 'a', 'b', 'c'), ['stored', 'full', 'full'])
  const letters = await queue.claimDead(10, HOUR_MS)
  assert.deepEqual(bodies(letters), ['b', 'c'])
  assert.deepEqual(new Set(letters.map(({ reason }) => reason)), new Set(['maxlen']))

  const { queue: without } = await openTestQueue(t, { ...settings, deadLetters: 'queue' })
  assert.deepEqual(await publish(without, 'a', 'b'), ['stored', 'full'])
  const { dead, dropped, published } = await without.stats()
  assert.deepEqual([dead, dropped, published], [0, 0, 1])
})

test('a full queue drops its oldest messages, those just published included', async (t) => {
  const { queue } = await openTestQueue(t, { maxLength: 2 })
  await publish(queue, 'a')
  await publish(queue, 'b', 'c')
  assert.deepEqual(bodies((await queue.peek('ready', '', 10)).messages), ['b', 'c'])
  const outcomes = await publish(queue, 'd', 'e', 'f', 'g')
  assert.deepEqual(new Set(outcomes), new Set(['stored']))
  assert.equal((await queue.stats()).dropped, 5)
  assert.deepEqual(await drain(queue), ['f', 'g'])
})

test('a limit in bytes drops as many of the oldest as it takes', async (t) => {
  const { queue } = await openTestQueue(t, { maxBytes: 2 * RECORD_BYTES })
  await publish(queue, 'tiny', 'tiny', sized('a'))
  await publish(queue, sized('b'))
  assert.deepEqual(
    (await drain(queue)).map(([letter]) => letter),
    ['a', 'b'],
  )
})

test('what is dropped goes to the dead letter exchange where there is one', async (t) => {
  const { queue } = await openTestQueue(t, { maxLength: 1, deadLetters: 'exchange' })
  await publish(queue, 'a', 'b')
  await publish(queue, 'c')
  const letters = await queue.claimDead(10, HOUR_MS)
  assert.deepEqual(bodies(letters), ['a', 'b'])
  assert.deepEqual(letters[0]?.reason, 'maxlen')
})

test('a message that came back is dropped before those that were never out', async (t) => {
  const { queue } = await openTestQueue(t, { maxLength: 2 })
  await publish(queue, 'a', 'b')
  const [a, b] = await lease(queue)
  await publish(queue, 'c')
  await queue.settle([{ token: a!.token, outcome: 'release' }])
  await publish(queue, 'd')
  await queue.settle([{ token: b!.token, outcome: 'ack' }])
  assert.deepEqual(await drain(queue), ['c', 'd'])
})

test('the lowest priority is dropped first, whether it came back or not', async (t) => {
  const { queue } = await openTestQueue(t, { maxLength: 3, levels: 3 })
  await publish(queue, { body: 'high', priority: 2 }, { body: 'middle', priority: 1 }, 'low')
  const leased = await lease(queue)
  await queue.settle(leased.map(({ token }) => ({ token, outcome: 'release' })))
  await publish(queue, { body: 'higher', priority: 2 })
  await publish(queue, 'lower')
  assert.deepEqual(await drain(queue), ['high', 'higher', 'middle'])
})

test('an id is stored once within its window, also twice in one batch', async (t) => {
  const { queue, another } = await openTestQueue(t)
  const { queue: elsewhere } = await another()
  const once = { body: 'a', dedupId: 'x' }
  assert.deepEqual(await publish(queue, once, once, 'b'), ['stored', 'duplicate', 'stored'])
  assert.deepEqual(await publish(elsewhere, once), ['duplicate'])
  assert.deepEqual(await drain(queue), ['a', 'b'])
  assert.deepEqual(await publish(queue, once), ['duplicate'], 'also after it was consumed')
})

test('an id is known through its window, also where sets of ids meet', async (t) => {
  const { store, queue } = await openTestQueue(t)
  // Sets begin at multiples of the window: with this one the next set begins in 100 ms.
  queue.settings = { ...queue.settings, dedupWindowMs: (await store.nowMs()) + 100 }
  const once = { body: 'a', dedupId: 'x' }
  assert.deepEqual(await publish(queue, once), ['stored'])
  await pass(store, 100)
  assert.deepEqual(await publish(queue, once), ['duplicate'])
})

test('an id is free again when its window is over, and leaves nothing behind', async (t) => {
  const { store, queue } = await openTestQueue(t, { dedupWindowMs: 5 })
  const once = { body: 'a', dedupId: 'x' }
  await publish(queue, once)
  await pass(store, 10)
  assert.deepEqual(await publish(queue, once), ['stored'])
  await pass(store, 15)
  assert.deepEqual(await store.redis.keys(`${queue.base.replace(/[{}]/g, '?')}dedup:*`), [])
})

test('a refused message leaves no id behind', async (t) => {
  const { queue } = await openTestQueue(t, { maxLength: 1, overflow: 'reject-publish' })
  await publish(queue, 'a')
  assert.deepEqual(await publish(queue, { body: 'b', dedupId: 'x' }), ['full'])
  await drain(queue)
  assert.deepEqual(await publish(queue, { body: 'b', dedupId: 'x' }), ['stored'])
})

test('a delayed message waits until it is due', async (t) => {
  const { store, queue } = await openTestQueue(t)
  await publish(queue, { body: 'later', delayMs: HOUR_MS }, { body: 'soon', delayMs: 5 })
  await publish(queue, 'at once')
  assert.equal((await queue.stats()).delayed, 2)
  const { messages } = await queue.peek('delayed', '', 10)
  assert.deepEqual(bodies(messages), ['soon', 'later'])
  await pass(store, 5)
  assert.deepEqual(await drain(queue), ['soon', 'at once'])
  assert.equal((await queue.stats()).delayed, 1)
})

test('a message goes to the level of its priority, past the highest one to that', async (t) => {
  const { queue } = await openTestQueue(t, { levels: 3 })
  const priorities = [0, 1, 2, 3, 255, 1, 0]
  await publish(queue, ...priorities.map((priority) => ({ body: String(priority), priority })))
  assert.deepEqual(await drain(queue), ['2', '3', '255', '1', '1', '0', '0'])
})

test('the shorter of two times to live counts, from when the message was stored', async (t) => {
  const { queue } = await openTestQueue(t, { ttlMs: 60_000 })
  await publish(queue, 'a', { body: 'b', ttlMs: 1_000 }, { body: 'c', ttlMs: HOUR_MS })
  await publish(queue, { body: 'd', ttlMs: 1_000, delayMs: HOUR_MS })
  const leased = [...(await lease(queue)), ...(await queue.peek('delayed', '', 9)).messages]
  const lives = leased.map(({ record }) => record.expiresMs - record.timeMs)
  assert.deepEqual(lives, [60_000, 1_000, 60_000, 1_000])
})

test('a queue that has no keys yet gets them with its first message', async (t) => {
  const { store, vhost } = await openTestQueue(t)
  const { settings } = store.queue(vhost, 'orders', 1, (await openTestQueue(t)).queue.settings)
  const fresh = store.queue(vhost, 'fresh', 7, settings)
  assert.deepEqual(await publish(fresh, 'a'), ['stored'])
  assert.deepEqual(await drain(fresh), ['a'])
})

test('a deleted queue answers gone, to those that knew it and to later ones not', async (t) => {
  const { store, queue, vhost } = await openTestQueue(t)
  await publish(queue, 'a')
  await queue.drop({})
  assert.deepEqual(await publish(queue, 'b'), ['gone'])
  const next = store.queue(vhost, 'orders', 2, queue.settings)
  assert.deepEqual(await publish(next, 'c'), ['stored'])
  assert.deepEqual(await publish(queue, 'd'), ['gone'])
  assert.deepEqual(await drain(next), ['c'])
  await next.drop({})
})

test('a time to live of 0 where nobody waits is over at once, also for its de-duplication', async (t) => {
  const { queue } = await openTestQueue(t, { dedupWindowMs: HOUR_MS, deadLetters: 'exchange' })
  const outcomes = await publish(
    queue,
    { body: 'a', ttlMs: 0, dedupId: 'x' },
    { body: 'b', dedupId: 'x' },
    { body: 'c' },
    { body: 'd', ttlMs: 0 },
  )
  assert.deepEqual(outcomes, ['stored', 'duplicate', 'stored', 'stored'])
  const { published, ready, expired, dead } = await queue.stats()
  assert.deepEqual([published, ready, expired, dead], [3, 1, 2, 2])
  const letters = await queue.claimDead(10, HOUR_MS)
  assert.deepEqual(bodies(letters), ['a', 'd'])
  assert.deepEqual(
    letters.map(({ reason }) => reason),
    ['expired', 'expired'],
  )
  assert.deepEqual(await drain(queue), ['c'])
})

test('a time to live of 0 is for whoever waits', async (t) => {
  const { store, queue, another } = await openTestQueue(t, { ttlMs: 0 })
  const { queue: elsewhere } = await another()
  const waiting = queue.lease({ max: 1, leaseMs: HOUR_MS, waitMs: 30_000, consumer: 'c' })
  await waitFor(async () => (await store.redis.scard(`${queue.base}waiting`)) === 1)
  await publish(elsewhere, 'a')
  assert.deepEqual(bodies(await waiting), ['a'])
  await publish(elsewhere, 'b')
  assert.equal((await queue.stats()).ready, 0, 'nobody waits for it')

  await queue.attach('consumer', { priority: 0, exclusive: false, single: false })
  await publish(elsewhere, 'c', 'd')
  assert.deepEqual(bodies((await queue.take(1, 'empty')).messages), ['c'])
  await pass(store, 1_000)
  assert.deepEqual((await queue.take(1, 'empty')).messages, [], 'not for long')
  assert.equal((await queue.stats()).expired, 2)
})
