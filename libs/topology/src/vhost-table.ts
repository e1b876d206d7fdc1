/**
 * One vhost of a routing table: its exchanges, queues, bindings and policies, and how they route.
 *
 * Hot path, see routing-table.ts. Immutable as seen from outside: what is found out late (a
 * compiled exchange, a queue's settings, its open store) is found out once and is always the same.
 */
import type { Table } from '@sluice/amqp'
import { compilePattern, DEAD_LETTER_QUEUE, DEFAULT_EXCHANGE, type Pattern } from '@sluice/core'
import type { QueueSettings, QueueStore, Store } from '@sluice/store'
import { effective, queueSettings, strongestPolicy } from './arguments.ts'
import type {
  BindingDefinition,
  Change,
  ExchangeDefinition,
  ExchangeType,
  PolicyDefinition,
  QueueDefinition,
  VhostDefinition,
  VhostOptions,
} from './definition.ts'
import { bindingField, parseChange, VHOST_OPTIONS_DEFAULT } from './definition.ts'
import { compileMatcher, type Matcher } from './exchange.ts'
import { PersistentMap } from './persistent-map.ts'

type QueueStores = Pick<Store, 'queue' | 'forget'>

/** A queue with what its arguments and the policy that applies make of it. */
export class QueueEntry {
  readonly vhost: string
  readonly definition: QueueDefinition
  readonly #policies: Policies
  readonly #stores: QueueStores
  readonly #encrypted: boolean
  #applied: { policy: PolicyDefinition | undefined; settings: QueueSettings } | undefined
  #store: QueueStore | undefined

  constructor(
    vhost: string,
    definition: QueueDefinition,
    policies: Policies,
    stores: QueueStores,
    encrypted: boolean,
  ) {
    this.#encrypted = encrypted
    this.vhost = vhost
    this.definition = definition
    this.#policies = policies
    this.#stores = stores
  }

  /** Name of the policy that applies. */
  get policy(): string | undefined {
    return this.#resolve().policy?.name
  }

  get settings(): QueueSettings {
    return this.#resolve().settings
  }

  /** undefined = none; '' = the default exchange. */
  get deadLetterExchange(): string | undefined {
    return this.#name('x-dead-letter-exchange')
  }

  /** undefined = dead letters keep their routing key. */
  get deadLetterRoutingKey(): string | undefined {
    return this.#name('x-dead-letter-routing-key')
  }

  /** Opened at the first use. */
  get store(): QueueStore {
    const { name, epoch } = this.definition
    this.#store ??= this.#stores.queue(this.vhost, name, epoch, this.settings)
    return this.#store
  }

  /** The store if this process uses the queue. */
  get opened(): QueueStore | undefined {
    return this.#store
  }

  #name(argument: string): string | undefined {
    const { policy } = this.#resolve()
    return effective(argument, this.definition.arguments, policy?.definition) as string | undefined
  }

  #resolve() {
    if (!this.#applied) {
      const { name, arguments: args } = this.definition
      const policy = this.#policies.of('queues', name)
      const settings = queueSettings(args, policy?.definition, {
        isDeadLetterQueue: name === DEAD_LETTER_QUEUE,
        encrypted: this.#encrypted,
      })
      this.#applied = { policy, settings }
    }
    return this.#applied
  }
}

/** The policies of a vhost, with their patterns compiled. */
class Policies {
  readonly all: ReadonlyMap<string, PolicyDefinition>
  readonly #patterns: readonly (readonly [PolicyDefinition, Pattern])[]

  constructor(all: ReadonlyMap<string, PolicyDefinition>) {
    this.all = all
    this.#patterns = [...all.values()].map((policy) => [policy, storedPattern(policy.pattern)])
  }

  of(kind: 'queues' | 'exchanges', name: string): PolicyDefinition | undefined {
    const matching = this.#patterns.filter(
      ([{ applyTo }, pattern]) => (applyTo === kind || applyTo === 'all') && pattern(name),
    )
    return strongestPolicy(matching.map(([policy]) => policy))
  }
}

