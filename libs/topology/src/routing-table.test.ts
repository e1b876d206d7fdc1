/**
 * Routing through whole topologies.
 *
 * Method: small topologies written out, then random ones (bindings between exchanges in circles,
 * alternate exchanges) against a search that follows RabbitMQ's rules one message at a time. No
 * store is needed: a queue opens its store when it is first used, and routing does not.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Table } from '@sluice/amqp'
import { BrokerError } from '@sluice/core'
import type { QueueStore } from '@sluice/store'
import fc from 'fast-check'
import {
  type Arguments,
  type BindingDefinition,
  bindingField,
  type Change,
  EXCHANGE_TYPES,
  type ExchangeDefinition,
  type ExchangeType,
  exchangeField,
  type PolicyDefinition,
  policyField,
  queueField,
  vhostField,
} from './definition.ts'
import { compileMatcher } from './exchange.ts'
import { type QueueStores, RoutingTable } from './routing-table.ts'

const V = '/'
const unused: QueueStores = {
  queue: () => assert.fail('routing opens no store'),
  forget: () => assert.fail('nothing was opened'),
}

const vhost: Change = [vhostField(V), JSON.stringify({ name: V })]

function exchange(name: string, type: ExchangeType, args: Arguments = {}): Change {
  const definition: ExchangeDefinition = {
    name,
    type,
    durable: true,
    autoDelete: false,
    internal: false,
    arguments: args,
  }
  return [exchangeField(V, name), JSON.stringify(definition)]
}

function queue(name: string, args: Arguments = {}, epoch = 1): Change {
  const flags = { durable: true, autoDelete: false, exclusive: '' }
  return [queueField(V, name), JSON.stringify({ name, ...flags, arguments: args, epoch })]
}

function bindingOf(source: string, to: string, routingKey = '', args: Arguments = {}) {
  const [destinationType, destination] = to.split(' ') as ['queue' | 'exchange', string]
  return { source, destinationType, destination, routingKey, arguments: args }
}

function bind(...args: Parameters<typeof bindingOf>): Change {
  const binding = bindingOf(...args)
  return [bindingField(V, binding), JSON.stringify(binding)]
}

function policy(definition: Partial<PolicyDefinition> & { name: string }): Change {
  const whole = { pattern: '.*', applyTo: 'all', priority: 0, definition: {}, ...definition }
  return [policyField(V, definition.name), JSON.stringify(whole)]
}

const removed = ([field]: Change): Change => [field, null]

function tableOf(...changes: Change[]): RoutingTable {
  return RoutingTable.empty(unused).with(1, [vhost, ...changes])
}

function reached(table: RoutingTable, to: string, key: string, headers: Table = {}): string[] {
  const { queues } = table.route(V, to, key, () => headers)
  return queues.map(({ definition }) => definition.name).sort()
}

test('the default exchange routes by the name of the queue', () => {
  const table = tableOf(queue('q'), queue('r'))
  assert.deepEqual(reached(table, '', 'q'), ['q'])
  assert.deepEqual(reached(table, '', 'none'), [])
})

test('a missing exchange or vhost is refused', () => {
  const table = tableOf()
  const code = (wanted: string) => (error: unknown) =>
    error instanceof BrokerError && error.code === wanted
  assert.throws(() => reached(table, 'none', 'k'), code('exchange_not_found'))
  assert.throws(() => table.route('none', '', 'k', () => ({})), code('vhost_not_found'))
})

test('a queue reached along several ways is reached once', () => {
  const table = tableOf(
    exchange('a', 'topic'),
    exchange('b', 'fanout'),
    queue('q'),
    bind('a', 'queue q', 'k'),
    bind('a', 'queue q', '#'),
    bind('a', 'exchange b', '*'),
    bind('b', 'queue q'),
  )
  assert.deepEqual(reached(table, 'a', 'k'), ['q'])
})

test('circles of exchanges end', () => {
  const table = tableOf(
    exchange('a', 'fanout'),
    exchange('b', 'fanout'),
    queue('q'),
    bind('a', 'exchange b'),
    bind('b', 'exchange a'),
    bind('a', 'exchange a'),
    bind('b', 'queue q'),
  )
  assert.deepEqual(reached(table, 'a', ''), ['q'])
})

test('an alternate exchange gets what matched nothing, and only that', () => {
  const table = tableOf(
    exchange('a', 'direct', { 'alternate-exchange': 'b' }),
    exchange('b', 'fanout', { 'alternate-exchange': 'a' }),
    exchange('lost', 'direct', { 'alternate-exchange': 'missing' }),
    queue('q'),
    queue('rest'),
    bind('a', 'queue q', 'k'),
    bind('b', 'queue rest'),
  )
  assert.deepEqual(reached(table, 'a', 'k'), ['q'])
  assert.deepEqual(reached(table, 'a', 'other'), ['rest'])
  assert.deepEqual(reached(table, 'lost', 'k'), [])
  const emptied = table.with(2, [removed(bind('b', 'queue rest'))])
  assert.deepEqual(reached(emptied, 'a', 'other'), [], 'alternate exchanges in a circle end')
})

test('a policy sets an alternate exchange; the argument goes before it', () => {
  const table = tableOf(
    exchange('a', 'direct'),
    exchange('b', 'direct', { 'alternate-exchange': 'own' }),
    exchange('own', 'fanout'),
    exchange('policied', 'fanout'),
    queue('q'),
    queue('r'),
    bind('own', 'queue q'),
    bind('policied', 'queue r'),
    policy({ name: 'p', pattern: '^[ab]$', definition: { 'alternate-exchange': 'policied' } }),
  )
  assert.deepEqual(reached(table, 'a', 'k'), ['r'])
  assert.deepEqual(reached(table, 'b', 'k'), ['q'])
})

test('an older table goes on saying what it said', () => {
  const before = tableOf(exchange('a', 'direct'), queue('q'), bind('a', 'queue q', 'k'))
  const after = before.with(2, [removed(queue('q')), removed(bind('a', 'queue q', 'k'))])

  assert.deepEqual(reached(before, 'a', 'k'), ['q'])
  assert.deepEqual(reached(after, 'a', 'k'), [])
  assert.equal(after.version, 2)
  assert.equal(before.hasBinding(V, bindingOf('a', 'queue q', 'k')), true)
  assert.equal(after.hasBinding(V, bindingOf('a', 'queue q', 'k')), false)
})

test('routes are cached until the table is replaced, except where headers decide', () => {
  const table = tableOf(
    exchange('a', 'direct'),
    exchange('h', 'headers'),
    queue('q'),
    bind('a', 'queue q', 'k'),
    bind('h', 'queue q', '', { kind: 'x' }),
  )
  const route = table.route(V, 'a', 'k', () => ({}))
  assert.equal(
    table.route(V, 'a', 'k', () => ({})),
    route,
  )
  assert.deepEqual(reached(table, 'h', '', { kind: 'x' }), ['q'])
  assert.deepEqual(reached(table, 'h', '', { kind: 'y' }), [])
  const bound = table.with(2, [queue('r'), bind('a', 'queue r', 'k')])
  assert.deepEqual(reached(bound, 'a', 'k'), ['q', 'r'])
})

test('any number of unknown keys leaves the cache within its bound', () => {
  const table = tableOf(exchange('a', 'direct'), queue('q'), bind('a', 'queue q', 'k'))
  let heaviest = 0
  for (let i = 0; i < 250_000; i++) {
    table.route(V, 'a', `unknown ${i}`, () => ({}))
    heaviest = Math.max(heaviest, table.cacheWeight)
  }
  assert(heaviest <= 100_000, `${heaviest}`)
  assert.deepEqual(reached(table, 'a', 'k'), ['q'])
})

test('a removed vhost is gone with all that was in it', () => {
  const table = tableOf(exchange('a', 'direct'), queue('q'))
  const without = table.with(2, [removed(vhost)])
  assert.deepEqual(without.vhosts(), [])
  assert.equal(without.queue(V, 'q'), undefined)
  const again = without.with(3, [vhost])
  assert.equal(again.queue(V, 'q'), undefined)
})

test('lists are sorted, and bindings are found from both ends', () => {
  const table = tableOf(
    exchange('b', 'direct'),
    exchange('a', 'fanout'),
    queue('z'),
    queue('y'),
    bind('a', 'queue z'),
    bind('a', 'exchange b'),
    bind('b', 'queue z', 'k'),
    policy({ name: 'p2' }),
    policy({ name: 'p1' }),
  )
  const names = (definitions: { name: string }[]) => definitions.map(({ name }) => name)
  assert.deepEqual(names(table.exchanges(V)), ['', 'a', 'b'])
  assert.deepEqual(names(table.queues(V).map(({ definition }) => definition)), ['y', 'z'])
  assert.deepEqual(names(table.policies(V)), ['p1', 'p2'])
  assert.equal(table.bindings(V).length, 3)
  assert.equal(table.bindings(V, { source: 'a' }).length, 2)
  assert.equal(table.bindings(V, { queue: 'z' }).length, 2)
  assert.equal(table.bindings(V, { exchange: 'b' }).length, 1)
})

test('a policy changes the settings of a queue in use, and takes them back', () => {
  const opened: [epoch: number, maxLength: number][] = []
  const forgotten: QueueStore[] = []
  const stores = new Map<number, QueueStore>()
  const table = RoutingTable.empty({
    queue(_vhost, _name, epoch, settings) {
      opened.push([epoch, settings.maxLength])
      const store = stores.get(epoch) ?? ({ epoch } as QueueStore)
      stores.set(epoch, store)
      return store
    },
    forget: (store) => forgotten.push(store),
  }).with(1, [vhost, queue('q', { 'x-dead-letter-exchange': 'dlx' }), queue('idle')])
  const { store } = table.queue(V, 'q')!

  const limited = policy({ name: 'p', pattern: '^q$', definition: { 'max-length': 5 } })
  const policied = table.with(2, [limited])
  assert.equal(policied.queue(V, 'q')!.settings.maxLength, 5)
  assert.equal(policied.queue(V, 'q')!.policy, 'p')
  assert.equal(policied.queue(V, 'q')!.deadLetterExchange, 'dlx')
  assert.equal(policied.queue(V, 'idle')!.policy, undefined)
  policied.with(3, [removed(limited)])
  assert.deepEqual(opened, [
    [1, -1],
    [1, 5],
    [1, -1],
  ])

  policied.with(4, [queue('q', {}, 4)])
  assert.deepEqual(forgotten, [store], 'a queue declared anew is another queue')
})

const names = ['a', 'b', 'c', 'd']
const word = fc.constantFrom('x', 'y', '*', '#', 'x.y', 'x.*')
const anyBinding = fc
  .tuple(
    fc.constantFrom(...names),
    fc.constantFrom(...names.map((n) => `queue ${n}`), ...names.map((n) => `exchange ${n}`)),
    word,
    fc.constantFrom<Arguments>({}, { h: 1 }, { h: 1, 'x-match': 'any' }, { g: null }),
  )
  .map(([source, to, key, args]) => bindingOf(source, to, key, args))
const anyTopology = fc.record({
  types: fc.array(fc.constantFrom(...EXCHANGE_TYPES), { minLength: 4, maxLength: 4 }),
  alternates: fc.array(fc.option(fc.constantFrom(...names, '', 'missing')), {
    minLength: 4,
    maxLength: 4,
  }),
  bindings: fc.array(anyBinding, { maxLength: 12 }),
  unbound: fc.nat(11),
})
type AnyTopology = typeof anyTopology extends fc.Arbitrary<infer T> ? T : never

/** RabbitMQ's rules, a list of exchanges to pass at a time. */
function searched(
  { types, alternates }: AnyTopology,
  bindings: BindingDefinition[],
  from: string,
  key: string,
  headers: Table,
): string[] {
  const queues = new Set<string>()
  const passed = new Set<string>()
  let waiting = [from]
  while (waiting.length > 0) {
    const next: string[] = []
    for (const name of waiting) {
      if (passed.has(name)) continue
      passed.add(name)
      const index = names.indexOf(name)
      if (name === '' && names.includes(key)) queues.add(key)
      if (index < 0) continue
      const hits = bindings.filter((binding) => {
        if (binding.source !== name) return false
        let hit = false
        compileMatcher(types[index]!, [binding]).match(
          key,
          () => headers,
          () => {
            hit = true
          },
        )
        return hit
      })
      for (const { destinationType, destination } of hits) {
        if (destinationType === 'queue') queues.add(destination)
        else next.push(destination)
      }
      const alternate = alternates[index]
      if (hits.length === 0 && alternate !== null) next.push(alternate!)
    }
    waiting = next
  }
  return [...queues].sort()
}

