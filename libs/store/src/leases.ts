/**
 * Leases: taking them, with a wait for the first message, and settling them; what is settled or
 * picked in one event-loop turn goes to Redis in one script call a kind.
 *
 * A token is the message's ref, how often it had been delivered, and how many of those failed:
 * `ref.count.failed`. Whoever has it may settle, from any process; once the lease has lapsed and was
 * taken back, or was settled, the token is stale and changes nothing.
 */
import { BrokerError, limits, retryDelayMs } from '@sluice/core'
import type { QueueContext } from './queue-context.ts'
import type { MessageRecord } from './record.ts'
import { unavailable } from './redis.ts'
import { failureOf, giveBack, pick, settle, type Taken, type TakenMessage } from './scripts.ts'
import { isSealed, isUnreadable, type Sealing } from './sealing.ts'
import type { QueueSettings } from './settings.ts'
import type { Waiters } from './waiters.ts'

export interface LeasedMessage {
  /** What settles it. */
  readonly token: string
  /** Its position; names it in lists. */
  readonly id: string
  readonly record: MessageRecord
  /** Deliveries so far, this one included. */
  readonly deliveryCount: number
  readonly failedCount: number
  readonly redelivered: boolean
}

export interface LeaseOptions {
  readonly max: number
  readonly leaseMs: number
  /** How long to wait for a first message; 0 answers at once. */
  readonly waitMs: number
  /** Kept with the message to tell who had it. */
  readonly consumer: string
  readonly signal?: AbortSignal
}

/** A message as take.lua or pick.lua handed it out. */
function leasedMessage({ ref, acquired, failed, record }: TakenMessage): LeasedMessage {
  return {
    token: `${ref}.${acquired}.${failed}`,
    id: ref,
    record,
    deliveryCount: acquired,
    failedCount: failed,
    redelivered: acquired > 1,
  }
}

export type LeaseSettlement = {
  readonly token: string
} /** `countAs`: counted under that name besides, see QueueStore.acknowledged. */ & (
  | { readonly outcome: 'ack'; readonly countAs?: string }
  /** A failed delivery: again after `delayMs`, or after the queue's back-off. */
  | {
      readonly outcome: 'retry'
      readonly delayMs?: number | undefined
      readonly reason?: string | undefined
    }
  /** Not a failed delivery: back to its old place at once. */
  | { readonly outcome: 'release' }
  | { readonly outcome: 'dead-letter'; readonly reason: string }
  /** The lease ends `leaseMs` from now. */
  | { readonly outcome: 'extend'; readonly leaseMs: number }
)

export type SettleOutcome =
  | 'settled'
  | 'retried'
  | 'released'
  | 'dead-lettered'
  | 'extended'
  | 'stale'

interface Waiting {
  readonly countAs: string
  readonly args: readonly (string | number)[]
  readonly done: (letter: string) => void
  readonly failed: (error: unknown) => void
}

interface Picking {
  readonly ref: string
  readonly leaseMs: number
  readonly holder: string
  readonly done: (message: LeasedMessage | undefined) => void
  readonly failed: (error: unknown) => void
}

/** Most messages picked in one script call, whose reply holds them whole. */
const PICKS_MAX = 128

/** Most settlements in one script call: bounds how long it keeps Redis from others. */
const FOLD_MAX = limits.PASS_MESSAGES_MAX

/** Looks at a queue again after Redis was away, while a caller still waits. */
const RETRY_MS = 200

const TOKEN = /^([0-9a-f]{24})\.([1-9]\d{0,8})\.(\d{1,9})$/

/** One call of take.lua; `joins` is its `wait`. */
type Take = (credit: number, leaseMs: number, holder: string, joins: number) => Promise<Taken>

interface Queue {
  readonly base: string
  readonly scriptOptions: string
  readonly scriptLimits: string
  readonly settings: QueueSettings
  readonly sealing: Sealing
}

export class Leases {
  readonly #context: QueueContext
  readonly #queue: Queue
  readonly #waiters: Waiters
  readonly #take: Take
  #acks: Waiting[] = []
  #returns: Waiting[] = []
  #picks: Picking[] = []

  constructor(context: QueueContext, queue: Queue, waiters: Waiters, take: Take) {
    this.#context = context
    this.#queue = queue
    this.#waiters = waiters
    this.#take = take
  }

