/**
 * Definitions compiled into what a publish reads: exchange and routing key to queues.
 *
 * Hot path. A table never changes; a new one replaces it whole and shares with it all that stayed
 * the same: an exchange is compiled again, at its next publish, only when its own bindings changed.
 * Results are cached by exchange and routing key until the table is replaced; the cache is bounded,
 * so unknown keys leave nothing behind. Measured by test/bench/routing.bench.ts.
 */
import type { Table } from '@sluice/amqp'
import { BrokerError } from '@sluice/core'
import type { Store } from '@sluice/store'
import type {
  BindingDefinition,
  Change,
  ExchangeDefinition,
  PolicyDefinition,
  VhostOptions,
} from './definition.ts'
import { VHOST_OPTIONS_DEFAULT } from './definition.ts'
import { Documents } from './documents.ts'
import { type QueueEntry, VhostTable, vhostChanges } from './vhost-table.ts'

export type { QueueEntry } from './vhost-table.ts'

export interface Route {
  /** Each queue once. Empty: the message is unroutable. */
  readonly queues: readonly QueueEntry[]
}

/**
 * Entries and queues that cached routes hold in all; some 10 MB at most. Past it they start anew.
 */
const CACHE_WEIGHT_MAX = 100_000

const UNROUTABLE: Route = { queues: [] }
const NO_KEYS: readonly string[] = []

/** What a table needs of the store: the queues that its entries open. */
export type QueueStores = Pick<Store, 'queue' | 'forget'>

export class RoutingTable {
  /** The topology version that it shows. */
  readonly version: number
  readonly documents: Documents
  readonly #stores: QueueStores
  readonly #vhosts: ReadonlyMap<string, VhostTable>
  readonly #cache = new Map<VhostTable, Map<string, Map<string, Route>>>()
  #cacheWeight = 0

  private constructor(
    stores: QueueStores,
    version: number,
    vhosts: ReadonlyMap<string, VhostTable>,
    documents: Documents,
  ) {
    this.#stores = stores
    this.version = version
    this.documents = documents
    this.#vhosts = vhosts
  }

  static empty(stores: QueueStores): RoutingTable {
    return new RoutingTable(stores, 0, new Map(), new Documents())
  }

