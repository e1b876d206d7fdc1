/**
 * What benches share: progress on stderr, one JSON line a result on stdout, and an end for whatever
 * was opened. Figures are medians; a shared machine is noisy, so compare only within one run.
 */
import { cpus } from 'node:os'
import type { Scope } from '@sluice/testkit'

export interface Bench extends Scope {
  /** Progress, for whoever watches. */
  say(text: string): void
  /** One result. */
  line(result: Record<string, unknown>): void
  /** SHORT=1: the same, in seconds instead of minutes, to see that it still runs. */
  readonly short: boolean
}

/** Runs a bench; ends everything it opened, whatever happens. */
export async function bench(name: string, run: (b: Bench) => Promise<void>): Promise<void> {
  const ends: (() => void | Promise<void>)[] = []
  const started = performance.now()
  const b: Bench = {
    short: process.env['SHORT'] === '1',
    after: (end) => {
      ends.push(end as () => void | Promise<void>)
    },
    skip: (why) => {
      throw new Error(String(why))
    },
    say: (text) => {
      const seconds = ((performance.now() - started) / 1_000).toFixed(1)
      process.stderr.write(`[${name} ${seconds} s] ${text}\n`)
    },
    line: (result) => {
      console.log(JSON.stringify({ bench: name, ...result, cores: cpus().length }))
    },
  }
  try {
    await run(b)
  } finally {
    for (let end = ends.shift(); end; end = ends.shift()) await end()
  }
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** What `count` reads, before and after `ms`: how much a second. */
export async function perSecond(ms: number, count: () => number): Promise<number> {
  const before = count()
  const start = performance.now()
  await new Promise((resolve) => setTimeout(resolve, ms))
  return ((count() - before) * 1_000) / (performance.now() - start)
}
