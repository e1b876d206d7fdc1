/**
 * Waiting rooms: what they admit, in which order it leaves, and what the refused are told.
 *
 * Method: rooms of one or two processes on a queue in a real Redis; the queue is audited after.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { plainMessage } from '@sluice/testkit'
import type { Admitted } from './index.ts'
import { roomClient } from './room-client.ts'
import { bodies, lease, openTestQueue, type Process, pass } from './test-queue.ts'
import type { RoomOptions, WaitingRoom } from './waiting-room.ts'

const ROOM: RoomOptions = { waitingMax: 100, oldestMs: 0, fair: true, dedupWindowMs: 60_000 }

const room = ({ store, queue }: Process, options: Partial<RoomOptions> = {}) =>
  store.waitingRoom(queue, { ...ROOM, ...options })

interface Entering {
  readonly body: string
  readonly client?: string
  readonly weight?: number
  readonly dedupId?: string
}

/** All at once; what became of each. */
function enter(into: WaitingRoom, ...messages: readonly Entering[]): Promise<Admitted[]> {
  return Promise.all(
    messages.map(({ body, client = '', weight = 1, dedupId = '' }) => {
      const { promise, resolve } = Promise.withResolvers<Admitted>()
      const reply = { appended: (_: number, outcome: Admitted) => resolve(outcome) }
      into.publish(plainMessage({ body, dedupId }), roomClient(client, weight), reply, 0)
      return promise
    }),
  )
}

const many = (client: string, count: number, weight = 1): Entering[] =>
  Array.from({ length: count }, (_, index) => ({ body: `${client}${index}`, client, weight }))

const countOf = (outcomes: readonly Admitted[], wanted: Admitted) =>
  outcomes.filter((outcome) => outcome === wanted).length

async function takeAll({ queue }: Process, max = 1_000): Promise<string[]> {
  const leased = await lease(queue, max)
  await queue.settle(leased.map(({ token }) => ({ token, outcome: 'ack' })))
  return bodies(leased)
}

test('a room without a fair order admits up to its limit, first come, first served', async (t) => {
  const process = await openTestQueue(t)
  const plain = room(process, { waitingMax: 10, fair: false })
  const outcomes = await enter(plain, ...many('a', 12))
  assert.deepEqual(outcomes, [...Array(10).fill('stored'), 'full', 'full'])
  assert.equal((await takeAll(process)).join(' '), 'a0 a1 a2 a3 a4 a5 a6 a7 a8 a9')
  assert.deepEqual(await enter(plain, { body: 'later' }), ['stored'])
})

test('what is held by a consumer or waits for a retry still takes up room', async (t) => {
  const process = await openTestQueue(t)
  const small = room(process, { waitingMax: 2, fair: false })
  await enter(small, { body: 'one' }, { body: 'two' })
  const [one] = await lease(process.queue, 1)
  await lease(process.queue, 1)
  await process.queue.settle([{ token: one!.token, outcome: 'retry', delayMs: 60_000 }])
  assert.deepEqual(await enter(small, { body: 'three' }), ['full'])
})

test('rooms of two processes admit no more than one', async (t) => {
  const process = await openTestQueue(t)
  const other = await process.another()
  const answers = await Promise.all([
    enter(room(process, { waitingMax: 150 }), ...many('a', 100)),
    enter(room(other, { waitingMax: 150 }), ...many('b', 100)),
  ])
  const { ready } = await process.queue.stats()
  assert.ok(ready <= 150, `${ready}`)
  assert.equal(countOf(answers.flat(), 'stored'), ready)
})

test('one client never takes the whole room: there is some for one who comes new', async (t) => {
  const process = await openTestQueue(t)
  const fair = room(process)
  const noisy = await enter(fair, ...many('noisy', 120))
  assert.equal(countOf(noisy, 'stored'), 80, 'four fifths of it')
  assert.equal(countOf(noisy, 'crowded'), 40)
  assert.deepEqual(await enter(fair, { body: 'hello', client: 'quiet' }), ['stored'])
})

test('of a fair room the clients leave by turns, each in its own order', async (t) => {
  const process = await openTestQueue(t)
  const fair = room(process)
  await enter(fair, ...many('noisy', 50))
  await enter(fair, ...many('quiet', 3))
  const left = await takeAll(process)
  assert.equal(left.length, 53)
  assert.ok(left.indexOf('quiet2') <= 7, `${left}`)
  for (const client of ['noisy', 'quiet']) {
    const own = left.filter((body) => body.startsWith(client))
    assert.deepEqual(
      own,
      own.toSorted((a, b) => Number(a.slice(5)) - Number(b.slice(5))),
    )
  }
})