test('random topologies route as a search by the rules does, also after an unbind', () => {
  const message = fc.record({
    from: fc.constantFrom(...names, ''),
    key: fc.constantFrom('', 'x', 'y', 'x.y', 'a'),
    headers: fc.constantFrom<Table>({}, { h: 1 }, { g: 2 }),
  })
  fc.assert(
    fc.property(anyTopology, fc.array(message, { minLength: 6 }), (topology, messages) => {
      const { types, alternates, bindings, unbound } = topology
      const table = tableOf(
        ...names.map((name) => queue(name)),
        ...names.map((name, i) =>
          exchange(
            name,
            types[i]!,
            alternates[i] === null ? {} : { 'alternate-exchange': alternates[i]! },
          ),
        ),
        ...bindings.map((b) =>
          bind(b.source, `${b.destinationType} ${b.destination}`, b.routingKey, b.arguments),
        ),
      )
      const gone = bindings[unbound]
      const field = gone && bindingField(V, gone)
      const left = bindings.filter((binding) => bindingField(V, binding) !== field)
      const less = field === undefined ? table : table.with(2, [[field, null]])
      for (const { from, key, headers } of messages) {
        const expected = searched(topology, bindings, from, key, headers)
        assert.deepEqual(reached(table, from, key, headers), expected)
        const after = searched(topology, left, from, key, headers)
        assert.deepEqual(reached(less, from, key, headers), after)
      }
    }),
    { numRuns: 1_000 },
  )
})
