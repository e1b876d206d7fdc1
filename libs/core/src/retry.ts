/**
 * When a failed delivery is tried again.
 *
 * All times are milliseconds. `failed` counts deliveries that failed so far, so the first retry is
 * computed with failed = 1.
 *
 *   failed │ ceiling, for { baseMs: 1_000, factor: 2, maxMs: 60_000 }
 *   ───────┼──────────────────────────────────────────
 *        1 │  1_000
 *        2 │  2_000
 *        3 │  4_000
 *      7.. │ 60_000
 *
 * With jitter j the delay is drawn evenly from [(1 - j) * ceiling, ceiling]. The default, 0.5, is
 * "equal jitter" (M. Brooker, Exponential Backoff and Jitter): a burst of failures spreads out, yet
 * no retry comes back at once.
 */
import assert from 'node:assert/strict'

export interface RetryPolicy {
  readonly baseMs: number
  /** 1 = constant delay. */
  readonly factor: number
  readonly maxMs: number
  /** 0..1: the share of the delay that is random. */
  readonly jitter: number
}

export const RETRY_DEFAULT: RetryPolicy = { baseMs: 1_000, factor: 2, maxMs: 60_000, jitter: 0.5 }

/**
 * Delay before the next delivery, in whole milliseconds.
 *
 * @param random returns a number in [0, 1); a parameter so that tests can pin it.
 */
export function retryDelayMs(
  failed: number,
  policy: RetryPolicy,
  random: () => number = Math.random,
): number {
  assert(Number.isSafeInteger(failed) && failed >= 1, `failed is a count from 1: ${failed}`)
  const ceilingMs = Math.min(policy.baseMs * policy.factor ** (failed - 1), policy.maxMs)
  return Math.round(ceilingMs * (1 - policy.jitter + random() * policy.jitter))
}
