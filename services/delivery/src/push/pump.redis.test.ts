/**
 * Pumps over a real queue, to a real endpoint. Each process is a store with a slot, feeds and a
 * pump of its own, as in production; only that they run in the test.
 */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import {
  audit,
  openStore,
  QUEUE_SETTINGS_DEFAULT,
  type QueueSettings,
  type QueueStore,
  type Store,
} from '@sluice/store'
import { privateRedis, type TestMessage, waitFor } from '@sluice/testkit'
import type { QueueEntry } from '@sluice/topology'
import { publish as publishTo } from '../../../../libs/store/src/test-queue.ts'
import { Feeds } from '../feeds.ts'
import { register } from '../registration.ts'
import { Guard } from './guard.ts'
import { Pump, type Throttle } from './pump.ts'
import { Endpoint } from './send.ts'
import { type Attempt, Subscription } from './subscription.ts'
import { excess, TestBackend } from './test-backend.ts'

type Given = Partial<Record<keyof Subscription, unknown>> & { url?: string; timeoutMs?: number }

function subscriptionOf(backend: TestBackend, { url, timeoutMs, ...rest }: Given = {}) {
  const endpoint = { url: url ?? backend.url, ...(timeoutMs !== undefined && { timeoutMs }) }
  return Subscription.parse({ queue: 'orders', endpoint, ...rest })
}

interface Process {
  readonly store: Store
  readonly queue: QueueStore
  readonly pump: Pump
  readonly attempts: Attempt[]
  readonly throttles: Throttle[]
  configure(given?: Given): void
  /** As a process that dies: nothing is given back. */
  close(): Promise<void>
}

async function setup(
  t: TestContext,
  settings: Partial<QueueSettings> = {},
  args: Readonly<Record<string, unknown>> = {},
  redisUrl?: string,
) {
  // Of its own: reapers of other tests would clear away a queue that no topology has.
  const url = redisUrl ?? (await privateRedis(t, { aof: false })).url
  const vhost = 'test'
  const reported: unknown[] = []
  const all = { ...QUEUE_SETTINGS_DEFAULT, ...settings }
  const backend = await new TestBackend().open(t)
  const open = async () => {
    const store = await openStore({ url, report: (error) => reported.push(error) })
    return { store, queue: store.queue(vhost, 'orders', 1, all) }
  }
  const first = await open()
  assert.ok(await first.queue.create())
  t.after(async () => {
    const wrong = [...(await audit(first.store, first.queue)), ...reported]
    await first.store.close()
    t.after(() => assert.deepEqual(wrong, []))
  })

  const start = async (given: Given = {}): Promise<Process> => {
    const { store, queue } = await open()
    const feeds = new Feeds((error) => reported.push(error))
    const attempts: Attempt[] = []
    const throttles: Throttle[] = []
    const guard = new Guard(['127.0.0.1'])
    const subscription = subscriptionOf(backend, given)
    const stopping = new AbortController().signal
    const report = (error: unknown) => reported.push(error)
    const parts = { topology: undefined as never, report, stopping } // its queue stays
    const pump = new Pump(
      {
        budget: store.budget(vhost, 'backend'),
        feeds,
        report,
        open: (subscription) => new Endpoint(vhost, 'backend', subscription, guard),
        register: (queue, hooks) => {
          const single = queue.definition.arguments['x-single-active-consumer'] === true
          const place = { priority: 0, exclusive: false, single }
          return register(parts, queue, `push:backend:${store.slot.name}`, place, hooks)
        },
        timeOfDayMs: () => Date.now(),
        attempted: (attempt) => attempts.push(attempt),
        throttled: (why) => throttles.push(why),
      },
      subscription,
    )
    const definition = { name: 'orders', epoch: 1, autoDelete: false, arguments: args }
    const entry = { vhost, store: queue, settings: all, definition } as unknown as QueueEntry
    pump.configure(subscription, entry)
    const configure = (changed: Given = {}) =>
      pump.configure(subscriptionOf(backend, changed), entry)
    const close = async () => {
      await pump.close(1_000)
      await feeds.close(1_000)
      await store.close()
    }
    t.after(close)
    return { store, queue, pump, attempts, throttles, configure, close }
  }
  const publish = (...messages: (string | TestMessage)[]) => publishTo(first.queue, ...messages)
  return { ...first, backend, start, publish }
}

