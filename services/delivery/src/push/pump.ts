/**
 * Pushes the messages of one queue to the endpoint of one subscription, in one process. Any number
 * of processes run the same subscription at once, each with a pump of its own.
 *
 * A consumer of the queue's feed, with a credit of what may be sent within a moment: by the slots
 * and permits that all processes share (allowance.ts), by what the endpoint takes (concurrency.ts),
 * and by what went through lately, so that whole batches are taken where the endpoint is fast. What
 * turns out not to go soon is given back unseen, and the pump **parks**: it takes nothing until it
 * has asked again. So what is parked or throttled is in its queue, and uses up no attempts.
 *
 * With ordering keys the queue hands out one message of a key at a time and keeps the key while a
 * retry waits, so order needs nothing here.
 */
import { BrokerError, limits, type Report, retryDelayMs } from '@sluice/core'
import { type Budget, type BudgetLimits, failureOf, type Loan } from '@sluice/store'
import type { QueueEntry } from '@sluice/topology'
import type { Feeds } from '../feeds.ts'
import { type Consumer, type Delivery, UNSEEN } from '../handing.ts'
import { traceOf } from '../observer.ts'
import { Allowance } from './allowance.ts'
import { Concurrency } from './concurrency.ts'
import { Health } from './health.ts'
import { attemptText, summary } from './kept-attempt.ts'
import { type Register, Seat } from './seat.ts'
import type { Endpoint } from './send.ts'
import type { Attempt, Subscription } from './subscription.ts'
import { isOpen } from './windows.ts'

/** What is lent is renewed this often while it is used, ms: so soon others' news arrive. */
const RENEW_MS = 100
/** The same while nothing waits, and only the permits under way must not lapse. */
const RENEW_IDLE_MS = 1_000
/** After this without a message, permits go back, ms. */
const RELEASE_MS = 100
/** A message that cannot be sent within this goes back to its queue, ms. */
const HOLD_MS = 1_000
/** Longest until a parked pump asks again, ms: somebody else may have seen the endpoint work. */
const PARK_MS_MAX = 1_000
/** Asks again for permits that others hold, and when Redis was away, ms. */
const ASK_AGAIN_MS = 100
/** Until the first probe of an endpoint that is down, ms. Later ones take longer. */
const FIRST_PROBE_MS = 500
/** An endpoint that only answers 429, and not until when, is left alone this long, ms. */
const BUSY_MS = 1_000
/** Messages at hand beyond those under way: what goes through within this, ms, and at most. */
const AHEAD_MS = 100
const AHEAD_MAX = 512

/** Why nothing is sent for a while. */
const THROTTLES = ['rate', 'concurrency', 'window', 'breaker', 'retry-after'] as const
export type Throttle = (typeof THROTTLES)[number]

interface PumpDeps {
  readonly budget: Budget
  readonly feeds: Feeds
  readonly report: Report
  readonly open: (subscription: Subscription) => Endpoint
  /** Takes a place in the queue. */
  readonly register: Register
  /** The time of day by Redis's clock, ms since 1970. */
  readonly timeOfDayMs: () => number
  readonly attempted: (attempt: Attempt) => void
  readonly throttled: (why: Throttle) => void
}

export interface PumpState {
  /** Requests under way. */
  readonly inFlight: number
  /** Most that this process would have under way. */
  readonly limit: number
  readonly breaker: 'closed' | 'open'
}

/** An endpoint with its connections, which it keeps until its last request has ended. */
interface Open {
  readonly endpoint: Endpoint
  /** What it was opened with. */
  readonly as: string
  inFlight: number
}

interface Held {
  readonly delivery: Delivery
  readonly sinceMs: number
}

