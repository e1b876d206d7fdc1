/** What a queue refuses, drops and stores once. */
import assert from 'node:assert/strict'
import { bodies, promise, takeOne } from './door.ts'

const NOW = { waitMs: 0 }

promise('drop-head keeps the newest, and dead-letters the oldest', async (door) => {
  await door.deadLetterExchange('dlx', 'dead')
  await door.declare('q', { 'x-max-length': 2, 'x-dead-letter-exchange': 'dlx' })
  for (const body of ['1', '2', '3', '4']) {
    assert.equal(await door.publish('q', body), 'stored')
  }
  assert.deepEqual(bodies(await door.take('q', NOW)), ['3', '4'])
  const dead = [await takeOne(door, 'dead'), await takeOne(door, 'dead')]
  // Reapers of other tests may move one each at the same time.
  assert.deepEqual(bodies(dead).toSorted(), ['1', '2'])
  const [death] = dead[0]!.headers['x-death'] as Record<string, unknown>[]
  assert.equal(death?.['reason'], 'maxlen')
})

promise('reject-publish refuses while the queue is full, and stores again after', async (door) => {
  await door.declare('q', { 'x-max-length': 2, 'x-overflow': 'reject-publish' })
  const outcomes = []
  for (const body of ['1', '2', '3']) outcomes.push(await door.publish('q', body))
  assert.deepEqual(outcomes, ['stored', 'stored', 'full'])
  await takeOne(door, 'q')
  assert.equal(await door.publish('q', '4'), 'stored')
  assert.deepEqual(bodies(await door.take('q', NOW)), ['2', '4'])
})

promise('reject-publish-dlx refuses and dead-letters what it refused', async (door) => {
  await door.deadLetterExchange('dlx', 'dead')
  await door.declare('q', {
    'x-max-length': 1,
    'x-overflow': 'reject-publish-dlx',
    'x-dead-letter-exchange': 'dlx',
  })
  assert.equal(await door.publish('q', '1'), 'stored')
  assert.equal(await door.publish('q', '2'), 'full')
  assert.equal((await takeOne(door, 'dead')).body, '2')
  assert.deepEqual(bodies(await door.take('q', NOW)), ['1'])
})

promise('a limit in bytes counts bodies', async (door) => {
  await door.declare('q', { 'x-max-length-bytes': 3_000 })
  for (const body of ['a', 'b', 'c', 'd']) await door.publish('q', body.repeat(1_000))
  assert.deepEqual(
    bodies(await door.take('q', NOW)).map((body) => body[0]),
    ['c', 'd'],
  )
})

promise('an id is stored once within the window, also when it was consumed', async (door) => {
  await door.declare('q')
  assert.equal(await door.publish('q', 'x', { dedupId: 'one' }), 'stored')
  await door.settle('q', await takeOne(door, 'q'), { outcome: 'ack' })
  assert.equal(await door.publish('q', 'x', { dedupId: 'one' }), 'duplicate')
  assert.equal(await door.publish('q', 'y', { dedupId: 'two' }), 'stored')
  assert.deepEqual(bodies(await door.take('q', NOW)), ['y'])
})

promise('an id is forgotten after its window', async (door) => {
  await door.declare('q', { 'x-dedup-window': 1_000 })
  assert.equal(await door.publish('q', 'x', { dedupId: 'one' }), 'stored')
  const start = performance.now()
  while ((await door.publish('q', 'x', { dedupId: 'one' })) === 'duplicate') {
    assert.ok(performance.now() - start < 5_000, 'it is remembered for too long')
  }
  assert.ok(performance.now() - start >= 990, 'it is remembered for the whole window')
})

promise('a publish that was refused leaves no id behind', async (door) => {
  await door.declare('q', { 'x-max-length': 1, 'x-overflow': 'reject-publish' })
  await door.publish('q', '1')
  assert.equal(await door.publish('q', '2', { dedupId: 'two' }), 'full')
  await takeOne(door, 'q')
  assert.equal(await door.publish('q', '2', { dedupId: 'two' }), 'stored')
})
