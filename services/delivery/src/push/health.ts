/**
 * What the attempts of one process say about their endpoint: whether it is down or busy, and
 * whether a failure is the message's or the endpoint's (pure).
 *
 * An endpoint is down once so many attempts in a row failed. A status like 500 may be about one
 * message, so a row of those must be of several. One that only answers 429 is there, but busy.
 */
import type { Attempt } from './subscription.ts'

/** Messages that a row of failures must be of, where each may be the message's own fault. */
const MESSAGES_MIN = 3
/** Messages whose last failure is remembered; the oldest goes first. */
const FAILED_MAX = 1_000

export class Health {
  #row = 0
  /** Of the row, those refused with 429, and whether any did not reach the application. */
  #refused = 0
  #down = false
  /** Of the row, at most MESSAGES_MIN. */
  readonly #messages = new Set<string>()
  #lastGoodMs = Number.NEGATIVE_INFINITY
  /** When messages failed without an answer, the newest last. */
  readonly #failed = new Map<string, number>()

  /**
   * An attempt that ended. Answers what the endpoint is by that.
   *
   * @param message tells it from others.
   */
  ended(
    attempt: Attempt,
    message: string,
    nowMs: number,
    failuresMax: number,
  ): 'fine' | 'busy' | 'down' {
    const { verdict, status, pressure, retryAfterMs } = attempt
    if (verdict !== 'retry') {
      this.#lastGoodMs = nowMs
      this.#failed.delete(message)
      this.#forgetRow()
      return 'fine'
    }
    if (retryAfterMs !== undefined) return 'fine' // it says itself when to come again
    this.#row++
    if (status === 429) this.#refused++
    this.#down ||= pressure !== 'none'
    if (this.#messages.size < MESSAGES_MIN) this.#messages.add(message)
    if (this.#row < failuresMax) return 'fine'
    if (!this.#down && this.#messages.size < MESSAGES_MIN) return 'fine'
    const is = this.#refused === this.#row ? 'busy' : 'down'
    this.#forgetRow()
    return is
  }

  /**
   * Whether a failure counts towards the queue's delivery limit: only failures of that message at a
   * healthy endpoint do. One without an answer may be either's fault: a message that breaks its
   * endpoint looks like an endpoint that breaks. It counts where others went well since the message
   * failed before.
   */
  counts({ status, pressure }: Attempt, message: string, nowMs: number): boolean {
    if (pressure === 'none') return true
    if (status === 429 || status === 503) return false
    const beforeMs = this.#failed.get(message) ?? Number.POSITIVE_INFINITY
    this.#failed.delete(message) // it becomes the newest
    this.#failed.set(message, nowMs)
    if (this.#failed.size > FAILED_MAX) this.#failed.delete(this.#failed.keys().next().value!)
    return this.#lastGoodMs > beforeMs
  }

  #forgetRow(): void {
    this.#row = 0
    this.#refused = 0
    this.#down = false
    this.#messages.clear()
  }
}
