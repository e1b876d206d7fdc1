/**
 * Feeds over a real queue: credit is never exceeded, everything is settled once, order is kept.
 */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { openStore, QUEUE_SETTINGS_DEFAULT, type QueueStore } from '@sluice/store'
import { randomFor, waitFor, withBareRedis } from '@sluice/testkit'
import { publish as publishTo } from '../../../libs/store/src/test-queue.ts'
import { tcpProxy } from '../../../test/support/tcp-proxy.ts'
import { Feed } from './feed.ts'
import type { Consumer, Delivery } from './handing.ts'

async function setup(t: TestContext) {
  const { url, vhost } = await withBareRedis(t)
  const report = (error: unknown) => t.diagnostic(String(error))
  const open = async (at = url) => {
    const store = await openStore({ url: at, report })
    t.after(() => store.close())
    const queue = store.queue(vhost, 'orders', 1, QUEUE_SETTINGS_DEFAULT)
    return { slot: store.slot.name, redis: store.redis, queue }
  }
  const { slot, queue, redis } = await open()
  await queue.create()
  let ended = 0
  const feed = (of = queue) => {
    const feed = new Feed(of, report, () => ended++)
    t.after(() => feed.close())
    return feed
  }
  /** Another process, with a wire to Redis that can be cut. */
  const wired = async () => {
    const wire = await tcpProxy(Number(new URL(url).port))
    t.after(() => t.after(() => wire.close())) // last: a store would look for it, and find others
    const far = Object.assign(new URL(url), { port: String(wire.port) })
    return { wire, ...(await open(far.href)) }
  }
  return { slot, queue, redis, open, wired, feed, ended: () => ended }
}

/** Publishes bodies '0', '1', ...; returns when all are stored. */
const publish = (queue: QueueStore, count: number, from = 0) =>
  publishTo(queue, ...Array.from({ length: count }, (_, n) => String(from + n)))

class TestConsumer implements Consumer {
  readonly priority: number
  readonly noAck = false
  readonly held: Delivery[] = []
  readonly seen: number[] = []
  prefetch: number
  gone = false
  onDelivery: (delivery: Delivery) => void = () => {}

  constructor(prefetch: number, priority = 0) {
    this.prefetch = prefetch
    this.priority = priority
  }

  credit(): number {
    return this.prefetch - this.held.length
  }

  deliver(delivery: Delivery): void {
    this.held.push(delivery)
    assert.ok(this.held.length <= this.prefetch, 'more than the credit')
    this.seen.push(Number(delivery.record.body.toString()))
    this.onDelivery(delivery)
  }

  cancelled(): void {
    this.gone = true
  }

  take(delivery: Delivery): void {
    this.held.splice(this.held.indexOf(delivery), 1)
  }
}

const back = (failure: string, action: 'ready' | 'due' | 'dead' = 'ready') => ({
  action,
  delayMs: 0,
  failure,
})

test('one consumer gets everything in order, never more than its prefetch', async (t) => {
  const { queue, feed } = await setup(t)
  await publish(queue, 1_000)
  const consumer = new TestConsumer(10)
  const orders = feed()
  consumer.onDelivery = (delivery) =>
    setImmediate(() => {
      consumer.take(delivery)
      orders.ack(delivery)
    })
  orders.attach(consumer)
  await waitFor(async () => (await queue.stats()).acked === 1_000, { what: 'all to be settled' })
  assert.deepEqual(
    consumer.seen,
    Array.from({ length: 1_000 }, (_, n) => n),
  )
  assert.equal((await queue.stats()).unacked, 0)
})

test('order is kept where some batches fit the credit and others are split', async (t) => {
  const { queue, feed } = await setup(t)
  const sizes = [3, 9, 2, 2, 30, 1, 5, 12, 4, 50, 2, 3, 7, 40, 1]
  let total = 0
  for (const size of sizes) {
    await publish(queue, size, total) // one batch each
    total += size
  }
  const consumer = new TestConsumer(20)
  const orders = feed()
  consumer.onDelivery = (delivery) =>
    setImmediate(() => {
      consumer.take(delivery)
      orders.ack(delivery)
    })
  orders.attach(consumer)
  await waitFor(async () => (await queue.stats()).acked === total, { what: 'all to be settled' })
  assert.deepEqual(
    consumer.seen,
    Array.from({ length: total }, (_, n) => n),
  )
})

