/** Waiting, and trying again: all of it ends at once when a signal aborts. */
import { SluiceError } from './errors.ts'

/** How often, and how patiently, what may succeed later is tried again. */
export interface RetryOptions {
  /** Tries in all, the first included. Default 8. */
  readonly attemptsMax?: number
  /** First wait in ms, doubled after each try and drawn from its upper half. Default 100. */
  readonly baseMs?: number
  /** Longest wait in ms. Default 5 000. */
  readonly delayMsMax?: number
}

export const RETRY_DEFAULT: Required<RetryOptions> = {
  attemptsMax: 8,
  baseMs: 100,
  delayMsMax: 5_000,
}

/** How long to wait after `failed` tries, ms. */
export function backoffMs(failed: number, { baseMs, delayMsMax }: Required<RetryOptions>): number {
  const ceiling = Math.min(baseMs * 2 ** (failed - 1), delayMsMax)
  return ceiling / 2 + (Math.random() * ceiling) / 2
}

/** Resolves after `ms`; rejects with the signal's reason when it aborts before. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(signal.reason)
      return
    }
    const abort = () => {
      clearTimeout(timer)
      reject(signal?.reason)
    }
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', abort)
      resolve()
    }, ms)
    signal?.addEventListener('abort', abort, { once: true })
  })
}

/** Calls `attempt` until it succeeds, fails for good, or was tried often enough. */
export async function retrying<T>(
  options: Required<RetryOptions>,
  signal: AbortSignal | undefined,
  attempt: () => Promise<T>,
): Promise<T> {
  for (let failed = 1; ; failed++) {
    try {
      return await attempt()
    } catch (error) {
      const again = error instanceof SluiceError && error.retriable && failed < options.attemptsMax
      if (!again) throw error
      await sleep(Math.max(backoffMs(failed, options), error.retryAfterMs), signal)
    }
  }
}