  /** The table after these changes. Queues that have left it are let go of in the store. */
  with(version: number, changes: Iterable<Change>): RoutingTable {
    const vhosts = new Map(this.#vhosts)
    for (const [name, changed] of vhostChanges(changes)) {
      const vhost = vhosts.get(name) ?? new VhostTable(name, this.#stores)
      const next = vhost.with(changed)
      if (next) vhosts.set(name, next)
      else vhosts.delete(name)
    }
    return new RoutingTable(this.#stores, version, vhosts, this.documents.with(changes))
  }

  /**
   * The queues that a message reaches.
   *
   * @param headers called, at most once, when a headers exchange is on the way.
   * @param furtherKeys each exchange on the way matches these too (CC and BCC).
   * Throws BrokerError vhost_not_found or exchange_not_found.
   */
  route(
    vhost: string,
    exchange: string,
    routingKey: string,
    headers: () => Table,
    furtherKeys: readonly string[] = NO_KEYS,
  ): Route {
    const table = this.#vhost(vhost)
    const alone = furtherKeys.length === 0
    const known = alone ? this.#cache.get(table)?.get(exchange)?.get(routingKey) : undefined
    if (known) return known
    const found = table.route(exchange, [routingKey, ...furtherKeys], headers)
    if (!found) throw exchangeNotFound(vhost, exchange)
    const route = found.queues.size === 0 ? UNROUTABLE : { queues: [...found.queues] }
    if (alone && !found.readsHeaders) this.#remember(table, exchange, routingKey, route)
    return route
  }

  #remember(table: VhostTable, exchange: string, routingKey: string, route: Route): void {
    const weight = 1 + route.queues.length
    // Finding a route that is this long is little beside publishing to it.
    if (weight > CACHE_WEIGHT_MAX / 10) return
    this.#cacheWeight += weight
    if (this.#cacheWeight > CACHE_WEIGHT_MAX) {
      this.#cache.clear()
      this.#cacheWeight = weight
    }
    let exchanges = this.#cache.get(table)
    if (!exchanges) {
      exchanges = new Map()
      this.#cache.set(table, exchanges)
    }
    const keys = exchanges.get(exchange)
    if (keys) keys.set(routingKey, route)
    else exchanges.set(exchange, new Map([[routingKey, route]]))
  }

  /** How much the cached routes weigh, for the test of their bound. */
  get cacheWeight(): number {
    return this.#cacheWeight
  }

  /** Names, sorted. */
  vhosts(): string[] {
    return [...this.#vhosts.keys()].sort()
  }

  hasVhost(name: string): boolean {
    return this.#vhosts.has(name)
  }

  /** The defaults where there is no such vhost. */
  vhostOptions(name: string): VhostOptions {
    return this.#vhosts.get(name)?.options ?? VHOST_OPTIONS_DEFAULT
  }

  /** The default exchange included, whose name is ''. */
  exchange(vhost: string, name: string): ExchangeDefinition | undefined {
    return this.#vhosts.get(vhost)?.exchange(name)
  }

  queue(vhost: string, name: string): QueueEntry | undefined {
    return this.#vhosts.get(vhost)?.queue(name)
  }

  /** Sorted by name; the default exchange first. Throws vhost_not_found, as the lists below do. */
  exchanges(vhost: string): ExchangeDefinition[] {
    return byName(this.#vhost(vhost).exchanges())
  }

  /** Sorted by name. */
  queues(vhost: string): QueueEntry[] {
    const entries = [...this.#vhost(vhost).queues()]
    return entries.sort((a, b) => (a.definition.name < b.definition.name ? -1 : 1))
  }

  /** Whether any queue of the vhost keeps the order of keys. */
  keepsOrder(vhost: string): boolean {
    return this.#vhosts.get(vhost)?.keepsOrder ?? false
  }

  /** In no order; those of one source or destination where asked for. */
  bindings(
    vhost: string,
    of: { source?: string } | { queue: string } | { exchange: string } = {},
  ): BindingDefinition[] {
    const table = this.#vhost(vhost)
    if ('queue' in of) return [...table.bindingsTo('queue', of.queue)]
    if ('exchange' in of) return [...table.bindingsTo('exchange', of.exchange)]
    return [...(of.source === undefined ? table.bindings() : table.bindingsFrom(of.source))]
  }

  /** Sorted by name. */
  policies(vhost: string): PolicyDefinition[] {
    return byName(this.#vhost(vhost).policies())
  }

  /** The policy that applies to an exchange, if any. */
  exchangePolicy(vhost: string, name: string): PolicyDefinition | undefined {
    return this.#vhosts.get(vhost)?.exchangePolicy(name)
  }

  policy(vhost: string, name: string): PolicyDefinition | undefined {
    return this.#vhosts.get(vhost)?.policy(name)
  }

  hasBinding(vhost: string, binding: BindingDefinition): boolean {
    return this.#vhosts.get(vhost)?.hasBinding(binding) ?? false
  }

  /** Bindings of which this exchange is the source. */
  countFrom(vhost: string, exchange: string): number {
    return this.#vhosts.get(vhost)?.countFrom(exchange) ?? 0
  }

  queueCount(vhost: string): number {
    return this.#vhosts.get(vhost)?.queueCount ?? 0
  }

  /** Lets `next`, read anew, take over the queues that are open, and lets go of the others. */
  handOver(next: RoutingTable): void {
    for (const vhost of this.#vhosts.values()) {
      for (const { opened, definition } of vhost.queues()) {
        if (!opened) continue
        const heir = next.queue(vhost.name, definition.name)
        if (heir?.definition.epoch === definition.epoch) void heir.store
        else this.#stores.forget(opened)
      }
    }
  }

  #vhost(name: string): VhostTable {
    const vhost = this.#vhosts.get(name)
    if (!vhost) throw vhostNotFound(name)
    return vhost
  }
}

function byName<T extends { name: string }>(definitions: Iterable<T>): T[] {
  return [...definitions].sort((a, b) => (a.name < b.name ? -1 : 1))
}

export function vhostNotFound(vhost: string): BrokerError {
  return new BrokerError('vhost_not_found', `no vhost '${vhost}'`, { details: { vhost } })
}

export function exchangeNotFound(vhost: string, exchange: string): BrokerError {
  return new BrokerError('exchange_not_found', `no exchange '${exchange}' in vhost '${vhost}'`, {
    details: { vhost, exchange },
  })
}