const numbers = (count: number) => Array.from({ length: count }, (_, n) => String(n))

/** Nothing is left in the queue. */
async function drained(queue: QueueStore): Promise<boolean> {
  const { ready, unacked, delayed, dead } = await queue.stats()
  return ready + unacked + delayed + dead === 0
}

test('every message arrives once and is settled', async (t) => {
  const { queue, backend, start, publish } = await setup(t)
  await start()
  await publish(...numbers(300))
  await waitFor(() => drained(queue), { what: 'the queue to drain' })
  assert.deepEqual(backend.bodies().toSorted(), numbers(300).toSorted())
})

test('two processes keep to one rate with its burst, and to one number of requests', async (t) => {
  const { queue, backend, start, publish } = await setup(t)
  backend.answer = () => ({ status: 200, afterMs: 10 })
  const shape = { perSecond: 200, burst: 30, concurrencyMax: 4 }
  await publish(...numbers(300))
  const from = performance.now()
  await Promise.all([start({ shape }), start({ shape })])
  await waitFor(() => drained(queue), { what: 'the queue to drain', timeoutMs: 20_000 })
  const took = performance.now() - from
  assert.equal(backend.arrivals.length, 300)
  const over = excess(
    backend.arrivals.map(({ atMs }) => atMs),
    200,
  )
  assert.ok(over <= 30, `${over} above the rate`)
  assert.ok(backend.underWayMax <= 4, `${backend.underWayMax} at once`)
  // 1.4 s on a machine at ease: late slots are dropped, and a busy one is late.
  assert.ok(took < 6_000, `${took} ms for 300 at 200 a second`)
})

test('one 429 with Retry-After: no process sends before, and the message comes again', async (t) => {
  const { queue, backend, start, publish } = await setup(t, { deliveryLimit: 0 })
  const shape = { concurrencyMax: 4 }
  const all = [await start({ shape }), await start({ shape })]
  let refused = 0
  backend.answer = ({ atMs }) => {
    const bothSend = all.every(({ attempts }) => attempts.length > 5)
    if (refused > 0 || !bothSend) return { status: 200, afterMs: 10 }
    refused = atMs
    return { status: 429, headers: { 'Retry-After': '1' } }
  }
  let published = 0
  const more = async () => {
    if (refused > 0) return true
    if (!(await drained(queue))) return false
    published += 100
    await publish(...numbers(100))
    return false
  }
  await waitFor(more, { what: 'both to send' })
  await waitFor(() => drained(queue), { what: 'the queue to drain' })
  const times = backend.arrivals.map(({ atMs }) => atMs - refused)
  const between = times.filter((ms) => ms > 300 && ms < 990)
  assert.deepEqual(between, [], 'left alone')
  assert.equal(backend.arrivals.length, published + 1)
  assert.equal((await queue.stats()).dead, 0)
})

test('a message that fails at a healthy endpoint dies with its attempts; the others do not', async (t) => {
  const retry = { baseMs: 10, factor: 1, maxMs: 10, jitter: 0 }
  const { queue, backend, start, publish } = await setup(t, { deliveryLimit: 2, retry })
  backend.answer = ({ body }) =>
    body === '7' ? { status: 500, body: 'no sevens' } : { status: 200 }
  await start()
  await publish(...numbers(10))
  await waitFor(async () => (await queue.stats()).dead === 1, { what: 'a dead letter' })
  const [letter] = await queue.claimDead(10, 1_000)
  assert.equal(String(letter!.record.body), '7')
  assert.deepEqual(
    [letter!.reason, letter!.failed, letter!.attempts.length],
    ['delivery_limit', 3, 3],
  )
  assert.match(letter!.failure, /^HTTP 500 after \d+ ms: no sevens$/)
  const attempt = JSON.parse(letter!.attempts[0]!)
  assert.deepEqual([attempt.status, attempt.answer], [500, 'no sevens'])
  assert.equal(backend.arrivals.length, 9 + 3)
})

test('another 4xx is a dead letter at once, with what was answered', async (t) => {
  const { queue, backend, start, publish } = await setup(t)
  backend.answer = () => ({ status: 422, body: 'what?' })
  await start()
  await publish('a')
  await waitFor(async () => (await queue.stats()).dead === 1, { what: 'a dead letter' })
  const [letter] = await queue.claimDead(1, 1_000)
  assert.deepEqual([letter!.reason, letter!.attempts.length], ['rejected', 1])
})

