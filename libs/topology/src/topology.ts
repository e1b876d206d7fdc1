/**
 * Vhosts, exchanges, queues, bindings and policies: declared, deleted and kept current.
 *
 * Every change is linearizable across processes (ARCHITECTURE.md, topology): it is decided on a
 * table and committed only if nobody committed since, else decided again on the newer table. An
 * answer that changes nothing is given after a refresh that began after the question.
 *
 * What makes a queue exist is its definition; what makes its messages exist is its store, and
 * deletion begins there: once the store is dropped every append answers 'gone', and whoever meets
 * that while the definition is still there finishes the deletion (`finishDelete`).
 */
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { BrokerError, DEAD_LETTER_QUEUE, DEFAULT_VHOST, parseName, type Report } from '@sluice/core'
import { type Changes, type Mark, NO_DEFINITIONS, type Store } from '@sluice/store'
import { checkSameExchange, checkSameQueue } from './arguments.ts'
import {
  checkEncryption,
  checkNewName,
  checkNotDefault,
  checkRoom,
  differs,
  parseBinding,
  parseExchange,
  parsePolicy,
  parseQueue,
} from './checks.ts'
import { asJson, changed, type Decision, firstGroups, set, unchanged } from './decision.ts'
import {
  type BindingDefinition,
  bindingField,
  type Change,
  canonical,
  type ExchangeDefinition,
  exchangeField,
  type Json,
  type PolicyDefinition,
  policyField,
  type QueueDefinition,
  queueField,
  type VhostChange,
  type VhostOptions,
  vhostField,
} from './definition.ts'
import { type DocumentKind, documentField } from './documents.ts'
import { lettersOut } from './letters-out.ts'
import { predeclared } from './predeclared.ts'
import { removeBinding, removeExchange, removeQueue, removeRest } from './removal.ts'
import { RoutingTable, vhostNotFound } from './routing-table.ts'

export interface TopologyOptions {
  /** How long a new vhost's `amq.dead-letters` keeps a message. Default 7 days. */
  readonly deadLetterTtlMs?: number
  /** How many it keeps; the oldest go first. Default 1 000 000. */
  readonly deadLetterLengthMax?: number
}

export const TOPOLOGY_DEFAULTS = {
  deadLetterTtlMs: 7 * 86_400_000,
  deadLetterLengthMax: 1_000_000,
} as const satisfies Required<TopologyOptions>

/** Hints of commits may be lost; a process also looks by itself this often. */
const LOOK_MS = 1_000
/** Times a change is decided again because somebody else committed first. */
const COMMIT_ATTEMPTS_MAX = 50
/** Longest wait before deciding again; grows with the attempts. */
const CONFLICT_WAIT_MS_MAX = 50
/** Queues dropped at a time when a vhost is deleted. */
const DROPS_MAX = 50

/**
 * Reads all definitions and keeps them current until `close`. Creates the vhost `/` when absent.
 * Throws BrokerError store_unavailable.
 */
export async function openTopology(
  store: Store,
  report: Report,
  options: TopologyOptions = {},
): Promise<Topology> {
  const topology = new Topology(store, report, { ...TOPOLOGY_DEFAULTS, ...options })
  await topology.open()
  await topology.declareVhost(DEFAULT_VHOST)
  return topology
}

/** Every method throws BrokerError store_unavailable when Redis does not answer. */
export class Topology {
  #table: RoutingTable
  #mark: Mark = NO_DEFINITIONS
  readonly #store: Store
  readonly #report: Report
  readonly #options: Required<TopologyOptions>
  /** The refresh under way, and the one that begins when it ends. */
  #reading: Promise<void> | undefined
  #nextReading: PromiseWithResolvers<void> | undefined
  /** Changes of this process, one after the other. */
  #changing: Promise<unknown> = Promise.resolve()
  #stopWatching: (() => void) | undefined
  readonly #watchers = new Set<() => void>()
  #timer: NodeJS.Timeout | undefined

