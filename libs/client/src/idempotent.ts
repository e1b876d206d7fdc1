/** Working on a message once, though it may be delivered more often. */
import type { Handler } from './consumer.ts'
import { type Delivery, Retry } from './delivery.ts'

/**
 * Remembers what was worked on. In memory it holds for one process; over several, implement it on a
 * database, best in the transaction in which the work itself is done.
 */
export interface IdempotencyStore {
  /** `new`: the caller works on it now. `busy`: somebody else does. `done`: it was worked on. */
  claim(key: string): Promise<'new' | 'busy' | 'done'> | 'new' | 'busy' | 'done'
  /** The work is done. */
  done(key: string): Promise<void> | void
  /** The work failed: the next one may claim it. */
  forget(key: string): Promise<void> | void
}

/** What names a message over its deliveries, and where that is remembered. */
export interface IdempotentOptions<T> {
  /** Default: source and id of an event, else the message-id, else its id within its queue. */
  readonly key?: (delivery: Delivery<T>) => string
  /** Default: a `MemoryStore`. */
  readonly store?: IdempotencyStore
  /** When a delivery comes again that somebody still works on, ms. Default 1 000. */
  readonly busyDelayMs?: number
}

/**
 * A handler that works on each message once. What was worked on before is acknowledged; what is
 * being worked on comes again a little later.
 */
export function idempotent<T>(
  handler: Handler<T>,
  options: IdempotentOptions<T> = {},
): (delivery: Delivery<T>) => Promise<void> {
  const { key = identityOf, store = new MemoryStore(), busyDelayMs = 1_000 } = options
  return async (delivery) => {
    const name = key(delivery)
    const claimed = await store.claim(name)
    if (claimed === 'done') return
    if (claimed === 'busy') throw new Retry('It is being worked on.', { delayMs: busyDelayMs })
    try {
      await handler(delivery)
    } catch (error) {
      await store.forget(name)
      throw error
    }
    await store.done(name)
  }
}

/** What names a message over its deliveries. */
export function identityOf(delivery: Delivery<unknown>): string {
  const { event, properties, queue, id } = delivery
  if (event?.id !== undefined) return JSON.stringify([event.source, event.id])
  return properties.messageId ?? JSON.stringify([queue, id])
}

/** Keys of the last messages, in memory. */
export class MemoryStore implements IdempotencyStore {
  readonly #keys = new Map<string, 'busy' | 'done'>()
  readonly #keysMax: number

  /** `keysMax`: how many are remembered; the oldest go first. Default 100 000. */
  constructor({ keysMax = 100_000 }: { keysMax?: number } = {}) {
    this.#keysMax = keysMax
  }

  /** See `IdempotencyStore`. */
  claim(key: string): 'new' | 'busy' | 'done' {
    const known = this.#keys.get(key)
    if (known) return known
    this.#keys.set(key, 'busy')
    if (this.#keys.size > this.#keysMax) {
      for (const oldest of this.#keys.keys()) {
        this.#keys.delete(oldest)
        break
      }
    }
    return 'new'
  }

  /** See `IdempotencyStore`. */
  done(key: string): void {
    this.#keys.set(key, 'done')
  }

  /** See `IdempotencyStore`. */
  forget(key: string): void {
    this.#keys.delete(key)
  }
}
