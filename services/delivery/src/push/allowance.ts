/**
 * What this process may send to an endpoint at the moment: its slice of the budget that all
 * processes share (libs/store/src/budget.ts).
 */
import {
  type Ask,
  type Budget,
  type BudgetLimits,
  type Loan,
  latenessMs,
  PERMITS_LEASE_MS,
} from '@sluice/store'

/** However late a reply comes, a slot may be used this long: else none ever might. */
const LATE_MS_MIN = 5

/** Slots of one loan. The n-th that is left is due at firstMs + n * spacingMs, not before gotMs. */
interface Slice {
  readonly gotMs: number
  readonly spacingMs: number
  readonly lateMs: number
  firstMs: number
  left: number
}

/** Times are those of performance.now(). */
export class Allowance {
  readonly #budget: Budget
  #limits: BudgetLimits
  #slices: Slice[] = []
  /** Slots that were lent and came too late to be used. */
  #unused = 0
  #loan = ''
  #permits = 0
  /** How many requests were under way when it was asked last, while the answer is awaited. */
  #told = -1
  /** When it was asked last, and when it makes sense to ask again. */
  #askedMs = Number.NEGATIVE_INFINITY
  #againMs = Number.NEGATIVE_INFINITY
  #word: Loan['word'] = 'open'
  #share = 1
  #scarce = false

  constructor(budget: Budget, limits: BudgetLimits) {
    this.#budget = budget
    this.#limits = limits
  }

  set limits(limits: BudgetLimits) {
    this.#limits = limits
    this.#askedMs = Number.NEGATIVE_INFINITY
  }

  /** What the endpoint is, as far as this process knows. */
  get word(): Loan['word'] {
    return this.#word
  }

  /** Of the full rate, and of the requests that may be under way: 0.1 to 1. */
  get share(): number {
    return this.#share
  }

  /** Requests a second, at present; Infinity = no limit. */
  get rate(): number {
    return this.#limits.rate === 0 ? Number.POSITIVE_INFINITY : this.#limits.rate * this.#share
  }

  get asking(): boolean {
    return this.#told >= 0
  }

  /** Whether others hold permits that this process wants. */
  get scarce(): boolean {
    return this.#scarce
  }

  get askedMs(): number {
    return this.#askedMs
  }

  /** When there may be more to be lent. */
  get againMs(): number {
    return this.#againMs
  }

  /** How many requests may be under way. While an answer is awaited, no more than were told of. */
  permits(nowMs: number): number {
    if (nowMs > this.#askedMs + PERMITS_LEASE_MS) return 0
    return this.#told >= 0 ? Math.min(this.#told, this.#permits) : this.#permits
  }

  /** Slots not used yet; Infinity where there is no rate. */
  get slots(): number {
    if (this.#limits.rate === 0) return Number.POSITIVE_INFINITY
    return this.#slices.reduce((sum, { left }) => sum + left, 0)
  }

  /** How long until the next slot, 0 = it may be used; Infinity = none is lent. */
  nextSlotMs(nowMs: number): number {
    if (this.#limits.rate === 0) return 0
    for (let slice = this.#slices[0]; slice; slice = this.#slices[0]) {
      const dueMs = Math.max(slice.gotMs, slice.firstMs)
      if (slice.left > 0 && nowMs <= dueMs + slice.lateMs) return Math.max(0, dueMs - nowMs)
      if (slice.left === 0) {
        this.#slices.shift()
      } else {
        this.#spend(slice)
        this.#unused++
      }
    }
    return Number.POSITIVE_INFINITY
  }

  /** Uses the slot that nextSlotMs found. */
  useSlot(): void {
    if (this.#limits.rate > 0) this.#spend(this.#slices[0]!)
  }

  /** Asks for more, and renews what is lent. Throws store_unavailable. */
  async ask({ slots, permits, inUse }: Pick<Ask, 'slots' | 'permits' | 'inUse'>): Promise<Loan> {
    if (permits === 0) this.#drop()
    const unused = this.slots === 0 ? this.#unused : 0
    const askedMs = performance.now()
    this.#told = inUse
    try {
      const loan = await this.#budget.borrow(this.#limits, {
        slots,
        permits,
        inUse,
        unused,
        loan: this.#loan,
      })
      const gotMs = performance.now()
      this.#unused -= unused
      this.#receive(loan, gotMs, gotMs - askedMs)
      this.#scarce = loan.permits < permits
      this.#askedMs = askedMs
      this.#againMs = gotMs + loan.waitMs
      return loan
    } finally {
      this.#told = -1
    }
  }

  #receive(
    { word, share, slots, firstMs, spacingMs, loan, permits }: Loan,
    gotMs: number,
    tripMs: number,
  ) {
    this.#word = word
    this.#share = share
    this.#permits = permits
    if (loan !== '') this.#loan = loan
    if (this.#limits.rate === 0 || slots === 0) return
    const lateMs = Math.max(LATE_MS_MIN, latenessMs(this.#limits) - tripMs)
    this.#slices.push({ gotMs, spacingMs, lateMs, firstMs: gotMs + firstMs, left: slots })
  }

  #spend(slice: Slice): void {
    slice.left--
    slice.firstMs += slice.spacingMs
  }

  /** What is left will not be used. */
  #drop(): void {
    for (const { left } of this.#slices.splice(0)) this.#unused += left
  }
}
