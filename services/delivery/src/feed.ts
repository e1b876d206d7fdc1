/**
 * One queue's messages to the consumers that this process serves, and their settlements back.
 *
 * The process holds whole batches through its slot: nothing is written to Redis per message until
 * it is settled, and what settles in one event-loop turn goes out in one script call. A batch of
 * which some messages stay unsettled for longer than PARTIAL_MS has the others noted, which bounds
 * the duplicates of a crash. At most as much is taken as the consumers may hold, so nothing is
 * hoarded.
 *
 * Hot path: a message costs one Delivery object. Measured by test/bench/amqp.bench.ts.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { BrokerError, limits, type Report } from '@sluice/core'
import type { HeldReturn, QueueStore, Taken, TakenMessage } from '@sluice/store'
import { type Consumer, Delivery, type GiveBack, type HeldBatch, heldBatch } from './handing.ts'
import { Observer } from './observer.ts'

/** A batch stays half settled this long before the settled ones are noted, ms. */
const PARTIAL_MS = 100
/** After Redis was away, ms. */
const RETRY_MS = 200
/** How often it is looked whether what is under way has ended, ms. */
const LOOK_MS = 5
/** Most credit asked for in one take: bounds what one process holds of one queue at a time. */
const CREDIT_MAX = 4 * limits.BATCH_RECORDS_MAX
/**
 * How long a take waits for more credit while some consumers are still busy, ms: a take for little
 * splits a batch, at some ten times the cost of a whole one.
 */
const GATHER_MS = 4

export class Feed {
  readonly #store: QueueStore
  readonly #report: Report
  readonly #ended: () => void
  readonly #observer: Observer
  /** By priority; those of one priority in turn. */
  readonly #consumers: Consumer[] = []
  /** What the slot holds: 'level:id' of batches, refs of single messages. */
  readonly #batches = new Map<string, HeldBatch>()
  readonly #singles = new Set<string>()
  /** Taken, but nobody has credit any more. */
  readonly #backlog: Delivery[] = []
  #held = 0
  #taking = false
  #getting = 0
  #recovering: Promise<void> | undefined
  #closed = false
  /** A take's reply was lost: the slot may hold what this feed does not know of. */
  #lost = false
  /** Whether the last take brought whole batches. */
  #tookBatches = false
  #gathering = false
  /** A hint came while a take was under way. */
  #hinted = false
  #timer: NodeJS.Timeout | undefined
  readonly #unwatch: () => void

  #settledBatches: HeldBatch[] = []
  #settledRefs: string[] = []
  #returns: { delivery: Delivery; how: GiveBack }[] = []
  readonly #half = new Set<HeldBatch>()
  #halfTimer: NodeJS.Timeout | undefined
  #scheduled = false
  /** Settlements on their way to Redis. */
  #sending = 0

  /** @param ended called when nobody consumes and nothing is held any more. */
  constructor(
    store: QueueStore,
    report: Report,
    ended: () => void,
    observer: Observer = new Observer(store, undefined),
  ) {
    this.#observer = observer
    this.#store = store
    this.#report = report
    this.#ended = ended
    this.#unwatch = store.watch(() => {
      // The take under way may have looked before what the hint is about was there.
      if (this.#taking) this.#hinted = true
      else if (this.#credit() === 0) return false
      else this.look()
      return true
    })
  }

  attach(consumer: Consumer): void {
    this.#insert(consumer)
    this.look()
  }

