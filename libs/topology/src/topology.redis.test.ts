/**
 * Declarations against a real Redis, by several processes at once.
 *
 * Method: a Redis of its own for each test, since there is one topology to a Redis; several
 * `Topology` on it, each with its own store, are several processes.
 */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { execPath } from 'node:process'
import { type TestContext, test } from 'node:test'
import { BrokerError, DEAD_LETTER_QUEUE, type ErrorCode } from '@sluice/core'
import { openStore } from '@sluice/store'
import { privateRedis, waitFor } from '@sluice/testkit'
import type { BindingDefinition, ExchangeDefinition, QueueDefinition } from './definition.ts'
import { openTopology, type TopologyOptions } from './topology.ts'

const V = '/'

async function setup(t: TestContext, options?: TopologyOptions) {
  const { url, redis } = await privateRedis(t, { aof: false })
  async function process() {
    const reported: unknown[] = []
    const report = (error: unknown) => reported.push(error)
    const store = await openStore({ url, report })
    const topology = await openTopology(store, report, options)
    t.after(async () => {
      await topology.close()
      await store.close()
      assert.deepEqual(reported, [])
    })
    return topology
  }
  return { url, redis, process, topology: await process() }
}

function exchange(name: string, fields: Partial<ExchangeDefinition> = {}): ExchangeDefinition {
  const flags = { durable: true, autoDelete: false, internal: false, arguments: {} }
  return { name, type: 'direct', ...flags, ...fields }
}

function queue(
  name: string,
  fields: Partial<QueueDefinition> = {},
): Omit<QueueDefinition, 'epoch'> {
  return { name, durable: true, autoDelete: false, exclusive: '', arguments: {}, ...fields }
}

function binding(source: string, to: string, routingKey = ''): BindingDefinition {
  const [destinationType, destination] = to.split(' ') as ['queue' | 'exchange', string]
  return { source, destinationType, destination, routingKey, arguments: {} }
}

const refused = (code: ErrorCode) => (error: unknown) =>
  error instanceof BrokerError && error.code === code

test('the default vhost is there with what is predeclared, made once', async (t) => {
  const { topology, process } = await setup(t, { deadLetterTtlMs: 5_000, deadLetterLengthMax: 7 })
  const { table } = topology

  assert.deepEqual(table.vhosts(), [V])
  assert.deepEqual(
    table.exchanges(V).map(({ name }) => name),
    ['', 'amq.direct', 'amq.fanout', 'amq.headers', 'amq.match', 'amq.rabbitmq.trace', 'amq.topic'],
  )
  assert.equal(table.exchange(V, 'amq.rabbitmq.trace')!.internal, true)
  const dead = table.queue(V, DEAD_LETTER_QUEUE)!
  assert.equal(dead.settings.ttlMs, 5_000)
  assert.equal(dead.settings.maxLength, 7)
  assert.equal(dead.settings.deadLetters, 'none')
  assert.equal((await dead.store.stats()).ready, 0)
  const second = await process()
  assert.equal(second.table.version, table.version)
  assert.deepEqual(await second.declareVhost('eu'), { created: true })
  assert.deepEqual(await topology.declareVhost('eu'), { created: false })
})

test('a declare is seen by the next question on another process', async (t) => {
  const { topology: one, process } = await setup(t)
  const two = await process()

  const first = await one.declareQueue(V, queue('q'))
  assert.equal(first.created, true)
  const second = await two.declareQueue(V, queue('q'))
  assert.deepEqual(second, { created: false, definition: first.definition })
  assert.equal(two.table.queue(V, 'q')!.definition.epoch, first.definition.epoch)
  assert.equal(await two.readVersion(), two.table.version)
})

test('of two processes that declare one queue differently, one is refused', async (t) => {
  const { topology: one, process } = await setup(t)
  const two = await process()

  for (let round = 0; round < 10; round++) {
    const results = await Promise.allSettled([
      one.declareQueue(V, queue(`q${round}`, { arguments: { 'x-max-length': 1 } })),
      two.declareQueue(V, queue(`q${round}`, { arguments: { 'x-max-length': 2 } })),
    ])
    const lost = results.filter((result) => result.status === 'rejected')
    assert.equal(lost.length, 1)
    assert(refused('declaration_conflict')(lost[0]!.reason))
  }
})

test('a refusal is given only on what is still so', async (t) => {
  const { topology: one, process, redis } = await setup(t)
  const two = await process()
  await one.declareQueue(V, queue('q', { arguments: { 'x-max-length': 1 } }))
  await two.refresh()

  await redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub') // two hears nothing of what follows
  await one.deleteQueue(V, 'q')
  const result = await two.declareQueue(V, queue('q', { arguments: { 'x-max-length': 2 } }))
  assert.equal(result.created, true)
})

