/** The worker of the maintenance jobs when its Redis is away. */
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { openStore } from '@sluice/store'
import { Metrics, Tracing } from '@sluice/telemetry'
import { privateCluster, privateRedis, waitFor } from '@sluice/testkit'
import { openTopology, Publisher } from '@sluice/topology'
import { maintenance } from './maintenance.ts'

const ROUNDS = 16

/** What starts the workers on a Redis, and what it reported. */
async function workers(t: TestContext, url: string) {
  const errors: unknown[] = []
  const report = (error: unknown) => void errors.push(error)
  const store = await openStore({ url, report })
  const topology = await openTopology(store, report)
  const metrics = new Metrics()
  t.after(async () => {
    await metrics.close()
    await topology.close()
    await store.close()
  })
  const publisher = new Publisher(topology, report)
  const deps = { store, topology, publisher, metrics, tracing: Tracing.OFF }
  return { start: maintenance(deps, { sweepMs: 60_000 }, report), errors }
}

/** A worker that has noticed that its Redis is gone. */
async function cutOff(t: TestContext) {
  const redis = await privateRedis(t)
  const { start, errors } = await workers(t, redis.url)
  const stop = new AbortController()
  const { closed } = await start(stop.signal)
  const schedule = '{sluice}:jobs:maintenance:repeat'
  await waitFor(async () => (await redis.redis.exists(schedule)) === 1, { what: 'the schedule' })
  await redis.kill9()
  await waitFor(() => errors.some((error) => String(error).includes('ECONNREFUSED')), {
    what: 'the worker to notice',
  })
  return { redis, stop, closed }
}

test('it stops in order while Redis is away', { timeout: 20_000 }, async (t) => {
  const { stop, closed } = await cutOff(t)
  stop.abort()
  await closed
})

test('it stops in order right after Redis came back', { timeout: 20_000 }, async (t) => {
  const { redis, stop, closed } = await cutOff(t)
  await redis.restart()
  stop.abort()
  await closed
})

test('it stops in order on a cluster, whatever it is about to do', {
  timeout: 60_000,
}, async (t) => {
  const { url } = await privateCluster(t, { aof: false })
  const { start } = await workers(t, url)
  for (let round = 0; round < ROUNDS; round++) {
    const stop = new AbortController()
    const { closed } = await start(stop.signal)
    await sleep(round * 3)
    stop.abort()
    await closed
  }
})