/** A pattern that a newer version of the broker accepted and this one does not matches nothing. */
function storedPattern(source: string): Pattern {
  try {
    return compilePattern(source)
  } catch {
    return () => false
  }
}

/** The bindings of one source exchange, compiled when it is first routed through. */
class Source {
  readonly bindings: PersistentMap<BindingDefinition>
  #matcher: Matcher | undefined
  #type: ExchangeType | undefined

  constructor(bindings: PersistentMap<BindingDefinition>) {
    this.bindings = bindings
  }

  matcher(type: ExchangeType): Matcher {
    if (!this.#matcher || this.#type !== type) {
      this.#matcher = compileMatcher(type, this.bindings.values())
      this.#type = type
    }
    return this.#matcher
  }
}

/** What changes in one vhost; undefined removes. */
interface VhostChanges {
  /** null removes it. */
  definition: VhostDefinition | null | undefined
  readonly exchanges: Map<string, ExchangeDefinition | undefined>
  readonly queues: Map<string, QueueDefinition | undefined>
  readonly policies: Map<string, PolicyDefinition | undefined>
  readonly bindings: Map<string, { ends: BindingEnds; definition: BindingDefinition | undefined }>
}

type BindingEnds = Pick<BindingDefinition, 'source' | 'destination' | 'destinationType'>

/** Sorts changes by vhost; of several to one entity the last counts. */
export function vhostChanges(changes: Iterable<Change>): Map<string, VhostChanges> {
  const vhosts = new Map<string, VhostChanges>()
  for (const [field, value] of changes) {
    const change = parseChange(field, value)
    if (!change) continue // of a kind that a newer version of the broker knows
    let vhost = vhosts.get(change.vhost)
    if (!vhost) {
      vhost = {
        definition: undefined,
        exchanges: new Map(),
        queues: new Map(),
        policies: new Map(),
        bindings: new Map(),
      }
      vhosts.set(change.vhost, vhost)
    }
    switch (change.kind) {
      case 'vhost':
        vhost.definition = change.definition ?? null
        break
      case 'exchange':
        vhost.exchanges.set(change.name, change.definition)
        break
      case 'queue':
        vhost.queues.set(change.name, change.definition)
        break
      case 'policy':
        vhost.policies.set(change.name, change.definition)
        break
      case 'binding':
        vhost.bindings.set(field, change)
    }
  }
  return vhosts
}

/** Exists in every vhost, bound to every queue by its name, and cannot be changed. */
const DEFAULT_EXCHANGE_DEFINITION: ExchangeDefinition = {
  name: DEFAULT_EXCHANGE,
  type: 'direct',
  durable: true,
  autoDelete: false,
  internal: false,
  arguments: {},
}

interface Parts {
  readonly options: VhostOptions
  readonly exchanges: PersistentMap<ExchangeDefinition>
  readonly queues: PersistentMap<QueueEntry>
  /** How many of them keep the order of keys. */
  readonly ordered: number
  readonly sources: PersistentMap<Source>
  readonly destinations: PersistentMap<PersistentMap<BindingDefinition>>
  readonly policies: Policies
}

const NO_PARTS: Parts = {
  options: VHOST_OPTIONS_DEFAULT,
  exchanges: PersistentMap.empty(),
  queues: PersistentMap.empty(),
  ordered: 0,
  sources: PersistentMap.empty(),
  destinations: PersistentMap.empty(),
  policies: new Policies(new Map()),
}

const destinationKey = (type: 'queue' | 'exchange', name: string) => `${type} ${name}`
const NO_BINDINGS = PersistentMap.empty<BindingDefinition>()

export class VhostTable {
  readonly name: string
  readonly #stores: QueueStores
  readonly #parts: Parts

  constructor(name: string, stores: QueueStores, parts: Parts = NO_PARTS) {
    this.name = name
    this.#stores = stores
    this.#parts = parts
  }