  /** What it holds stays with it until it is settled or given back. */
  detach(consumer: Consumer): void {
    const at = this.#consumers.indexOf(consumer)
    if (at >= 0) this.#consumers.splice(at, 1)
    if (this.#consumers.length > 0) return
    clearTimeout(this.#timer)
    for (const delivery of this.#backlog.splice(0)) this.giveBack(delivery, BACK_UNSEEN)
    this.#endIfIdle()
  }

  /** Takes more when there is credit. Call it when a consumer has credit again. */
  look(): void {
    this.#drainBacklog()
    if (this.#taking) return
    const credit = this.#credit()
    if (credit === 0) return
    if (this.#worthwhile(credit)) this.#takeSoon()
    else this.#gather()
  }

  /**
   * Whether to take at once: with room for any batch, or when nobody has anything to do meanwhile,
   * or when what comes next has left its batch already.
   */
  #worthwhile(credit: number): boolean {
    return credit >= limits.BATCH_RECORDS_MAX || this.#held === 0 || !this.#tookBatches
  }

  /** Takes a little later, with whatever credit there is by then. */
  #gather(): void {
    if (this.#gathering) return
    this.#gathering = true
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#takeSoon(), GATHER_MS)
  }

  /** Takes one message past the consumers; undefined when there is none. */
  async get(): Promise<Delivery | undefined> {
    await this.#recovering?.catch(() => {}) // which would give back what this takes
    this.#getting++
    try {
      const { batches, messages } = await this.#store.take(1, false)
      const [delivery] = this.#deliveries(batches, messages)
      if (delivery !== undefined && this.#observer.on) this.#observer.handed(delivery)
      return delivery
    } catch (error) {
      this.#lost = true
      throw error
    } finally {
      this.#getting--
      this.#endIfIdle()
    }
  }

  /** The message is done with. */
  ack(delivery: Delivery): void {
    const { batch, index } = delivery
    if (this.#observer.on) this.#observer.ended(delivery, 'ack')
    this.#held--
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

  /** The message goes back to its queue, or to the dead letters. */
  giveBack(delivery: Delivery, how: GiveBack): void {
    if (this.#observer.on) this.#observer.ended(delivery, how)
    this.#held--
    this.#returns.push({ delivery, how })
    this.#schedule()
  }

  /** Waits until Redis has been told of every settlement. */
  async settled(): Promise<void> {
    while (this.#scheduled || this.#sending > 0 || this.#returns.length > 0) {
      await sleep(LOOK_MS)
    }
  }

  /** Stops at once; what is held comes again when the slot is reclaimed. */
  close(): void {
    this.#closed = true
    this.#consumers.length = 0
    clearTimeout(this.#timer)
    clearInterval(this.#halfTimer)
    this.#unwatch()
  }

  #insert(consumer: Consumer): void {
    let at = this.#consumers.length
    while (at > 0 && this.#consumers[at - 1]!.priority < consumer.priority) at--
    this.#consumers.splice(at, 0, consumer)
  }

  #credit(): number {
    let credit = 0
    let pools: Map<object, number> | undefined
    for (const consumer of this.#consumers) {
      const { pool } = consumer
      let own = Math.max(0, consumer.credit())
      if (pool !== undefined) {
        pools ??= new Map()
        const left = pools.get(pool) ?? Math.max(0, pool.credit())
        own = Math.min(own, left)
        pools.set(pool, left - own)
      }
      credit += own
      if (credit >= CREDIT_MAX) return CREDIT_MAX
    }
    return Math.max(0, credit - this.#backlog.length)
  }

  #takeSoon(): void {
    clearTimeout(this.#timer)
    this.#gathering = false
    this.#taking = true
    this.#take()
      .catch((error) => this.#failed(error))
      .finally(() => {
        this.#taking = false
        if (this.#hinted) this.#store.wake() // again: here, or at whoever has credit
        this.#endIfIdle()
      })
      .catch(this.#report)
  }

  async #take(): Promise<void> {
    if (this.#lost) await this.#recover()
    for (let credit = this.#credit(); credit > 0; credit = this.#credit()) {
      this.#hinted = false
      const taken = await this.#store.take(credit, true)
      if (taken.batches.length === 0 && taken.messages.length === 0) {
        if (this.#consumers.length === 0) return
        const idleMs = Math.min(taken.wakeMs < 0 ? Infinity : taken.wakeMs, limits.IDLE_LOOK_MS)
        this.#timer = setTimeout(() => this.look(), idleMs)
        return
      }
      this.#tookBatches = taken.batches.length > 0
      this.#hand(taken)
      if (!this.#worthwhile(this.#credit())) return this.#gather()
    }
  }

  /** Gives back what a lost reply brought: nobody else can, as long as this process lives. */
  #recover(): Promise<void> {
    this.#recovering ??= this.#giveBackUnknown().finally(() => {
      this.#recovering = undefined
    })
    return this.#recovering
  }

  async #giveBackUnknown(): Promise<void> {
    while (this.#getting > 0) await sleep(LOOK_MS) // what these take is not known yet
    const settling = this.#settledBatches.map(nameOf)
    const known = [...this.#batches.keys(), ...this.#singles, ...settling, ...this.#settledRefs]
    await this.#store.recover(known)
    this.#lost = false
  }

  #failed(error: unknown): void {
    this.#lost = true
    if (error instanceof BrokerError && error.code === 'queue_not_found') {
      this.#lost = false // with all that it held
      for (const consumer of this.#consumers.splice(0)) consumer.cancelled()
      this.#endIfIdle()
      return
    }
    if (!(error instanceof BrokerError)) this.#report(error)
    if (this.#consumers.length > 0) this.#timer = setTimeout(() => this.look(), RETRY_MS)
  }

  /** Behind what is still here from before: some may have credit for that by this time. */
  #hand({ batches, messages }: Taken): void {
    this.#backlog.push(...this.#deliveries(batches, messages))
    this.#drainBacklog()
    if (this.#consumers.length === 0) {
      for (const delivery of this.#backlog.splice(0)) this.giveBack(delivery, BACK_UNSEEN)
    }
  }

  /** What was taken, in the order of the queue, held from here on. */
  #deliveries(batches: Taken['batches'], messages: Taken['messages']): Delivery[] {
    const deliveries: Delivery[] = []
    let single = 0
    for (const taken of batches) {
      for (; single < taken.after; single++) deliveries.push(this.#single(messages[single]!))
      const { level, id, records } = taken
      const batch = heldBatch(level, id, records.length)
      this.#batches.set(nameOf(batch), batch)
      for (let index = 0; index < records.length; index++) {
        deliveries.push(new Delivery(this, records[index]!, 1, 0, batch, '', index))
      }
    }
    for (; single < messages.length; single++) deliveries.push(this.#single(messages[single]!))
    this.#held += deliveries.length
    return deliveries
  }

  #single({ ref, acquired, failed, record }: TakenMessage): Delivery {
    this.#singles.add(ref)
    return new Delivery(this, record, acquired, failed, undefined, ref, 0)
  }

  #handTo(consumer: Consumer, delivery: Delivery): void {
    if (this.#observer.on) this.#observer.handed(delivery)
    consumer.deliver(delivery)
    if (consumer.noAck) this.ack(delivery)
  }

  #drainBacklog(): void {
    while (this.#backlog.length > 0) {
      const consumer = this.#next()
      if (!consumer) return
      this.#handTo(consumer, this.#backlog.shift()!)
    }
  }

  /** The next consumer with credit; the one found goes behind the others of its priority. */
  #next(): Consumer | undefined {
    const consumers = this.#consumers
    for (let at = 0; at < consumers.length; at++) {
      const consumer = consumers[at]!
      if (consumer.credit() <= 0) continue
      if (consumers.length > 1) {
        consumers.splice(at, 1)
        this.#insert(consumer)
      }
      return consumer
    }
    return undefined
  }

  #finish(batch: HeldBatch): void {
    this.#batches.delete(nameOf(batch))
    this.#half.delete(batch)
    if (batch.settled) this.#settledBatches.push(batch)
  }

  #noteHalf(batch: HeldBatch): void {
    batch.halfSince = performance.now()
    this.#half.add(batch)
    this.#halfTimer ??= setInterval(() => this.#tellHalf(), PARTIAL_MS / 2)
  }

  #tellHalf(): void {
    const before = performance.now() - PARTIAL_MS
    for (const batch of this.#half) {
      if (batch.halfSince > before) continue
      const { level, id, bitmap } = batch
      this.#half.delete(batch)
      batch.halfSince = 0
      this.#send(this.#store.settlePartly(level, id, Buffer.from(bitmap!)), () => {
        if (batch.left > 0) this.#noteHalf(batch)
      })
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
      this.#flush()
      this.look()
      this.#endIfIdle()
    })
  }

  #flush(): void {
    const returns = this.#returns
    this.#returns = []
    for (let at = 0; at < returns.length; at += FOLD_MAX)
      this.#sendReturns(returns.slice(at, at + FOLD_MAX))
    const batches = this.#settledBatches
    const refs = this.#settledRefs
    if (batches.length === 0 && refs.length === 0) return
    this.#settledBatches = []
    this.#settledRefs = []
    for (const level of new Set(batches.map((batch) => batch.level)).add(0)) {
      const some = batches.filter((batch) => batch.level === level)
      const singles = level === 0 ? refs : []
      if (some.length === 0 && singles.length === 0) continue
      this.#send(this.#store.settleHeld(level, some, singles), () => {
        this.#settledBatches.push(...some)
        this.#settledRefs.push(...singles)
      })
    }
  }

  #sendReturns(returns: readonly { delivery: Delivery; how: GiveBack }[]): void {
    const items = returns.map(
      ({ delivery: { batch, ref, index }, how }): HeldReturn => ({
        ...how,
        place: batch ? nameOf(batch) : '',
        ref: batch ? index : ref,
      }),
    )
    const sent = this.#store.returnHeld(items).then(() => {
      // Only what is known to have left a batch lets the batch be settled.
      for (const { delivery } of returns) {
        const { batch, ref } = delivery
        if (!batch) this.#singles.delete(ref)
        else if (--batch.left === 0) this.#finish(batch)
      }
      if (this.#settledBatches.length > 0) this.#schedule()
    })
    this.#send(sent, () => {
      this.#returns.push(...returns)
    })
  }

  /** Settlements change nothing when they come twice, so one that failed is sent again. */
  #send(sent: Promise<unknown>, undo: () => void): void {
    this.#sending++
    sent
      .catch((error) => {
        if (!(error instanceof BrokerError)) this.#report(error)
        undo()
        setTimeout(() => this.#schedule(), RETRY_MS)
      })
      .finally(() => {
        this.#sending--
        this.#endIfIdle()
      })
      .catch(this.#report)
  }

  #endIfIdle(): void {
    if (this.#consumers.length > 0 || this.#taking || this.#getting > 0) return
    if (this.#scheduled || this.#sending > 0) return
    if (this.#closed || this.#recovering !== undefined) return
    if (this.#lost) {
      this.#recover().then(
        () => this.#endIfIdle(),
        () => setTimeout(() => this.#endIfIdle(), RETRY_MS),
      )
      return
    }
    if (this.#batches.size > 0 || this.#singles.size > 0 || this.#returns.length > 0) return
    if (this.#settledBatches.length > 0 || this.#settledRefs.length > 0) return
    this.close()
    this.#ended()
  }
}

/** As reclaim.lua names a batch. */
const nameOf = ({ level, id }: HeldBatch) => `${level}:${id}`

/** Never shown to a consumer: goes back as it came. */
const BACK_UNSEEN: GiveBack = { action: 'ready', delayMs: 0, failure: '-' }
/** Messages given back in one script call: each may have to be found in its batch. */
const FOLD_MAX = 64
