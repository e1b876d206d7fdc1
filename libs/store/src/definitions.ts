/**
 * Definitions (vhosts, exchanges, queues, bindings, policies) as stored, and the feed of changes.
 *
 * Under `sluice:{topology}:`, one hash slot:
 *   definitions  hash, a field per entity
 *   version      counts commits; a plain GET reads it, as publishes do
 *   stamp        random, of the last commit
 *   changes      stream, an entry per commit: id `<version>-0`, its stamp and its changes
 *   format       see format.ts
 *   hint         channel: a commit happened. Hints may get lost, so readers also look by themselves
 *
 * What the fields mean is up to libs/topology.
 */
import { randomBytes } from 'node:crypto'
import { BrokerError } from '@sluice/core'
import type { Redis } from 'ioredis'
import { TOPOLOGY_BASE } from './keys.ts'
import { unavailable } from './redis.ts'
import { script, word } from './script.ts'

/** A state of all definitions. The stamp tells apart histories that share a version. */
export interface Mark {
  /** Commits so far; 0 = nothing was ever defined. */
  readonly version: number
  readonly stamp: string
}

/** One definition set (value) or removed (null). Values are never empty. */
export type DefinitionChange = readonly [field: string, value: string | null]

/** What came after a mark, in order; or that the feed no longer says, and `load` must. */
export type Changes =
  | { readonly kind: 'changes'; readonly mark: Mark; readonly changes: DefinitionChange[] }
  | { readonly kind: 'behind' }

export type Commit =
  | { readonly kind: 'committed'; readonly mark: Mark }
  /** Somebody committed since the mark was read: read again, decide again. */
  | { readonly kind: 'conflict' }

/** Most changes in one commit: bounds how long it keeps Redis from others (~2 ms). */
export const COMMIT_CHANGES_MAX = 500

/** Commits that the feed keeps. A process that fell further behind reads everything. */
const FEED_COMMITS_MAX = 1_000
/** Commits read at a time. */
const FEED_PAGE = 100
/** How often a load starts again when it is overtaken, before it gives up. */
const LOAD_ATTEMPTS_MAX = 5

export const NO_DEFINITIONS: Mark = { version: 0, stamp: '' }

export const commit = script(
  'commit',
  ['version', 'stamp', 'newStamp', 'keep', '...'],
  ([kind, version]): { kind: 'committed' | 'conflict'; version: number } => {
    const outcome = word(kind)
    if (outcome !== 'committed' && outcome !== 'conflict') {
      throw new Error(`commit.lua returned ${outcome}`)
    }
    return { kind: outcome, version: Number(word(version)) }
  },
)

export const forget = script('forget', [], ([kind]) => word(kind))

/** All methods throw BrokerError store_unavailable when Redis does not answer. */
export class Definitions {
  readonly #redis: Redis
  readonly #subscriber: Redis

  /** @param subscriber a connection in subscriber mode; may be shared with other channels. */
  constructor(redis: Redis, subscriber: Redis) {
    this.#redis = redis
    this.#subscriber = subscriber
  }

