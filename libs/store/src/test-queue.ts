/**
 * For tests: a queue of its own in a real Redis, short ways to publish to it and to consume it, and
 * an audit of whatever the test left behind.
 */
import assert from 'node:assert/strict'
import type { TestContext } from 'node:test'
import type { Appended } from '@sluice/core'
import { plainMessage, type TestMessage, withBareRedis } from '@sluice/testkit'
import {
  audit,
  encodeRecord,
  type LeasedMessage,
  openStore,
  QUEUE_SETTINGS_DEFAULT,
  type QueueSettings,
  type QueueStore,
  type Store,
} from './index.ts'

/** One process: a store and the queue as it sees it. */
export interface Process {
  readonly store: Store
  readonly queue: QueueStore
}

/**
 * Opens a process with an empty queue; `another` opens a further one on the same queue. When the
 * test ends, the queue is audited (unless it was deleted) and nothing may have been reported.
 *
 * @param url of a Redis that is the test's own; else the shared one.
 */
export async function openTestQueue(
  t: TestContext,
  settings: Partial<QueueSettings> = {},
  url?: string,
): Promise<Process & { url: string; vhost: string; another: () => Promise<Process> }> {
  const { url: bare, vhost } = await withBareRedis(t)
  const at = url ?? bare
  const reported: unknown[] = []
  const opened: Store[] = []
  const all = { ...QUEUE_SETTINGS_DEFAULT, ...settings }
  const open = async (): Promise<Process> => {
    const store = await openStore({ url: at, report: (error) => reported.push(error) })
    opened.push(store)
    return { store, queue: store.queue(vhost, 'orders', 1, all) }
  }
  const first = await open()
  const wrong: unknown[] = []
  t.after(async () => {
    const kept = await first.store.redis.hexists(`${first.queue.base}meta`, 'published')
    if (kept === 1) wrong.push(...(await audit(first.store, first.queue)))
    wrong.push(...reported)
    await Promise.all(opened.map((store) => store.close()))
  })
  // After all others: those that come behind one that throws are not called.
  t.after(() => t.after(() => assert.deepEqual(wrong, [])))
  assert.ok(await first.queue.create())
  return { ...first, url: at, vhost, another: open }
}

/** Publishes messages in one batch (up to 128 go together); what became of each. */
export async function publish(
  queue: QueueStore,
  ...messages: readonly (string | TestMessage)[]
): Promise<Appended[]> {
  return Promise.all(
    messages.map((given) => {
      const message = typeof given === 'string' ? { body: given } : given
      const { priority = 0, ttlMs = -1, delayMs = 0, dedupId = '' } = message
      const { promise, resolve } = Promise.withResolvers<Appended>()
      const reply = { appended: (_: number, outcome: Appended) => resolve(outcome) }
      queue.append(recordOf(message), priority, ttlMs, delayMs, dedupId, null, reply, 0)
      return promise
    }),
  )
}

/** The bytes of a message that is plain but for what is given. */
export const recordOf = (given: TestMessage): Buffer => encodeRecord(plainMessage(given))

export const HOUR_MS = 3_600_000

/** Leases at once, for an hour where nothing else is said. */
export function lease(queue: QueueStore, max = 100, leaseMs = HOUR_MS): Promise<LeasedMessage[]> {
  return queue.lease({ max, leaseMs, waitMs: 0, consumer: 'tester' })
}

/** A queue with dead letters of these bodies, rejected with the reason `no`. */
export async function withDead(t: TestContext, ...letters: string[]) {
  const test = await openTestQueue(t)
  await publish(test.queue, ...letters)
  const leased = await lease(test.queue)
  const reject = leased.map(
    ({ token }) => ({ token, outcome: 'dead-letter', reason: 'no' }) as const,
  )
  await test.queue.settle(reject)
  return test
}

/** The bodies of messages, in order. */
export function bodies(messages: readonly { record: { body: Buffer } }[]): string[] {
  return messages.map(({ record }) => record.body.toString())
}

/** Leases and acknowledges everything that is ready; the bodies, in order. */
export async function drain(queue: QueueStore): Promise<string[]> {
  const drained: string[] = []
  for (;;) {
    const leased = await lease(queue)
    if (leased.length === 0) return drained
    await queue.settle(leased.map(({ token }) => ({ token, outcome: 'ack' })))
    drained.push(...bodies(leased))
  }
}

/** Returns once Redis's clock has gone past `ms` from here: what was to last that long is over. */
export async function pass(store: Store, ms: number): Promise<void> {
  const until = (await store.nowMs()) + ms
  while ((await store.nowMs()) <= until);
}
