/**
 * What this process's slot holds of one queue, and how Redis is told what became of it.
 *
 * What is settled in one event-loop turn goes out in one script call. A batch of which some
 * messages stay unsettled for longer than PARTIAL_MS has the others noted, which bounds the
 * duplicates of a crash.
 *
 * When a reply is lost, nothing is taken or told until Redis answers again. Then first everything
 * is told again that may not have been heard: a message must not be taken anew while its return is
 * still to come. After that the slot gives back what it holds and nobody here knows of, which the
 * lost reply of a take may have brought.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { BrokerError, type Report } from '@sluice/core'
import type { HeldReturn, Hint, QueueStore, SlotTaken, TakenMessage } from '@sluice/store'
import type { Feed } from './feed.ts'
import { Delivery, type GiveBack, type HeldBatch, heldBatch } from './handing.ts'

/** A batch stays half settled this long before the settled ones are noted, ms. */
const PARTIAL_MS = 100
/** After Redis was away, ms. */
const RETRY_MS = 200
/** How often it is looked whether what is under way has ended, ms. */
const LOOK_MS = 5
/** Messages given back in one script call: each may have to be found in its batch. */
const FOLD_MAX = 64

interface Return {
  readonly delivery: Delivery
  readonly how: GiveBack
}

export class Holding {
  readonly #store: QueueStore
  readonly #report: Report
  readonly #feed: Feed
  /** By 'level:id' of a batch. */
  readonly #batches = new Map<string, HeldBatch>()
  /** Refs of single messages. */
  readonly #singles = new Set<string>()
  #unsettled = 0

  #settledBatches: HeldBatch[] = []
  #settledRefs: string[] = []
  #returns: Return[] = []
  readonly #half = new Set<HeldBatch>()
  #halfTimer: NodeJS.Timeout | undefined
  #scheduled = false
  /** The latest call; those before it are done when it is. */
  #telling: Promise<void> = Promise.resolve()
  #taking = 0
  #sending = 0

  #lost = false
  #recovering: Promise<void> | undefined
  #retryTimer: NodeJS.Timeout | undefined
  #closed = false

  constructor(store: QueueStore, report: Report, feed: Feed) {
    this.#store = store
    this.#report = report
    this.#feed = feed
  }

  /** Messages neither settled nor given back. */
  get unsettled(): number {
    return this.#unsettled
  }

  /** A reply was lost: there is no point in taking until Redis answers. */
  get lost(): boolean {
    return this.#lost
  }

  /** Nothing is held, and Redis knows of everything that was. */
  get empty(): boolean {
    return this.#told && this.#batches.size === 0 && this.#singles.size === 0
  }

  get #told(): boolean {
    if (this.#scheduled || this.#lost || this.#taking + this.#sending > 0) return false
    return this.#returns.length + this.#settledBatches.length + this.#settledRefs.length === 0
  }