  /** Commits so far: one GET. */
  async readVersion(): Promise<number> {
    return Number(await this.#ask(this.#redis.get(`${TOPOLOGY_BASE}version`)))
  }

  /** Everything, in bounded steps: Redis serves others meanwhile. */
  async load(): Promise<{ mark: Mark; definitions: Map<string, string> }> {
    for (let attempt = 0; attempt < LOAD_ATTEMPTS_MAX; attempt++) {
      const from = await this.#last()
      const definitions = await this.#scan()
      // The scan is no snapshot. What it may have missed or read too early was changed since
      // `from`, and is set right by the changes since then.
      const [since, size] = await Promise.all([
        this.changesSince(from),
        this.#ask(this.#redis.hlen(`${TOPOLOGY_BASE}definitions`)),
      ])
      if (since.kind === 'behind') continue
      for (const [field, value] of since.changes) {
        if (value === null) definitions.delete(field)
        else definitions.set(field, value)
      }
      // A cursor means nothing to another server: after a failover, or once the slot has moved.
      if (definitions.size !== size) continue
      return { mark: since.mark, definitions }
    }
    throw new BrokerError('store_unavailable', 'Definitions change faster than they are read.')
  }

  /** What was committed after `mark`: one round trip when that is little. */
  async changesSince(mark: Mark): Promise<Changes> {
    const changes: DefinitionChange[] = []
    let { version, stamp } = mark
    for (let known = version === 0; ; known = false) {
      // From the mark itself on: its own entry proves that its history is still the one in Redis.
      const start = version === 0 ? '-' : `${version}-0`
      const entries = await this.#ask(
        this.#redis.xrange(`${TOPOLOGY_BASE}changes`, start, '+', 'COUNT', FEED_PAGE),
      )
      for (const [id, fields] of entries) {
        const at = Number.parseInt(id, 10)
        if (at === version && fields[1] === stamp) {
          known = true
          continue
        }
        if (!known || at !== version + 1) return { kind: 'behind' }
        version = at
        stamp = fields[1]!
        for (let i = 2; i < fields.length; i += 2) {
          changes.push([fields[i]!, fields[i + 1] || null])
        }
      }
      if (!known) return { kind: 'behind' }
      if (entries.length < FEED_PAGE) return { kind: 'changes', mark: { version, stamp }, changes }
    }
  }

  /** Applies 1..COMMIT_CHANGES_MAX changes together, if `mark` is still the last commit. */
  async commit(mark: Mark, changes: readonly DefinitionChange[]): Promise<Commit> {
    const newStamp = randomBytes(9).toString('base64url')
    const flat = changes.flatMap(([field, value]) => [field, value ?? ''])
    const { kind, version } = await this.#ask(
      commit(this.#redis, TOPOLOGY_BASE, [
        mark.version,
        mark.stamp,
        newStamp,
        FEED_COMMITS_MAX,
        ...flat,
      ]),
    )
    return kind === 'conflict' ? { kind } : { kind, mark: { version, stamp: newStamp } }
  }

  /**
   * Forgets what definitions were before, for the sake of what was removed. Who has not read the
   * feed to its end reads everything.
   */
  async forgetHistory(): Promise<void> {
    await this.#ask(forget(this.#redis, TOPOLOGY_BASE, []))
  }

  /** Calls onHint when somebody commits; not always: hints may get lost. Returns how to stop it. */
  async watch(onHint: () => void): Promise<() => void> {
    const channel = `${TOPOLOGY_BASE}hint`
    const listener = (from: string) => {
      if (from === channel) onHint()
    }
    this.#subscriber.on('message', listener)
    await this.#ask(this.#subscriber.subscribe(channel))
    return () => {
      this.#subscriber.off('message', listener)
      this.#subscriber.unsubscribe(channel).catch(() => {}) // it ends with its connection
    }
  }

  async #last(): Promise<Mark> {
    const [entry] = await this.#ask(
      this.#redis.xrevrange(`${TOPOLOGY_BASE}changes`, '+', '-', 'COUNT', 1),
    )
    if (!entry) return NO_DEFINITIONS
    const [id, fields] = entry
    return { version: Number.parseInt(id, 10), stamp: fields[1]! }
  }

  async #scan(): Promise<Map<string, string>> {
    const definitions = new Map<string, string>()
    let cursor = '0'
    do {
      const [next, pairs] = await this.#ask(
        this.#redis.hscan(`${TOPOLOGY_BASE}definitions`, cursor, 'COUNT', 1_000),
      )
      for (let i = 0; i < pairs.length; i += 2) definitions.set(pairs[i]!, pairs[i + 1]!)
      cursor = next
    } while (cursor !== '0')
    return definitions
  }

  async #ask<T>(reply: Promise<T>): Promise<T> {
    try {
      return await reply
    } catch (error) {
      throw unavailable(error)
    }
  }
}