export class Pump implements Consumer {
  readonly priority = 0
  readonly noAck = false
  readonly ahead = true
  readonly #deps: PumpDeps
  readonly #allowance: Allowance
  readonly #health = new Health()
  readonly #seat: Seat
  #subscription: Subscription
  #endpoint: Open
  #concurrency: Concurrency
  #queue: QueueEntry | undefined
  #feed: ReturnType<Feeds['of']> | undefined
  readonly #held: Held[] = []
  #inFlight = 0
  /** Why it takes nothing for now; 'unknown': Redis did not answer. */
  #parked: Throttle | 'unknown' | undefined
  #parkedUntilMs = 0
  #stopped = false
  readonly #abort = new AbortController()
  #idle: (() => void) | undefined
  #scheduled = false
  #timer: NodeJS.Timeout | undefined
  /** Finished since `#countedMs`, and from the count before how many are finished in AHEAD_MS. */
  #finished = 0
  #countedMs = 0
  #ahead = 0

  constructor(deps: PumpDeps, subscription: Subscription) {
    this.#deps = deps
    this.#subscription = subscription
    this.#seat = new Seat(deps.register, deps.report, () => this.#sit())
    this.#endpoint = this.#open(subscription)
    this.#concurrency = concurrencyOf(subscription)
    this.#allowance = new Allowance(deps.budget, limitsOf(subscription))
  }

