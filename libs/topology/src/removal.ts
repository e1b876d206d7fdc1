/**
 * What goes with what: the changes that remove exchanges, queues and bindings, and everything that
 * must not outlive them (pure).
 *
 * A binding goes with its source and its destination. An auto-delete exchange goes when the last of
 * its own bindings does, and never before it had one (amqp-0-9-1, 39); that may take the bindings
 * of further exchanges along.
 *
 * Changes come in groups, the entity asked for in the last one. A removal too large for one commit
 * is committed group by group: a group leaves nothing behind that a later look could not find.
 */
import {
  type BindingDefinition,
  bindingField,
  type Change,
  exchangeField,
  type Json,
  policyField,
  queueField,
} from './definition.ts'
import { documentField } from './documents.ts'
import type { RoutingTable } from './routing-table.ts'

export function removeQueue(table: RoutingTable, vhost: string, name: string): Change[][] {
  const removal = new Removal(table, vhost)
  for (const binding of table.bindings(vhost, { queue: name })) removal.binding(binding)
  return [...removal.groups, [[queueField(vhost, name), null], ...keysOf(table, vhost, name)]]
}

export function removeExchange(table: RoutingTable, vhost: string, name: string): Change[][] {
  const removal = new Removal(table, vhost)
  removal.exchange(name)
  return removal.groups
}

export function removeBinding(
  table: RoutingTable,
  vhost: string,
  binding: BindingDefinition,
): Change[][] {
  const removal = new Removal(table, vhost)
  removal.binding(binding)
  return removal.groups
}

/** A queue's own data keys go with it: what they sealed is read by nobody any more. */
function keysOf(table: RoutingTable, vhost: string, queue: string): Change[] {
  return table.documents
    .list('data-key', vhost)
    .filter(({ value }) => isObject(value) && value['queue'] === queue)
    .map(({ name }) => [documentField('data-key', vhost, name), null])
}

const isObject = (value: Json): value is { readonly [name: string]: Json } =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** All that a vhost without queues holds, a group each. */
export function removeRest(table: RoutingTable, vhost: string): Change[][] {
  const fields = [
    ...table.bindings(vhost).map((binding) => bindingField(vhost, binding)),
    ...table.policies(vhost).map(({ name }) => policyField(vhost, name)),
    ...table
      .exchanges(vhost)
      .filter(({ name }) => name !== '')
      .map(({ name }) => exchangeField(vhost, name)),
    ...table.documents.fieldsOf(vhost),
  ]
  return fields.map((field) => [[field, null]])
}

class Removal {
  readonly groups: Change[][] = []
  readonly #table: RoutingTable
  readonly #vhost: string
  readonly #fields = new Set<string>()
  readonly #exchanges = new Set<string>()
  /** Bindings that each source has left. */
  readonly #left = new Map<string, number>()

  constructor(table: RoutingTable, vhost: string) {
    this.#table = table
    this.#vhost = vhost
  }

  binding(binding: BindingDefinition): void {
    const change = this.#unbound(binding)
    if (!change) return
    const group: Change[] = [change]
    this.groups.push(group)
    if (this.#isDone(binding.source)) this.#exchange(binding.source, group)
  }

  exchange(name: string): void {
    if (this.#exchanges.has(name)) return
    this.#exchanges.add(name)
    for (const binding of this.#table.bindings(this.#vhost, { source: name })) {
      const change = this.#unbound(binding)
      if (change) this.groups.push([change])
    }
    for (const binding of this.#table.bindings(this.#vhost, { exchange: name })) {
      this.binding(binding)
    }
    this.groups.push([[exchangeField(this.#vhost, name), null]])
  }

  /** An exchange that goes along, in the group of what took it along. */
  #exchange(name: string, group: Change[]): void {
    const waiting = [name]
    for (let at = waiting.pop(); at !== undefined; at = waiting.pop()) {
      if (this.#exchanges.has(at)) continue
      this.#exchanges.add(at)
      group.push([exchangeField(this.#vhost, at), null])
      for (const binding of this.#table.bindings(this.#vhost, { exchange: at })) {
        const change = this.#unbound(binding)
        if (!change) continue
        group.push(change)
        if (this.#isDone(binding.source)) waiting.push(binding.source)
      }
    }
  }

  /** The change that removes a binding, once. */
  #unbound(binding: BindingDefinition): Change | undefined {
    const field = bindingField(this.#vhost, binding)
    if (this.#fields.has(field)) return undefined
    this.#fields.add(field)
    const { source } = binding
    const left = this.#left.get(source) ?? this.#table.countFrom(this.#vhost, source)
    this.#left.set(source, left - 1)
    return [field, null]
  }

  #isDone(source: string): boolean {
    const definition = this.#table.exchange(this.#vhost, source)
    return (definition?.autoDelete ?? false) && this.#left.get(source) === 0
  }
}