const DECLARE_AND_EXIT = `
  import { openStore } from '@sluice/store'
  import { openTopology } from './index.ts'
  const store = await openStore({ url: process.argv[1], report: console.error })
  const topology = await openTopology(store, console.error)
  const plain = { durable: true, autoDelete: false, exclusive: '', arguments: {} }
  await topology.declareQueue('/', { name: 'q', ...plain })
  await topology.close()
  await store.close()
`

test('a refresh shows what was committed before it was asked for', async (t) => {
  const { topology, url } = await setup(t)

  const early = topology.refresh()
  // While this process stands still its question is answered, and only then the queue declared.
  const args = ['--input-type=module', '-e', DECLARE_AND_EXIT, url]
  const { status, stderr } = spawnSync(execPath, args, { cwd: import.meta.dirname })
  assert.equal(status, 0, String(stderr))
  await topology.refresh()
  assert(topology.table.queue(V, 'q'))
  await early
})

test('refreshes that never pause keep nobody waiting', async (t) => {
  const { topology: one, process } = await setup(t)
  const two = await process()
  let done = false
  const others = (async () => {
    while (!done) await two.refresh()
  })()

  for (let i = 0; i < 50; i++) {
    await one.declareQueue(V, queue(`q${i}`))
    await two.refresh()
    assert(two.table.queue(V, `q${i}`))
  }
  done = true
  await others
})

test('many declares of one queue at once make one queue', async (t) => {
  const { topology: one, process } = await setup(t)
  const two = await process()

  const results = await Promise.all(
    Array.from({ length: 40 }, (_, i) => (i % 2 ? one : two).declareQueue(V, queue('q'))),
  )
  assert.equal(results.filter(({ created }) => created).length, 1)
  assert.equal(new Set(results.map(({ definition }) => definition.epoch)).size, 1)
  assert.equal((await two.table.queue(V, 'q')!.store.stats()).ready, 0)
})

test('declares of different queues on many processes all succeed', async (t) => {
  const { topology: one, process } = await setup(t)
  const all = [one, await process(), await process(), await process()]

  await Promise.all(
    Array.from({ length: 200 }, (_, i) => all[i % 4]!.declareQueue(V, queue(`q${i}`))),
  )
  await one.refresh()
  assert.equal(one.table.queues(V).length, 201)
  const epochs = new Set(one.table.queues(V).map(({ definition }) => definition.epoch))
  assert.equal(epochs.size, 201, 'every queue has an epoch of its own')
})

test('an idle process learns of changes by itself, with and without the hint', async (t) => {
  const { topology: one, process, redis } = await setup(t)
  const two = await process()

  await one.declareQueue(V, queue('hinted'))
  await waitFor(() => two.table.queue(V, 'hinted'), { what: 'the hint' })
  await redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub')
  await one.declareQueue(V, queue('polled'))
  await waitFor(() => two.table.queue(V, 'polled'), { what: 'the poll' })
})

test('a process that was away longer than the feed reaches back loads everything', async (t) => {
  const { topology: one, process, redis } = await setup(t)
  const two = await process()
  const kept = await one.declareQueue(V, queue('kept'))
  await two.refresh()
  const before = two.table.queue(V, 'kept')!.store
  await redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub') // two hears nothing of what follows

  await one.declareQueue(V, queue('new'))
  await one.putPolicy(V, {
    name: 'short',
    pattern: 'kept',
    applyTo: 'queues',
    priority: 0,
    definition: { 'max-length': 5 },
  })
  await redis.xtrim('sluice:{topology}:changes', 'MAXLEN', 1)
  await two.refresh()
  assert.equal(before.settings.maxLength, 5, 'and feels what changed meanwhile')
  assert.equal(two.table.queue(V, 'kept')!.definition.epoch, kept.definition.epoch)
  assert.equal(two.table.queue(V, 'kept')!.store, before, 'an open queue stays open')
  assert(two.table.queue(V, 'new'))
  assert.equal((await two.declareQueue(V, queue('again'))).created, true)
})

test('after Redis has lost everything, declares begin again', async (t) => {
  const { topology, redis } = await setup(t)
  await topology.declareQueue(V, queue('q'))
  await redis.flushall()

  await assert.rejects(topology.declareQueue(V, queue('q')), refused('vhost_not_found'))
  assert.deepEqual(await topology.declareVhost(V), { created: true })
  assert.equal((await topology.declareQueue(V, queue('q'))).created, true)
})

