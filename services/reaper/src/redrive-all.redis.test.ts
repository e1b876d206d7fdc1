/** The redrive of all letters, interrupted in every way that a job can be. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import {
  encodeRecord,
  messageIdentity,
  REDRIVE_START,
  type RedriveData,
  type RedriveProgress,
} from '@sluice/store'
import { waitFor } from '@sluice/testkit'
import { DeadLetters } from './dead-letter.ts'
import { maintenance } from './maintenance.ts'
import { redriveAll } from './redrive-all.ts'
import { bodies, kill, lease, openWorld } from './testing.ts'

const FOREVER = Number.MAX_SAFE_INTEGER

/** Runs a job until its signal, and answers what it told last. */
async function runJob(
  world: Parameters<typeof redriveAll>[0],
  data: RedriveData,
  from = REDRIVE_START,
  heard: (progress: RedriveProgress) => void = () => {},
  signal = new AbortController().signal,
  holder = 'job',
) {
  let last = from
  const end = await redriveAll(world, data, {
    holder,
    signal,
    from,
    progress: async (progress) => {
      last = structuredClone(progress)
      heard(last)
    },
    asked: async () => data,
  })
  return { ...last, ended: end === 'ended', last }
}

/** Runs a job that is stopped once it moved that many. */
function runPart(world: Parameters<typeof redriveAll>[0], data: RedriveData, count: number) {
  const stop = new AbortController()
  const heard = ({ redriven }: RedriveProgress) => redriven >= count && stop.abort()
  const paced = { ...data, perSecond: 1_000 }
  return runJob(world, paced, REDRIVE_START, heard, stop.signal)
}

/** A queue whose messages all died and lie in `amq.dead-letters`. */
async function setup(t: TestContext, count: number) {
  const world = await openWorld(t)
  const q = await world.declare('q')
  await kill(q, count)
  const deadLetters = new DeadLetters(world)
  while ((await deadLetters.move(q)) > 0);
  const parked = world.queue('amq.dead-letters')
  const data: RedriveData = {
    vhost: world.vhost,
    queue: 'amq.dead-letters',
    epoch: parked.definition.epoch,
    untilMs: FOREVER,
    filter: {},
    to: 'queue',
    perSecond: 0,
    limit: 0,
    dryRun: false,
    by: 'test',
  }
  return { ...world, q, parked, data }
}

test('a run that is stopped leaves the rest to the next, and each letter arrives once', async (t) => {
  const { q, data, ...world } = await setup(t, 300)
  const first = await runPart(world, data, 100)
  assert.ok(!first.ended)
  assert.ok(first.redriven >= 100 && first.redriven < 300, `${first.redriven}`)
  const second = await runJob(world, data, first.last)
  assert.deepEqual([second.end, second.redriven, second.skipped], ['done', 300, {}])
  const all = await bodies(q)
  assert.equal(all.length, 300)
  assert.equal(new Set(all).size, 300)
})

test('a rate is kept to a few per cent, whatever its parts are beside the pages', async (t) => {
  const { data, ...world } = await setup(t, 1_000)
  // Parts of 55: pages of 128 are no multiple of them.
  const perSecond = 550
  const counts: number[] = []
  const began = performance.now()
  const done = await runJob(world, { ...data, perSecond }, REDRIVE_START, ({ redriven }) => {
    counts.push(redriven - (perSecond * (performance.now() - began)) / 1_000)
  })
  const rate = (done.redriven * 1_000) / (performance.now() - began)
  assert.equal(done.redriven, 1_000)
  assert.ok(Math.abs(rate / perSecond - 1) < 0.1, `${rate} a second instead of ${perSecond}`)
  // Never more than a part ahead, at the beginning least of all.
  assert.ok(Math.max(...counts) <= 2 * 55, `${Math.max(...counts)} letters too early`)
})

test('another rate, and a pause, begin a new reckoning', async (t) => {
  const { data, ...world } = await setup(t, 300)
  const began = await world.store.nowMs()
  // The next letter would go in a minute, at the rate of before.
  const slow = { ...REDRIVE_START, nextMs: began + 60_000 }
  const faster = await runJob(world, { ...data, perSecond: 50, rate: 1_000, limit: 100 }, slow)
  assert.equal(faster.redriven, 100)
  // After a pause nothing is made up for: 200 letters at 200 a second take their second.
  const paused = { ...REDRIVE_START, nextMs: began - 60_000 }
  const again = await world.store.nowMs()
  const rest = await runJob(world, { ...data, perSecond: 200 }, paused)
  assert.equal(rest.redriven, 200)
  assert.ok((await world.store.nowMs()) - again >= 850)
})