  get state(): PumpState {
    const down = this.#allowance.word === 'down' || this.#allowance.word === 'probe'
    const limit = this.#running()
    return { inFlight: this.#inFlight, limit, breaker: down ? 'open' : 'closed' }
  }

  /** Takes effect at once; what is under way goes on as it began. */
  configure(subscription: Subscription, queue: QueueEntry | undefined): void {
    // Called for every subscription at each change of the topology, of which few are its own.
    if (subscription !== this.#subscription) this.#adopt(subscription)
    this.#queue = queue
    this.#seat.move(queue)
    this.#sit()
    this.#schedule()
  }

  #adopt(subscription: Subscription): void {
    const { shape, adaptive } = this.#subscription
    this.#subscription = subscription
    if (
      shape.concurrencyMax !== subscription.shape.concurrencyMax ||
      adaptive !== subscription.adaptive
    ) {
      this.#concurrency = concurrencyOf(subscription)
    }
    this.#allowance.limits = limitsOf(subscription)
    if (this.#endpoint.as === asOpened(subscription)) return
    const last = this.#endpoint
    this.#endpoint = this.#open(subscription)
    this.#closeIfIdle(last)
  }

  /** Takes from the queue while it is its turn and it is not paused. */
  #sit(): void {
    const may = this.#seat.active && !this.#subscription.paused && !this.#stopped
    const wanted = may && this.#queue ? this.#deps.feeds.of(this.#queue.store) : undefined
    if (wanted === this.#feed) return
    this.#leave()
    this.#feed = wanted
    this.#parked = undefined
    wanted?.attach(this)
  }

  /** Takes nothing more; settles when nothing is under way, after `ms` by breaking it off. */
  async close(ms: number): Promise<void> {
    this.#stopped = true
    this.#leave()
    const timer = setTimeout(() => this.#abort.abort(), ms)
    await new Promise<void>((resolve) => {
      this.#idle = resolve
      this.#endIfIdle()
    })
    clearTimeout(timer)
    clearTimeout(this.#timer)
    this.#closeIfIdle(this.#endpoint)
    await this.#seat.leave()
    if (this.#allowance.permits(performance.now()) === 0) return
    await this.#allowance.ask({ slots: 0, permits: 0, inUse: 0 }).catch(() => {}) // they lapse
  }

  credit(): number {
    if (this.#stopped || this.#parked || this.#feed === undefined) return 0
    const { word } = this.#allowance
    if (word !== 'open') return word === 'down' && this.#busy === 0 ? 1 : 0 // to probe with
    const ahead = this.#lookAhead()
    const { rate, slots } = this.#allowance
    const lent =
      rate === Number.POSITIVE_INFINITY ? rate : slots + Math.ceil(rate * (AHEAD_MS / 1_000))
    const room = Math.min(this.#running() - this.#inFlight + ahead, lent) - this.#held.length
    // While enough is at hand it waits until a batch fits: splitting one costs ten times as much.
    return room >= limits.BATCH_RECORDS_MAX || this.#held.length <= ahead / 4 ? room : 0
  }

  deliver(delivery: Delivery): void {
    this.#held.push({ delivery, sinceMs: performance.now() })
    this.#schedule()
  }

  /** The queue is gone, with what was held of it. */
  cancelled(): void {
    this.#held.length = 0
    this.#feed = undefined
  }

  get #busy(): number {
    return this.#held.length + this.#inFlight
  }

  /** Most requests under way at present, as far as this process knows. */
  #running(): number {
    const { share, scarce } = this.#allowance
    const wanted = Math.max(1, Math.floor(this.#concurrency.limit * share))
    const permits = this.#allowance.permits(performance.now())
    // With none it asks again, once there is a message to ask for.
    return scarce && permits > 0 ? Math.min(wanted, permits) : wanted
  }

  #lookAhead(): number {
    const elapsedMs = performance.now() - this.#countedMs
    if (elapsedMs >= AHEAD_MS) {
      this.#ahead = Math.min(AHEAD_MAX, Math.floor((this.#finished * AHEAD_MS) / elapsedMs))
      this.#finished = 0
      this.#countedMs += elapsedMs
    }
    return this.#ahead
  }

  /** Looks at everything once this turn of the event loop has brought what it brings. */
  #schedule(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      this.#run()
    })
  }

  #run(): void {
    const nowMs = performance.now()
    const allowed = Math.min(this.#running(), this.#allowance.permits(nowMs))
    if (this.#allowance.word === 'open') {
      while (this.#held.length > 0 && this.#inFlight < allowed) {
        if (this.#allowance.nextSlotMs(nowMs) > 0) break
        this.#allowance.useSlot()
        this.#start(this.#held.shift()!.delivery, false)
      }
    }
    const first = this.#held[0]
    if (first && nowMs - first.sinceMs > HOLD_MS) this.#park('concurrency', ASK_AGAIN_MS)
    else this.#plan(nowMs)
  }

  /** Asks for more now, or sets the timer for when something is to be done. */
  #plan(nowMs: number): void {
    clearTimeout(this.#timer)
    if (this.#allowance.asking) return // and comes back here
    const askMs = this.#askMs(nowMs)
    if (askMs <= nowMs) {
      this.#ask()
      return
    }
    const waits = this.#held.length > 0 && this.#allowance.word === 'open'
    const slotMs = waits ? nowMs + this.#allowance.nextSlotMs(nowMs) : Number.POSITIVE_INFINITY
    const nextMs = Math.min(askMs, slotMs > nowMs ? slotMs : Number.POSITIVE_INFINITY)
    if (nextMs === Number.POSITIVE_INFINITY) return
    this.#timer = setTimeout(() => this.#run(), Math.ceil(nextMs - nowMs))
  }

  /** When to ask for slots and permits again; Infinity: nobody needs any. */
  #askMs(nowMs: number): number {
    if (this.#parked && this.#feed && !this.#stopped) return this.#parkedUntilMs
    const { askedMs, againMs, slots } = this.#allowance
    const permits = this.#allowance.permits(nowMs)
    if (this.#held.length > 0) {
      const wantsPermits = permits <= this.#inFlight && this.#running() > permits
      return slots === 0 || wantsPermits ? againMs : askedMs + RENEW_MS
    }
    if (this.#inFlight > 0) return askedMs + RENEW_IDLE_MS
    return permits > 0 ? askedMs + RELEASE_MS : Number.POSITIVE_INFINITY
  }

  #ask(): void {
    if (this.#allowance.asking) return
    const { windows } = this.#subscription.shape
    const closed = !isOpen(windows, this.#deps.timeOfDayMs())
    if (closed) this.#park('window', PARK_MS_MAX)
    const waiting = this.#held.length
    const wants = (waiting > 0 || this.#parked) && !closed && !this.#stopped
    const permits = wants ? Math.max(this.#concurrency.limit, this.#inFlight) : this.#inFlight
    if (closed && this.#allowance.permits(performance.now()) === 0) return
    const slots = waiting === 0 ? 0 : Math.min(waiting + Math.ceil(this.#ahead / 2), AHEAD_MAX)
    this.#allowance.ask({ slots, permits, inUse: this.#inFlight }).then(
      (loan) => {
        if (!closed) this.#lent(loan)
      },
      (error) => this.#unanswered(error),
    )
  }

  #lent({ word, waitMs, slots, permits }: Loan): void {
    const waits = this.#held.length > 0 || this.#parked !== undefined
    if (word === 'probe') this.#probe()
    else if (word === 'busy') this.#park('retry-after', waitMs)
    else if (word === 'down' && (waitMs > 0 || this.#held.length > 0)) {
      this.#park('breaker', waitMs)
    } else if (permits === 0 && this.#inFlight === 0 && waits) {
      this.#park('concurrency', ASK_AGAIN_MS)
    } else if (slots === 0 && this.#held.length > 0 && waitMs > HOLD_MS) {
      this.#park('rate', waitMs)
    } else {
      if (waitMs > 0) this.#deps.throttled('rate')
      this.#parked = undefined
      this.#run()
      this.#feed?.look()
    }
  }

  #unanswered(error: unknown): void {
    if (!(error instanceof BrokerError)) this.#deps.report(error)
    this.#park('unknown', ASK_AGAIN_MS)
  }

  /** The breaker is open, and this process may find out whether the endpoint is back. */
  #probe(): void {
    const held = this.#held.shift()
    if (held) this.#start(held.delivery, true)
    this.#plan(performance.now())
  }

  /** Gives back what waits and takes nothing for `ms`, then asks again. */
  #park(why: Throttle | 'unknown', ms: number): void {
    if (this.#held.length > 0 && why !== 'unknown') this.#deps.throttled(why)
    this.#parked = why
    this.#parkedUntilMs = performance.now() + Math.min(Math.max(ms, 1), PARK_MS_MAX)
    this.#giveBackHeld()
    this.#schedule()
  }

  /** Whether the endpoint is known to be down or busy. */
  get #unwell(): boolean {
    return this.#parked === 'breaker' || this.#parked === 'retry-after'
  }

  #giveBackHeld(): void {
    for (const { delivery } of this.#held.splice(0)) delivery.feed.giveBack(delivery, UNSEEN)
  }

  #leave(): void {
    this.#feed?.detach(this)
    this.#feed = undefined
    this.#giveBackHeld()
  }

  #open(subscription: Subscription): Open {
    return { endpoint: this.#deps.open(subscription), as: asOpened(subscription), inFlight: 0 }
  }

  #closeIfIdle(open: Open): void {
    const inUse = open === this.#endpoint && !this.#stopped
    if (open.inFlight === 0 && !inUse) open.endpoint.close().catch(this.#deps.report)
  }

  #start(delivery: Delivery, probe: boolean): void {
    const open = this.#endpoint
    const { id, record, acquired: deliveryCount } = delivery
    this.#inFlight++
    open.inFlight++
    const beganMs = performance.now()
    delivery.feed.handed(delivery)
    open.endpoint
      .send({ id, record, deliveryCount, trace: traceOf(delivery) }, this.#abort.signal)
      .then((attempt) => this.#ended(delivery, id, attempt, beganMs, probe))
      .catch((error) => {
        this.#deps.report(error)
        delivery.feed.giveBack(delivery, { ...UNSEEN, action: 'due', delayMs: HOLD_MS })
      })
      .finally(() => {
        this.#inFlight--
        open.inFlight--
        this.#finished++
        this.#schedule()
        this.#closeIfIdle(open)
        this.#endIfIdle()
      })
      .catch(this.#deps.report)
  }

  #ended(delivery: Delivery, id: string, attempt: Attempt, beganMs: number, probe: boolean): void {
    if (this.#abort.signal.aborted && attempt.verdict === 'retry') {
      delivery.feed.giveBack(delivery, UNSEEN) // broken off here, not there
      return
    }
    const nowMs = performance.now()
    this.#deps.attempted(attempt)
    const counts = !probe && !this.#unwell && this.#health.counts(attempt, id, nowMs)
    this.#learn(id, attempt, beganMs, nowMs, probe)
    this.#settle(delivery, attempt, counts)
  }

  /** What the attempt tells of the endpoint. */
  #learn(id: string, attempt: Attempt, beganMs: number, nowMs: number, probe: boolean): void {
    const { verdict, pressure, retryAfterMs } = attempt
    const { breaker } = this.#subscription
    if (pressure === 'overload') this.#concurrency.refused(nowMs, beganMs)
    else if (verdict === 'ack') this.#concurrency.answered(nowMs, nowMs - beganMs, this.#inFlight)
    const is = this.#health.ended(attempt, id, nowMs, breaker.failures)
    if (verdict === 'retry' && retryAfterMs !== undefined) {
      this.#leaveAlone(retryAfterMs)
    } else if (is === 'busy') {
      this.#leaveAlone(BUSY_MS)
    }
    if (probe && verdict !== 'retry') this.#recovered()
    else if (probe || is === 'down') this.#down(probe)
  }

  /** Nobody sends for that long; here at once, elsewhere as soon as they ask. */
  #leaveAlone(ms: number): void {
    this.#deps.budget.leaveAlone(ms).catch((error) => this.#unanswered(error))
    this.#park('retry-after', ms)
  }

  /** Nobody sends until a probe went well. */
  #down(probe: boolean): void {
    const probeMsMax = this.#subscription.breaker.probeMs
    const probeMs = Math.min(FIRST_PROBE_MS, probeMsMax)
    const told = this.#deps.budget.failing(probeMs, probeMsMax, probe)
    told.catch((error) => this.#unanswered(error))
    this.#park('breaker', probeMs)
  }

  #recovered(): void {
    this.#deps.budget.working().then(
      () => this.#ask(),
      (error) => this.#unanswered(error),
    )
  }

  #settle(delivery: Delivery, attempt: Attempt, counts: boolean): void {
    const { feed } = delivery
    if (attempt.verdict === 'ack') {
      feed.ack(delivery)
      return
    }
    const text = attemptText(attempt)
    if (attempt.verdict === 'dead-letter') {
      feed.giveBack(delivery, {
        action: 'dead',
        delayMs: 0,
        failure: failureOf('+', summary(attempt), text),
      })
      return
    }
    const failure = failureOf(counts ? '+' : '-', summary(attempt), text)
    // While nothing is sent anyway it keeps its place at the head of the queue.
    if (this.#unwell) {
      feed.giveBack(delivery, { action: 'ready', delayMs: 0, failure })
      return
    }
    const retry = this.#queue?.settings.retry
    const delayMs = retry ? retryDelayMs(delivery.failed + 1, retry) : HOLD_MS
    feed.giveBack(delivery, { action: 'due', delayMs, failure })
  }

  #endIfIdle(): void {
    if (this.#inFlight === 0) this.#idle?.()
  }
}

/** What its connections depend on: all of it but whether it is paused. */
function asOpened(subscription: Subscription): string {
  return JSON.stringify({ ...subscription, paused: false })
}

function concurrencyOf({ shape, adaptive }: Subscription): Concurrency {
  return new Concurrency(shape.concurrencyMax, adaptive)
}

function limitsOf({ shape, endpoint }: Subscription): BudgetLimits {
  const rate = shape.perSecond ?? 0
  return {
    rate,
    burst: shape.burst ?? Math.max(1, Math.ceil(rate / 10)),
    concurrency: shape.concurrencyMax,
    rampUpMs: shape.rampUpMs,
    probeMs: endpoint.timeoutMs + 1_000,
  }
}