  /**
   * Up to `max` messages, waiting up to `waitMs` for the first.
   * Throws queue_not_found, store_unavailable (once waiting no longer helps).
   */
  lease(options: LeaseOptions): Promise<LeasedMessage[]> {
    return this.#waiters.during(() => this.#lease(options))
  }

  async #lease(options: LeaseOptions): Promise<LeasedMessage[]> {
    const { max, leaseMs, waitMs, signal } = options
    const consumer = options.consumer.replace(/[\r\n]/g, ' ')
    const until = performance.now() + waitMs
    for (;;) {
      const leftMs = until - performance.now()
      const joins = leftMs <= 0 ? 0 : this.#waiters.count > 0 ? 2 : 1
      const taken = await this.#takeFor(max, leaseMs, consumer, joins, leftMs)
      if (taken && taken.messages.length > 0) {
        const leased = (await this.open(taken.messages)).map(leasedMessage)
        if (leased.length === 0) continue
        if (!signal?.aborted) return leased
        // The caller hung up while the take travelled: nobody saw these.
        await this.settle(leased.map(({ token }) => ({ token, outcome: 'release' })))
        return []
      }
      if (signal?.aborted) return []
      // A pass is bounded: what it looks for may be behind what it unpacked.
      if (taken?.wakeMs === 0) continue
      if (leftMs <= 0) return []
      if (this.#waiters.takeHint()) continue
      const wakeMs = taken ? (taken.wakeMs >= 0 ? taken.wakeMs : leftMs) : RETRY_MS
      await this.#waiters.wait(Math.min(leftMs, wakeMs), signal)
    }
  }