  constructor(store: Store, report: Report, options: Required<TopologyOptions>) {
    this.#store = store
    this.#report = report
    this.#options = options
    this.#table = RoutingTable.empty(store)
  }

  async open(): Promise<void> {
    await this.#load()
    this.#stopWatching = await this.#store.definitions.watch(() => this.#look())
    this.#timer = setInterval(() => this.#look(), LOOK_MS)
    this.#timer.unref()
  }

  /** The newest table that this process has; `refresh` makes it current. */
  get table(): RoutingTable {
    return this.#table
  }

  /** Calls back after each new table, until the returned function is called. */
  watch(changed: () => void): () => void {
    this.#watchers.add(changed)
    return () => this.#watchers.delete(changed)
  }

  /** Stops following changes. */
  async close(): Promise<void> {
    clearInterval(this.#timer)
    this.#stopWatching?.()
    await Promise.allSettled([this.#changing, this.#reading, this.#nextReading?.promise])
  }

  /** The newest version, for a comparison with `table.version`: one GET. */
  readVersion(): Promise<number> {
    return this.#store.definitions.readVersion()
  }

  /**
   * Makes the table show every commit that was made before the call; one round trip if none was.
   */
  refresh(): Promise<void> {
    if (!this.#reading) return this.#startReading()
    // The one under way may have asked too early; the next one serves all who come meanwhile.
    this.#nextReading ??= Promise.withResolvers()
    return this.#nextReading.promise
  }

  #startReading(): Promise<void> {
    this.#reading = this.#read().finally(() => {
      this.#reading = undefined
      const next = this.#nextReading
      this.#nextReading = undefined
      // At once, before anybody else can: else those who wait could wait for ever.
      if (next) this.#startReading().then(next.resolve, next.reject)
    })
    return this.#reading
  }

  /**
   * Declares a vhost with its predeclared exchanges and its `amq.dead-letters`.
   *
   * @param options what to set.
   */
  async declareVhost(vhost: string, options: VhostChange = {}): Promise<{ created: boolean }> {
    const name = parseName('vhost', vhost)
    const given = Object.entries(options).filter(([, value]) => value !== undefined)
    const result = await this.#change<{ created: boolean }>((table, version) => {
      const before = table.vhostOptions(name)
      const after: VhostOptions = { ...before, ...Object.fromEntries(given) }
      if (!before.encryption) checkEncryption(this.#store, after.encryption)
      const definition = { name, ...after }
      if (!table.hasVhost(name)) {
        return changed(predeclared(definition, version, this.#options), { created: true })
      }
      if (canonical({ ...before }) === canonical({ ...after })) return unchanged({ created: false })
      return changed([set(vhostField(name), definition)], { created: false })
    })
    if (result.created) await this.#table.queue(name, DEAD_LETTER_QUEUE)?.store.create()
    return result
  }

  /** Deletes a vhost with all that is in it, messages included. A crash midway: delete it again. */
  async deleteVhost(vhost: string): Promise<{ deleted: boolean }> {
    await this.refresh()
    if (!this.#table.hasVhost(vhost)) return { deleted: false }
    for (let done = false; !done; ) {
      const queues = this.#table.queues(vhost)
      for (let i = 0; i < queues.length; i += DROPS_MAX) {
        const some = queues.slice(i, i + DROPS_MAX)
        await Promise.all(some.map(({ store }) => store.drop({})))
        await this.#change((table) => {
          const left = some.filter(({ definition: { name, epoch } }) =>
            isThere(table, vhost, name, epoch),
          )
          const groups = left.flatMap(({ definition: { name } }) => removeQueue(table, vhost, name))
          return { groups, result: undefined }
        })
      }
      done = await this.#change((table) => {
        if (!table.hasVhost(vhost)) return unchanged(true)
        if (table.queueCount(vhost) > 0) return unchanged(false) // declared meanwhile
        return { groups: [...removeRest(table, vhost), [[vhostField(vhost), null]]], result: true }
      })
    }
    return { deleted: true }
  }

  /**
   * Where the vhost tolerates it, `tolerated` says how what is there differs instead.
   * Throws declaration_conflict, forbidden (reserved names), invalid_request, vhost_not_found.
   */
  async declareExchange(
    vhost: string,
    exchange: ExchangeDefinition,
  ): Promise<{ created: boolean; tolerated?: string }> {
    const definition = parseExchange(vhost, exchange)
    return this.#change<{ created: boolean; tolerated?: string }>((table) => {
      requireVhost(table, vhost)
      const current = table.exchange(vhost, definition.name)
      if (current) {
        const same = () => checkSameExchange(vhost, current, definition)
        return unchanged({ created: false, ...differs(table, vhost, same) })
      }
      checkNewName('exchange', definition.name)
      const change = set(exchangeField(vhost, definition.name), definition)
      return changed([change], { created: true })
    })
  }

  /** With `ifUnused` throws in_use while it has bindings. */
  async deleteExchange(
    vhost: string,
    name: string,
    { ifUnused = false }: { ifUnused?: boolean } = {},
  ): Promise<{ deleted: boolean }> {
    checkNotDefault(name)
    return this.#change<{ deleted: boolean }>((table) => {
      requireVhost(table, vhost)
      if (!table.exchange(vhost, name)) return unchanged({ deleted: false })
      checkNewName('exchange', name)
      if (ifUnused && table.countFrom(vhost, name) > 0) {
        throw new BrokerError('in_use', `exchange '${name}' in vhost '${vhost}' in use`)
      }
      return { groups: removeExchange(table, vhost, name), result: { deleted: true } }
    })
  }

  /**
   * A queue named '' gets a name of the broker's, which the answer tells.
   * Where the vhost tolerates it, `tolerated` says how what is there differs instead.
   * Throws declaration_conflict, forbidden (reserved names), invalid_request, vhost_not_found.
   */
  async declareQueue(
    vhost: string,
    queue: Omit<QueueDefinition, 'epoch'>,
  ): Promise<{ definition: QueueDefinition; created: boolean; tolerated?: string }> {
    const generated = queue.name === ''
    const name = generated ? `amq.gen-${randomBytes(16).toString('base64url')}` : queue.name
    const parsed = parseQueue(vhost, { ...queue, name })
    const result = await this.#change((table, version) => {
      requireVhost(table, vhost)
      const current = table.queue(vhost, parsed.name)?.definition
      if (current) {
        const same = () => checkSameQueue(vhost, current, parsed)
        return unchanged({ definition: current, created: false, ...differs(table, vhost, same) })
      }
      if (!generated) checkNewName('queue', parsed.name)
      checkRoom(table, vhost, parsed.name)
      checkEncryption(this.#store, parsed.arguments['x-encryption'])
      const definition = { ...parsed, epoch: version }
      const change = set(queueField(vhost, parsed.name), definition)
      return changed([change], { definition, created: true })
    })
    const entry = this.#table.queue(vhost, parsed.name)
    if (entry?.definition.epoch === result.definition.epoch) {
      // Declaring a queue again counts as use of it (amqp-0-9-1, 53).
      if (result.created || entry.settings.expiresMs >= 0) await entry.store.create()
    }
    return result
  }

  /**
   * Deletes a queue and its messages; answers how many were ready.
   *
   * @param ifUnused throws in_use while it has a consumer; leases are none.
   * @param ifEmpty throws not_empty while it holds a message.
   * @param unusedMs >= 0: throws in_use when somebody used it within that time.
   * @param epoch of the queue that is meant: another of its name stays.
   */
  async deleteQueue(
    vhost: string,
    name: string,
    {
      ifEmpty = false,
      ifUnused = false,
      unusedMs = -1,
      epoch,
    }: { ifUnused?: boolean; ifEmpty?: boolean; unusedMs?: number; epoch?: number } = {},
  ): Promise<{ deleted: boolean; messages: number }> {
    await this.refresh()
    requireVhost(this.#table, vhost)
    const entry = this.#table.queue(vhost, name)
    if (!entry || (epoch ?? entry.definition.epoch) !== entry.definition.epoch) {
      return { deleted: false, messages: 0 }
    }
    if (name === DEAD_LETTER_QUEUE) {
      throw new BrokerError('forbidden', `queue '${name}' goes with its vhost alone`)
    }
    await lettersOut(entry.store)
    const outcome = await entry.store.drop({ ifEmpty, ifUnused, unusedMs })
    const where = `queue '${name}' in vhost '${vhost}'`
    if (outcome.kind === 'not-empty') {
      throw new BrokerError('not_empty', `${where} not empty`, {
        details: { messages: outcome.messages },
      })
    }
    if (outcome.kind === 'in-use') throw new BrokerError('in_use', `${where} in use`)
    await this.finishDelete(vhost, name, entry.definition.epoch)
    // 'gone': somebody else deleted it at the same time, and answers for its messages.
    return { deleted: true, messages: outcome.kind === 'dropped' ? outcome.messages : 0 }
  }

  /**
   * Removes the definition of a queue whose store is dropped: for whoever meets 'gone' from a queue
   * that the table still has. Does nothing when it is removed, or declared again since.
   */
  async finishDelete(vhost: string, name: string, epoch: number): Promise<void> {
    await this.#change((table) => {
      if (!isThere(table, vhost, name, epoch)) return unchanged(undefined)
      return { groups: removeQueue(table, vhost, name), result: undefined }
    })
  }

  /** Throws exchange_not_found, queue_not_found, forbidden (default exchange), invalid_request. */
  async bind(vhost: string, binding: BindingDefinition): Promise<{ created: boolean }> {
    return this.#change<{ created: boolean }>((table) => {
      requireVhost(table, vhost)
      const parsed = parseBinding(table, vhost, binding)
      if (table.hasBinding(vhost, parsed)) return unchanged({ created: false })
      return changed([set(bindingField(vhost, parsed), parsed)], { created: true })
    })
  }

  /** A binding, source or destination that is not there: nothing was deleted. */
  async unbind(vhost: string, binding: BindingDefinition): Promise<{ deleted: boolean }> {
    checkNotDefault(binding.source)
    return this.#change<{ deleted: boolean }>((table) => {
      requireVhost(table, vhost)
      if (!table.hasBinding(vhost, binding)) return unchanged({ deleted: false })
      return { groups: removeBinding(table, vhost, binding), result: { deleted: true } }
    })
  }

  /** Creates or replaces a policy. It acts on running queues at once. Throws invalid_request. */
  async putPolicy(vhost: string, policy: PolicyDefinition): Promise<{ created: boolean }> {
    return this.#change<{ created: boolean }>((table) => {
      requireVhost(table, vhost)
      const parsed = parsePolicy(table, vhost, policy)
      const current = table.policy(vhost, parsed.name)
      const created = current === undefined
      if (current?.definition['encryption'] !== true) {
        checkEncryption(this.#store, parsed.definition['encryption'])
      }
      if (current && canonical(asJson(current)) === canonical(asJson(parsed))) {
        return unchanged({ created })
      }
      return changed([set(policyField(vhost, parsed.name), parsed)], { created })
    })
  }

  async deletePolicy(vhost: string, name: string): Promise<{ deleted: boolean }> {
    return this.#change<{ deleted: boolean }>((table) => {
      requireVhost(table, vhost)
      if (!table.policy(vhost, name)) return unchanged({ deleted: false })
      return changed([[policyField(vhost, name), null]], { deleted: true })
    })
  }

  /**
   * Creates, replaces or removes (null) a document, by its current value. `vhost` is '' for those
   * of the whole broker. What `decide` throws refuses the change; the same value changes nothing.
   */
  async changeDocument(
    kind: DocumentKind,
    vhost: string,
    name: string,
    decide: (current: Json | undefined, table: RoutingTable) => Json | null,
  ): Promise<{ before: Json | undefined; after: Json | null }> {
    return this.#change((table) => {
      if (vhost !== '') requireVhost(table, vhost)
      const before = table.documents.get(kind, vhost, name)
      const after = decide(before, table)
      const result = { before, after }
      if (canonical(before ?? null) === canonical(after)) return unchanged(result)
      const field = documentField(kind, vhost, name)
      return changed([[field, after === null ? null : JSON.stringify(after)]], result)
    })
  }

  /**
   * Decides on the newest table and commits, as often as it takes.
   *
   * @param decide pure; gets the version that a commit would make. A refusal that it throws counts
   * once the table is known to be current.
   */
  #change<T>(decide: (table: RoutingTable, version: number) => Decision<T>): Promise<T> {
    const change = this.#changing.then(() => this.#decideAndCommit(decide))
    this.#changing = change.catch(() => {}) // told to its caller
    return change
  }

  async #decideAndCommit<T>(
    decide: (table: RoutingTable, version: number) => Decision<T>,
  ): Promise<T> {
    let current = false // whether the table is as new as this call
    for (let attempt = 0; attempt < COMMIT_ATTEMPTS_MAX; ) {
      const decision = this.#decide(decide, current)
      if (decision && decision.groups.length === 0 && current) return decision.result
      if (!decision || decision.groups.length === 0) {
        await this.refresh()
        current = true
        continue
      }
      // A commit that succeeds proves that the table was current.
      const { changes, whole } = firstGroups(decision.groups)
      const mark = this.#mark
      const commit = await this.#store.definitions.commit(mark, changes)
      if (commit.kind === 'committed') {
        if (this.#mark === mark) this.#apply(commit.mark, changes)
        else await this.refresh()
        if (whole) return decision.result
        current = true
      } else {
        attempt++
        await sleep(Math.random() * Math.min(attempt, CONFLICT_WAIT_MS_MAX))
        await this.refresh()
        current = true
      }
    }
    throw new BrokerError('store_unavailable', 'The topology changes too fast; try again.')
  }

  #decide<T>(
    decide: (table: RoutingTable, version: number) => Decision<T>,
    current: boolean,
  ): Decision<T> | undefined {
    try {
      return decide(this.#table, this.#mark.version + 1)
    } catch (error) {
      if (current || !(error instanceof BrokerError)) throw error
      return undefined
    }
  }

  #look(): void {
    this.refresh().catch((error: unknown) => {
      // Redis is away: every caller that needs it is told.
      if (!(error instanceof BrokerError)) this.#report(error)
    })
  }

  async #read(): Promise<void> {
    const mark = this.#mark
    const since: Changes = await this.#store.definitions.changesSince(mark)
    if (this.#mark !== mark) return this.#read() // a commit of ours came between
    if (since.kind === 'behind') return this.#load()
    if (since.changes.length > 0 || since.mark.version !== mark.version) {
      this.#apply(since.mark, since.changes)
    }
  }

  async #load(): Promise<void> {
    const { mark, definitions } = await this.#store.definitions.load()
    const table = RoutingTable.empty(this.#store).with(mark.version, definitions)
    this.#table.handOver(table)
    this.#swap(table, mark)
  }

  #apply(mark: Mark, changes: readonly Change[]): void {
    this.#swap(this.#table.with(mark.version, changes), mark)
  }

  #swap(table: RoutingTable, mark: Mark): void {
    this.#table = table
    this.#mark = mark
    for (const changed of this.#watchers) changed()
  }
}

function isThere(table: RoutingTable, vhost: string, queue: string, epoch: number): boolean {
  return table.queue(vhost, queue)?.definition.epoch === epoch
}

function requireVhost(table: RoutingTable, vhost: string): void {
  if (!table.hasVhost(vhost)) throw vhostNotFound(vhost)
}
