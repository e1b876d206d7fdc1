/**
 * Every key of a queue is in one hash slot, so its scripts run on a cluster.
 *
 * Method: a server in cluster mode that owns all slots refuses a script that touches two of them,
 * so a queue that does everything there touches one. The slots of all keys it left are compared
 * too.
 */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { freePort, privateRedis, waitFor } from '@sluice/testkit'
import { endpointBase, parseQueueBase, queueBase } from './keys.ts'
import { drain, HOUR_MS, lease, openTestQueue, publish } from './test-queue.ts'

const NAMES = ['orders', '/', 'a b', '{', '}', '{}', 'a{b}c', 'ü€', '%7B', ':', 'x/y', 'null\0']

/** The bus would take the port 10 000 above, where anybody's outgoing connections may be. */
async function clustered(t: TestContext) {
  const args = ['--cluster-enabled', 'yes', '--cluster-port', `${await freePort()}`]
  return privateRedis(t, { aof: false, args })
}

async function cluster(t: TestContext): Promise<string> {
  const { url, redis } = await clustered(t)
  await redis.call('CLUSTER', 'ADDSLOTSRANGE', '0', '16383')
  const ready = async () => String(await redis.call('CLUSTER', 'INFO')).includes('state:ok')
  await waitFor(ready, { what: 'the cluster' })
  return url
}

test('a queue that does everything stays in one hash slot', async (t) => {
  const url = await cluster(t)
  const settings = { levels: 3, ordered: true, maxLength: 100, deliveryLimit: 1 }
  const { store, queue, another } = await openTestQueue(t, settings, url)
  const { store: dying, queue: elsewhere } = await another()
  const keyed = (body: string) => ({ body, orderingKey: 'k', dedupId: body, priority: 2 })
  await publish(queue, keyed('a'), keyed('b'), 'c', { body: 'd', delayMs: HOUR_MS })
  await publish(queue, ...Array.from({ length: 110 }, (_, n) => ({ body: `${n}`, priority: 1 })))
  const leased = await lease(queue, 4)
  const outcomes = ['retry', 'dead-letter', 'release', 'ack'] as const
  await queue.settle(
    leased.map(({ token }, n) => ({ token, outcome: outcomes[n]!, delayMs: HOUR_MS, reason: '' })),
  )
  await elsewhere.take(2, 'empty')
  await queue.reclaim(dying.slot.name, { dead: true })
  await queue.claimDead(1, HOUR_MS)
  const [{ ref } = { ref: '' }] = (await queue.peek('ready', '', 10)).messages
  await queue.pick(ref, HOUR_MS, 'c')
  await queue.sweep()
  await queue.attach('c', { priority: 0, exclusive: false, single: true })

  const keys = (await store.redis.keys('*')).filter((key) => key.includes('orders'))
  assert.ok(keys.length >= 12, keys.join(' '))
  const slots = await Promise.all(keys.map((key) => store.redis.call('CLUSTER', 'KEYSLOT', key)))
  assert.equal(new Set(slots).size, 1)
  await queue.detach('c')
  await queue.purge()
  await queue.drop({})
})

test('what processes share of an endpoint stays in one hash slot', async (t) => {
  const url = await cluster(t)
  const { store, vhost } = await openTestQueue(t, {}, url)
  const budget = store.budget(vhost, 'backend')
  const limits = { rate: 10, burst: 2, concurrency: 3, rampUpMs: 0, probeMs: 1_000 }
  const ask = { slots: 1, permits: 1, inUse: 0, unused: 0, loan: '' }
  await budget.borrow(limits, ask)
  await budget.leaveAlone(1)
  await budget.failing(1, 1, false)
  await budget.working()
  const keys = (await store.redis.keys('*')).filter((key) => key.includes('backend'))
  const slots = await Promise.all(keys.map((key) => store.redis.call('CLUSTER', 'KEYSLOT', key)))
  assert.deepEqual([keys.length, new Set(slots).size], [2, 1])
})

test('whatever a queue is called, its keys are in the slot of its base, and its base is its own', async (t) => {
  const { redis } = await clustered(t)
  const slotOf = (key: string) => redis.call('CLUSTER', 'KEYSLOT', key)
  const seen = new Set<string>()
  for (const vhost of NAMES) {
    for (const name of NAMES) {
      const base = queueBase(vhost, name)
      assert.equal(await slotOf(`${base}log:1`), await slotOf(`${base}dedup:1:2`), base)
      assert.notEqual(await slotOf(`${base}log`), await slotOf('sluice:{}:log'))
      assert.deepEqual(parseQueueBase(base), { vhost, name })
      seen.add(base)
    }
  }
  assert.equal(seen.size, NAMES.length ** 2)
})

test('what is no base of a queue belongs to none', () => {
  for (const base of [
    '',
    'sluice:{topology}:',
    'sluice:{a/b}',
    'other:{a/b}:',
    'sluice:{a/b/c}:',
    endpointBase('a', 'b'),
  ]) {
    assert.equal(parseQueueBase(base), undefined, base)
  }
})

test('queues of the same name in two virtual hosts share nothing', async (t) => {
  const { store, queue, vhost } = await openTestQueue(t)
  const other = store.queue(`${vhost}/other`, 'orders', 1, queue.settings)
  await publish(queue, 'a')
  await publish(other, 'b')
  assert.deepEqual(await drain(other), ['b'])
  assert.deepEqual(await drain(queue), ['a'])
  await other.drop({})
})
