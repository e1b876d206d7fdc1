/**
 * "N messages waiting, M consumers, error rate P: which rate, which delay, how much memory", from
 * what was measured. Pure.
 *
 * The rate is that of a closed network: M consumers, each either working or waiting for the one
 * place that is busiest (the broker's process, or Redis). Mean value analysis (Reiser and
 * Lavenberg, 1980) gives it: M / (work + overhead) while they are few, the broker's most once they
 * are many, and the bend in between.
 */
import assert from 'node:assert/strict'

export interface Coefficients {
  /** Storing n messages takes storeBaseMs + storeMsEach x n. */
  readonly storeMsEach: number
  readonly storeBaseMs: number
  /** Redis's memory for a waiting message: bytesEach + bytesPerBodyByte x its body. */
  readonly bytesEach: number
  readonly bytesPerBodyByte: number
  /** Of a consumer's cycle, what is not work, while no other consumer is in its way. */
  readonly overheadMs: number
  /** Most deliveries a second, leased and settled one by one, with any number of consumers. */
  readonly deliveriesPerSecondMax: number
}

export interface Question {
  readonly messages: number
  readonly consumers: number
  /** Share of deliveries that fail, from 0, below 1. */
  readonly errors: number
  /** How long a consumer works on a delivery. */
  readonly workMs: number
  readonly bodyBytes: number
  /** Deliveries of a message at most, the last failed one included. */
  readonly deliveriesMax: number
}

export interface Answer {
  readonly deliveriesPerMessage: number
  readonly deliveriesPerSecond: number
  /** Messages a second that leave the queue: done, or given up. */
  readonly messagesPerSecond: number
  /** Until the last of them has left. */
  readonly drainMs: number
  /** Of a message in the middle. */
  readonly meanDelayMs: number
  /** Share of messages that end as dead letters. */
  readonly deadLetters: number
  /** What an average message waits for its retries besides, with a queue's own back-off. */
  readonly backOffMs: number
  readonly memoryBytes: number
  /** To put them there, in batches. */
  readonly storeMs: number
  /** What keeps it from being faster. */
  readonly limit: 'consumers' | 'broker'
}

/** Back-off of a queue that sets none, ms: the first, how it grows, its most (docs/retries.md). */
const BACK_OFF = { base: 1_000, factor: 2, max: 60_000, jitter: 0.5 }
/** Past this many consumers there is nothing left to gain. */
const CONSUMERS_MAX = 1_000_000

export function answer(coefficients: Coefficients, question: Question): Answer {
  const { messages, consumers, errors, workMs, bodyBytes, deliveriesMax } = question
  const { overheadMs, deliveriesPerSecondMax: most } = coefficients
  assert(consumers >= 1 && consumers <= CONSUMERS_MAX, `1 to ${CONSUMERS_MAX} consumers`)
  const each = deliveriesPerMessage(errors, deliveriesMax)
  const perSecond = throughput({ consumers, cycleMs: workMs + overheadMs, most })
  const messagesPerSecond = perSecond / each
  const drainMs = (messages * 1_000) / messagesPerSecond
  return {
    deliveriesPerMessage: each,
    deliveriesPerSecond: perSecond,
    messagesPerSecond,
    drainMs,
    meanDelayMs: drainMs / 2 + workMs + overheadMs,
    deadLetters: errors ** deliveriesMax,
    backOffMs: meanBackOffMs(errors, deliveriesMax),
    memoryBytes: messages * bytesOf(coefficients, bodyBytes),
    storeMs: coefficients.storeBaseMs + coefficients.storeMsEach * messages,
    limit: (consumers * 1_000) / (workMs + overheadMs) < most ? 'consumers' : 'broker',
  }
}

export function bytesOf(
  { bytesEach, bytesPerBodyByte }: Pick<Coefficients, 'bytesEach' | 'bytesPerBodyByte'>,
  bodyBytes: number,
): number {
  return bytesEach + bytesPerBodyByte * bodyBytes
}

/**
 * How often a message is delivered, on average, when each delivery fails with this probability:
 * 1 + p + p² + ..., which ends with the last delivery allowed.
 */
export function deliveriesPerMessage(errors: number, deliveriesMax: number): number {
  assert(errors >= 0 && errors < 1, `a share of errors is from 0 and below 1: ${errors}`)
  return (1 - errors ** deliveriesMax) / (1 - errors)
}

/** Deliveries a second of a closed network with one place that serves `most` a second. */
export function throughput({
  consumers,
  cycleMs,
  most,
}: {
  readonly consumers: number
  /** Of a consumer that is alone: its work, and all that the broker does for it. */
  readonly cycleMs: number
  readonly most: number
}): number {
  const serviceMs = 1_000 / most
  const elsewhereMs = Math.max(0, cycleMs - serviceMs)
  let waiting = 0
  let perMs = 0
  for (let here = 1; here <= consumers; here++) {
    const responseMs = serviceMs * (1 + waiting)
    perMs = here / (elsewhereMs + responseMs)
    waiting = perMs * responseMs
  }
  return perMs * 1_000
}

/** After each failure that is not the last, its back-off; a random part counts as its mean. */
function meanBackOffMs(errors: number, deliveriesMax: number): number {
  const { base, factor, max, jitter } = BACK_OFF
  let total = 0
  for (let failed = 1; failed < deliveriesMax; failed++) {
    const ceiling = Math.min(base * factor ** (failed - 1), max)
    total += errors ** failed * ceiling * (1 - jitter / 2)
  }
  return total
}
