/** Messages that a queue gave up on: where they go, what they carry, and the way back. */
import assert from 'node:assert/strict'
import { waitFor } from '@sluice/testkit'
import { bodies, type Delivery, type Door, promise, takeOne } from './door.ts'

const NOW = { waitMs: 0 }
const PARKED = 'amq.dead-letters'

async function reject(door: Door, queue: string, reason = 'no'): Promise<Delivery> {
  const delivery = await takeOne(door, queue, { consumer: 'alice' })
  await door.settle(queue, delivery, { outcome: 'dead-letter', reason })
  return delivery
}

const deaths = ({ headers }: Delivery) => headers['x-death'] as Record<string, unknown>[]

async function list(door: Door, queue = PARKED) {
  return (await door.broker.request('GET', `/queues/${queue}/dead-letters`)).json.messages
}

promise('past its delivery limit a message is a dead letter that tells all', async (door) => {
  await door.declare('q', { 'x-delivery-limit': 2 })
  await door.publish('q', 'poison', { headers: { Colour: 'blue' } })
  for (const attempt of [1, 2, 3]) {
    const delivery = await takeOne(door, 'q', { consumer: `worker-${attempt}` })
    assert.equal(delivery.deliveryCount, attempt)
    const failed = { outcome: 'retry', delayMs: 0, reason: `broke ${attempt}` } as const
    const expected = attempt === 3 ? 'dead-lettered' : 'retried'
    assert.equal(await door.settle('q', delivery, failed), expected)
  }
  const [letter] = await waitFor(async () => {
    const letters = await list(door)
    return letters.length > 0 && letters
  })
  assert.equal(letter.body, 'poison')
  const { history, ...death } = letter.death
  assert.deepEqual(death, {
    queue: 'q',
    reason: 'delivery_limit',
    lastError: 'broke 3',
    heldBy: 'worker-3',
    deliveryCount: 3,
    attempts: [],
  })
  const [{ at, ...entry }] = history
  assert.ok(Date.parse(at) > Date.now() - 60_000)
  const facts = { queue: 'q', reason: 'delivery_limit', count: 1, exchange: '', routingKeys: ['q'] }
  assert.deepEqual(entry, facts)
})

promise('a lease that lapses too often ends as a dead letter, too', async (door) => {
  await door.declare('q', { 'x-delivery-limit': 0 })
  await door.publish('q', 'x')
  await takeOne(door, 'q', { leaseMs: 1_000, consumer: 'sleeper' })
  const dead = await takeOne(door, PARKED)
  assert.equal(dead.headers['x-sluice-holder'], 'sleeper')
  assert.equal(deaths(dead)[0]?.['reason'], 'delivery_limit')
})

promise(
  'a rejected message goes to the dead letter exchange under the key of choice',
  async (door) => {
    await door.deadLetterExchange('dlx', 'dead')
    await door.declare('q', {
      'x-dead-letter-exchange': 'dlx',
      'x-dead-letter-routing-key': 'elsewhere',
    })
    await door.publish('q', 'x')
    await reject(door, 'q', 'malformed')
    const dead = await takeOne(door, 'dead')
    assert.deepEqual([dead.body, dead.exchange, dead.routingKey], ['x', 'dlx', 'elsewhere'])
    assert.equal(dead.headers['x-sluice-error'], 'malformed')
    assert.equal(deaths(dead)[0]?.['reason'], 'rejected')
    assert.deepEqual(deaths(dead)[0]?.['routing-keys'], ['q'])
    assert.equal((await door.counts(PARKED)).ready, 0)
  },
)

promise('of many dead letters each arrives once', async (door) => {
  await door.declare('q')
  const all = Array.from({ length: 30 }, (_, i) => `${i}`)
  for (const body of all) await door.publish('q', body)
  const taken = await door.take('q')
  await Promise.all(taken.map((m) => door.settle('q', m, { outcome: 'dead-letter', reason: 'no' })))
  await waitFor(async () => (await door.counts(PARKED)).ready === 30)
  assert.deepEqual(bodies(await door.take(PARKED)).sort(), [...all].sort())
})

