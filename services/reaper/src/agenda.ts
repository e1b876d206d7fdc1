/**
 * When this reaper looks at which queue.
 *
 * Entries come from three sides: a hint, that something is due earlier than known (a script's
 * `announce`); a visit, which ends with when the next one is worth it; and the slow round over all
 * queues, which makes up for lost hints. Redis's clock stays in Redis: a hint asks for a visit
 * soon, and the visit learns from the script how many ms are left.
 *
 * A queue is never visited twice at a time, nor again within REVISIT_MS of the last visit: what
 * expires every millisecond is collected, and waiting consumers release what is due by themselves.
 */
import { onAbort, type Report, type Running } from '@sluice/core'

const REVISIT_MS = 50
/** Visits under way at once: they are round trips, Redis runs them one by one anyway. */
const VISITS_MAX = 8
/** Longest a timer is set for: a queue's next date may be months away. */
const TIMER_MS_MAX = 3_600_000
/** Queues whose last visit is remembered, before old ones are forgotten. */
const VISITED_MAX = 10_000

/** Looks at a queue; the ms until the next look is worth it, undefined = nothing in sight. */
export type Visit = (base: string) => Promise<number | undefined>

export class Agenda {
  readonly #visit: Visit
  readonly #report: Report
  /** Queue base -> when to visit it, by the monotonic clock. */
  readonly #due = new Map<string, number>()
  readonly #visiting = new Set<string>()
  readonly #visited = new Map<string, number>()
  #timer: NodeJS.Timeout | undefined
  #timerAt = Number.POSITIVE_INFINITY
  #stopped = false
  #drained: (() => void) | undefined

  constructor(visit: Visit, report: Report) {
    this.#visit = visit
    this.#report = report
  }

  /** Visits until the signal aborts; those under way then are finished. */
  run(signal: AbortSignal): Running {
    const closed = new Promise<void>((resolve) => {
      onAbort(signal, () => {
        this.#stopped = true
        clearTimeout(this.#timer)
        this.#drained = resolve
        if (this.#visiting.size === 0) resolve()
      })
    })
    return { closed }
  }

  /** Asks for a visit `inMs` from now; an earlier one that is planned stays. */
  note(base: string, inMs: number): void {
    if (this.#stopped) return
    const earliest = (this.#visited.get(base) ?? Number.NEGATIVE_INFINITY) + REVISIT_MS
    const at = Math.max(performance.now() + inMs, earliest)
    const known = this.#due.get(base)
    if (known !== undefined && known <= at) return
    this.#due.set(base, at)
    if (!this.#visiting.has(base)) this.#wakeAt(at)
  }

  #wakeAt(at: number): void {
    if (at >= this.#timerAt || this.#stopped) return
    clearTimeout(this.#timer)
    this.#timerAt = at
    const inMs = Math.min(Math.max(0, at - performance.now()), TIMER_MS_MAX)
    this.#timer = setTimeout(() => this.#start(), Math.ceil(inMs))
  }

  /** Starts the visits that are due, as many as may run, and sets the timer for the next one. */
  #start(): void {
    clearTimeout(this.#timer)
    this.#timerAt = Number.POSITIVE_INFINITY
    const now = performance.now()
    let next = Number.POSITIVE_INFINITY
    for (const [base, at] of this.#due) {
      if (this.#visiting.has(base)) continue
      if (this.#visiting.size >= VISITS_MAX) return // the end of one of them goes on here
      if (at <= now) this.#go(base)
      else next = Math.min(next, at)
    }
    if (next !== Number.POSITIVE_INFINITY) this.#wakeAt(next)
  }

  #go(base: string): void {
    this.#due.delete(base)
    this.#visiting.add(base)
    this.#visit(base)
      .then(
        (inMs) => this.#done(base, inMs),
        (error) => {
          this.#report(error) // the round comes by again
          this.#done(base, undefined)
        },
      )
      .catch(this.#report)
  }

  #done(base: string, inMs: number | undefined): void {
    this.#visiting.delete(base)
    this.#visited.delete(base)
    const now = performance.now()
    this.#visited.set(base, now)
    const planned = this.#due.get(base)
    if (planned !== undefined) this.#due.set(base, Math.max(planned, now + REVISIT_MS))
    if (this.#visited.size > VISITED_MAX) this.#visited.delete(this.#visited.keys().next().value!)
    if (inMs !== undefined) this.note(base, inMs)
    if (!this.#stopped) this.#start()
    else if (this.#visiting.size === 0) this.#drained?.()
  }
}
