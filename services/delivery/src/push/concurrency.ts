/**
 * How many requests an endpoint takes at a time, found out by trying (pure).
 *
 * Gradient2 of Netflix's concurrency-limits: the limit follows the ratio of the latency over a long
 * time to the latency of late. While they are equal it grows by a small queue; as requests begin to
 * wait at the endpoint it shrinks, before any fails. Chosen over Vegas, which holds the least
 * latency ever seen against the present one and so starves an endpoint that became slower for good;
 * and over AIMD alone, which only learns by having requests refused. Gradient2 itself ignores
 * refusals. For them (429, 503, timeouts) this takes AIMD's decrease, at most once for the requests
 * that were under way together, since those were refused for one reason.
 */

/** Where it begins, before anything is known. */
const INITIAL = 20
/** Requests that may wait at the endpoint: what the limit grows by while latency holds. */
const QUEUE = 4
/** Latency may be so many times that of long before it counts as growing. */
const TOLERANCE = 1.5
/** Share of the new value in each step. */
const SMOOTHING = 0.2
/** At most a step in this time, ms, and only after so many answers. */
const STEP_MS = 100
const STEP_ANSWERS_MIN = 5
/** Steps over which the long latency is averaged: a minute. */
const LONG_STEPS = 600
/** Below this a latency is more about this process than about the endpoint, ms. */
const LATENCY_FLOOR_MS = 5
/** What a refusal leaves of the limit. */
const DECREASE = 0.7

export class Concurrency {
  readonly #max: number
  readonly #adaptive: boolean
  #limit: number
  #longMs = 0
  /** Answers since the last step, the time they took together, and the most that were under way. */
  #answers = 0
  #sumMs = 0
  #busiest = 0
  #stepMs = 0
  /** Refusals of requests that began before this are known of. */
  #refusedMs = Number.NEGATIVE_INFINITY

  /** @param adaptive false = always `max`. */
  constructor(max: number, adaptive: boolean) {
    this.#max = max
    this.#limit = adaptive ? Math.min(INITIAL, max) : max
    this.#adaptive = adaptive
  }

  get limit(): number {
    return Math.max(1, Math.floor(this.#limit))
  }

  /** A request was answered. `underWay`: how many were, this one included. Times in ms. */
  answered(nowMs: number, latencyMs: number, underWay: number): void {
    if (!this.#adaptive) return
    this.#answers++
    this.#sumMs += Math.max(latencyMs, LATENCY_FLOOR_MS)
    this.#busiest = Math.max(this.#busiest, underWay)
    if (this.#answers < STEP_ANSWERS_MIN || nowMs - this.#stepMs < STEP_MS) return
    this.#step(this.#sumMs / this.#answers)
    this.#answers = 0
    this.#sumMs = 0
    this.#busiest = 0
    this.#stepMs = nowMs
  }

  /** A request that began at `beganMs` was refused, or took too long. */
  refused(nowMs: number, beganMs: number): void {
    if (!this.#adaptive || beganMs < this.#refusedMs) return
    this.#refusedMs = nowMs
    this.#limit = Math.max(1, this.#limit * DECREASE)
  }

  #step(shortMs: number): void {
    if (this.#longMs === 0) this.#longMs = shortMs
    this.#longMs += (shortMs - this.#longMs) / LONG_STEPS
    // After a long slow time the average would take as long to come down.
    if (this.#longMs > 2 * shortMs) this.#longMs *= 0.95
    if (this.#busiest < this.#limit / 2) return // nobody tried what the limit allows
    const gradient = Math.max(0.5, Math.min(1, (TOLERANCE * this.#longMs) / shortMs))
    const next = this.#limit * gradient + QUEUE
    this.#limit += (next - this.#limit) * SMOOTHING
    this.#limit = Math.max(1, Math.min(this.#limit, this.#max))
  }
}
