/** bury.lua: dead letters that were moved, or that nobody wants, are forgotten. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { drain, HOUR_MS, lease, openTestQueue, publish, withDead } from './test-queue.ts'

test('a buried letter is gone and counted, once, as moved or as dropped', async (t) => {
  const { queue } = await withDead(t, 'a', 'b', 'c')
  const refs = (await queue.claimDead(10, HOUR_MS)).map(({ ref }) => ref)
  assert.equal(await queue.bury(refs.slice(0, 2), 'deadLettered'), 2)
  assert.equal(await queue.bury(refs, 'dropped'), 1)
  const { dead, deadLettered, dropped } = await queue.stats()
  assert.deepEqual([dead, deadLettered, dropped], [0, 2, 1])
  assert.deepEqual((await queue.peek('dead', '', 10)).messages, [])
})

test('burying reaches nothing but dead letters', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b')
  const [held] = await lease(queue, 1)
  const [ready] = (await queue.peek('ready', '', 1)).messages
  assert.equal(await queue.bury([held!.id, ready!.ref, 'f'.repeat(24)], 'dropped'), 0)
  await queue.settle([{ token: held!.token, outcome: 'release' }])
  assert.deepEqual(await drain(queue), ['a', 'b'])
})