  /**
   * A take on behalf of a caller who can wait `leftMs`: undefined when Redis is away until then.
   */
  async #takeFor(
    credit: number,
    leaseMs: number,
    consumer: string,
    joins: number,
    leftMs: number,
  ): Promise<Taken | undefined> {
    this.#queue.sealing.requireKey()
    try {
      return await this.#take(credit, leaseMs, consumer, joins)
    } catch (error) {
      const waits = error instanceof BrokerError && error.code === 'store_unavailable'
      if (waits && leftMs > RETRY_MS) return undefined
      throw error
    }
  }

  /**
   * What is sealed of these messages is opened; those that never will be read end here. Throws
   * encryption_unavailable, and they are back in their places.
   */
  async open(messages: readonly TakenMessage[]): Promise<readonly TakenMessage[]> {
    const { sealing } = this.#queue
    if (!messages.some(isSealed)) return messages
    const settle = (some: readonly TakenMessage[], outcome: 'ack' | 'release') =>
      this.settle(some.map((message) => ({ token: leasedMessage(message).token, outcome })))
    let opened: readonly TakenMessage[]
    try {
      opened = await sealing.openMessages(messages)
    } catch (error) {
      await settle(messages, 'release')
      throw error
    }
    const lost = opened.filter(isUnreadable)
    if (lost.length > 0) await settle(lost, 'ack')
    return opened.filter((message) => !isUnreadable(message))
  }

  /** An outcome each, in order. Throws store_unavailable: then any of them may have happened. */
  settle(items: readonly LeaseSettlement[]): Promise<SettleOutcome[]> {
    return Promise.all(items.map((item) => this.#settleOne(item)))
  }

  /** One particular message; undefined when it is gone or held. */
  pick(ref: string, leaseMs: number, consumer: string): Promise<LeasedMessage | undefined> {
    const holder = consumer.replace(/[\r\n]/g, ' ')
    return new Promise((done, failed) => {
      if (this.#picks.length === 0) this.#context.schedule(() => this.#sendPicks())
      this.#picks.push({ ref, leaseMs, holder, done, failed })
    })
  }

  #sendPicks(): void {
    const all = this.#picks
    this.#picks = []
    const alike = (a: Picking, b: Picking) => a.leaseMs === b.leaseMs && a.holder === b.holder
    for (const some of foldsOf(all, PICKS_MAX, alike)) {
      this.#pick(some).catch((error) => {
        for (const { failed } of some) failed(unavailable(error))
      })
    }
  }

  async #pick(some: readonly Picking[]): Promise<void> {
    const { leaseMs, holder } = some[0]!
    const refs = some.map(({ ref }) => ref)
    const args = [this.#queue.scriptOptions, leaseMs, holder, ...refs]
    const picked = await pick(this.#context.work, this.#queue.base, args)
    const taken = picked.map((it, i) => it && { ref: refs[i]!, ...it })
    const opened = await this.open(taken.filter((it) => it !== undefined))
    const open = new Map(opened.map((message) => [message.ref, message]))
    taken.forEach((it, i) => {
      const message = it && open.get(it.ref)
      some[i]!.done(message && leasedMessage(message))
    })
  }

  async #settleOne(item: LeaseSettlement): Promise<SettleOutcome> {
    const match = TOKEN.exec(item.token)
    if (!match) return 'stale' // never a token of ours
    const [, ref, count, failed] = match as unknown as [string, string, string, string]
    if (item.outcome === 'ack') {
      const { countAs = '' } = item
      const letter = await this.#fold('ack', [ref, count], countAs)
      return letter === 's' ? 'settled' : 'stale'
    }
    const [action, ms, failure] = this.#action(item, +failed)
    const how = [action, ms, this.#queue.sealing.failure(failure)]
    const letter = await this.#fold('return', ['', ref, count, ...how])
    return OUTCOMES[letter as keyof typeof OUTCOMES](item.outcome)
  }

  /** Action, ms and failure of return.lua. */
  #action(
    item: Exclude<LeaseSettlement, { outcome: 'ack' }>,
    failed: number,
  ): [action: string, ms: number, failure: string] {
    switch (item.outcome) {
      case 'retry': {
        const delayMs = item.delayMs ?? retryDelayMs(failed + 1, this.#queue.settings.retry)
        return ['due', delayMs, failureOf('+', item.reason ?? '')]
      }
      case 'release':
        return ['ready', 0, '-']
      case 'dead-letter':
        return ['dead', 0, failureOf('+', item.reason)]
      case 'extend':
        return ['extend', item.leaseMs, '-']
    }
  }

  #fold(kind: 'ack' | 'return', args: readonly (string | number)[], countAs = ''): Promise<string> {
    return new Promise((done, failed) => {
      const list = kind === 'ack' ? this.#acks : this.#returns
      if (list.length === 0) {
        this.#context.schedule(() => {
          if (kind === 'ack') this.#sendAcks()
          else this.#sendReturns()
        })
      }
      list.push({ countAs, args, done, failed })
    })
  }

  #sendAcks(): void {
    const all = this.#acks
    this.#acks = []
    for (const some of foldsOf(all, FOLD_MAX, (a, b) => a.countAs === b.countAs)) {
      const options = [this.#queue.scriptOptions, 0, 0, 0, 0, some[0]!.countAs]
      const args = [...options, ...some.flatMap((waiting) => waiting.args)]
      answer(some, settle(this.#context.work, this.#queue.base, args))
    }
  }

  #sendReturns(): void {
    const all = this.#returns
    this.#returns = []
    for (const some of foldsOf(all, FOLD_MAX, () => true)) {
      const { scriptOptions, scriptLimits } = this.#queue
      const args = [scriptOptions, 0, 0, scriptLimits, ...some.flatMap(({ args }) => args)]
      answer(some, giveBack(this.#context.work, this.#queue.base, args))
    }
  }
}

/** What goes in one script call each: neighbours that are alike, at most `max`. */
function* foldsOf<T>(
  all: readonly T[],
  max: number,
  alike: (one: T, other: T) => boolean,
): Generator<readonly T[]> {
  for (let at = 0; at < all.length; ) {
    let end = at + 1
    while (end < all.length && end - at < max && alike(all[at]!, all[end]!)) end++
    yield all.slice(at, end)
    at = end
  }
}

const OUTCOMES = {
  r: (asked: string): SettleOutcome => (asked === 'release' ? 'released' : 'retried'),
  d: (): SettleOutcome => 'retried',
  l: (): SettleOutcome => 'dead-lettered',
  e: (): SettleOutcome => 'extended',
  x: (): SettleOutcome => 'stale',
} as const

function answer(waiting: readonly Waiting[], reply: Promise<string>): void {
  reply.then(
    (letters) => {
      waiting.forEach(({ done }, index) => {
        done(letters[index]!)
      })
    },
    (error) => {
      for (const { failed } of waiting) failed(unavailable(error))
    },
  )
}
