/** Who may settle, what comes again, and how often. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { waitFor } from '@sluice/testkit'
import { AUTHORIZATION, withBroker } from '../support/broker.ts'
import { bodies, type Door, httpDoor, promise, takeOne } from './door.ts'

const NOW = { waitMs: 0 }

function pollWaits({ broker }: Door, base: string): Promise<unknown> {
  const waits = async () => (await broker.deps.store.redis.exists(`${base}waiting`)) === 1
  return waitFor(waits, { what: 'the poll to wait' })
}
const SHORT = { leaseMs: 1_500 }

promise('a first delivery says so, and a message settled is gone', async (door) => {
  await door.declare('q')
  await door.publish('q', 'x')
  const first = await takeOne(door, 'q')
  assert.deepEqual([first.redelivered, first.deliveryCount, first.failedCount], [false, 1, 0])
  assert.deepEqual(await door.counts('q'), { ready: 0, unacked: 1, delayed: 0, dead: 0 })
  assert.equal(await door.settle('q', first, { outcome: 'ack' }), 'settled')
  assert.deepEqual(await door.counts('q'), { ready: 0, unacked: 0, delayed: 0, dead: 0 })
})

promise('what is given back untried is redelivered, and did not fail', async (door) => {
  await door.declare('q')
  await door.publish('q', 'x')
  const first = await takeOne(door, 'q')
  assert.equal(await door.settle('q', first, { outcome: 'release' }), 'released')
  const again = await takeOne(door, 'q')
  assert.deepEqual([again.redelivered, again.deliveryCount, again.failedCount], [true, 2, 0])
})

promise('a lease that lapses ends in another delivery, and a failed one', async (door) => {
  await door.declare('q')
  await door.publish('q', 'x')
  await takeOne(door, 'q', SHORT)
  const again = await takeOne(door, 'q')
  assert.deepEqual([again.redelivered, again.deliveryCount, again.failedCount], [true, 2, 1])
})

promise(
  'a settlement that comes too late, or twice, is stale and changes nothing',
  async (door) => {
    await door.declare('q')
    await door.publish('q', 'x')
    const lapsed = await takeOne(door, 'q', SHORT)
    const current = await takeOne(door, 'q')
    for (const settlement of [
      { outcome: 'ack' },
      { outcome: 'release' },
      { outcome: 'retry', delayMs: 0 },
      { outcome: 'dead-letter', reason: 'no' },
      { outcome: 'extend', leaseMs: 60_000 },
    ] as const) {
      assert.equal(await door.settle('q', lapsed, settlement), 'stale', settlement.outcome)
    }
    assert.equal((await door.counts('q')).unacked, 1)
    assert.equal(await door.settle('q', current, { outcome: 'ack' }), 'settled')
    assert.equal(await door.settle('q', current, { outcome: 'ack' }), 'stale')
    const nonsense = { ...current, token: 'nonsense' }
    assert.equal(await door.settle('q', nonsense, { outcome: 'ack' }), 'stale')
  },
)

promise('a lease that is extended outlives its first deadline', async (door) => {
  await door.declare('q')
  await door.publish('q', 'x')
  await door.publish('q', 'y')
  const [x, y] = await door.take('q', SHORT)
  assert.equal(await door.settle('q', x!, { outcome: 'extend', leaseMs: 60_000 }), 'extended')
  const again = await takeOne(door, 'q')
  assert.equal(again.body, 'y', 'the one that was not extended')
  assert.equal(await door.settle('q', y!, { outcome: 'ack' }), 'stale')
  assert.equal(await door.settle('q', x!, { outcome: 'ack' }), 'settled')
})

promise('a retry comes after its delay, not before', async (door) => {
  await door.declare('q')
  await door.publish('q', 'x')
  const first = await takeOne(door, 'q')
  const start = performance.now()
  await door.settle('q', first, { outcome: 'retry', delayMs: 1_500, reason: 'busy' })
  assert.equal((await door.counts('q')).delayed, 1)
  const again = await takeOne(door, 'q')
  assert.ok(performance.now() - start >= 1_499)
  assert.equal(again.failedCount, 1)
})

promise('a retry without a delay waits for the back-off of its queue', async (door) => {
  await door.declare('q', { 'x-retry': { base: 100, factor: 3, max: 1_000, jitter: 0 } })
  await door.publish('q', 'x')
  for (const backoffMs of [100, 300]) {
    const delivery = await takeOne(door, 'q')
    const start = performance.now()
    await door.settle('q', delivery, { outcome: 'retry' })
    assert.deepEqual(await door.take('q', NOW), [])
    const again = await takeOne(door, 'q')
    assert.ok(performance.now() - start >= backoffMs - 1, `${backoffMs}`)
    await door.settle('q', again, { outcome: 'release' })
  }
})

promise('any process settles what another leased', async (door, t) => {
  const other = httpDoor(await withBroker(t), door.broker.vhost)
  await door.declare('q')
  await door.publish('q', 'x')
  const delivery = await takeOne(door, 'q')
  assert.equal(await other.settle('q', delivery, { outcome: 'ack' }), 'settled')
  assert.equal(await door.settle('q', delivery, { outcome: 'ack' }), 'stale')
})

promise('a message published through one process wakes a consumer at another', async (door, t) => {
  const other = httpDoor(await withBroker(t), door.broker.vhost)
  await door.declare('q')
  const waiting = takeOne(other, 'q')
  await door.publish('q', 'x')
  assert.equal((await waiting).body, 'x')
})

promise('what a process held that was killed comes back, flagged redelivered', async (door) => {
  await door.declare('q')
  for (const body of ['1', '2', '3']) await door.publish('q', body)
  const { vhost, redisUrl, deps } = door.broker
  const holder = spawn(
    process.execPath,
    [new URL('../support/holder.ts', import.meta.url).pathname, redisUrl, vhost, 'q'],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  const [line] = (await once(holder.stdout, 'data')) as [Buffer]
  const { slot, held } = JSON.parse(line.toString()) as { slot: string; held: number }
  assert.equal(held, 3)
  assert.deepEqual(await door.take('q', NOW), [])
  holder.kill('SIGKILL')
  await once(holder, 'exit')
  await deps.store.redis.del(`sluice:{slots}:alive:${slot}`) // the heartbeat, ten seconds later
  const back = [await takeOne(door, 'q'), ...(await door.take('q', NOW))]
  assert.deepEqual(bodies(back), ['1', '2', '3'])
  assert.ok(back.every(({ redelivered, failedCount }) => redelivered && failedCount === 1))
})

promise('a client that hangs up while it waits is handed nothing', async (door) => {
  await door.declare('q')
  const { http, vhost } = door.broker
  const hangUp = new AbortController()
  const url = `${http}/v1/vhosts/${vhost}/queues/q/leases`
  const waiting = fetch(url, {
    method: 'POST',
    headers: { Authorization: AUTHORIZATION, 'Content-Type': 'application/json' },
    body: JSON.stringify({ waitMs: 20_000 }),
    signal: hangUp.signal,
  })
  const { store } = door.broker.deps.topology.table.queue(vhost, 'q')!
  await pollWaits(door, store.base)
  hangUp.abort()
  await assert.rejects(waiting)
  await door.publish('q', 'x')
  const delivery = await takeOne(door, 'q')
  assert.equal(delivery.body, 'x')
})

promise('a process that stops answers those who wait, with nothing', async (door, t) => {
  const other = await withBroker(t)
  await door.declare('q')
  const path = `/v1/vhosts/${door.broker.vhost}/queues/q`
  const waiting = other.request('POST', `${path}/leases`, { body: { waitMs: 20_000 } })
  const { store } = door.broker.deps.topology.table.queue(door.broker.vhost, 'q')!
  await pollWaits(door, store.base)
  await other.close()
  const { status, json } = await waiting
  assert.deepEqual([status, json], [200, { messages: [] }])
})