test('what a consumer gives back comes again, first, flagged, and counted', async (t) => {
  const { queue, feed } = await setup(t)
  await publish(queue, 20)
  const orders = feed()
  const first = new TestConsumer(20)
  orders.attach(first)
  await waitFor(() => first.held.length === 20, { what: 'all deliveries' })
  const [a, b, c, ...rest] = first.held.splice(0) as [Delivery, Delivery, Delivery, ...Delivery[]]
  orders.detach(first)
  for (const delivery of rest) orders.ack(delivery)
  orders.giveBack(b, back('+boom'))
  orders.giveBack(a, back('-'))
  orders.giveBack(c, back('+bad', 'dead'))
  await orders.settled()
  assert.deepEqual((await queue.stats()).acked, 17)

  const second = new TestConsumer(5)
  const again = feed()
  again.attach(second)
  await waitFor(() => second.held.length === 2, { what: 'both again' })
  assert.deepEqual(second.seen, [0, 1])
  assert.deepEqual(
    second.held.map(({ redelivered, acquired, failed }) => ({ redelivered, acquired, failed })),
    [
      { redelivered: true, acquired: 2, failed: 0 },
      { redelivered: true, acquired: 2, failed: 1 },
    ],
  )
  assert.equal((await queue.stats()).dead, 1)
})

test('the higher priority is served first while it has credit', async (t) => {
  const { queue, feed } = await setup(t)
  const orders = feed()
  const low = new TestConsumer(100)
  const high = new TestConsumer(30, 5)
  orders.attach(low)
  orders.attach(high)
  await publish(queue, 50)
  await waitFor(() => low.held.length + high.held.length === 50, { what: 'all deliveries' })
  assert.equal(high.held.length, 30)
})

test('a batch half settled for a while is noted: after a crash only the rest comes again', async (t) => {
  const { slot, queue, open, feed } = await setup(t)
  await publish(queue, 40)
  const orders = feed()
  const consumer = new TestConsumer(40)
  orders.attach(consumer)
  await waitFor(() => consumer.held.length === 40, { what: 'all deliveries' })
  for (const delivery of consumer.held.splice(0, 25)) orders.ack(delivery)
  await waitFor(async () => (await queue.stats()).acked === 25, { what: 'the note' })
  orders.detach(consumer) // it has credit again, and would take what comes back

  const { queue: other } = await open()
  while ((await other.reclaim(slot, { dead: true })).more);
  const leased = await other.lease({ max: 100, leaseMs: 60_000, waitMs: 0, consumer: 'next' })
  assert.deepEqual(
    leased.map(({ record, redelivered }) => [Number(record.body.toString()), redelivered]),
    Array.from({ length: 15 }, (_, n) => [n + 25, true]),
  )
})

test('consumers come and go, settle at random, and nothing is lost or settled twice', async (t) => {
  const { queue, feed, ended } = await setup(t)
  const random = randomFor(t)
  const orders = feed()
  const done = new Set<number>()
  const consume = (consumer: TestConsumer) => {
    consumer.onDelivery = (delivery) =>
      setTimeout(() => {
        if (!consumer.held.includes(delivery)) return
        consumer.take(delivery)
        const n = Number(delivery.record.body.toString())
        if (random.next() < 0.2) {
          orders.giveBack(delivery, back('-'))
        } else {
          assert.ok(!done.has(n), `${n} was settled before`)
          done.add(n)
          orders.ack(delivery)
        }
      }, random.next() * 3)
    orders.attach(consumer)
  }
  const publishing = publish(queue, 2_000)
  let consumers = [new TestConsumer(1), new TestConsumer(7), new TestConsumer(50, 1)]
  for (const consumer of consumers) consume(consumer)
  while (done.size < 2_000) {
    await new Promise((resolve) => setTimeout(resolve, 10))
    const leaver = consumers.shift()!
    orders.detach(leaver)
    for (const delivery of leaver.held.splice(0)) orders.giveBack(delivery, back('-'))
    const next = new TestConsumer(1 + Math.floor(random.next() * 60))
    consumers = [...consumers, next]
    consume(next)
  }
  await publishing
  for (const consumer of consumers) orders.detach(consumer)
  await waitFor(() => ended() === 1, { what: 'the feed to end' })
  const { ready, unacked, acked, dead } = await queue.stats()
  assert.deepEqual({ ready, unacked, acked, dead }, { ready: 0, unacked: 0, acked: 2_000, dead: 0 })
})

