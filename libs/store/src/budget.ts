/**
 * What all processes together may send to one endpoint: requests a second with a burst, most
 * concurrent ones, and not at all while it asked to be left alone or its breaker is open.
 *
 * Each process borrows a slice of that: the slots of the next HORIZON_MS, each with the time from
 * which it may be used, and permits. So a process asks some 20 times a second however much it
 * sends, and no two of them need to know of each other. What is lent and how it comes back is said
 * in lua/borrow.lua.
 *
 * The promise: within any time, at most rate x time + burst requests arrive. A slot may be used
 * late by latenessMs, and a request may take longer than others on its way; the burst that is lent
 * is smaller by what becomes due in the sum of both.
 */
import type { Redis } from 'ioredis'
import { endpointBase } from './keys.ts'
import { unavailable } from './redis.ts'
import { script, word } from './script.ts'

/** How far ahead slots are lent, ms: what a process asks for at a time. */
const HORIZON_MS = 50
/** Latest use of a slot, ms: longer than what a busy event loop is usually late. */
const LATENESS_MS_MAX = 25
/** However small the burst: timers count milliseconds. */
const LATENESS_MS_MIN = 5
/** The burst kept back, in what becomes due while a slot is late: half of it for the way there. */
const KEPT = 2
/** Permits of a process that died come back after this, ms. It renews them in a fifth of that. */
export const PERMITS_LEASE_MS = 5_000

export interface BudgetLimits {
  /** Requests a second, 0 = no limit. */
  readonly rate: number
  /** Most requests at once where none were for a while, at least 1. */
  readonly burst: number
  /** Most requests at a time, 0 = no limit. */
  readonly concurrency: number
  /** From a tenth of the rate to the whole of it after an outage; 0 = at once. */
  readonly rampUpMs: number
  /** How long a request may take that probes whether the endpoint is back. */
  readonly probeMs: number
}

export interface Ask {
  /** Slots wanted. */
  readonly slots: number
  /** Permits wanted, those in use included; 0 gives back what was lent. */
  readonly permits: number
  /** Requests under way. */
  readonly inUse: number
  /** Of the slots of the last loan, those that were not used; only once none of them is left. */
  readonly unused: number
  /** The last loan's name, '' = none. */
  readonly loan: string
}

export interface Loan {
  /**
   * probe: one request may find out whether the endpoint is back. down: the breaker is open. busy:
   * the endpoint asked to be left alone.
   */
  readonly word: 'open' | 'probe' | 'down' | 'busy'
  /** Nothing is lent before, ms. */
  readonly waitMs: number
  readonly slots: number
  /** When the first slot may be used, ms from the moment of the loan; below 0: at once. */
  readonly firstMs: number
  /** Time between two slots, ms. */
  readonly spacingMs: number
  readonly loan: string
  readonly permits: number
  /** Of the full rate, while it ramps up: 0.1 to 1. */
  readonly share: number
}

export const borrow = script(
  'borrow',
  [
    'holder',
    'rate',
    'burst',
    'rampMs',
    'slots',
    'horizonMs',
    'unused',
    'loan',
    'permitsMax',
    'permits',
    'inUse',
    'leaseMs',
    'probeMs',
  ],
  ([kind, waitMs, slots, firstMs, spacingMs, loan, permits, share]): Loan => {
    const outcome = word(kind)
    if (outcome !== 'open' && outcome !== 'probe' && outcome !== 'down' && outcome !== 'busy') {
      throw new Error(`borrow.lua returned ${outcome}`)
    }
    return {
      word: outcome,
      waitMs: Number(waitMs),
      slots: Number(slots),
      firstMs: Number(word(firstMs)),
      spacingMs: Number(word(spacingMs)),
      loan: word(loan),
      permits: Number(permits),
      share: Number(word(share)),
    }
  },
)

export const observe = script(
  'observe',
  ['what', 'ms', 'msMax', 'probe'],
  ([, changed]) => Number(changed) === 1,
)

/** How late a slot may be used, ms: a share of the burst is kept for it. */
export function latenessMs({ rate, burst }: Pick<BudgetLimits, 'rate' | 'burst'>): number {
  if (rate === 0) return Number.POSITIVE_INFINITY
  return Math.max(LATENESS_MS_MIN, Math.min(LATENESS_MS_MAX, (250 * burst) / rate))
}

/** All methods throw BrokerError store_unavailable when Redis does not answer. */
export class Budget {
  readonly #redis: Redis
  readonly #base: string
  readonly #holder: () => string

  /** @param holder names this process. */
  constructor(redis: Redis, vhost: string, name: string, holder: () => string) {
    this.#redis = redis
    this.#base = endpointBase(vhost, name)
    this.#holder = holder
  }

  /** Asks for slots and permits, and renews the permits lent. */
  async borrow(limits: BudgetLimits, ask: Ask): Promise<Loan> {
    const { rate, concurrency, rampUpMs, probeMs } = limits
    const kept = rate === 0 ? 0 : (KEPT * rate * latenessMs(limits)) / 1_000
    const burst = Math.max(1, limits.burst - kept)
    const args = [
      this.#holder(),
      rate,
      burst,
      rampUpMs,
      ask.slots,
      HORIZON_MS,
      ask.unused,
      ask.loan,
    ]
    const permits = [concurrency, ask.permits, ask.inUse, PERMITS_LEASE_MS, probeMs]
    return this.#run(borrow(this.#redis, this.#base, [...args, ...permits]))
  }

  /** No process sends anything for that long. */
  async leaveAlone(ms: number): Promise<void> {
    await this.#run(observe(this.#redis, this.#base, ['busy', Math.ceil(ms), 0, 0]))
  }

  /**
   * Opens the breaker: nothing is sent for `ms`, then one probe. After each probe that fails twice
   * that, up to `msMax`. Answers whether it was closed.
   */
  failing(ms: number, msMax: number, probe: boolean): Promise<boolean> {
    return this.#run(observe(this.#redis, this.#base, ['failing', ms, msMax, probe ? 1 : 0]))
  }

  /** Closes the breaker. Answers whether it was open. */
  working(): Promise<boolean> {
    return this.#run(observe(this.#redis, this.#base, ['working', 0, 0, 0]))
  }

  async #run<T>(reply: Promise<T>): Promise<T> {
    try {
      return await reply
    } catch (error) {
      throw unavailable(error)
    }
  }
}
