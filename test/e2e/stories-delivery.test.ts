/** What becomes of messages, through public ports: time, failure, death, and the way back. */
import assert from 'node:assert/strict'
import { waitFor } from '@sluice/testkit'
import { type Story, tell, type Vhost } from '../support/deployment.ts'

const NOW = { waitMs: 0 }

/** Waits until a queue has `count` dead letters, and returns them. */
function deadLetters(vhost: Vhost, count: number, queue = 'amq.dead-letters') {
  return waitFor(
    async () => {
      const { json } = await vhost.delivery('GET', `/queues/${queue}/dead-letters`)
      return json.messages.length === count && json.messages
    },
    { what: `${count} dead letters` },
  )
}

const time: Story[] = [
  [
    'a delayed message comes after its delay, and one for a time in the past at once',
    async (vhost) => {
      await vhost.queue('q')
      const start = performance.now()
      await vhost.send('q', 'later', { 'Sluice-Delay': 2_500 })
      await vhost.send('q', 'soon', { 'Sluice-Deliver-At': Date.now() + 1_500 })
      await vhost.send('q', 'past', { 'Sluice-Deliver-At': '2001-01-01T00:00:00Z' })
      assert.deepEqual(await vhost.drain('q', NOW), ['past'])
      assert.equal((await vhost.counts('q'))['delayed'], 2)
      assert.deepEqual(await vhost.drain('q'), ['soon'])
      assert.deepEqual(await vhost.drain('q'), ['later'])
      assert.ok(performance.now() - start >= 2_499)
    },
  ],
  [
    'a message that lives too long goes to the dead letter exchange, with its history',
    async (vhost) => {
      await vhost.put('/exchanges/dlx', { type: 'fanout' })
      await vhost.queue('graves')
      await vhost.bind('dlx', 'graves')
      await vhost.queue('q', { 'x-dead-letter-exchange': 'dlx', 'x-message-ttl': 10_000 })
      await vhost.send('q', 'short', { 'Sluice-Ttl': 200 })
      const dead = await vhost.leaseOne('graves')
      assert.equal(dead.body, 'short')
      const [death] = dead.headers['x-death']
      assert.deepEqual([death.queue, death.reason, death.count], ['q', 'expired', 1])
      assert.equal(dead.headers['x-first-death-queue'], 'q')
    },
  ],
  [
    'a failed message comes again after a back-off that grows, and dies at its limit',
    async (vhost) => {
      const retry = { base: 150, factor: 2, max: 1_000, jitter: 0 }
      await vhost.queue('q', { 'x-retry': retry, 'x-delivery-limit': 2 })
      await vhost.send('q', 'poison')
      for (const backOffMs of [150, 300]) {
        const message = await vhost.leaseOne('q', { consumer: 'worker 7' })
        const failedAt = performance.now()
        await vhost.settle('q', message, { outcome: 'retry', reason: 'no ink' })
        const again = await vhost.leaseOne('q', { consumer: 'worker 7' })
        assert.ok(performance.now() - failedAt >= backOffMs - 1, `${backOffMs}`)
        await vhost.settle('q', again, { outcome: 'release' })
      }
      const last = await vhost.leaseOne('q', { consumer: 'worker 7' })
      assert.equal(last.failedCount, 2)
      const outcome = await vhost.settle('q', last, { outcome: 'retry', reason: 'no paper' })
      assert.equal(outcome, 'dead-lettered')
      const [{ death }] = await deadLetters(vhost, 1)
      assert.deepEqual([death.queue, death.reason], ['q', 'delivery_limit'])
      assert.deepEqual([death.lastError, death.heldBy], ['no paper', 'worker 7'])
    },
  ],
]

const death: Story[] = [
  [
    'what a consumer gives up on is listed with its reason, and goes back one by one or all',
    async (vhost) => {
      await vhost.queue('q')
      for (const body of ['a', 'b', 'c']) await vhost.send('q', body)
      for (const message of await vhost.lease('q')) {
        const reason = `cannot read ${message.body}`
        await vhost.settle('q', message, { outcome: 'dead-letter', reason })
      }
      const letters = await deadLetters(vhost, 3)
      const b = letters.find(({ body }: { body: string }) => body === 'b')
      assert.deepEqual([b.death.reason, b.death.lastError], ['rejected', 'cannot read b'])

      const path = '/queues/amq.dead-letters/redrive'
      const one = await vhost.delivery('POST', path, { body: { id: b.id } })
      assert.deepEqual([one.status, one.json], [200, { queue: 'q' }])
      assert.deepEqual(await vhost.drain('q'), ['b'])

      const all = await vhost.delivery('POST', path, { body: {} })
      assert.equal(all.status, 202)
      const job = `/queues/amq.dead-letters/redrives/${all.json.id}`
      const done = await waitFor(
        async () => {
          const { json } = await vhost.delivery('GET', job)
          return json.state === 'done' && json
        },
        { what: 'the redrive to be done' },
      )
      assert.deepEqual([done.redriven, done.skipped], [2, 0])
      assert.deepEqual((await vhost.drain('q')).toSorted(), ['a', 'c'])
      assert.deepEqual(await deadLetters(vhost, 0), [])
    },
  ],
  [
    'any process settles what another one leased',
    async (vhost, deployment) => {
      const there = deployment.elsewhere(vhost)
      await vhost.queue('q')
      for (const body of ['1', '2', '3']) await vhost.send('q', body)
      const [first, second, third] = await vhost.lease('q')
      assert.equal(await there.settle('q', first!, { outcome: 'ack' }), 'settled')
      assert.equal(await there.settle('q', second!, { outcome: 'release' }), 'released')
      const extend = { outcome: 'extend', leaseMs: 60_000 }
      assert.equal(await there.settle('q', third!, extend), 'extended')
      const again = await there.leaseOne('q')
      assert.deepEqual([again.body, again.redelivered], ['2', true])
      assert.equal(await vhost.settle('q', second!, { outcome: 'ack' }), 'stale')
      assert.equal(await vhost.settle('q', again, { outcome: 'ack' }), 'settled')
      assert.equal(await vhost.settle('q', third!, { outcome: 'ack' }), 'settled')
    },
  ],
  [
    'a lease that lapses gives the message to the next one who asks',
    async (vhost, deployment) => {
      await vhost.queue('q')
      await vhost.send('q', 'x')
      const lapsed = await vhost.leaseOne('q', { leaseMs: 1_000 })
      const next = await deployment.elsewhere(vhost).leaseOne('q')
      assert.deepEqual([next.redelivered, next.deliveryCount, next.failedCount], [true, 2, 1])
      assert.equal(await vhost.settle('q', lapsed, { outcome: 'ack' }), 'stale')
    },
  ],
  [
    'a long poll is woken by a publish through another process',
    async (vhost, deployment) => {
      const there = deployment.elsewhere(vhost)
      await vhost.queue('q')
      await there.drain('q', NOW)
      const tookMs: number[] = []
      for (let round = 0; round < 5; round++) {
        const polling = there.lease('q', { waitMs: 10_000 })
        // Two round trips through the same process: by then the poll waits.
        for (let i = 0; i < 2; i++) await there.delivery('GET', '/queues/q/messages')
        const start = performance.now()
        await vhost.send('q', `${round}`)
        const [message] = await polling
        tookMs.push(performance.now() - start)
        await there.settle('q', message!, { outcome: 'ack' })
      }
      // Far under the second after which an idle process looks by itself.
      const median = tookMs.toSorted((a, b) => a - b)[2]!
      assert.ok(median < 500, `took ${tookMs.map(Math.round)} ms`)
    },
  ],
]

tell([...time, ...death])
