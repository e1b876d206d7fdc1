/**
 * Random sequences of everything a queue can do, against a model in memory.
 *
 * Method: two processes on one queue. After each step the model says what must have happened,
 * the whole queue is read from Redis and compared message by message, and the invariant is checked.
 * Time is Redis's and cannot be set, so durations are 1 ms or an hour, and a step that used a short
 * one is over only when that one is. RUNS= sets how many sequences a test tries, SEED= replays
 * them.
 */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { seedFromEnv, withBareRedis } from '@sluice/testkit'
import fc from 'fast-check'
import { openStore, QUEUE_SETTINGS_DEFAULT, type QueueSettings, type Store } from './index.ts'
import { QueueRun } from './queue-model-run.ts'
import type { Step } from './queue-model-step.ts'
import { HOUR_MS, recordOf } from './test-queue.ts'

const RUNS = Number(process.env['RUNS'] ?? 40)
const STEPS_MAX = 40
/** On average; ten times what it takes. */
const RUN_MS_MAX = 500

const by = fc.nat({ max: 1 })
const mask = fc.nat({ max: 0xffff })
const soon = fc.boolean()
const duration = (often: 'none' | 'long') =>
  fc.oneof(
    { weight: 4, arbitrary: fc.constant(often) },
    { weight: 1, arbitrary: fc.constantFrom('none' as const, 'soon' as const, 'long' as const) },
  )
const only = <S extends string>(step: S) => fc.constant(step)

/** What makes the messages of one kind of queue different from another's. */
interface Kind {
  readonly settings: Partial<QueueSettings>
  readonly keys?: readonly string[]
  readonly ids?: readonly string[]
  /** A limit in length must be exact: no message may expire unseen. */
  readonly ttl?: false
}

function steps({ settings, keys = [''], ids = [''], ttl }: Kind): fc.Arbitrary<Step[]> {
  const message = fc.record({
    level: fc.nat({ max: (settings.levels ?? 1) - 1 }),
    key: fc.constantFrom(...keys),
    ttl: ttl === false ? fc.constant('none' as const) : duration('none'),
    delay: duration('none'),
    id: fc.constantFrom(...ids),
  })
  const messages = fc.array(message, { minLength: 1, maxLength: 6 })
  const max = fc.integer({ min: 1, max: 8 })
  const pick = fc.nat({ max: 1_000 })
  const outcome = fc.constantFrom(
    ...(['ack', 'retry', 'release', 'dead-letter', 'extend'] as const),
  )
  const action = fc.constantFrom(...(['ready', 'unseen', 'due', 'dead'] as const))
  const weighted: [number, fc.Arbitrary<Step>][] = [
    [8, fc.record({ step: only('append'), by, messages })],
    [5, fc.record({ step: only('take'), by, credit: max })],
    [4, fc.record({ step: only('lease'), by, max, soon })],
    [2, fc.record({ step: only('ackHeld'), by, pick, mask })],
    [2, fc.record({ step: only('ackPartly'), by, pick, mask })],
    [3, fc.record({ step: only('giveBack'), by, mask, action, soon, failed: fc.boolean() })],
    [4, fc.record({ step: only('settle'), by, mask, outcome, soon })],
    [1, fc.record({ step: only('settleStale'), by, mask, outcome, soon })],
    [1, fc.record({ step: only('recover'), by, mask })],
    [1, fc.record({ step: only('dieAndReclaim'), by })],
    [2, fc.record({ step: only('sweep'), by })],
    [1, fc.record({ step: only('claimAndBury'), by, max, mask, soon })],
    [2, fc.record({ step: only('pick'), by, pick, soon })],
    [1, fc.record({ step: only('peek'), by, max })],
    [0.2, fc.record({ step: only('purge'), by })],
  ]
  const step = fc.oneof(
    ...weighted.map(([weight, arbitrary]) => ({ weight: weight * 10, arbitrary })),
  )
  return fc.array(step, { minLength: 1, maxLength: STEPS_MAX, size: 'max' })
}

const deaths = fc.record({
  deadLetters: fc.constantFrom('exchange' as const, 'queue' as const, 'none' as const),
  deliveryLimit: fc.constantFrom(-1, 0, 2),
})

async function agrees(t: TestContext, kind: Kind): Promise<void> {
  const { url, vhost } = await withBareRedis(t)
  const reported: unknown[] = []
  const open = () => openStore({ url, report: (error) => reported.push(error) })
  const stores: Store[] = [await open(), await open()]
  t.after(() => Promise.all(stores.map((store) => store.close())))
  let runs = 0
  const property = fc.asyncProperty(deaths, steps(kind), async (death, sequence) => {
    const settings = { ...QUEUE_SETTINGS_DEFAULT, ...kind.settings, ...death }
    const name = `run-${runs++}`
    const queueOf = (store: Store) => store.queue(vhost, name, 1, settings)
    const run = new QueueRun(settings, queueOf, stores, open)
    try {
      await run.start()
      for (const step of sequence) await run.step(step)
      await run.finish()
      assert.deepEqual(reported, [])
    } finally {
      await queueOf(stores[0]!).drop({})
      for (const store of stores) store.forget(queueOf(store))
    }
  })
  // Looking for a shorter sequence that fails as well must end, too.
  const interruptAfterTimeLimit = RUNS * RUN_MS_MAX
  await fc.assert(property, { numRuns: RUNS, seed: seedFromEnv(), interruptAfterTimeLimit })
}

const BYTES_EACH = recordOf({ body: '000000' }).length - 4
const overflows = ['drop-head', 'reject-publish', 'reject-publish-dlx'] as const

test('a plain queue does what the model does', (t) => agrees(t, { settings: {} }))

test('a queue with priority levels does what the model does', (t) =>
  agrees(t, { settings: { levels: 3 } }))

test('a queue with ordering keys does what the model does', (t) =>
  agrees(t, { settings: { ordered: true }, keys: ['', 'a', 'a\0', 'b'] }))

test('a queue with ordering keys and priority levels does what the model does', (t) =>
  agrees(t, { settings: { ordered: true, levels: 2 }, keys: ['', 'a', 'b'] }))

test('a queue that de-duplicates does what the model does', (t) =>
  agrees(t, { settings: { dedupWindowMs: HOUR_MS }, ids: ['', 'x', 'y', 'z'] }))

for (const overflow of overflows) {
  test(`a queue of at most four messages (${overflow}) does what the model does`, (t) =>
    agrees(t, { settings: { maxLength: 4, overflow }, ttl: false, ids: ['', 'x', 'y'] }))

  test(`a queue with a limit in bytes and levels (${overflow}) does what the model does`, (t) => {
    const settings = { maxBytes: 4 * BYTES_EACH + 1, overflow, levels: 3 }
    return agrees(t, { settings, ttl: false })
  })
}
