/** detach.lua: leaving, from the points of view of whoever is attached and of a stranger. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openTestQueue } from './test-queue.ts'

const SINGLE = { priority: 0, exclusive: false, single: true }

test('a consumer leaves once; a stranger leaving changes nothing', async (t) => {
  const { queue } = await openTestQueue(t)
  await queue.attach('a', SINGLE)
  await queue.attach('b', SINGLE)
  assert.equal(await queue.detach('stranger'), 2)
  assert.equal(await queue.detach('b'), 1)
  assert.equal(await queue.detach('b'), 1)
  assert.deepEqual(await queue.attach('a', SINGLE), { kind: 'ok', active: true, consumers: 1 })
  assert.equal(await queue.detach('a'), 0)
})
