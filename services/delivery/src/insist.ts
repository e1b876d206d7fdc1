/** Telling Redis what it must hear, once it is there. */
import { setTimeout as sleep } from 'node:timers/promises'
import { BrokerError } from '@sluice/core'

/** Ten minutes, half a second apart. */
const ATTEMPTS_MAX = 1_200
const EVERY_MS = 500

/**
 * Does something again while Redis is away. For what nobody else does as long as this process
 * lives: a consumer that left and stays registered would keep an exclusive queue taken, or be the
 * active one for ever. When the process stops, reapers do it.
 */
export async function insist<T>(stopping: AbortSignal, act: () => Promise<T>): Promise<T> {
  for (let left = ATTEMPTS_MAX; ; left--) {
    try {
      return await act()
    } catch (error) {
      const away = error instanceof BrokerError && error.code === 'store_unavailable'
      if (!away || left === 0 || stopping.aborted) throw error
      await sleep(EVERY_MS, undefined, { signal: stopping }).catch(() => {})
    }
  }
}
