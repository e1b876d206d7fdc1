/**
 * A pass, repeated until the process stops.
 *
 * Passes never overlap. One that throws is reported and the next still runs: a reaper outlives
 * Redis's absence.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Report, Running } from '@sluice/core'

/** Share of the interval that is random: many reapers that started together drift apart. */
const JITTER = 0.2

/** The same trouble is reported again only after this long. */
const QUIET_MS = 60_000
const MESSAGES_MAX = 1_000

/**
 * Runs `pass` at once, then about `intervalMs` after each pass ends, until the signal aborts. The
 * pass under way is finished first.
 *
 * @param random returns a number in [0, 1); a parameter so that tests can pin it.
 */
export function every(
  intervalMs: number,
  signal: AbortSignal,
  pass: () => Promise<void>,
  report: Report,
  random: () => number = Math.random,
): Running {
  async function loop(): Promise<void> {
    while (!signal.aborted) {
      await pass().catch(report)
      const jitter = 1 - JITTER / 2 + JITTER * random()
      await sleep(intervalMs * jitter, undefined, { signal }).catch(() => {}) // woken by the abort
    }
  }
  return { closed: loop() }
}

/**
 * Passes an error on unless one with the same message was passed on within the last minute: a loop
 * that fails ten times a second while Redis is away says so once.
 */
export function sparsely(
  report: Report,
  now: () => number = performance.now.bind(performance),
): Report {
  const reported = new Map<string, number>()
  return (error) => {
    const message = error instanceof Error ? error.message : String(error)
    const at = now()
    const last = reported.get(message)
    if (last !== undefined && at - last < QUIET_MS) return
    reported.delete(message)
    reported.set(message, at)
    if (reported.size > MESSAGES_MAX) reported.delete(reported.keys().next().value!)
    report(error)
  }
}
