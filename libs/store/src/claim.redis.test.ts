/** claim.lua and bury.lua: how dead letters leave a queue, with any number of reapers. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { bodies, drain, HOUR_MS, lease, openTestQueue, pass, publish } from './test-queue.ts'

async function withDead(t: TestContext, ...letters: string[]) {
  const test = await openTestQueue(t)
  await publish(test.queue, ...letters)
  const leased = await lease(test.queue)
  const reject = leased.map(
    ({ token }) => ({ token, outcome: 'dead-letter', reason: 'no' }) as const,
  )
  await test.queue.settle(reject)
  return test
}

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

test('a dead letter is handed to nobody, nor purged', async (t) => {
  const { queue } = await withDead(t, 'a')
  assert.deepEqual(await lease(queue), [])
  assert.equal(await queue.purge(), 0)
  assert.equal((await queue.stats()).dead, 1)
})
