/** attach.lua: consumers of a queue over two processes; exclusive ones, and a single active one. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { waitFor } from '@sluice/testkit'
import { openTestQueue } from './test-queue.ts'

const PLAIN = { priority: 0, exclusive: false, single: false }
const SINGLE = { ...PLAIN, single: true }
const EXCLUSIVE = { ...PLAIN, exclusive: true }

test('attaching twice counts once, and the count spans processes', async (t) => {
  const { queue, another } = await openTestQueue(t)
  const there = (await another()).queue
  assert.deepEqual(await queue.attach('a', PLAIN), { kind: 'ok', active: true, consumers: 1 })
  assert.deepEqual(await queue.attach('a', PLAIN), { kind: 'ok', active: true, consumers: 1 })
  assert.deepEqual(await there.attach('b', PLAIN), { kind: 'ok', active: true, consumers: 2 })
  assert.equal((await there.stats()).consumers, 2)
})

test('an exclusive consumer shares with nobody, and is refused where somebody is', async (t) => {
  const { queue, another } = await openTestQueue(t)
  const there = (await another()).queue
  await queue.attach('a', EXCLUSIVE)
  assert.deepEqual(await there.attach('b', PLAIN), { kind: 'exclusive' })
  assert.deepEqual(await there.attach('b', EXCLUSIVE), { kind: 'exclusive' })
  await queue.detach('a')
  assert.equal((await there.attach('b', PLAIN)).kind, 'ok')
  assert.deepEqual(await queue.attach('a', EXCLUSIVE), { kind: 'exclusive' })
})

test('one consumer is active; when it leaves, the next in order is woken', async (t) => {
  const { queue, another } = await openTestQueue(t)
  const there = (await another()).queue
  let woken = 0
  t.after(
    there.watch(() => {
      woken++
      return true
    }),
  )
  assert.deepEqual(await queue.attach('a', SINGLE), { kind: 'ok', active: true, consumers: 1 })
  assert.deepEqual(await there.attach('b', SINGLE), { kind: 'ok', active: false, consumers: 2 })
  assert.deepEqual(await queue.attach('c', SINGLE), { kind: 'ok', active: false, consumers: 3 })
  await queue.detach('a')
  await waitFor(() => woken > 0, { what: 'the wake-up' })
  assert.deepEqual(await there.attach('b', SINGLE), { kind: 'ok', active: true, consumers: 2 })
  assert.deepEqual(await queue.attach('c', SINGLE), { kind: 'ok', active: false, consumers: 2 })
})

test('the consumers of a dead slot go, and the next one is active', async (t) => {
  const { store, queue, another } = await openTestQueue(t)
  const there = (await another()).queue
  await queue.attach('a', SINGLE)
  await there.attach('b', SINGLE)
  await there.reclaim(store.slot.name, { dead: true })
  assert.deepEqual(await there.attach('b', SINGLE), { kind: 'ok', active: true, consumers: 1 })
})

test('a queue in use is kept from a delete that asks', async (t) => {
  const { queue } = await openTestQueue(t)
  await queue.attach('a', PLAIN)
  assert.deepEqual(await queue.drop({ ifUnused: true }), { kind: 'in-use' })
  assert.deepEqual(await queue.drop({ unusedMs: 0 }), { kind: 'in-use' })
  await queue.detach('a')
  assert.deepEqual(await queue.drop({ ifUnused: true }), { kind: 'dropped', messages: 0 })
})

test('nobody attaches to a queue that is gone', async (t) => {
  const { queue } = await openTestQueue(t)
  await queue.drop({})
  await assert.rejects(queue.attach('a', PLAIN), { code: 'queue_not_found' })
})
