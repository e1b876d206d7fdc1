/**
 * A redrive of many letters: a job that any reaper goes on with when the one at work dies.
 *
 * One walk from the head to the end, a page at a time. Before a page's letters are touched, its
 * progress says which of it match (`hands`) and where the next page begins. So whoever goes on
 * finishes those first: what is gone from the queue was counted by the script that removed it, what
 * lies there gets its outcome now, and what a dead reaper leased is waited for. Nothing is counted
 * twice, and the copy of a letter that was stored, but not yet removed, is recognised.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Deps } from '@sluice/server'
import type { Peeked, RedriveData, RedriveProgress } from '@sluice/store'
import {
  foresee,
  matcher,
  type QueueEntry,
  type Redriven,
  type RedriveTarget,
  readLetter,
  redrive,
} from '@sluice/topology'

/** Letters read at a time; a batch is never cut, so 127 more may come. */
const PAGE = 128
/** Letters looked for at once when a run goes on with those of another. */
const FOUND_AT_ONCE = 32
/** How often it looks whether it was paused, cancelled or paced, and tells how far it is. */
const LOOK_MS = 250
const HELD_LOOK_MS = 500
/** At a rate, letters leave in parts of this long. */
const PART_MS = 100
/** Late by up to this is made up for; after more, as after a pause, the pace begins anew. */
const LATE_MS_MAX = 500
/** After this a job lets others have its place, and goes on behind them. */
const TURN_MS = 30_000

interface RedriveRun {
  /** Names this job as holder of the letters in its hands, whoever works on it. */
  readonly holder: string
  readonly signal: AbortSignal
  readonly from: RedriveProgress
  /** Keeps how far it is: what it gets last is `from` of the next run. */
  readonly progress: (progress: RedriveProgress) => Promise<void>
  /** What is asked by now: paused, cancelled, another rate. */
  readonly asked: () => Promise<RedriveData | undefined>
}

type Needs = Pick<Deps, 'topology' | 'tracing' | 'publisher' | 'store'>

/** 'later': it was stopped or paused, or its turn is over; the next run goes on. */
export function redriveAll(
  deps: Needs,
  data: RedriveData,
  run: RedriveRun,
): Promise<'ended' | 'later'> {
  return new RedriveWalk(deps, data, run).work()
}

class RedriveWalk {
  readonly #deps: Needs
  readonly #run: RedriveRun
  readonly #begun = performance.now()
  readonly #workedBefore: number
  #data: RedriveData
  #at: Mutable<RedriveProgress>
  #looked = 0
  /** Of the hands, those behind what is being moved. */
  #behind: readonly string[] = []
  /** Moved when the pass before began; -1 = who knows. */
  #movedBefore = -1

  constructor(deps: Needs, data: RedriveData, run: RedriveRun) {
    this.#deps = deps
    this.#data = data
    this.#run = run
    this.#at = { ...run.from, skipped: { ...run.from.skipped } }
    this.#workedBefore = run.from.workedMs
  }

