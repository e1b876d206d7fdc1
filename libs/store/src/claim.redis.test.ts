/** claim.lua: dead letters are handed to one reaper at a time, of any number. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bodies, HOUR_MS, lease, pass, withDead } from './test-queue.ts'

test('a dead letter is claimed with all that is known of it', async (t) => {
  const { queue } = await withDead(t, 'a')
  const [letter] = await queue.claimDead(10, HOUR_MS)
  const { reason, failure, holder, acquired, failed, record } = letter!
  assert.deepEqual(
    [reason, failure, holder, acquired, failed, String(record.body)],
    ['rejected', 'no', 'tester', 1, 1, 'a'],
  )
})

test('of several reapers each gets other letters', async (t) => {
  const { queue, another } = await withDead(t, 'a', 'b', 'c')
  const { queue: elsewhere } = await another()
  const [mine, theirs] = await Promise.all([
    queue.claimDead(2, HOUR_MS),
    elsewhere.claimDead(2, HOUR_MS),
  ])
  assert.deepEqual([...bodies(mine), ...bodies(theirs)].sort(), ['a', 'b', 'c'])
  assert.deepEqual(await queue.claimDead(2, HOUR_MS), [])
})

test('a claim that lapsed is for the next reaper', async (t) => {
  const { store, queue, another } = await withDead(t, 'a')
  const { queue: elsewhere } = await another()
  await queue.claimDead(1, 1)
  await pass(store, 1)
  assert.deepEqual(bodies(await elsewhere.claimDead(1, HOUR_MS)), ['a'])
})

test('a dead letter is handed to nobody, nor purged', async (t) => {
  const { queue } = await withDead(t, 'a')
  assert.deepEqual(await lease(queue), [])
  assert.equal(await queue.purge(), 0)
  assert.equal((await queue.stats()).dead, 1)
})
