/**
 * Publishing across processes: what one declares or deletes, the other's publishes see at once.
 *
 * Method: two stores with a topology each, as two processes have them. To make the second one's
 * table certainly old, its hint and its own looking are outrun: it publishes in the same turn in
 * which the first one's change is known to be committed.
 */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { openStore } from '@sluice/store'
import { plainMessage, type TestMessage, waitFor, withRedis } from '@sluice/testkit'
import { openTopology, Publisher, type Topology } from './index.ts'

async function setup(t: TestContext) {
  const { url, vhost } = await withRedis(t)
  const report = (error: unknown) => t.diagnostic(String(error))
  const open = async () => {
    const store = await openStore({ url, report })
    t.after(() => store.close())
    const topology = await openTopology(store, report)
    t.after(() => topology.close())
    return { store, topology, publisher: new Publisher(topology, report) }
  }
  const [here, there] = [await open(), await open()]
  await here.topology.declareVhost(vhost)
  await there.topology.refresh()
  return { here, there, vhost }
}

const message = (exchange: string, routingKey: string, more: TestMessage = {}) =>
  plainMessage({ exchange, routingKey, body: 'hello', ...more })

const declare = (topology: Topology, vhost: string, name: string, args = {}) =>
  topology.declareQueue(vhost, {
    name,
    durable: true,
    autoDelete: false,
    exclusive: '',
    arguments: args,
  })

const ready = async (topology: Topology, vhost: string, name: string) =>
  (await topology.table.queue(vhost, name)!.store.stats()).ready

/** The bodies of all that is ready, in order. */
async function bodies(topology: Topology, vhost: string, name: string): Promise<string[]> {
  const { store } = topology.table.queue(vhost, name)!
  const all: string[] = []
  for (let after = ''; ; ) {
    const { cursor, messages } = await store.peek('ready', after, 1_000)
    for (const { record } of messages) all.push(record.body.toString())
    if (cursor === '' || messages.length === 0) return all
    after = cursor
  }
}

const upTo = (last: number) => Array.from({ length: last }, (_, index) => index + 1)

const names = (queues: readonly { definition: { name: string } }[]) =>
  queues.map(({ definition }) => definition.name).sort()

test('a publish that follows a declare elsewhere reaches the queue', async (t) => {
  const { here, there, vhost } = await setup(t)
  await declare(here.topology, vhost, 'orders')

  const { outcome, queues } = await there.publisher.publishOne(vhost, message('', 'orders'))

  assert.equal(outcome, 'stored')
  assert.deepEqual(names(queues), ['orders'])
  assert.equal(await ready(here.topology, vhost, 'orders'), 1)
})

test('a publish that follows a bind elsewhere reaches old and new queue, each once', async (t) => {
  const { here, there, vhost } = await setup(t)
  for (const name of ['old', 'new']) await declare(here.topology, vhost, name)
  const bind = (destination: string) =>
    here.topology.bind(vhost, {
      source: 'amq.fanout',
      destination,
      destinationType: 'queue',
      routingKey: '',
      arguments: {},
    })
  await bind('old')
  await there.topology.refresh()
  await bind('new')

  const { outcome, queues } = await there.publisher.publishOne(vhost, message('amq.fanout', 'k'))

  assert.equal(outcome, 'stored')
  assert.deepEqual(names(queues), ['new', 'old'])
  assert.equal(await ready(here.topology, vhost, 'old'), 1)
  assert.equal(await ready(here.topology, vhost, 'new'), 1)
})

test("its routing key is a message's ordering key once a queue of the vhost asks for keys", async (t) => {
  const { here, there, vhost } = await setup(t)
  await declare(here.topology, vhost, 'plain')
  await there.topology.refresh()
  const publish = (queue: string, orderingKey: string | null) =>
    there.publisher.publishOne(vhost, message('', queue, { orderingKey }))
  await publish('plain', null)
  await declare(here.topology, vhost, 'ordered', { 'x-ordering-key': true })
  await publish('ordered', null)
  for (const orderingKey of [null, '', 'k']) await publish('plain', orderingKey)
  await publish('ordered', '')

  const keys = async (queue: string) => {
    const { messages } = await here.topology.table.queue(vhost, queue)!.store.peek('ready', '', 10)
    return messages.map(({ record }) => record.orderingKey)
  }
  assert.deepEqual(await keys('plain'), ['', 'plain', '', 'k'])
  assert.deepEqual(await keys('ordered'), ['ordered', ''])
  await here.topology.deleteQueue(vhost, 'ordered')
  assert.equal(here.topology.table.keepsOrder(vhost), false)
})

test('a queue deleted elsewhere is routed around, and one declared again is a new queue', async (t) => {
  const { here, there, vhost } = await setup(t)
  await declare(here.topology, vhost, 'orders')
  await there.topology.refresh()
  await here.topology.deleteQueue(vhost, 'orders')
  const gone = await there.publisher.publishOne(vhost, message('', 'orders'))
  assert.equal(gone.outcome, 'unroutable')

  await declare(here.topology, vhost, 'orders')
  const again = await there.publisher.publishOne(vhost, message('', 'orders'))

  assert.equal(again.outcome, 'stored')
  assert.equal(await ready(here.topology, vhost, 'orders'), 1)
})

