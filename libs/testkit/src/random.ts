/**
 * Seeded random: a run that failed is run again with SEED=<what it printed>.
 */
import type { TestContext } from 'node:test'

export interface Random {
  readonly seed: number
  /** A number in [0, 1). */
  next(): number
  /** An integer in [min, max], both included. */
  int(min: number, max: number): number
  /** One of `items`, which is not empty. */
  pick<T>(items: readonly T[]): T
  /** True with this probability, 0..1. */
  chance(probability: number): boolean
}

/** `SEED` from the environment, else one of the moment. */
export function seedFromEnv(): number {
  const given = process.env['SEED']
  if (given === undefined || given === '') return Math.floor(Math.random() * 0x7fffffff)
  const seed = Number(given)
  if (!Number.isSafeInteger(seed)) throw new Error(`SEED is an integer, not '${given}'`)
  return seed
}

/** The same numbers for the same seed, on every machine (mulberry32). */
export function random(seed: number = seedFromEnv()): Random {
  let state = seed >>> 0
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 0x1_0000_0000
  }
  const int = (min: number, max: number) => min + Math.floor(next() * (max - min + 1))
  return {
    seed,
    next,
    int,
    pick: <T>(items: readonly T[]): T => {
      if (items.length === 0) throw new Error('nothing to pick from')
      return items[int(0, items.length - 1)] as T
    },
    chance: (probability) => next() < probability,
  }
}

/** Random for one test, which prints how to replay it when it fails. */
export function randomFor(t: TestContext, seed: number = seedFromEnv()): Random {
  t.after(() => {
    if (!('passed' in t && t.passed)) t.diagnostic(`replay with SEED=${seed}`)
  })
  return random(seed)
}