test('reserved names are the broker’s', async (t) => {
  const { topology } = await setup(t)

  await assert.rejects(topology.declareExchange(V, exchange('amq.mine')), refused('forbidden'))
  await assert.rejects(topology.declareQueue(V, queue('amq.mine')), refused('forbidden'))
  await assert.rejects(topology.deleteExchange(V, 'amq.direct'), refused('forbidden'))
  await assert.rejects(topology.deleteQueue(V, DEAD_LETTER_QUEUE), refused('forbidden'))
  await assert.rejects(topology.declareExchange(V, exchange('')), refused('forbidden'))
  await assert.rejects(topology.deleteExchange(V, ''), refused('forbidden'))
  await assert.rejects(topology.bind(V, binding('', 'queue q', 'k')), refused('forbidden'))
  await assert.rejects(topology.unbind(V, binding('', 'queue q', 'k')), refused('forbidden'))
  const again = await topology.declareExchange(V, exchange('amq.direct'))
  assert.deepEqual(again, { created: false })
})

test('a queue without a name gets one of the broker’s', async (t) => {
  const { topology } = await setup(t)

  const { definition } = await topology.declareQueue(V, queue(''))
  assert.match(definition.name, /^amq\.gen-[\w-]{22}$/)
  assert.equal((await topology.declareQueue(V, queue(definition.name))).created, false)
})

test('an exchange is declared once, and again only the same way', async (t) => {
  const { topology } = await setup(t)

  assert.deepEqual(await topology.declareExchange(V, exchange('e')), { created: true })
  assert.deepEqual(await topology.declareExchange(V, exchange('e')), { created: false })
  await assert.rejects(
    topology.declareExchange(V, exchange('e', { type: 'topic' })),
    refused('declaration_conflict'),
  )
  await assert.rejects(
    topology.declareExchange(V, exchange('f', { type: 'odd' as 'topic' })),
    refused('invalid_request'),
  )
  await assert.rejects(topology.declareExchange('none', exchange('e')), refused('vhost_not_found'))
})

test('bindings need both ends, are made once and unmade without complaint', async (t) => {
  const { topology } = await setup(t)
  await topology.declareQueue(V, queue('q'))

  const bound = binding('amq.topic', 'queue q', 'a.*')
  assert.deepEqual(await topology.bind(V, bound), { created: true })
  assert.deepEqual(await topology.bind(V, bound), { created: false })
  const { queues } = topology.table.route(V, 'amq.topic', 'a.b', () => ({}))
  assert.deepEqual(
    queues.map(({ definition }) => definition.name),
    ['q'],
  )
  await assert.rejects(topology.bind(V, binding('no', 'queue q')), refused('exchange_not_found'))
  await assert.rejects(
    topology.bind(V, binding('amq.topic', 'queue no')),
    refused('queue_not_found'),
  )
  await assert.rejects(
    topology.bind(V, binding('amq.topic', 'exchange no')),
    refused('exchange_not_found'),
  )
  await assert.rejects(
    topology.bind(V, {
      ...binding('amq.headers', 'queue q'),
      arguments: { 'x-match': 'some' },
    }),
    refused('invalid_request'),
  )
  assert.deepEqual(await topology.unbind(V, bound), { deleted: true })
  assert.deepEqual(await topology.unbind(V, bound), { deleted: false })
  assert.deepEqual(await topology.unbind(V, binding('no', 'queue \ud800')), { deleted: false })
})

test('an exchange in use is deleted only without ifUnused, and its bindings go with it', async (t) => {
  const { topology } = await setup(t)
  await topology.declareExchange(V, exchange('e'))
  await topology.declareQueue(V, queue('q'))
  await topology.bind(V, binding('e', 'queue q'))
  await topology.bind(V, binding('amq.fanout', 'exchange e'))

  await assert.rejects(topology.deleteExchange(V, 'e', { ifUnused: true }), refused('in_use'))
  assert.deepEqual(await topology.deleteExchange(V, 'e'), { deleted: true })
  assert.deepEqual(topology.table.bindings(V), [])
  assert.deepEqual(await topology.deleteExchange(V, 'e'), { deleted: false })
})

test('auto-delete exchanges go with their last binding, one after the other', async (t) => {
  const { topology } = await setup(t)
  const auto = { autoDelete: true }
  await topology.declareExchange(V, exchange('first', auto))
  await topology.declareExchange(V, exchange('second', auto))
  await topology.declareExchange(V, exchange('unbound', auto))
  await topology.declareQueue(V, queue('q'))
  await topology.bind(V, binding('second', 'queue q', 'a'))
  await topology.bind(V, binding('second', 'queue q', 'b'))
  await topology.bind(V, binding('first', 'exchange second'))

  await topology.unbind(V, binding('second', 'queue q', 'a'))
  assert(topology.table.exchange(V, 'second'))
  await topology.deleteQueue(V, 'q')
  assert.equal(topology.table.exchange(V, 'second'), undefined)
  assert.equal(topology.table.exchange(V, 'first'), undefined)
  assert(topology.table.exchange(V, 'unbound'), 'one that never had a binding stays')
})