test('a deletion left half done is finished by the first publish that meets it', async (t) => {
  const { here, there, vhost } = await setup(t)
  const { definition } = await declare(here.topology, vhost, 'orders')
  await there.topology.refresh()
  await here.topology.table.queue(vhost, 'orders')!.store.drop({}) // and the process dies here

  const { outcome } = await there.publisher.publishOne(vhost, message('', 'orders'))

  assert.equal(outcome, 'unroutable')
  assert.equal(there.topology.table.queue(vhost, 'orders'), undefined)
  const { definition: next, created } = await declare(here.topology, vhost, 'orders')
  assert.ok(created && next.epoch > definition.epoch)
})

test('an exchange that nobody declared is told apart from one that reaches nothing', async (t) => {
  const { there, vhost } = await setup(t)
  const missing = await there.publisher.publishOne(vhost, message('nowhere', 'k'))
  const unroutable = await there.publisher.publishOne(vhost, message('amq.topic', 'k'))
  assert.equal(missing.outcome, 'exchange-missing')
  assert.equal(unroutable.outcome, 'unroutable')
})

test('the worst answer of several queues counts; a repeated publish completes the rest', async (t) => {
  const { here, vhost } = await setup(t)
  await declare(here.topology, vhost, 'roomy')
  await declare(here.topology, vhost, 'tight', {
    'x-max-length': 1,
    'x-overflow': 'reject-publish',
  })
  for (const destination of ['roomy', 'tight']) {
    const binding = { source: 'amq.fanout', destination, destinationType: 'queue' as const }
    await here.topology.bind(vhost, { ...binding, routingKey: '', arguments: {} })
  }
  const publish = (dedupId: string) =>
    here.publisher.publishOne(vhost, message('amq.fanout', 'k', { dedupId }))
  assert.equal((await publish('a')).outcome, 'stored')
  assert.equal((await publish('b')).outcome, 'full')

  await here.topology.table.queue(vhost, 'tight')!.store.purge()
  assert.equal((await publish('b')).outcome, 'stored', 'stored where it was refused')
  assert.equal((await publish('b')).outcome, 'duplicate', 'everywhere by now')

  assert.equal(await ready(here.topology, vhost, 'roomy'), 2)
  assert.equal(await ready(here.topology, vhost, 'tight'), 1)
})

test('a thousand publishes of one turn are confirmed in order, each by its token', async (t) => {
  const { here, vhost } = await setup(t)
  await declare(here.topology, vhost, 'orders')
  const tokens: number[] = []
  await new Promise<void>((resolve) => {
    const reply = {
      published(token: number, outcome: string) {
        assert.equal(outcome, 'stored')
        if (tokens.push(token) === 1_000) resolve()
      },
    }
    for (let token = 0; token < 1_000; token++) {
      here.publisher.publish(vhost, message('', 'orders'), reply, token)
    }
  })
  assert.deepEqual(
    tokens,
    Array.from({ length: 1_000 }, (_, token) => token),
  )
  assert.equal(await ready(here.topology, vhost, 'orders'), 1_000)
})

test('while bindings and policies change, each queue has its share whole, once and in order', async (t) => {
  const { here, there, vhost } = await setup(t)
  const fanout = (destination: string) => {
    const binding = { source: 'amq.fanout', destination, destinationType: 'queue' as const }
    return { ...binding, routingKey: '', arguments: {} }
  }
  const limitOn = (queue: string) => {
    const limit = { applyTo: 'queues', definition: { 'max-length': 100_000 } } as const
    return { ...limit, name: 'limit', pattern: `^${queue}$`, priority: 0 }
  }
  let last = 0
  const [spread, steady]: [number[], number[]] = [[], []]
  const publish = (confirmed: number[], exchange: string) => {
    const reply = { published: (token: number) => void confirmed.push(token) }
    const body = `${last}`
    there.publisher.publish(vhost, message(exchange, 'steady', { body }), reply, last)
  }
  await declare(here.topology, vhost, 'steady')
  const publishing = setInterval(() => {
    for (let left = 5; left > 0 && last - spread.length < 200; left--) {
      last++
      publish(spread, 'amq.fanout')
      publish(steady, '')
    }
  }, 0)
  const queues = Array.from({ length: 40 }, (_, index) => `q${index}`)
  const unbound = new Set<string>()
  try {
    for (const [index, name] of queues.entries()) {
      await declare(here.topology, vhost, name)
      await here.topology.bind(vhost, fanout(name))
      if (index % 2 > 0) await here.topology.putPolicy(vhost, limitOn(name))
      if (index % 3 > 0) continue
      unbound.add(name)
      await here.topology.unbind(vhost, fanout(name))
    }
  } finally {
    clearInterval(publishing)
  }
  const all = () => Math.min(spread.length, steady.length) === last
  await waitFor(all, { what: 'all to be confirmed' })
  assert.deepEqual(steady, upTo(last), 'what reaches the same queue is confirmed in order')
  for (const name of ['steady', ...queues]) {
    const stored = (await bodies(here.topology, vhost, name)).map(Number)
    const end = unbound.has(name) ? (stored.at(-1) ?? 0) : last
    assert.deepEqual(stored, upTo(end).slice(end - stored.length), name)
  }
})