test('while the endpoint is down all is parked, uses up no attempts, and goes on when it is back', async (t) => {
  const { queue, backend, start, publish } = await setup(t, { deliveryLimit: 0 })
  let down = true
  backend.answer = () => (down ? 'drop' : { status: 200 })
  const breaker = { failures: 3, probeMs: 300 }
  const all = await Promise.all([start({ breaker }), start({ breaker })])
  await publish(...numbers(50))
  const open = () => all.some(({ pump }) => pump.state.breaker === 'open')
  await waitFor(open, { what: 'the breaker' })
  const parked = async () => (await queue.stats()).unacked === 0
  await waitFor(parked, { what: 'all to be given back' })
  const before = backend.arrivals.length
  const from = performance.now()
  const probes = () => backend.arrivals.length - before
  await waitFor(() => probes() >= 2, { what: 'two probes' })
  const ms = performance.now() - from
  assert.ok(probes() <= 1 + Math.ceil(ms / breaker.probeMs), `${probes()} probes in ${ms} ms`)
  down = false
  await waitFor(() => drained(queue), { what: 'the queue to drain' })
  assert.equal((await queue.stats()).dead, 0)
})

test('a message that breaks a healthy endpoint dies, though it looks like an outage', async (t) => {
  const retry = { baseMs: 30, factor: 1, maxMs: 30, jitter: 0 }
  const { queue, backend, start, publish } = await setup(t, { deliveryLimit: 2, retry })
  backend.answer = ({ body }) => (body === 'poison' ? 'drop' : { status: 200, afterMs: 1 })
  await start({ breaker: { failures: 1_000, probeMs: 100 }, shape: { perSecond: 300 } })
  await publish('poison', ...numbers(400))
  const dead = async () => (await queue.stats()).dead === 1
  const more = setInterval(() => void publish(...numbers(20)), 20)
  try {
    await waitFor(dead, { what: 'the dead letter', timeoutMs: 10_000 })
  } finally {
    clearInterval(more)
  }
  const atRest = async () => {
    const { ready, unacked, delayed } = await queue.stats()
    return ready + unacked + delayed === 0
  }
  await waitFor(atRest, { what: 'the others to be pushed' })
})

test('per key in order: a key that fails keeps to itself', async (t) => {
  const retry = { baseMs: 100, factor: 1, maxMs: 100, jitter: 0 }
  const { queue, backend, start, publish } = await setup(t, { ordered: true, retry })
  let failures = 3
  backend.answer = ({ body }) =>
    body === 'a0' && failures-- > 0 ? { status: 500 } : { status: 200, afterMs: 2 }
  await Promise.all([start(), start()])
  const keys = ['a', 'b', 'c', 'd']
  await publish(
    ...numbers(20).flatMap((n) => keys.map((key) => ({ body: `${key}${n}`, orderingKey: key }))),
  )
  await waitFor(() => drained(queue), { what: 'the queue to drain' })
  for (const key of keys) {
    const seen = backend.bodies().filter((body) => body.startsWith(key))
    const expected = numbers(20).map((n) => `${key}${n}`)
    assert.deepEqual(seen, key === 'a' ? ['a0', 'a0', 'a0', ...expected] : expected)
  }
  const bodies = backend.bodies()
  assert.ok(bodies.indexOf('b3') < bodies.lastIndexOf('a0'), 'b did not wait for a')
})

test('Redis goes away and comes back: so do the pushes, and nothing is lost', async (t) => {
  const redis = await privateRedis(t)
  const { queue, backend, start, publish } = await setup(t, {}, {}, redis.url)
  backend.answer = () => ({ status: 200, afterMs: 5 })
  await Promise.all([start({ shape: { perSecond: 200 } }), start()])
  await publish(...numbers(150))
  await waitFor(() => backend.arrivals.length > 20, { what: 'a first few' })
  await redis.kill9()
  await redis.restart()
  const calm = () => drained(queue).catch(() => false)
  await waitFor(calm, { what: 'the queue to drain', timeoutMs: 20_000 })
  assert.deepEqual([...new Set(backend.bodies())].toSorted(), numbers(150).toSorted())
})