test('a deleted queue is gone everywhere, and one of its name is another', async (t) => {
  const { topology: one, process } = await setup(t)
  const two = await process()
  const { definition } = await one.declareQueue(V, queue('q'))
  await one.bind(V, binding('amq.fanout', 'queue q'))

  assert.deepEqual(await two.deleteQueue(V, 'q'), { deleted: true, messages: 0 })
  assert.deepEqual(await one.deleteQueue(V, 'q'), { deleted: false, messages: 0 })
  assert.deepEqual(one.table.bindings(V), [])
  const again = await one.declareQueue(V, queue('q'))
  assert(again.definition.epoch > definition.epoch)
})

test('a deletion cut short after its store was dropped is finished by whoever meets it', async (t) => {
  const { topology: one, process } = await setup(t)
  const two = await process()
  const { definition } = await one.declareQueue(V, queue('q'))
  await one.bind(V, binding('amq.fanout', 'queue q'))
  await one.table.queue(V, 'q')!.store.drop({})

  await two.finishDelete(V, 'q', definition.epoch - 1)
  assert(two.table.queue(V, 'q'), 'another epoch is another queue')
  await two.finishDelete(V, 'q', definition.epoch)
  await one.refresh()
  assert.equal(one.table.queue(V, 'q'), undefined)
  assert.deepEqual(one.table.bindings(V), [])
})

test('a policy acts on a running queue on every process, and stops when it is deleted', async (t) => {
  const { topology: one, process } = await setup(t)
  const two = await process()
  await one.declareQueue(V, queue('orders.eu', { arguments: { 'x-max-length': 10 } }))
  await two.refresh()
  const { store } = two.table.queue(V, 'orders.eu')!
  const policy = {
    name: 'short',
    pattern: '^orders\\.',
    applyTo: 'queues',
    priority: 0,
    definition: { 'max-length': 5, 'message-ttl': 1_000 },
  } as const

  assert.deepEqual(await one.putPolicy(V, policy), { created: true })
  await waitFor(() => store.settings.maxLength === 5, { what: 'the policy' })
  assert.equal(store.settings.ttlMs, 1_000)
  assert.deepEqual(await one.putPolicy(V, { ...policy, definition: { 'max-length': 50 } }), {
    created: false,
  })
  await waitFor(() => store.settings.maxLength === 10, { what: 'the argument, which is lower' })
  assert.deepEqual(await one.deletePolicy(V, 'short'), { deleted: true })
  assert.deepEqual(await one.deletePolicy(V, 'short'), { deleted: false })
  await assert.rejects(one.putPolicy(V, { ...policy, pattern: '(' }), refused('invalid_request'))
  await assert.rejects(
    one.putPolicy(V, { ...policy, definition: { odd: 1 } }),
    refused('invalid_request'),
  )
})

test('a vhost goes with everything in it', async (t) => {
  const { topology, redis, process } = await setup(t)
  await topology.declareVhost('eu')
  for (let i = 0; i < 60; i++) await topology.declareQueue('eu', queue(`q${i}`))
  await topology.declareExchange('eu', exchange('e', { autoDelete: true }))
  for (let i = 0; i < 60; i++) await topology.bind('eu', binding('e', `queue q${i}`))
  await topology.declareQueue(V, queue('other'))

  assert.deepEqual(await topology.deleteVhost('eu'), { deleted: true })
  assert.deepEqual(await topology.deleteVhost('eu'), { deleted: false })
  const second = await process()
  assert.deepEqual(second.table.vhosts(), [V])
  assert(second.table.queue(V, 'other'))
  const fields = await redis.hkeys('sluice:{topology}:definitions')
  assert.equal(fields.filter((field) => field.includes('/eu')).length, 0)
  const logs = (await redis.keys('sluice:{eu/*')).filter((key) => !key.endsWith(':meta'))
  assert.deepEqual(logs, [])
})

test('a removal larger than one commit is done in several', async (t) => {
  const { topology } = await setup(t)
  await topology.declareQueue(V, queue('q'))
  await Promise.all(
    Array.from({ length: 1_200 }, (_, i) =>
      topology.bind(V, binding('amq.direct', 'queue q', `${i}`)),
    ),
  )
  const before = topology.table.version

  await topology.deleteQueue(V, 'q')
  assert.deepEqual(topology.table.bindings(V), [])
  assert.equal(topology.table.version - before, 3)
})

test('while Redis is away a declare is refused, and the table still routes', async (t) => {
  const { url } = await privateRedis(t, { aof: false })
  const store = await openStore({ url, report: () => {} })
  const topology = await openTopology(store, (error) => assert.fail(String(error)))
  await topology.declareQueue(V, queue('q'))
  await store.close()

  await assert.rejects(topology.declareQueue(V, queue('r')), refused('store_unavailable'))
  assert.equal(topology.table.route(V, '', 'q', () => ({})).queues.length, 1)
  await topology.close()
})