test('a client of weight three leaves three times as often', async (t) => {
  const process = await openTestQueue(t)
  const fair = room(process, { waitingMax: 1_000 })
  await enter(fair, ...many('heavy', 60, 3))
  await enter(fair, ...many('light', 60, 1))
  const first = await takeAll(process, 40)
  assert.equal(first.filter((body) => body.startsWith('heavy')).length, 30)
  await takeAll(process)
})

test('a turn is not saved up: who was away comes in at the current turn', async (t) => {
  const process = await openTestQueue(t)
  const fair = room(process)
  await enter(fair, ...many('a', 40))
  await takeAll(process, 30)
  await enter(fair, ...many('b', 10))
  const left = await takeAll(process)
  assert.ok(left.slice(0, 4).includes('a30') && left.slice(0, 4).includes('a31'), `${left}`)
  await enter(fair, ...many('c', 2))
  assert.equal(await process.store.redis.zcard(`${process.queue.base}tags`), 1)
  assert.deepEqual(await takeAll(process), ['c0', 'c1'])
})

test('what comes back goes first, in its old place', async (t) => {
  const process = await openTestQueue(t)
  const fair = room(process)
  await enter(fair, ...many('a', 4))
  const [first] = await lease(process.queue, 1)
  await process.queue.settle([{ token: first!.token, outcome: 'release' }])
  assert.deepEqual(await takeAll(process), ['a0', 'a1', 'a2', 'a3'])
})

test('an id is admitted once, also by another process and when the room is full', async (t) => {
  const process = await openTestQueue(t)
  const fair = room(process, { waitingMax: 1 })
  const known = { body: 'pay', client: 'a', dedupId: 'one' }
  assert.deepEqual(await enter(fair, known, known), ['stored', 'duplicate'])
  const elsewhere = room(await process.another(), { waitingMax: 1 })
  assert.deepEqual(await enter(elsewhere, known), ['duplicate'])
  assert.deepEqual(await enter(elsewhere, { ...known, dedupId: 'two' }), ['full'])
  await takeAll(process)
  assert.deepEqual(await enter(elsewhere, { ...known, dedupId: 'two' }), ['stored'])
})

test('nothing is admitted while the next one has waited too long', async (t) => {
  const process = await openTestQueue(t)
  for (const fair of [true, false]) {
    const strict = room(process, { oldestMs: 60, fair })
    assert.deepEqual(await enter(strict, { body: 'old' }, { body: 'young' }), ['stored', 'stored'])
    await pass(process.store, 80)
    assert.deepEqual(await enter(strict, { body: 'late' }), ['full'])
    await takeAll(process)
    assert.deepEqual(await enter(strict, { body: 'again' }), ['stored'])
    await takeAll(process)
  }
})

test('the refused hear how long half of the room takes, as it emptied of late', async (t) => {
  const process = await openTestQueue(t)
  const begun = performance.now()
  const full = room(process, { waitingMax: 100, fair: false })
  await enter(full, ...many('a', 100))
  assert.deepEqual(await enter(full, { body: 'x' }), ['full'])
  assert.equal(full.halfMs, -1, 'nothing is known yet')
  // 40 leave in what is a little more than a second.
  await takeAll(process, 40)
  await pass(process.store, 1_000)
  await enter(full, ...many('b', 40))
  await enter(full, { body: 'x' })
  // 100 wait, 40 leave a second, or the time it took: half of them takes 1.25 times that.
  const most = 1.25 * (performance.now() - begun) + 200
  assert.ok(full.halfMs > 1_100 && full.halfMs < most, `${full.halfMs} ms, at most ${most}`)
})

test('operators see who waits in the order in which they will leave', async (t) => {
  const process = await openTestQueue(t)
  const fair = room(process)
  await enter(fair, ...many('a', 5))
  await enter(fair, ...many('b', 5))
  const seen: string[] = []
  for (let cursor = '', more = true; more; more = cursor !== '') {
    const page = await process.queue.peek('ready', cursor, 3)
    seen.push(...bodies(page.messages))
    cursor = page.cursor
  }
  assert.deepEqual(seen, await takeAll(process))
  assert.equal(seen.length, 10)
})

test('a queue with an order of its own keeps it, and admits all the same', async (t) => {
  const process = await openTestQueue(t, { ordered: true })
  const outcomes = await enter(room(process, { waitingMax: 3 }), ...many('a', 3), ...many('b', 1))
  assert.deepEqual(outcomes, ['stored', 'stored', 'stored', 'full'])
  assert.deepEqual(await takeAll(process), ['a0', 'a1', 'a2'])
})