test('a hint that comes while a take is under way is not lost', async (t) => {
  const { queue, feed } = await setup(t)
  const waiting = feed()
  const consumer = new TestConsumer(1_000)
  const sentAt: number[] = []
  let late = 0
  consumer.onDelivery = (delivery) => {
    const number = Number(delivery.record.body.toString())
    if (performance.now() - sentAt[number]! > 500) late++
    consumer.take(delivery)
    waiting.ack(delivery)
  }
  waiting.attach(consumer)
  // Each is published around the moment when the take after the one before finds nothing.
  const publishSome = async () => {
    late = 0
    for (let left = 400; left > 0; left--) {
      const n = sentAt.push(performance.now()) - 1
      const stored = publish(queue, 1, n)
      if (n % 8 === 7) await waitFor(() => consumer.seen.length > n)
      else await stored
    }
    await waitFor(() => consumer.seen.length === sentAt.length)
  }
  // A busy machine is late as well, but not each time.
  await publishSome()
  for (let tries = 2; tries > 0 && late > 0; tries--) await publishSome()
  assert.equal(late, 0)
})

test('what a lost reply brought goes back, though nobody consumes any more', async (t) => {
  const { queue, redis, open, feed, ended } = await setup(t)
  const observer = (await open()).queue
  await publish(queue, 3)
  const consumer = new TestConsumer(10)
  const orders = feed()
  redis.client('REPLY', 'SKIP').catch(() => {}) // to the take, which comes next
  orders.attach(consumer)
  orders.detach(consumer)
  await waitFor(async () => (await observer.stats()).unacked === 3, { what: 'the take' })
  redis.disconnect(true)
  await waitFor(async () => (await observer.stats()).ready === 3, { what: 'the return' })
  await waitFor(() => ended() === 1, { what: 'the end' })
  assert.deepEqual(consumer.seen, [])
})

test('what a take brings that arrives after it was given up on is not lost', async (t) => {
  const { queue, wired, feed } = await setup(t)
  const { wire, queue: far } = await wired()
  const orders = feed(far)
  const consumer = new TestConsumer(10)
  orders.attach(consumer)
  await publish(queue, 1)
  await waitFor(() => consumer.held.length === 1)
  wire.stall()
  const [first] = consumer.held.splice(0)
  orders.ack(first!)
  await waitFor(() => wire.keeps(queue.base), { what: 'the acknowledgement and the next take' })
  await publish(queue, 3, 1)
  const healed = Promise.withResolvers<void>()
  wire.strand(healed.promise)
  await waitFor(() => consumer.held.length === 3, { what: 'the rest' })
  for (const delivery of consumer.held.splice(0)) orders.ack(delivery)
  await orders.settled()
  await publish(queue, 1, 4)
  await waitFor(() => consumer.held.length === 1)
  healed.resolve()
  await publish(queue, 3, 5)
  await waitFor(() => consumer.seen.length === 8, { what: 'all of them' })
  assert.deepEqual(consumer.seen, [0, 1, 2, 3, 4, 5, 6, 7])
  for (const delivery of consumer.held.splice(0)) orders.ack(delivery)
  await orders.settled()
  assert.equal((await queue.stats()).unacked, 0)
})

test('what nobody has credit for any more goes elsewhere, as if it had never been taken', async (t) => {
  const { queue, open, feed } = await setup(t)
  const orders = feed()
  const consumer = new TestConsumer(10)
  orders.attach(consumer)
  const elsewhere = feed((await open()).queue)
  await publish(queue, 1)
  await waitFor(() => consumer.held.length === 1)
  const [first] = consumer.held.splice(0)
  await publish(queue, 7, 1)
  orders.ack(first!) // and a take follows
  setImmediate(() => {
    consumer.prefetch = consumer.held.length
  })
  const other = new TestConsumer(10)
  await waitFor(async () => (await queue.stats()).unacked > 0, { what: 'the take' })
  elsewhere.attach(other)
  await waitFor(() => consumer.held.length + other.held.length === 7, { what: 'all of them' })
  assert.ok(other.held.length > 0)
  assert.deepEqual(
    other.held.filter(({ redelivered }) => redelivered),
    [],
  )
})