  /** The vhost after these changes; undefined when they remove it. */
  with(changes: VhostChanges): VhostTable | undefined {
    if (changes.definition === null) {
      for (const entry of this.#parts.queues.values()) this.#letGo(entry)
      return undefined
    }
    const { exchanges, policies } = this.#parts
    const { definition } = changes
    const parts: Parts = {
      options: definition ? optionsOf(definition) : this.#parts.options,
      exchanges: exchanges.with(changes.exchanges),
      policies: changes.policies.size === 0 ? policies : policiesWith(policies, changes.policies),
      ...this.#bindingsWith(changes.bindings),
      queues: this.#parts.queues,
      ordered: this.#orderedWith(changes.queues),
    }
    return new VhostTable(this.name, this.#stores, {
      ...parts,
      queues: this.#queuesWith(changes.queues, parts),
    })
  }

  #orderedWith(changes: VhostChanges['queues']): number {
    let { ordered } = this.#parts
    for (const [name, definition] of changes) {
      if (keepsOrder(this.queue(name)?.definition)) ordered--
      if (keepsOrder(definition)) ordered++
    }
    return ordered
  }

  #queuesWith(
    changes: VhostChanges['queues'],
    { policies, options: { encryption } }: Parts,
  ): PersistentMap<QueueEntry> {
    const before = this.#parts.queues
    const entries = new Map<string, QueueEntry | undefined>()
    const entryOf = (definition: QueueDefinition) =>
      new QueueEntry(this.name, definition, policies, this.#stores, encryption)
    const { options } = this.#parts
    if (policies !== this.#parts.policies || encryption !== options.encryption) {
      for (const { definition } of before.values()) {
        entries.set(definition.name, entryOf(definition))
      }
    }
    for (const [name, definition] of changes) {
      entries.set(name, definition && entryOf(definition))
    }
    for (const [name, entry] of entries) {
      const old = before.get(name)
      if (!old?.opened) continue
      // Whoever holds the open store feels a new policy at once.
      if (entry?.definition.epoch === old.definition.epoch) void entry.store
      else this.#letGo(old)
    }
    return before.with(entries)
  }

  #letGo(entry: QueueEntry): void {
    if (entry.opened) this.#stores.forget(entry.opened)
  }

  #bindingsWith(changes: VhostChanges['bindings']): Pick<Parts, 'sources' | 'destinations'> {
    const { sources, destinations } = this.#parts
    const bySource = new Map<string, Map<string, BindingDefinition | undefined>>()
    const byDestination = new Map<string, Map<string, BindingDefinition | undefined>>()
    for (const [field, { ends, definition }] of changes) {
      put(bySource, ends.source, field, definition)
      const destination = destinationKey(ends.destinationType, ends.destination)
      put(byDestination, destination, field, definition)
    }
    const newSources = new Map<string, Source | undefined>()
    for (const [source, bindings] of bySource) {
      const before = sources.get(source)
      const after = (before?.bindings ?? NO_BINDINGS).with(bindings)
      if (after === before?.bindings) continue
      newSources.set(source, after.size === 0 ? undefined : new Source(after))
    }
    const newDestinations = new Map<string, PersistentMap<BindingDefinition> | undefined>()
    for (const [destination, bindings] of byDestination) {
      const after = (destinations.get(destination) ?? NO_BINDINGS).with(bindings)
      newDestinations.set(destination, after.size === 0 ? undefined : after)
    }
    return {
      sources: sources.with(newSources),
      destinations: destinations.with(newDestinations),
    }
  }

  /**
   * The queues that a message reaches, and whether its headers had a say; undefined when there is
   * no such exchange. As RabbitMQ does, an exchange that matches nothing at all hands on to its
   * alternate exchange, and each exchange is passed once, so circles end.
   */
  route(
    exchange: string,
    routingKeys: readonly string[],
    headers: () => Table,
  ): { queues: Set<QueueEntry>; readsHeaders: boolean } | undefined {
    if (!this.exchange(exchange)) return undefined
    const queues = new Set<QueueEntry>()
    const passed = new Set([exchange])
    let readsHeaders = false
    let table: Table | undefined
    const readHeaders = () => {
      table ??= headers()
      return table
    }
    for (const name of passed) {
      if (name === DEFAULT_EXCHANGE) {
        for (const key of routingKeys) {
          const entry = this.#parts.queues.get(key)
          if (entry) queues.add(entry)
        }
        continue
      }
      const definition = this.#parts.exchanges.get(name)
      if (!definition) continue // an alternate exchange need not exist
      let matched = false
      const matcher = this.#parts.sources.get(name)?.matcher(definition.type)
      readsHeaders ||= matcher?.readsHeaders ?? false
      const reach: Parameters<Matcher['match']>[2] = (target) => {
        matched = true
        if (target.type === 'exchange') passed.add(target.name)
        const entry = target.type === 'queue' ? this.#parts.queues.get(target.name) : undefined
        if (entry) queues.add(entry)
      }
      for (const key of routingKeys) matcher?.match(key, readHeaders, reach)
      const alternate = matched ? undefined : this.#alternate(definition)
      if (alternate !== undefined) passed.add(alternate)
    }
    return { queues, readsHeaders }
  }

  #alternate({ name, arguments: args }: ExchangeDefinition): string | undefined {
    const policy = this.exchangePolicy(name)
    return effective('alternate-exchange', args, policy?.definition) as string | undefined
  }

  exchange(name: string): ExchangeDefinition | undefined {
    return name === DEFAULT_EXCHANGE ? DEFAULT_EXCHANGE_DEFINITION : this.#parts.exchanges.get(name)
  }

  queue(name: string): QueueEntry | undefined {
    return this.#parts.queues.get(name)
  }

  exchangePolicy(name: string): PolicyDefinition | undefined {
    return this.#parts.policies.of('exchanges', name)
  }

  *exchanges(): IterableIterator<ExchangeDefinition> {
    yield DEFAULT_EXCHANGE_DEFINITION
    yield* this.#parts.exchanges.values()
  }

  queues(): IterableIterator<QueueEntry> {
    return this.#parts.queues.values()
  }

  policies(): Iterable<PolicyDefinition> {
    return this.#parts.policies.all.values()
  }

  policy(name: string): PolicyDefinition | undefined {
    return this.#parts.policies.all.get(name)
  }

  *bindings(): IterableIterator<BindingDefinition> {
    for (const source of this.#parts.sources.values()) yield* source.bindings.values()
  }

  bindingsFrom(source: string): Iterable<BindingDefinition> {
    return this.#parts.sources.get(source)?.bindings.values() ?? []
  }

  bindingsTo(type: 'queue' | 'exchange', name: string): Iterable<BindingDefinition> {
    return this.#parts.destinations.get(destinationKey(type, name))?.values() ?? []
  }

  countFrom(source: string): number {
    return this.#parts.sources.get(source)?.bindings.size ?? 0
  }

  get options(): VhostOptions {
    return this.#parts.options
  }

  get queueCount(): number {
    return this.#parts.queues.size
  }

  /** Whether any of its queues keeps the order of keys. */
  get keepsOrder(): boolean {
    return this.#parts.ordered > 0
  }

  hasBinding(binding: BindingDefinition): boolean {
    const bindings = this.#parts.sources.get(binding.source)?.bindings
    return bindings?.has(bindingField(this.name, binding)) ?? false
  }
}

function keepsOrder(definition: QueueDefinition | undefined): boolean {
  return definition?.arguments['x-ordering-key'] === true
}

function optionsOf({ name: _, ...options }: VhostDefinition): VhostOptions {
  return { ...VHOST_OPTIONS_DEFAULT, ...options }
}

function policiesWith(policies: Policies, changes: VhostChanges['policies']): Policies {
  const all = new Map(policies.all)
  for (const [name, definition] of changes) {
    if (definition) all.set(name, definition)
    else all.delete(name)
  }
  return new Policies(all)
}

function put<V>(map: Map<string, Map<string, V>>, key: string, field: string, value: V): void {
  const values = map.get(key)
  if (values) values.set(field, value)
  else map.set(key, new Map([[field, value]]))
}