test('it is a consumer of its queue, also while it is paused', async (t) => {
  const { queue, start } = await setup(t)
  const one = await start({ paused: true })
  const consumers = async () => (await queue.stats()).consumers
  await waitFor(async () => (await consumers()) === 1, { what: 'it to be known' })
  one.configure()
  one.configure({ paused: true })
  assert.equal(await consumers(), 1)
  await one.close()
  assert.equal(await consumers(), 0)
})

test('of a queue with a single active consumer one process pushes at a time', async (t) => {
  const single = { 'x-single-active-consumer': true }
  const { queue, backend, start, publish } = await setup(t, {}, single)
  const [one, other] = [await start(), await start()]
  await waitFor(async () => (await queue.stats()).consumers === 2, { what: 'both' })
  await publish(...numbers(50))
  await waitFor(() => drained(queue), { what: 'the queue to drain' })
  const [first, second] = one.attempts.length > 0 ? [one, other] : [other, one]
  assert.deepEqual([first.attempts.length, second.attempts.length], [50, 0])
  await first.close()
  await publish('last')
  await waitFor(() => second.attempts.length === 1, { what: 'the other to take over' })
  assert.equal(backend.arrivals.length, 51)
})

test('paused nothing is sent and nothing is held; resumed it goes on', async (t) => {
  const { queue, backend, start, publish } = await setup(t)
  const { configure } = await start({ paused: true })
  await publish(...numbers(10))
  configure({ shape: { perSecond: 20, burst: 1 } })
  await waitFor(() => backend.arrivals.length > 0, { what: 'a first' })
  configure({ paused: true })
  await waitFor(async () => (await queue.stats()).unacked === 0, { what: 'all to be back' })
  const seen = backend.arrivals.length
  assert.ok(seen < 10, `${seen}`)
  configure()
  await waitFor(() => drained(queue), { what: 'the queue to drain' })
  assert.equal(backend.arrivals.length, 10)
})

test('paused while others had all permits, it goes on once it is resumed', async (t) => {
  const { queue, backend, start, publish } = await setup(t)
  backend.answer = () => ({ status: 200, afterMs: backend.arrivals.length === 1 ? 500 : 0 })
  const shape = { concurrencyMax: 1 }
  const one = await start({ shape })
  await publish('first')
  await waitFor(() => backend.arrivals.length === 1, { what: 'the first' })
  const other = await start({ shape })
  await publish('second', 'third', 'fourth')
  const waits = () => other.throttles.includes('concurrency')
  await waitFor(waits, { what: 'the other to find no permit' })
  other.configure({ shape, paused: true })
  await one.close()
  other.configure({ shape })
  await waitFor(() => drained(queue), { what: 'the queue to drain' })
})

test('outside its windows it sends nothing', async (t) => {
  const { queue, backend, start, publish } = await setup(t)
  const never = { days: ['mon'], from: '00:00', to: '00:01', timeZone: 'UTC' }
  const hour = new Date().getUTCHours()
  const shut = { ...never, days: ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'] }
  const from = `${String((hour + 12) % 24).padStart(2, '0')}:00`
  const windows = [{ ...shut, from, to: from.replace(':00', ':01') }]
  const { configure, throttles } = await start({ shape: { windows } })
  await publish('a')
  await waitFor(() => throttles.includes('window'), { what: 'the window to be looked at' })
  await waitFor(async () => (await queue.stats()).unacked === 0, { what: 'it to be back' })
  assert.equal(backend.arrivals.length, 0)
  configure()
  await waitFor(() => drained(queue), { what: 'the queue to drain' })
})

test('a process that stops finishes what is under way and gives back the rest', async (t) => {
  const { queue, backend, start, publish } = await setup(t)
  backend.answer = () => ({ status: 200, afterMs: 100 })
  const shape = { concurrencyMax: 2 }
  const one = await start({ shape })
  await publish(...numbers(10))
  await waitFor(() => backend.arrivals.length >= 2, { what: 'the first two' })
  await one.close()
  const { ready, unacked } = await queue.stats()
  assert.deepEqual([ready, unacked], [10 - backend.arrivals.length, 0])
  await start({ shape })
  await waitFor(() => drained(queue), { what: 'the queue to drain' })
  assert.equal(backend.arrivals.length, 10)
})