test('a consumer that comes while another still holds something is served', async (t) => {
  const { queue, feed } = await setup(t)
  await publish(queue, 5)
  await publish(queue, 5, 5)
  await publish(queue, 5, 10)
  const orders = feed()
  const first = new TestConsumer(10)
  orders.attach(first)
  await waitFor(() => first.held.length === 10)
  for (const delivery of first.held.splice(0, 5)) orders.ack(delivery)
  await new Promise((resolve) => setImmediate(resolve)) // room for a batch: it waits for more
  orders.detach(first)
  const second = new TestConsumer(10)
  orders.attach(second)
  await waitFor(() => second.held.length === 5, { what: 'the rest' })
})

test('what a lost reply to a single get brought goes back, though nobody else uses the feed', async (t) => {
  const { queue, redis, open, feed, ended } = await setup(t)
  const observer = (await open()).queue
  await publish(queue, 1)
  await queue.take(0, 'never')
  redis.client('REPLY', 'SKIP').catch(() => {}) // to the take, which comes next
  const got = assert.rejects(feed().get(), { code: 'store_unavailable' })
  await waitFor(async () => (await observer.stats()).unacked === 1, { what: 'the take' })
  redis.disconnect(true)
  await got
  await waitFor(async () => (await observer.stats()).ready === 1, { what: 'the return' })
  await waitFor(() => ended() === 1, { what: 'the end' })
})

test('what Redis cannot be told is not waited for once the feed is closed', async (t) => {
  const { queue, wired, feed } = await setup(t)
  const { wire, queue: far } = await wired()
  const orders = feed(far)
  const consumer = new TestConsumer(1)
  orders.attach(consumer)
  await publish(queue, 1)
  await waitFor(() => consumer.held.length === 1)
  wire.stall()
  orders.ack(consumer.held.pop()!)
  let over = false
  const settled = orders.settled().then(() => {
    over = true
  })
  await waitFor(() => wire.keeps(queue.base), { what: 'the acknowledgement' })
  assert.ok(!over, 'Redis has not heard of it')
  orders.close()
  await waitFor(() => over, { what: 'the end of the wait' })
  wire.resume()
  await settled
})

test('a return whose reply was lost does not take the message from who has it next', async (t) => {
  const { queue, redis, open, feed } = await setup(t)
  const observer = (await open()).queue
  await publish(queue, 2)
  const orders = feed()
  const consumer = new TestConsumer(1)
  orders.attach(consumer)
  await waitFor(() => consumer.held.length === 1)
  redis.client('REPLY', 'SKIP').catch(() => {}) // to the return, which comes next
  orders.giveBack(consumer.held[0]!, back('+'))
  await waitFor(async () => (await observer.stats()).ready === 2, { what: 'the return' })
  redis.disconnect(true)
  consumer.held.pop()
  orders.look()
  await waitFor(() => consumer.held.length === 1, { what: 'it again' })
  assert.deepEqual(consumer.seen, [0, 0])
  await orders.settled()
  assert.deepEqual(await observer.stats().then(({ ready, unacked }) => [ready, unacked]), [1, 1])
})

test('what goes back after its process was taken for dead is not lost with its batch', async (t) => {
  const { queue, slot, redis, open, feed } = await setup(t)
  const { queue: reaper } = await open()
  await publish(queue, 10)
  const orders = feed()
  const consumer = new TestConsumer(10)
  orders.attach(consumer)
  await waitFor(() => consumer.held.length === 10)
  orders.detach(consumer)
  await redis.del(`sluice:{slots}:alive:${slot}`)
  await waitFor(() => queue.slot !== slot, { what: 'another name' })
  for (const delivery of consumer.held.splice(0, 4)) orders.giveBack(delivery, back('+'))
  for (const delivery of consumer.held.splice(0)) orders.ack(delivery)
  await orders.settled()
  await reaper.reclaim(slot, { dead: true })
  const leased = await reaper.lease({ max: 10, leaseMs: 60_000, waitMs: 0, consumer: 'next' })
  const there = leased.map(({ record }) => Number(record.body.toString()))
  assert.deepEqual(
    [0, 1, 2, 3].filter((n) => !there.includes(n)),
    [],
  )
})
