/**
 * Calls that arrive after their process gave them up: a network that was cut and healed delivers
 * what was sent before, on a connection that nobody listens to any more (prelude, comesLate).
 */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { privateRedis, waitFor } from '@sluice/testkit'
import { Redis } from 'ioredis'
import { type TcpProxy, tcpProxy } from '../../../test/support/tcp-proxy.ts'
import { openStore, QUEUE_SETTINGS_DEFAULT, type QueueStore } from './index.ts'
import { bodies, publish } from './test-queue.ts'

const AGAIN = { action: 'ready', delayMs: 0, failure: '+' } as const

interface Setup {
  readonly redis: Redis
  readonly wire: TcpProxy
  readonly queue: QueueStore
  readonly observer: QueueStore
}

async function setup(t: TestContext): Promise<Setup> {
  const { url, port } = await privateRedis(t, { aof: false })
  const wire = await tcpProxy(port)
  const redis = new Redis(url)
  const open = async (at: number) => {
    const store = await openStore({ url: `redis://127.0.0.1:${at}`, report: () => {} })
    t.after(() => store.close())
    return store.queue('/', 'orders', 1, QUEUE_SETTINGS_DEFAULT)
  }
  t.after(async () => {
    redis.disconnect()
    await wire.close()
  })
  const observer = await open(port)
  const queue = await open(wire.port)
  await queue.create()
  await queue.take(0, 'never') // so that its slot is registered, and its calls leave at once
  return { redis, wire, queue, observer }
}

/** Scripts that Redis has run. */
async function ran(redis: Redis): Promise<number> {
  const stats = await redis.info('commandstats')
  const calls = [...stats.matchAll(/^cmdstat_(?:eval|evalsha):calls=(\d+)/gm)]
  return calls.reduce((sum, [, count]) => sum + Number(count), 0)
}

/** Sends a call that is given up on; then `meanwhile` happens, and only then it arrives. */
async function strand(
  { redis, wire, queue }: Setup,
  call: () => Promise<unknown>,
  meanwhile: () => Promise<unknown>,
): Promise<void> {
  wire.stall()
  const givenUp = assert.rejects(call(), { code: 'store_unavailable' })
  await waitFor(() => wire.keeps(queue.base), { what: 'the call' })
  const healed = Promise.withResolvers<void>()
  wire.strand(healed.promise)
  await givenUp
  const answers = () => queue.stats().then(Boolean, () => false)
  await waitFor(answers, { what: 'another connection' })
  await meanwhile()
  const before = await ran(redis)
  healed.resolve()
  await waitFor(async () => (await ran(redis)) > before, { what: 'the late call' })
}

test('a take that arrives late takes nothing', async (t) => {
  const all = await setup(t)
  const { queue, observer } = all
  await publish(observer, 'a', 'b')
  const take = () => queue.take(10, 'never')
  await strand(all, take, () => queue.recover([]))
  assert.equal((await observer.stats()).unacked, 0)
  assert.deepEqual(bodies((await queue.take(1, 'never')).messages), ['a'])
})

test('what is looked for late is not taken from who holds it by then', async (t) => {
  const all = await setup(t)
  const { queue, observer } = all
  await publish(observer, 'a', 'b')
  const taken = () => queue.take(1, 'never')
  await strand(all, () => queue.recover([]), taken)
  assert.equal((await observer.stats()).unacked, 1)
})

test('what is given back late is not taken from who holds it by then', async (t) => {
  const all = await setup(t)
  const { queue, observer } = all
  await publish(observer, 'a', 'b')
  const [a] = (await queue.take(1, 'never')).messages
  const giveBack = () => queue.returnHeld([{ place: '', ref: a!.ref, ...AGAIN }])
  await strand(all, giveBack, async () => {
    assert.equal(await giveBack(), 'r')
    const [again] = (await queue.take(1, 'never')).messages
    assert.equal(again!.ref, a!.ref)
  })
  const { unacked, ready } = await observer.stats()
  assert.deepEqual({ unacked, ready }, { unacked: 1, ready: 1 })
})

test('a consumer that left does not come back late', async (t) => {
  const all = await setup(t)
  const { queue, observer } = all
  const attach = () => queue.attach('a', { priority: 0, exclusive: true, single: false })
  await strand(all, attach, () => queue.detach('a'))
  assert.equal((await observer.stats()).consumers, 0)
})
