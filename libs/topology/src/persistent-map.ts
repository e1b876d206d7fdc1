/**
 * A map whose versions share what did not change, so that a table of 100 000 entries is replaced
 * whole at the price of the few that did: an edit copies one shard (some 32 entries) for each of
 * them and a list of shards once.
 */

/** Entries a shard holds on average before the number of shards doubles. */
const SHARD_ENTRIES_MAX = 64

const NO_SHARD: ReadonlyMap<string, never> = new Map<string, never>()

export class PersistentMap<V> {
  readonly size: number
  /** Their number is a power of two. */
  readonly #shards: readonly ReadonlyMap<string, V>[]

  private constructor(shards: readonly ReadonlyMap<string, V>[], size: number) {
    this.#shards = shards
    this.size = size
  }

  static empty<V>(): PersistentMap<V> {
    return new PersistentMap<V>([NO_SHARD], 0)
  }

  get(key: string): V | undefined {
    return this.#shards[shardOf(key, this.#shards.length)]!.get(key)
  }

  has(key: string): boolean {
    return this.#shards[shardOf(key, this.#shards.length)]!.has(key)
  }

  *values(): IterableIterator<V> {
    for (const shard of this.#shards) yield* shard.values()
  }

  /** The map with these changes; undefined removes. The same map when nothing is different. */
  with(changes: ReadonlyMap<string, V | undefined>): PersistentMap<V> {
    let shards = this.#shards
    let size = this.size
    while (size + changes.size > shards.length * SHARD_ENTRIES_MAX) shards = doubled(shards)

    const edited = [...shards]
    const own = new Set<number>()
    for (const [key, value] of changes) {
      const index = shardOf(key, edited.length)
      let shard = edited[index]! as Map<string, V>
      if (shard.get(key) === value && shard.has(key) === (value !== undefined)) continue
      if (!own.has(index)) {
        own.add(index)
        shard = new Map(shard)
        edited[index] = shard
      }
      size -= shard.size
      if (value === undefined) shard.delete(key)
      else shard.set(key, value)
      size += shard.size
    }
    return own.size === 0 ? this : new PersistentMap(edited, size)
  }
}

function doubled<V>(shards: readonly ReadonlyMap<string, V>[]): ReadonlyMap<string, V>[] {
  const count = shards.length * 2
  const split = Array.from({ length: count }, () => new Map<string, V>())
  for (const shard of shards) {
    for (const [key, value] of shard) split[shardOf(key, count)]!.set(key, value)
  }
  return split
}

/** FNV-1a over UTF-16 code units, folded to `count`, a power of two. */
function shardOf(key: string, count: number): number {
  if (count === 1) return 0
  let hash = 0x811c9dc5
  for (let i = 0; i < key.length; i++) hash = Math.imul(hash ^ key.charCodeAt(i), 0x01000193)
  return (hash ^ (hash >>> 15)) & (count - 1)
}
