/**
 * What the reaper's tests share: a store, a topology and a vhost, without a process around them, on
 * a Redis of their own. On a shared one reapers of other tests would do some of the work.
 */
import assert from 'node:assert/strict'
import type { TestContext } from 'node:test'
import { encodeProperties, type Table } from '@sluice/amqp'
import { type LeasedMessage, openStore } from '@sluice/store'
import { Metrics, openLog, Tracing } from '@sluice/telemetry'
import { plainMessage, privateRedis } from '@sluice/testkit'
import { appendTo, openTopology, Publisher, type QueueEntry } from '@sluice/topology'

export async function openWorld(t: TestContext) {
  const { url, redis } = await privateRedis(t, { aof: false })
  const vhost = 'world'
  const report = (error: unknown) => assert.fail(String(error))
  const store = await openStore({ url, report })
  const topology = await openTopology(store, report)
  const metrics = new Metrics()
  t.after(async () => {
    await metrics.close()
    await topology.close()
    await store.close()
  })
  await topology.declareVhost(vhost)
  const queue = (name: string): QueueEntry =>
    topology.table.queue(vhost, name) ?? assert.fail(`no queue ${name}`)
  const declare = async (name: string, args = {}): Promise<QueueEntry> => {
    const definition = { name, durable: true, autoDelete: false, exclusive: '', arguments: args }
    await topology.declareQueue(vhost, definition)
    return queue(name)
  }
  return {
    url,
    redis,
    vhost,
    store,
    topology,
    metrics,
    tracing: Tracing.OFF,
    publisher: new Publisher(topology, report),
    log: openLog({ level: 'silent' }),
    queue,
    declare,
  }
}

export async function publish(entry: QueueEntry, body: string, headers: Table = {}): Promise<void> {
  const routingKey = entry.definition.name
  const message = plainMessage({ routingKey, properties: encodeProperties({ headers }), body })
  assert.equal(await appendTo(entry, message), 'stored')
}

export function lease({ store }: QueueEntry, max = 1_000): Promise<LeasedMessage[]> {
  return store.lease({ max, leaseMs: 60_000, waitMs: 0, consumer: 'alice' })
}

export async function bodies(entry: QueueEntry): Promise<string[]> {
  return (await lease(entry)).map(({ record }) => String(record.body))
}

/** Publishes and rejects as many messages. */
export async function kill(entry: QueueEntry, count: number): Promise<void> {
  await Promise.all(Array.from({ length: count }, (_, i) => publish(entry, `${i}`)))
  const leased = await lease(entry)
  assert.equal(leased.length, count)
  await entry.store.settle(
    leased.map(({ token }) => ({ token, outcome: 'dead-letter', reason: 'no' })),
  )
}
