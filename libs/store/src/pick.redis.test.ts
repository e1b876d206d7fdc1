/** pick.lua: one particular message, out of every place where it may wait. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { QueueStore } from './index.ts'
import { bodies, drain, HOUR_MS, lease, openTestQueue, pass, publish } from './test-queue.ts'

const pick = (queue: QueueStore, id: string) => queue.pick(id, HOUR_MS, 'operator')

async function refs(queue: QueueStore, state: 'ready' | 'delayed' = 'ready') {
  const { messages } = await queue.peek(state, '', 100)
  return new Map(messages.map(({ ref, record }) => [record.body.toString(), ref]))
}

test('a message is picked out of an unread batch, and the rest stays in order', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, ...'abcdefghijk')
  const all = await refs(queue)
  for (const body of ['b', 'j']) {
    const picked = await pick(queue, all.get(body)!)
    assert.deepEqual(bodies([picked!]), [body])
    assert.deepEqual([picked!.deliveryCount, picked!.redelivered], [1, false])
  }
  const { ready, unacked } = await queue.stats()
  assert.deepEqual([ready, unacked], [9, 2])
  assert.deepEqual(bodies((await queue.peek('ready', '', 100)).messages), [...'acdefghik'])
  const { batches, messages } = await queue.take(100, 'never')
  assert.deepEqual([batches, bodies(messages)], [[], [...'acdefghik']])
})

test('a batch from which the last message was picked is gone', async (t) => {
  const { store, queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b')
  for (const ref of (await refs(queue)).values()) assert.ok(await pick(queue, ref))
  assert.equal(await store.redis.xlen(`${queue.base}log`), 0)
  assert.deepEqual(await lease(queue), [])
})

test('messages that came back, wait or stand behind their key are picked alike', async (t) => {
  const { queue } = await openTestQueue(t, { ordered: true })
  await publish(queue, 'a', { body: 'k1', orderingKey: 'k' }, { body: 'k2', orderingKey: 'k' })
  await publish(queue, { body: 'later', delayMs: HOUR_MS })
  const leased = await lease(queue)
  await queue.settle(leased.map(({ token }) => ({ token, outcome: 'release' })))
  const parked = (await queue.find(leased[1]!.id.slice(0, -3) + '002'))!.message.ref
  const later = (await refs(queue, 'delayed')).get('later')!
  const picked = []
  for (const ref of [leased[0]!.id, parked, later]) picked.push((await pick(queue, ref))!)
  assert.deepEqual(bodies(picked), ['a', 'k2', 'later'])
  assert.equal(picked[0]!.deliveryCount, 2)
  const { ready, unacked, delayed } = await queue.stats()
  assert.deepEqual([ready, unacked, delayed], [1, 3, 0])
})

test('what somebody holds, or nobody has, is not to be picked', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b')
  const [a] = await lease(queue, 1)
  const [b] = (await queue.take(1, 'never')).messages
  await publish(queue, 'c', 'd')
  const [c] = [...(await refs(queue)).values()]
  await queue.take(10, 'never')
  for (const id of [a!.id, b!.ref, c!, 'f'.repeat(24), '', 'x', c!.slice(1), `${c}0`]) {
    assert.equal(await pick(queue, id), undefined, id)
  }
})

test('a ref is written one way only', async (t) => {
  const { queue } = await openTestQueue(t)
  await publish(queue, 'a')
  const [ref] = [...(await refs(queue)).values()]
  assert.match(ref!, /[a-f]/)
  assert.equal(await pick(queue, ref!.toUpperCase()), undefined)
  assert.ok(await pick(queue, ref!))
})

test('an expired message is not handed out, wherever it waits', async (t) => {
  const { store, queue } = await openTestQueue(t, { deadLetters: 'exchange' })
  await publish(queue, 'alive', { body: 'x', ttlMs: 1 }, { body: 'y', ttlMs: 1, delayMs: HOUR_MS })
  await pass(store, 1)
  const [, x] = [...(await refs(queue)).values()]
  const [y] = [...(await refs(queue, 'delayed')).values()]
  assert.equal(await pick(queue, x!), undefined)
  assert.equal(await pick(queue, y!), undefined)
  assert.deepEqual(bodies(await queue.claimDead(9, HOUR_MS)), ['x', 'y'])
  assert.deepEqual(await drain(queue), ['alive'])
})

test('a picked message is settled, or comes back, like any leased one', async (t) => {
  const { store, queue } = await openTestQueue(t)
  await publish(queue, 'a', 'b', 'c')
  const all = [...(await refs(queue)).values()]
  const picked = await pick(queue, all[1]!)
  assert.deepEqual(await queue.settle([{ token: picked!.token, outcome: 'ack' }]), ['settled'])
  await queue.pick(all[2]!, 1, 'operator')
  await pass(store, 1)
  assert.deepEqual(await drain(queue), ['c', 'a'])
})

test('of two that pick the same message one gets it', async (t) => {
  const { queue, another } = await openTestQueue(t)
  const { queue: elsewhere } = await another()
  await publish(queue, 'a')
  const [ref] = [...(await refs(queue)).values()]
  const picked = await Promise.all([pick(queue, ref!), pick(elsewhere, ref!)])
  assert.equal(picked.filter((message) => message !== undefined).length, 1)
})

test('messages picked in one turn come each to whom asked for it, the rest stays', async (t) => {
  const { store, queue } = await openTestQueue(t)
  await publish(queue, ...'abcdef')
  await publish(queue, ...'ghi')
  const leased = await lease(queue, 1)
  await queue.settle(leased.map(({ token }) => ({ token, outcome: 'release' })))
  const all = await refs(queue)
  const wanted = [...'hacbgca', '?'].map((body) => all.get(body) ?? 'f'.repeat(24))
  const picked = await Promise.all(wanted.map((ref) => pick(queue, ref)))
  const found = picked.map((message) => message?.record.body.toString())
  assert.deepEqual(found, ['h', 'a', 'c', 'b', 'g', undefined, undefined, undefined])
  assert.deepEqual(
    picked.map((message) => message?.deliveryCount ?? 0),
    [1, 2, 1, 1, 1, 0, 0, 0],
  )
  const { ready, unacked } = await queue.stats()
  assert.deepEqual([ready, unacked], [4, 5])
  const tokens = picked.flatMap((message) => (message ? [message.token] : []))
  await queue.settle(tokens.map((token) => ({ token, outcome: 'ack' })))
  assert.deepEqual(await drain(queue), ['d', 'e', 'f', 'i'])
  assert.equal(await store.redis.hlen(`${queue.base}side`), 0)
})