  /**
   * Takes up to `credit` messages, in the order of the queue. Throws queue_not_found, or
   * store_unavailable: then it looks again by itself.
   */
  async take(
    credit: number,
    hint: Hint,
  ): Promise<Pick<SlotTaken, 'wakeMs' | 'joined'> & { deliveries: Delivery[]; whole: boolean }> {
    while (this.#lost) await this.#recover()
    this.#taking++
    try {
      for (;;) {
        const taken = await this.#store.take(credit, hint)
        const { wakeMs, joined, batches, unreadable } = taken
        const held = this.#hold(taken)
        const deliveries = unreadable ? this.#readable(held) : held
        if (deliveries.length === 0 && unreadable) continue
        return { wakeMs, joined, deliveries, whole: batches.length > 0 }
      }
    } catch (error) {
      const deleted = error instanceof BrokerError && error.code === 'queue_not_found'
      if (!deleted) this.#lose()
      throw error
    } finally {
      this.#taking--
    }
  }

  ack(delivery: Delivery): void {
    const { batch, index } = delivery
    this.#unsettled--
    if (batch) {
      batch.left--
      batch.settled = true
      if (batch.left > 0) {
        batch.bitmap ??= Buffer.alloc(Math.ceil(batch.count / 8))
        batch.bitmap[index >> 3]! |= 1 << (index & 7)
        if (batch.halfSince === 0) this.#noteHalf(batch)
      } else {
        this.#finish(batch)
      }
    } else {
      this.#singles.delete(delivery.ref)
      this.#settledRefs.push(delivery.ref)
    }
    this.#schedule()
  }

  giveBack(delivery: Delivery, how: GiveBack): void {
    this.#unsettled--
    this.#returns.push({ delivery, how })
    this.#schedule()
  }

  /**
   * Tells Redis at once of what has ended, so that whatever is asked next sees it. Resolves when
   * that is done; also when Redis is away, since it is told again by itself.
   */
  async flush(): Promise<void> {
    if (!this.#lost) this.#telling = this.#tell().catch((error) => this.#failed(error))
    await this.#telling
  }

  /** Waits until Redis has been told of every settlement, or until this is closed. */
  async settled(): Promise<void> {
    while (!this.#told && !this.#closed) await sleep(LOOK_MS)
  }

  close(): void {
    this.#closed = true
    clearInterval(this.#halfTimer)
    clearTimeout(this.#retryTimer)
  }

  #hold({ batches, messages, handed, slot }: SlotTaken): Delivery[] {
    const deliveries: Delivery[] = []
    let single = 0
    const count = messages.length + batches.reduce((sum, { records }) => sum + records.length, 0)
    let ordinal = handed - count
    for (const taken of batches) {
      for (; single < taken.after; single++)
        deliveries.push(this.#single(messages[single]!, ++ordinal))
      const { level, id, records } = taken
      const batch = heldBatch(level, id, records.length, slot)
      this.#batches.set(nameOf(batch), batch)
      for (let index = 0; index < records.length; index++) {
        deliveries.push(
          new Delivery(this.#feed, records[index]!, 1, 0, batch, '', index, ++ordinal),
        )
      }
    }
    for (; single < messages.length; single++)
      deliveries.push(this.#single(messages[single]!, ++ordinal))
    this.#unsettled += deliveries.length
    return deliveries
  }

  /** What never will be read ends here, and is handed to nobody. */
  #readable(held: readonly Delivery[]): Delivery[] {
    return held.filter((delivery) => {
      if (delivery.record.unreadable === undefined) return true
      this.ack(delivery)
      return false
    })
  }

  #single({ ref, acquired, failed, record }: TakenMessage, ordinal: number): Delivery {
    this.#singles.add(ref)
    return new Delivery(this.#feed, record, acquired, failed, undefined, ref, 0, ordinal)
  }

  #finish(batch: HeldBatch): void {
    this.#batches.delete(nameOf(batch))
    this.#half.delete(batch)
    if (batch.settled && !batch.stale) this.#settledBatches.push(batch)
  }

  #noteHalf(batch: HeldBatch): void {
    batch.halfSince = performance.now()
    this.#half.add(batch)
    this.#halfTimer ??= setInterval(() => this.#tellHalf(), PARTIAL_MS / 2)
  }

  #tellHalf(): void {
    if (this.#lost) return
    const before = performance.now() - PARTIAL_MS
    for (const batch of this.#half) {
      if (batch.halfSince > before) continue
      const { level, id, bitmap } = batch
      this.#half.delete(batch)
      batch.halfSince = 0
      this.#send(this.#store.settlePartly(level, id, Buffer.from(bitmap!)), () => {
        if (batch.left > 0) this.#noteHalf(batch)
      }).catch((error) => this.#failed(error))
    }
    if (this.#half.size === 0) {
      clearInterval(this.#halfTimer)
      this.#halfTimer = undefined
    }
  }

  #schedule(): void {
    if (this.#scheduled) return
    this.#scheduled = true
    setImmediate(() => {
      this.#scheduled = false
      if (!this.#lost) this.#telling = this.#tell().catch((error) => this.#failed(error))
      this.#feed.look()
      this.#feed.rest()
    })
  }

  /** Sends what has ended. Rejects when a reply is lost; what was sent is then to be told again. */
  async #tell(): Promise<void> {
    const sent: Promise<void>[] = []
    const returns = this.#returns
    this.#returns = []
    const ours = returns.filter((one) => !this.#isStale(one))
    for (let at = 0; at < ours.length; at += FOLD_MAX) {
      sent.push(this.#tellReturns(ours.slice(at, at + FOLD_MAX)))
    }
    const batches = this.#settledBatches
    const refs = this.#settledRefs
    if (batches.length > 0) this.#settledBatches = []
    if (refs.length > 0) this.#settledRefs = []
    for (const level of new Set(batches.map((batch) => batch.level)).add(0)) {
      const some = batches.filter((batch) => batch.level === level)
      const singles = level === 0 ? refs : []
      if (some.length === 0 && singles.length === 0) continue
      const settled = this.#store.settleHeld(level, some, singles)
      const undo = () => {
        this.#settledBatches.push(...some)
        this.#settledRefs.push(...singles)
      }
      sent.push(this.#send(settled, undo))
    }
    await Promise.all(sent)
  }

  /**
   * Whether a message was taken in a name under which this process was taken for dead: reapers give
   * it back, or have. Its batch stays as it is, or what is in it would be lost.
   */
  #isStale({ delivery: { batch } }: Return): boolean {
    if (batch === undefined || batch.slot === this.#store.slot) return false
    batch.stale = true
    if (--batch.left === 0) this.#finish(batch)
    return true
  }

  #tellReturns(returns: readonly Return[]): Promise<void> {
    const items = returns.map(
      ({ delivery: { batch, ref, index, ordinal }, how }): HeldReturn => ({
        ...how,
        delayMs: how.action === 'unseen' ? ordinal : how.delayMs,
        place: batch ? nameOf(batch) : '',
        ref: batch ? index : ref,
      }),
    )
    const returned = this.#store.returnHeld(items).then(() => {
      // Only what is known to have left a batch lets the batch be settled.
      for (const { delivery } of returns) {
        const { batch, ref } = delivery
        if (!batch) this.#singles.delete(ref)
        else if (--batch.left === 0) this.#finish(batch)
      }
      if (this.#settledBatches.length > 0) this.#schedule()
    })
    return this.#send(returned, () => {
      this.#returns.push(...returns)
    })
  }

  async #send(reply: Promise<unknown>, undo: () => void): Promise<void> {
    this.#sending++
    try {
      await reply
    } catch (error) {
      undo()
      this.#lose()
      throw error
    } finally {
      this.#sending--
      this.#feed.rest()
    }
  }

  /** Redis is asked again until it answers; then the feed looks again. */
  #lose(): void {
    this.#lost = true
    if (this.#closed) return
    this.#retryTimer ??= setTimeout(() => {
      this.#retryTimer = undefined
      if (this.#lost) this.#recover().catch((error) => this.#failed(error))
    }, RETRY_MS)
  }

  #failed(error: unknown): void {
    if (!(error instanceof BrokerError)) this.#report(error)
  }

  #recover(): Promise<void> {
    this.#recovering ??= this.#tellAgain()
      .catch((error) => {
        this.#lose()
        throw error
      })
      .finally(() => {
        this.#recovering = undefined
      })
    return this.#recovering
  }

  async #tellAgain(): Promise<void> {
    // What these bring is not known yet.
    while (this.#taking > 0 || this.#sending > 0) await sleep(LOOK_MS)
    await this.#tell()
    const settling = this.#settledBatches.map(nameOf)
    const known = [...this.#batches.keys(), ...this.#singles, ...settling, ...this.#settledRefs]
    await this.#store.recover(known)
    this.#lost = false
    this.#schedule()
  }
}

/** As reclaim.lua names a batch. */
const nameOf = ({ level, id }: HeldBatch) => `${level}:${id}`
