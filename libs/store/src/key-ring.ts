/**
 * The data keys that this process can use now, by id and by scope.
 *
 * Looked up without a promise: keys are unwrapped when they appear, not when a message needs one.
 * Where they come from is up to whoever calls `follow` (libs/server, encryption.ts). A ring that
 * nobody follows for has no keys: what is to be sealed is refused.
 */
import { BrokerError } from '@sluice/core'
import type { DataKey } from './data-key.ts'

/** Makes keys, and knows which there are. */
export interface KeyKeeper {
  /** Whether there is a key to wrap new ones with. */
  wraps(): boolean
  /** Makes the first key of a scope, or finds it; it is in the ring then. undefined: not now. */
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
  readonly #making = new Map<string, Promise<DataKey | undefined>>()
  #keeper: KeyKeeper | undefined

  follow(keeper: KeyKeeper): void {
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

  /** The same, or a promise while the first key is being made: of undefined when it cannot be. */
  sealing(vhost: string, queue: string): DataKey | Promise<DataKey | undefined> | undefined {
    const scope = scopeOf(vhost, queue)
    const making = this.#making.get(scope)
    if (making !== undefined) return making
    const newest = this.#newest.get(scope)
    if (newest !== undefined || this.#keeper === undefined) return newest
    const made = this.#keeper
      .make(vhost, queue)
      .catch(() => undefined) // told by `broken`
      .finally(() => this.#making.delete(scope))
    this.#making.set(scope, made)
    return made
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