  async work(): Promise<'ended' | 'later'> {
    if (this.#at.end) return 'ended'
    const { topology } = this.#deps
    const { vhost, queue, epoch, dryRun } = this.#data
    await topology.refresh()
    const entry = topology.table.queue(vhost, queue)
    if (entry?.definition.epoch !== epoch || !entry) return this.#end(undefined) // deleted
    if (!dryRun) this.#at.redriven = await entry.store.acknowledged(this.#run.holder)
    if (this.#at.total < 0) this.#at.total = (await entry.store.stats()).ready
    await this.#look()
    if (!(await this.#finishHands(entry))) return this.#later()
    const matches = matcher(this.#data.filter)
    for (;;) {
      if (this.#data.cancelled || this.#isFull) return this.#end(entry)
      if (await this.#mustStop()) return this.#later()
      const page = await entry.store.peek('ready', this.#at.cursor, PAGE)
      const old = page.messages.filter(({ record }) => record.timeMs <= this.#data.untilMs)
      const matched = old.filter(({ record }) => matches(record))
      const foreseen = dryRun ? await Promise.all(matched.map((it) => this.#one(entry, it))) : []
      // From here to the next await is one step: what is told is all of it or nothing.
      this.#at.scanned += old.length
      this.#at.cursor = page.cursor
      for (const outcome of foreseen) if (!this.#isFull) this.#count(outcome)
      if (!dryRun && matched.length > 0) {
        this.#at.hands = matched.map(({ ref }) => ref)
        await this.#tell()
        if (!(await this.#move(entry, matched))) return this.#later()
      }
      if (page.cursor === '' && !this.#goesRound(entry)) return this.#end(entry)
    }
  }

  /** Letters behind another of their ordering key show once that has left: look again. */
  #goesRound({ store }: QueueEntry): boolean {
    if (!store.settings.ordered || this.#data.dryRun) return false
    if (this.#at.redriven === this.#movedBefore) return false
    this.#movedBefore = this.#at.redriven
    this.#at.skipped = {}
    return true
  }

  get #isFull(): boolean {
    return this.#data.limit > 0 && this.#at.redriven >= this.#data.limit
  }

  /** Letters to their targets, at the rate. False when it was told to stop in between. */
  async #move(entry: QueueEntry, letters: readonly Peeked[]): Promise<boolean> {
    for (let at = 0; at < letters.length; ) {
      if (this.#isFull || this.#data.cancelled) {
        this.#at.hands = this.#behind
        return true
      }
      if (await this.#mustStop()) return false
      const some = letters.slice(at, at + (await this.#part(letters.length - at)))
      const outcomes = await Promise.all(some.map((letter) => this.#one(entry, letter)))
      for (const outcome of outcomes) this.#count(outcome)
      at += some.length
      this.#at.hands = [...letters.slice(at).map(({ ref }) => ref), ...this.#behind]
    }
    return true
  }

  #one(entry: QueueEntry, letter: Peeked): Promise<Redriven> {
    const { dryRun } = this.#data
    const to = this.#data.to as RedriveTarget
    if (dryRun) return foresee(this.#deps.topology, entry, readLetter(letter.record), to)
    const { holder } = this.#run
    return redrive(this.#deps, entry, letter, { holder, to, countAs: holder })
  }

  #count(outcome: Redriven): void {
    if (outcome.kind === 'redriven') {
      this.#at.redriven++
      return
    }
    const cause = outcome.kind === 'refused' ? outcome.outcome : outcome.kind
    const skipped = this.#at.skipped as Record<string, number>
    skipped[cause] = (skipped[cause] ?? 0) + 1
  }

  /**
   * How many of `count` letters go now; 0: none yet, it has waited until the next look at most.
   *
   * A part is due as long after the one before as the rate says, whenever that went: what is late
   * for a moment is no slower in the end.
   */
  async #part(count: number): Promise<number> {
    const { limit, perSecond, rate = perSecond } = this.#data
    const wanted = limit === 0 ? count : Math.min(count, limit - this.#at.redriven)
    if (rate === 0) return wanted
    const part = Math.min(wanted, Math.max(1, Math.floor((rate * PART_MS) / 1_000)))
    const nowMs = await this.#deps.store.nowMs()
    // No part is due later than this, unless it was reckoned at another rate.
    const dueMs = Math.min(this.#at.nextMs, nowMs + Math.max(PART_MS, 1_000 / rate))
    if (dueMs <= nowMs) {
      const fromMs = nowMs - dueMs > LATE_MS_MAX ? nowMs : dueMs
      this.#at.nextMs = fromMs + (part * 1_000) / rate
      return part
    }
    this.#at.nextMs = dueMs
    const waitMs = Math.min(dueMs - nowMs, LOOK_MS)
    await sleep(waitMs, undefined, { signal: this.#run.signal }).catch(() => {})
    return 0
  }

  /** Letters that the last run had in its hands get their outcome. */
  async #finishHands(entry: QueueEntry): Promise<boolean> {
    const { store } = entry
    const { holder, signal } = this.#run
    while (this.#at.hands.length > 0) {
      const some = this.#at.hands.slice(0, FOUND_AT_ONCE)
      const found = await Promise.all(some.map((ref) => store.find(ref)))
      const there = found.filter((letter) => letter !== undefined)
      const begun = there.filter(({ message }) => message.holder === holder)
      if (begun.some(({ state }) => state === 'held')) {
        await store.sweep()
        await sleep(HELD_LOOK_MS, undefined, { signal }).catch(() => {})
        if (signal.aborted) return false
        continue
      }
      this.#behind = this.#at.hands.slice(some.length)
      // Those first, and whatever is asked by now: of these there may be copies already.
      const ready = begun.filter(({ state }) => state === 'ready')
      const outcomes = await Promise.all(ready.map(({ message }) => this.#one(entry, message)))
      for (const outcome of outcomes) this.#count(outcome)
      const fresh = there.filter((it) => it.state === 'ready' && !begun.includes(it))
      const letters = fresh.map(({ message }) => message)
      this.#at.hands = [...letters.map(({ ref }) => ref), ...this.#behind]
      if (!(await this.#move(entry, letters))) return false
      this.#at.hands = this.#behind
    }
    this.#behind = []
    return true
  }

  async #mustStop(): Promise<boolean> {
    await this.#look()
    const { signal } = this.#run
    if (this.#data.cancelled) return false
    return signal.aborted || this.#data.paused === true || performance.now() - this.#begun > TURN_MS
  }

  /** Now and then: what is asked by now, and how far it is. */
  async #look(): Promise<void> {
    if (performance.now() - this.#looked < LOOK_MS) return
    this.#looked = performance.now()
    this.#data = (await this.#run.asked()) ?? { ...this.#data, cancelled: true }
    await this.#tell()
  }

  #tell(): Promise<void> {
    this.#at.workedMs = this.#workedBefore + Math.round(performance.now() - this.#begun)
    return this.#run.progress({ ...this.#at, skipped: { ...this.#at.skipped } })
  }

  async #later(): Promise<'later'> {
    await this.#tell()
    return 'later'
  }

  /** The report first, then the count it was made of. */
  async #end(entry: QueueEntry | undefined): Promise<'ended'> {
    this.#at.end = this.#data.cancelled ? 'cancelled' : 'done'
    this.#at.hands = []
    await this.#tell()
    if (entry && !this.#data.dryRun) await entry.store.acknowledged(this.#run.holder, true)
    return 'ended'
  }
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] }
