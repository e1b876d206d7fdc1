/** In which order messages come. */
import assert from 'node:assert/strict'
import { bodies, type Door, promise, takeOne } from './door.ts'

const NOW = { waitMs: 0 }

async function publishAll(door: Door, queue: string, all: readonly string[]): Promise<void> {
  for (const body of all) await door.publish(queue, body, { orderingKey: body[0]! })
}

promise('messages come in the order in which they were confirmed', async (door) => {
  await door.declare('q')
  const all = Array.from({ length: 50 }, (_, i) => `m${i}`)
  await publishAll(door, 'q', all)
  const first = await door.take('q', { max: 20 })
  const rest = await door.take('q')
  assert.deepEqual(bodies([...first, ...rest]), all)
})

promise('a message that is given back comes again before those behind it', async (door) => {
  await door.declare('q')
  await publishAll(door, 'q', ['1', '2', '3', '4'])
  const [one, two] = await door.take('q', { max: 3 })
  await door.settle('q', two!, { outcome: 'release' })
  await door.settle('q', one!, { outcome: 'release' })
  assert.deepEqual(bodies(await door.take('q')), ['1', '2', '4'])
})

promise('a higher priority comes first, equals in their order', async (door) => {
  await door.declare('q', { 'x-max-priority': 3 })
  for (const [body, priority] of [
    ['low', 0],
    ['mid', 1],
    ['high', 3],
    ['mid2', 1],
    ['over', 200],
  ] as const) {
    await door.publish('q', body, { priority })
  }
  assert.deepEqual(bodies(await door.take('q')), ['high', 'over', 'mid', 'mid2', 'low'])
})

promise('of one ordering key one message is out at a time, others flow', async (door) => {
  await door.declare('q', { 'x-ordering-key': true })
  await publishAll(door, 'q', ['a1', 'a2', 'b1', 'a3', 'b2'])
  const first = await door.take('q')
  assert.deepEqual(bodies(first), ['a1', 'b1'])
  assert.deepEqual(await door.take('q', NOW), [])
  await door.settle('q', first[0]!, { outcome: 'ack' })
  assert.deepEqual(bodies(await door.take('q', NOW)), ['a2'])
  await door.settle('q', first[1]!, { outcome: 'ack' })
  assert.deepEqual(bodies(await door.take('q', NOW)), ['b2'])
})

promise('a failing message blocks its ordering key alone, until it is through', async (door) => {
  await door.declare('q', { 'x-ordering-key': true })
  await publishAll(door, 'q', ['a1', 'b1', 'a2', 'b2'])
  const [a1, b1] = await door.take('q')
  await door.settle('q', a1!, { outcome: 'retry', delayMs: 1_500 })
  await door.settle('q', b1!, { outcome: 'ack' })
  const b2 = await takeOne(door, 'q', NOW)
  assert.equal(b2.body, 'b2')
  await door.settle('q', b2, { outcome: 'ack' })
  assert.deepEqual(await door.take('q', NOW), [], 'a2 waits for a1')
  const again = await takeOne(door, 'q')
  assert.deepEqual([again.body, again.deliveryCount], ['a1', 2])
  await door.settle('q', again, { outcome: 'ack' })
  assert.equal((await takeOne(door, 'q')).body, 'a2')
})

promise('a dead letter opens its ordering key', async (door) => {
  await door.declare('q', { 'x-ordering-key': true })
  await publishAll(door, 'q', ['a1', 'a2'])
  await door.settle('q', await takeOne(door, 'q'), { outcome: 'dead-letter', reason: 'no' })
  assert.equal((await takeOne(door, 'q')).body, 'a2')
})

promise('messages without an ordering key do not wait for each other', async (door) => {
  await door.declare('q', { 'x-ordering-key': true })
  for (const body of ['1', '2', '3']) await door.publish('q', body)
  assert.deepEqual(bodies(await door.take('q')), ['1', '2', '3'])
})
