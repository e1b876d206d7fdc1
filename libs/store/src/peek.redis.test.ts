/** peek.lua: reading without touching. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { MessageState, QueueStore } from './index.ts'
import { bodies, drain, HOUR_MS, lease, openTestQueue, publish } from './test-queue.ts'

/** Everything in a state, page by page. */
async function pages(queue: QueueStore, state: MessageState, limit: number): Promise<string[][]> {
  const found: string[][] = []
  let after = ''
  do {
    const { cursor, messages } = await queue.peek(state, after, limit)
    found.push(bodies(messages))
    after = cursor
  } while (after !== '')
  return found
}

test('ready messages are read in the order they will be delivered', async (t) => {
  const { queue } = await openTestQueue(t, { levels: 3 })
  await publish(queue, 'a', { body: 'b', priority: 2 }, { body: 'c', priority: 2 }, 'd')
  const leased = await lease(queue, 3)
  await publish(queue, { body: 'e', priority: 1 }, { body: 'f', priority: 2 })
  const back = [leased[2]!, leased[1]!]
  await queue.settle(back.map(({ token }) => ({ token, outcome: 'release' })))
  const before = await queue.stats()
  const order = (await pages(queue, 'ready', 100)).flat()
  assert.deepEqual(order, ['c', 'f', 'e', 'a', 'd'])
  assert.deepEqual((await pages(queue, 'ready', 1)).flat(), order)
  assert.deepEqual(await queue.stats(), before)
  assert.deepEqual(await drain(queue), order)
})

test('pages cut no batch, and end', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b', 'c')
  await publish(queue, 'd')
  await publish(queue, 'e', 'f')
  const found = await pages(queue, 'ready', 2)
  assert.deepEqual(found.flat(), [...'abcdef'])
  assert.deepEqual(found.slice(0, 2), [
    ['a', 'b', 'c'],
    ['d', 'e', 'f'],
  ])
})

test('messages behind another of their key are read last', async (t) => {
  const { queue } = await openTestQueue(t, { ordered: true })
  await publish(queue, ...['1', '2', '3'].map((body) => ({ body, orderingKey: 'k' })))
  await lease(queue)
  await publish(queue, 'free')
  for (const limit of [1, 2, 100]) {
    assert.deepEqual((await pages(queue, 'ready', limit)).flat(), ['free', '2', '3'])
  }
})

test('held ones are read by deadline, delayed ones by due time, each with it', async (t) => {
  const { store, queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b')
  await lease(queue, 1, 2 * HOUR_MS)
  await lease(queue, 1, HOUR_MS)
  await publish(queue, { body: 'c', delayMs: 2 * HOUR_MS }, { body: 'd', delayMs: HOUR_MS })
  const now = await store.nowMs()
  for (const [state, expected] of [
    ['held', ['b', 'a']],
    ['delayed', ['d', 'c']],
  ] as const) {
    assert.deepEqual(await pages(queue, state, 1), [...expected.map((body) => [body]), []])
    const { messages } = await queue.peek(state, '', 10)
    const hours = messages.map(({ atMs }) => Math.round((atMs - now) / HOUR_MS))
    assert.deepEqual(hours, [1, 2])
  }
})

test('what a slot holds on its own has no deadline', async (t) => {
  const { store, queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b')
  await queue.take(1, 'never')
  const [message] = (await queue.peek('held', '', 10)).messages
  const { atMs, holder, acquired } = message!
  assert.deepEqual([atMs, holder, acquired], [0, store.slot.name, 1])
})

test('a message that came back says how often it was out, and failed', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a')
  const [a] = await lease(queue)
  await queue.settle([{ token: a!.token, outcome: 'retry', delayMs: 0, reason: 'busy' }])
  const [message] = (await queue.peek('ready', '', 10)).messages
  const { acquired, failed, failure, holder, reason } = message!
  assert.deepEqual([acquired, failed, failure, holder, reason], [1, 1, 'busy', 'tester', ''])
})

test('an empty queue, a deleted one and one without keys hold nothing', async (t) => {
  const { store, queue, vhost } = await openTestQueue(t)
  const nothing = { cursor: '', messages: [] }
  const fresh = store.queue(vhost, 'fresh', 1, queue.settings)
  for (const state of ['ready', 'delayed', 'held', 'dead'] as const) {
    assert.deepEqual(await queue.peek(state, '', 10), nothing)
    assert.deepEqual(await fresh.peek(state, '', 10), nothing)
  }
  await publish(queue, 'a')
  await queue.drop({})
  assert.deepEqual(await queue.peek('ready', '', 10), nothing)
})
