/**
 * The data keys that this process can use now, by id and by scope.
 *
 * Looked up without a promise: keys are unwrapped when they appear, not when a message needs one.
 * Where they come from is up to whoever calls `follow` (libs/server, encryption.ts). A ring that
 * nobody follows for has no keys: what is to be sealed is refused.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { type Appended, BrokerError, type Report } from '@sluice/core'
import type { DataKey } from './data-key.ts'
import { outcomeOf } from './redis.ts'

/** Why nothing is sealed, as the publisher hears it. */
export type Keyless = Exclude<Appended, 'stored' | 'duplicate' | 'full'>

/** How often a first key is tried while Redis is away, ms. */
const RETRY_MS = 200

/** Makes keys, and knows which there are. */
export interface KeyKeeper {
  /** Whether there is a key to wrap new ones with. */
  wraps(): boolean
  /**
   * Makes the first key of a scope, or finds it; it is in the ring then. undefined: nothing wraps
   * it at the moment. Rejects with memory_high, store_unavailable, vhost_ and queue_not_found.
   */
  make(vhost: string, queue: string): Promise<DataKey | undefined>
  /** Looks for keys that others made. Rejects with store_unavailable. */
  look(): Promise<void>
  /** Whether a key exists, be it here or not, as of the last look. */
  exists(vhost: string, id: number): boolean
  /** Why some of what should be encrypted or read cannot be; a sentence each. */
  broken(): string[]
}

/** Unambiguous whatever the names hold. */
const scopeOf = (vhost: string, queue: string) => `${vhost.length}/${vhost}/${queue}`

export class KeyRing {
  readonly #byId = new Map<number, DataKey>()
  readonly #newest = new Map<string, DataKey>()
  /** By scope: whoever publishes meanwhile waits for the same key, and in order. */
  readonly #making = new Map<string, Promise<DataKey | Keyless>>()
  readonly #report: Report
  #keeper: KeyKeeper | undefined

  constructor(report: Report) {
    this.#report = report
  }

  /** @param keeper undefined: no more keys are made. */
  follow(keeper: KeyKeeper | undefined): void {
    this.#keeper = keeper
  }

  /** A key that was forgotten is none. */
  get(id: number): DataKey | undefined {
    return this.#byId.get(id)
  }

  add(key: DataKey): void {
    this.#byId.set(key.id, key)
    const scope = scopeOf(key.vhost, key.queue)
    const newest = this.#newest.get(scope)
    if (newest === undefined || newest.generation < key.generation) this.#newest.set(scope, key)
  }

  /** For a key that was shredded, or may not be used any more. */
  remove(key: DataKey): void {
    key.forget()
    this.#byId.delete(key.id)
    const scope = scopeOf(key.vhost, key.queue)
    if (this.#newest.get(scope) !== key) return
    this.#newest.delete(scope)
    for (const other of this.#byId.values()) {
      if (other.vhost === key.vhost && other.queue === key.queue) this.add(other)
    }
  }

  keys(): IterableIterator<DataKey> {
    return this.#byId.values()
  }

  /** The key that seals now; undefined: none is here. */
  newest(vhost: string, queue: string): DataKey | undefined {
    return this.#newest.get(scopeOf(vhost, queue))
  }

  /** The same, or a promise while the first key is being made, which never rejects. */
  sealing(vhost: string, queue: string): DataKey | Promise<DataKey | Keyless> | undefined {
    const scope = scopeOf(vhost, queue)
    const making = this.#making.get(scope)
    if (making !== undefined) return making
    const newest = this.#newest.get(scope)
    if (newest !== undefined || this.#keeper === undefined) return newest
    const made = this.#make(this.#keeper, vhost, queue)
    this.#making.set(scope, made)
    // In a later turn: whoever asks in the one in which it is made comes behind those who wait.
    const done = () => setImmediate(() => this.#making.delete(scope))
    made.then(done, this.#report)
    return made
  }

  /** Tries while Redis is away, as an append does; a publisher without patience leaves before. */
  async #make(keeper: KeyKeeper, vhost: string, queue: string): Promise<DataKey | Keyless> {
    while (this.#keeper === keeper) {
      try {
        return (await keeper.make(vhost, queue)) ?? 'no-key'
      } catch (error) {
        const why = this.#keyless(error)
        if (why !== undefined) return why
      }
      await sleep(RETRY_MS, undefined, { ref: false })
    }
    return 'unavailable'
  }

  /** undefined: Redis did not answer. */
  #keyless(error: unknown): Keyless | undefined {
    if (!(error instanceof BrokerError)) {
      this.#report(error)
      return 'no-key'
    }
    const { code, cause } = error
    if (code === 'queue_not_found' || code === 'vhost_not_found') return 'gone'
    const answered = cause instanceof Error && cause.name === 'ReplyError'
    return code !== 'store_unavailable' || answered ? outcomeOf(error) : undefined
  }

  /** Looks for keys that are not here: answers those that exist and cannot be had at the moment. */
  async missing(vhost: string, ids: ReadonlySet<number>): Promise<ReadonlySet<number>> {
    const keeper = this.#keeper
    if (keeper === undefined) return ids
    await keeper.look()
    return new Set([...ids].filter((id) => !this.#byId.has(id) && keeper.exists(vhost, id)))
  }

  /** Whether something new can be encrypted: else it may not be asked for. */
  get able(): boolean {
    return this.#keeper?.wraps() ?? false
  }

  broken(): string[] {
    return this.#keeper?.broken() ?? []
  }
}

export function noKey(): BrokerError {
  return new BrokerError(
    'encryption_unavailable',
    'The key that encrypts this queue cannot be had at the moment.',
  )
}
