/**
 * A slot of a cluster on its way to another primary, step by step, while its queue is used: keys of
 * the queue are at both ends, and no script may run on half of them, nor out of its turn.
 */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { BrokerError } from '@sluice/core'
import { audit, openStore, QUEUE_SETTINGS_DEFAULT } from '@sluice/store'
import { moveSlot, privateCluster } from '@sluice/testkit'
import { bodies, lease, publish } from '../../libs/store/src/test-queue.ts'

/** Between two steps of the mover: several calls of each kind fit in. */
const STEP_MS = 120

/** A store and a queue in a cluster; nothing but a Redis that is away may be reported. */
async function start(t: TestContext) {
  const group = await privateCluster(t, { aof: false })
  const reported: unknown[] = []
  const store = await openStore({ url: group.url, report: (error) => reported.push(error) })
  t.after(async () => {
    await store.close()
    const faults = reported.filter((error) => !isAway(error))
    assert.deepEqual(faults, [])
  })
  const queue = store.queue('/', 'q', 1, QUEUE_SETTINGS_DEFAULT)
  await queue.create()
  return { group, store, queue }
}

const isAway = (error: unknown) =>
  error instanceof BrokerError && error.code === 'store_unavailable'

test('a slot moves key by key under load: nothing is lost, split, or out of order', async (t) => {
  const { group, store, queue } = await start(t)
  assert.deepEqual(await publish(queue, { body: 'later', delayMs: 60_000 }), ['stored'])
  const held = await (async () => {
    assert.deepEqual(await publish(queue, 'held'), ['stored'])
    return lease(queue, 1)
  })()
  let moving = true
  const sent: string[] = []
  const publishing = (async () => {
    for (let number = 0; moving; number++) {
      sent.push(String(number))
      assert.deepEqual(await publish(queue, String(number)), ['stored'])
      await sleep(2)
    }
  })()
  const got: string[] = []
  const consuming = (async () => {
    while (moving || got.length < sent.length) {
      try {
        const leased = await lease(queue, 10)
        got.push(...bodies(leased))
        const settlements = leased.map(({ token }) => ({ token, outcome: 'ack' as const }))
        for (let done = false; !done; ) {
          const outcomes = await queue.settle(settlements).catch(() => undefined)
          done = outcomes !== undefined
        }
      } catch (error) {
        assert(isAway(error), String(error))
      }
    }
  })()
  const moved = (async () => {
    for (let moves = 2; moves > 0; moves--) {
      await moveSlot(group, `${queue.base}meta`, () => sleep(STEP_MS))
    }
  })().finally(() => {
    moving = false
  })
  await Promise.all([moved, publishing, consuming])
  assert.deepEqual(got, sent)
  assert.deepEqual(await queue.settle(held.map(({ token }) => ({ token, outcome: 'ack' }))), [
    'settled',
  ])
  const { ready, unacked, delayed } = await queue.stats()
  assert.deepEqual({ ready, unacked, delayed }, { ready: 0, unacked: 0, delayed: 1 })
  assert.deepEqual(await audit(store, queue), [])
  const said = await Promise.all(group.servers.map(({ redis }) => redis.info('errorstats')))
  assert.match(said.join(), /errorstat_TRYAGAIN/)
})

test('definitions that are read while their slot moves are all there', async (t) => {
  const { group, store } = await start(t)
  const { definitions } = store
  const fields = 4_000 // several steps of a read
  for (let from = 0; from < fields; from += 500) {
    const { mark } = await definitions.load()
    const changes = Array.from({ length: 500 }, (_, at) => [`q:${from + at}`, '{}'] as const)
    assert.equal((await definitions.commit(mark, changes)).kind, 'committed')
  }
  let moving = true
  const moved = (async () => {
    for (let moves = 6; moves > 0; moves--) await moveSlot(group, '{topology}')
  })().finally(() => {
    moving = false
  })
  const sizes = new Set<number>()
  while (moving) {
    const loaded = await definitions.load().catch((error) => {
      assert(isAway(error), String(error))
    })
    if (loaded) sizes.add(loaded.definitions.size)
  }
  await moved
  assert.deepEqual([...sizes], [fields])
})
