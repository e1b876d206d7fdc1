/**
 * Routing with 10, 1 000 and 100 000 bindings: what must not grow with bindings that do not match.
 *
 * Every message matches one binding. `cached` asks again for keys that the table has routed, `fresh`
 * for keys that it has not; a headers exchange knows no cache. `bindMs` is a new binding and the
 * first route after it, which compiles that exchange again; `elsewhereMs` the same after a binding
 * of another exchange, which compiles nothing.
 */
import assert from 'node:assert/strict'
import type { Table } from '@sluice/amqp'
import type { BindingDefinition, ExchangeType } from '@sluice/topology'
import {
  bindingField,
  type Change,
  exchangeField,
  queueField,
  vhostField,
} from '../../libs/topology/src/definition.ts'
import { RoutingTable } from '../../libs/topology/src/routing-table.ts'
import { bench, median } from './bench.ts'

const V = '/'
const QUEUES = 1_000
const FRESH_KEYS = 2_000

const set = (field: string, definition: object): Change => [field, JSON.stringify(definition)]

function exchange(name: string, type: ExchangeType): Change {
  const flags = { durable: true, autoDelete: false, internal: false, arguments: {} }
  return set(exchangeField(V, name), { name, type, ...flags })
}

function queue(index: number): Change {
  const name = `queue-${index}`
  const flags = { durable: true, autoDelete: false, exclusive: '', arguments: {}, epoch: 1 }
  return set(queueField(V, name), { name, ...flags })
}

function bind(type: ExchangeType, index: number, source = 'x'): Change {
  const binding: BindingDefinition = {
    source,
    destinationType: 'queue',
    destination: `queue-${index % QUEUES}`,
    routingKey: type === 'topic' ? `region-${index % 50}.*.item-${index}.#` : `key-${index}`,
    arguments: type === 'headers' ? { kind: 'order', item: index } : {},
  }
  return set(bindingField(V, binding), binding)
}

function keyOf(type: ExchangeType, index: number, salt: number): string {
  return type === 'topic' ? `region-${index % 50}.${salt}.item-${index}.new` : `key-${index}`
}

function tableOf(type: ExchangeType, bindings: number): RoutingTable {
  const unused = { queue: () => assert.fail(), forget: () => assert.fail() }
  const changes = [
    set(vhostField(V), { name: V }),
    exchange('x', type),
    exchange('elsewhere', 'direct'),
    ...Array.from({ length: QUEUES }, (_, i) => queue(i)),
    ...Array.from({ length: bindings }, (_, i) => bind(type, i)),
  ]
  return RoutingTable.empty(unused).with(1, changes)
}

interface Routed {
  readonly key: string
  readonly headers: () => Table
}

/** Messages for bindings spread over all of them, each with a key of its own. */
function messages(type: ExchangeType, bindings: number): Routed[] {
  return Array.from({ length: Math.min(bindings, FRESH_KEYS) }, (_, i) => {
    const index = (i * 7_919) % bindings
    const headers: Table = { kind: 'order', item: index, trace: 'abc' }
    return { key: keyOf(type, index, i), headers: () => headers }
  })
}

/** Messages routed a second. `renew` gives the table for each round over `all`. */
function perSecond(all: readonly Routed[], ms: number, renew: () => RoutingTable): number {
  let routed = 0
  const start = performance.now()
  let spent = 0
  while (spent < ms) {
    const table = renew()
    for (const { key, headers } of all) {
      const { queues } = table.route(V, 'x', key, headers)
      if (queues.length !== 1) throw new Error(`reached ${queues.length} queues`)
    }
    routed += all.length
    spent = performance.now() - start
  }
  return Math.round((routed * 1_000) / spent)
}

function changeMs(table: RoutingTable, type: ExchangeType, change: (i: number) => Change): number {
  const times: number[] = []
  let next = table
  for (let i = 0; i < 9; i++) {
    const start = performance.now()
    next = next.with(next.version + 1, [change(i)])
    next.route(V, 'x', keyOf(type, 0, 0), () => ({}))
    times.push(performance.now() - start)
  }
  return Number(median(times).toFixed(3))
}

await bench('routing', async (b) => {
  const ms = b.short ? 100 : 1_000
  for (const type of ['direct', 'topic', 'headers'] as const) {
    for (const bindings of [10, 1_000, b.short ? 10_000 : 100_000]) {
      b.say(`${type}, ${bindings} bindings`)
      const start = performance.now()
      const table = tableOf(type, bindings)
      const loadMs = Math.round(performance.now() - start)
      let version = table.version
      const renewed = () => table.with(++version, [])
      const all = messages(type, bindings)
      perSecond(all, 100, () => table) // compiles the exchange, and the code
      const cached = perSecond(all, ms, () => table)
      const fresh = perSecond(all, ms, renewed)
      const bindMs = changeMs(table, type, (i) => bind(type, bindings + i))
      const elsewhereMs = changeMs(table, type, (i) => bind('direct', i, 'elsewhere'))
      b.line({ type, bindings, cached, fresh, loadMs, bindMs, elsewhereMs })
    }
  }
})