test('letters in the hands of a run that died are waited for, and arrive once', async (t) => {
  const { q, parked, data, ...world } = await setup(t, 3)
  const [first, second] = (await parked.store.peek('ready', '', 10)).messages
  // The run died with two letters leased, one of them already back in its queue.
  await parked.store.pick(first!.ref, 1_000, 'job')
  await parked.store.pick(second!.ref, 1_000, 'job')
  const { properties, body } = first!.record
  const copy = {
    exchange: '',
    routingKey: 'q',
    orderingKey: '',
    persistent: true,
    priority: 0,
    ttlMs: -1,
    delayMs: 0,
    dedupId: messageIdentity(parked.store, first!.ref),
    durability: null,
    properties,
    body,
  }
  const { promise, resolve } = Promise.withResolvers()
  const reply = { appended: resolve }
  q.store.append(encodeRecord(copy), 0, -1, 0, copy.dedupId, null, reply, 0)
  await promise

  const hands = [first!.ref, second!.ref]
  const killed = { ...REDRIVE_START, hands, cursor: '', scanned: 0 }
  const done = await runJob(world, data, killed)
  assert.deepEqual([done.redriven, done.skipped], [3, {}])
  assert.deepEqual((await bodies(q)).sort(), ['0', '1', '2'])
  assert.deepEqual(await lease(parked), [])
})

test('what another redrive moved in the meantime is counted there alone', async (t) => {
  const { q, data, ...world } = await setup(t, 400)
  const first = await runPart(world, data, 100)
  assert.ok(first.hands.length > 0, 'it stopped in the midst of a page')
  const never = new AbortController().signal
  const [rest, other] = await Promise.all([
    runJob(world, data, first.last),
    runJob(world, data, REDRIVE_START, () => {}, never, 'other'),
  ])
  assert.equal(rest.redriven + other.redriven, 400)
  assert.ok(rest.redriven >= first.redriven)
  for (const { skipped } of [rest, other]) {
    for (const cause in skipped) assert.equal(cause, 'taken')
  }
  const all = await bodies(q)
  assert.equal(all.length, 400)
  assert.equal(new Set(all).size, 400)
})

test('letters that arrive while it runs stay', async (t) => {
  const { q, parked, data, ...world } = await setup(t, 2)
  const untilMs = await world.store.nowMs()
  await kill(q, 1)
  while ((await new DeadLetters(world).move(q)) > 0);
  const { messages } = await parked.store.peek('ready', '', 10)
  const old = messages.filter(({ record }) => record.timeMs <= untilMs).length
  const done = await runJob(world, { ...data, untilMs })
  assert.deepEqual([done.redriven, done.skipped, done.scanned], [old, {}, old])
  assert.equal((await lease(parked)).length, 3 - old)
})

test('a job that a stopping reaper lays down is finished by another', async (t) => {
  const { q, data, url, ...world } = await setup(t, 1_000)
  const report = (error: unknown) => assert.fail(String(error))
  const options = { sweepMs: 3_600_000 }
  const [one, two] = [new AbortController(), new AbortController()]
  const id = await world.store.jobs.startRedrive(data)
  assert.equal(await world.store.jobs.startRedrive(data), id, 'the same job is not doubled')
  const status = () => world.store.jobs.redrive(id, data.vhost, data.queue)

  const first = await maintenance(world, options, report)(one.signal)
  await waitFor(async () => ((await status())?.progress.redriven ?? 0) > 0, {
    what: 'the first letters',
  })
  one.abort()
  await first.closed
  const second = await maintenance(world, options, report)(two.signal)
  await waitFor(async () => (await status())?.state === 'done', { what: 'the job to be done' })
  two.abort()
  await second.closed
  const all = await bodies(q)
  assert.equal(all.length, 1_000)
  assert.equal(new Set(all).size, 1_000)
  assert.equal(await world.store.jobs.redrive(id, data.vhost, 'other'), undefined)
})

test('a redrive lies where only reapers look that heed its filter', async (t) => {
  const { redis, store, data } = await setup(t, 1)
  const id = await store.jobs.startRedrive({ ...data, filter: { text: 'none' }, dryRun: true })
  // `maintenance` is worked on by reapers that would move everything.
  assert.equal(await redis.exists(`{sluice}:jobs:maintenance:${id}`), 0)
  assert.equal(await redis.exists(`{sluice}:jobs:redrives-2:${id}`), 1)
})
