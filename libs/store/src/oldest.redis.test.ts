/** oldest.lua: how long the oldest message that is ready has been stored. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { waitFor } from '@sluice/testkit'
import { lease, openTestQueue, publish } from './test-queue.ts'

test('a queue without ready messages has no oldest', async (t) => {
  const { queue } = await openTestQueue(t)
  assert.equal(await queue.oldestMs(), 0)
  await publish(queue, 'a')
  await lease(queue)
  assert.equal(await queue.oldestMs(), 0)
})

test('age counts from the first message, unread or returned', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a')
  const from = performance.now()
  await waitFor(async () => (await queue.oldestMs()) >= 50, { what: 'it to age' })
  assert.ok((await queue.oldestMs()) <= performance.now() - from + 50)
  const [held] = await lease(queue, 1)
  await publish(queue, 'b')
  const younger = await queue.oldestMs()
  await queue.settle([{ token: held!.token, outcome: 'release' }])
  assert.ok((await queue.oldestMs()) >= younger + 25, 'the one that came back is older')
})