promise('what a consumer failed on is kept where its exchange reaches nobody', async (door) => {
  await door.declare('q', { 'x-dead-letter-exchange': 'missing' })
  await door.publish('q', 'x')
  await reject(door, 'q')
  const kept = await takeOne(door, PARKED)
  assert.equal(kept.body, 'x')
  assert.equal(deaths(kept)[0]?.['queue'], 'q')
})

promise('what expires where the exchange reaches nobody is dropped', async (door) => {
  await door.declare('q', { 'x-dead-letter-exchange': 'missing', 'x-message-ttl': 50 })
  await door.publish('q', 'x')
  await waitFor(async () => {
    const { ready, dead } = await door.counts('q')
    return ready + dead === 0
  })
  assert.equal((await door.counts(PARKED)).ready, 0)
})

promise('a circle that only time turns is broken', async (door) => {
  await door.declare('q', {
    'x-dead-letter-exchange': '',
    'x-dead-letter-routing-key': 'q',
    'x-message-ttl': 50,
  })
  await door.publish('q', 'x')
  const gone = async () => {
    const { ready, dead } = await door.counts('q')
    return ready + dead === 0
  }
  await waitFor(gone, { what: 'the message to be dropped' })
  assert.equal((await door.counts(PARKED)).ready, 0)
})

promise('a circle through a consumer who rejects goes on', async (door) => {
  await door.declare('q', { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'q' })
  await door.publish('q', 'x')
  await reject(door, 'q')
  await reject(door, 'q')
  const third = await takeOne(door, 'q')
  assert.equal(deaths(third)[0]?.['count'], 2)
})

promise('two stations leave two entries in the history, the newest first', async (door) => {
  await door.deadLetterExchange('dlx', 'station')
  await door.declare('q', { 'x-dead-letter-exchange': 'dlx', 'x-message-ttl': 50 })
  await door.publish('q', 'x')
  await reject(door, 'station')
  const dead = await takeOne(door, PARKED)
  const stations = deaths(dead).map(({ queue, reason }) => [queue, reason])
  assert.deepEqual(stations, [
    ['station', 'rejected'],
    ['q', 'expired'],
  ])
  assert.equal(dead.headers['x-first-death-queue'], 'q')
})

promise('one dead letter is redriven to the queue where it died, once', async (door) => {
  await door.declare('q')
  await door.publish('q', 'x')
  await reject(door, 'q')
  await waitFor(async () => (await list(door)).length === 1)
  const [{ id }] = await list(door)
  const redrive = () => door.broker.request('POST', `/queues/${PARKED}/redrive`, { body: { id } })
  assert.deepEqual((await redrive()).json, { queue: 'q' })
  assert.equal((await redrive()).json.title, 'message_not_found')
  const back = await takeOne(door, 'q')
  assert.deepEqual([back.body, back.exchange, back.routingKey], ['x', '', 'q'])
  assert.equal((await door.counts(PARKED)).ready, 0)
})

promise('all dead letters are redriven, but for those that cannot go back', async (door) => {
  await door.declare('q')
  await door.declare('gone')
  for (let i = 0; i < 100; i++) await door.publish('q', `${i}`)
  await door.publish('gone', 'x')
  for (const queue of ['q', 'gone']) {
    for (const delivery of await door.take(queue)) {
      await door.settle(queue, delivery, { outcome: 'dead-letter', reason: 'no' })
    }
  }
  await waitFor(async () => (await door.counts(PARKED)).ready === 101)
  await door.publish(PARKED, 'no dead letter')
  await door.broker.request('DELETE', '/queues/gone')

  const { status, headers } = await door.broker.request('POST', `/queues/${PARKED}/redrive`)
  assert.equal(status, 202)
  const job = await waitFor(async () => {
    const { json } = await door.broker.request('GET', headers.get('location')!)
    return json.state === 'done' && json
  })
  assert.deepEqual([job.redriven, job.skipped], [100, 1])
  const back = await door.take('q', NOW)
  assert.equal(new Set(bodies(back)).size, 100)
  assert.deepEqual(bodies(await door.take(PARKED)), ['x', 'no dead letter'])
})
