/**
 * One queue's messages to the consumers that this process serves, and their settlements back.
 *
 * The process holds whole batches through its slot: nothing is written to Redis per message until
 * it is settled (holding.ts). At most as much is taken as the consumers may hold, so nothing is
 * hoarded; what nobody can be handed after all goes back soon, as if it had never been taken.
 *
 * Hot path: a message costs one Delivery object. Measured by test/bench/amqp.bench.ts.
 */
import { BrokerError, limits, type Report } from '@sluice/core'
import type { QueueStore } from '@sluice/store'
import { type Consumer, type Delivery, type GiveBack, UNSEEN } from './handing.ts'
import { Holding } from './holding.ts'
import { Observer } from './observer.ts'

/** Most credit asked for in one take: bounds what one process holds of one queue at a time. */
const CREDIT_MAX = 4 * limits.BATCH_RECORDS_MAX
/**
 * How long a take waits for more credit while some consumers are still busy, ms: a take for little
 * splits a batch, at some ten times the cost of a whole one.
 */
const GATHER_MS = 4
/** After a take of so many the next one looks by itself instead of waiting for a hint. */
const BRISK = limits.BATCH_RECORDS_MAX / 2
/** How long what was taken waits for a consumer that has no credit any more, ms. */
const BACKLOG_MS = 1_000

export class Feed {
  readonly #store: QueueStore
  readonly #report: Report
  readonly #ended: () => void
  readonly #observer: Observer
  readonly #holding: Holding
  /** By priority; those of one priority in turn. */
  readonly #consumers: Consumer[] = []
  /** Taken, but nobody has credit any more. */
  readonly #backlog: Delivery[] = []
  #backlogTimer: NodeJS.Timeout | undefined
  #taking = false
  #getting = 0
  #closed = false
  /** Whether the last take brought whole batches. */
  #tookBatches = false
  #gathering = false
  /** A hint came while a take was under way. */
  #hinted = false
  #timer: NodeJS.Timeout | undefined
  readonly #unwatch: () => void

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
    this.#holding = new Holding(store, report, this)
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
    this.#stopWaiting()
    this.#giveBackBacklog()
    this.rest()
  }

  /** Takes more when there is credit. Call it when a consumer has credit again. */
  look(): void {
    this.#drainBacklog()
    if (this.#taking || this.#holding.lost) return
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
    return credit >= limits.BATCH_RECORDS_MAX || this.#holding.unsettled === 0 || !this.#tookBatches
  }

  /** Takes a little later, with whatever credit there is by then. */
  #gather(): void {
    if (this.#gathering) return
    this.#stopWaiting()
    this.#gathering = true
    this.#timer = setTimeout(() => this.#takeSoon(), GATHER_MS)
  }

  #stopWaiting(): void {
    clearTimeout(this.#timer)
    this.#gathering = false
  }

  /** Takes one message past the consumers; undefined when there is none. */
  async get(): Promise<Delivery | undefined> {
    this.#getting++
    try {
      const [delivery] = (await this.#holding.take(1, 'never')).deliveries
      if (delivery !== undefined) this.handed(delivery)
      return delivery
    } finally {
      this.#getting--
      this.rest()
    }
  }

  /** Somebody outside gets to see the message now. */
  handed(delivery: Delivery): void {
    if (this.#observer.on) this.#observer.handed(delivery)
  }

  /** The message is done with. */
  ack(delivery: Delivery): void {
    if (this.#observer.on) this.#observer.ended(delivery, 'ack')
    this.#holding.ack(delivery)
  }

  /** The message goes back to its queue, or to the dead letters. */
  giveBack(delivery: Delivery, how: GiveBack): void {
    if (this.#observer.on) this.#observer.ended(delivery, how)
    this.#holding.giveBack(delivery, how)
  }

  /** Tells Redis at once of what was settled and given back; resolves when that is done. */
  flush(): Promise<void> {
    return this.#holding.flush()
  }

  /** Waits until Redis has been told of every settlement. */
  settled(): Promise<void> {
    return this.#holding.settled()
  }

  /** Ends, if nobody consumes and nothing is held any more. */
  rest(): void {
    if (this.#closed || this.#consumers.length > 0 || this.#taking || this.#getting > 0) return
    if (!this.#holding.empty) return
    this.close()
    this.#ended()
  }

  /** Stops at once; what is held comes again when the slot is reclaimed. */
  close(): void {
    this.#closed = true
    this.#consumers.length = 0
    this.#stopWaiting()
    clearTimeout(this.#backlogTimer)
    this.#holding.close()
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
    this.#stopWaiting()
    this.#taking = true
    this.#take()
      .catch((error) => this.#failed(error))
      .finally(() => {
        this.#taking = false
        if (this.#hinted) this.#store.wake() // again: here, or at whoever has credit
        this.rest()
      })
      .catch(this.#report)
  }

  async #take(): Promise<void> {
    let brisk = false
    for (let credit = this.#credit(); credit > 0; credit = this.#credit()) {
      this.#hinted = false
      const hint = brisk ? 'empty' : 'drained'
      const { deliveries, whole, wakeMs, joined } = await this.#holding.take(credit, hint)
      brisk = deliveries.length >= BRISK
      if (deliveries.length > 0) {
        this.#tookBatches = whole
        // Behind what is still here from before: some may have credit for that by this time.
        this.#backlog.push(...deliveries)
        this.#drainBacklog()
        if (this.#consumers.length === 0) this.#giveBackBacklog()
      }
      if (deliveries.length === 0 || joined) {
        if (this.#consumers.length === 0) return
        const idleMs = Math.min(wakeMs < 0 ? Infinity : wakeMs, limits.IDLE_LOOK_MS)
        this.#timer = setTimeout(() => this.look(), idleMs)
        return
      }
      if (!this.#worthwhile(this.#credit())) return this.#gather()
    }
  }

  /** After a lost reply the holding has this look again once Redis answers. */
  #failed(error: unknown): void {
    if (error instanceof BrokerError && error.code === 'queue_not_found') {
      for (const consumer of this.#consumers.splice(0)) consumer.cancelled()
      this.#giveBackBacklog()
    } else if (!(error instanceof BrokerError)) {
      this.#report(error)
    }
  }

  #handTo(consumer: Consumer, delivery: Delivery): void {
    if (consumer.ahead !== true) this.handed(delivery)
    consumer.deliver(delivery)
    if (consumer.noAck) this.ack(delivery)
  }

  #drainBacklog(): void {
    while (this.#backlog.length > 0) {
      const consumer = this.#next()
      if (!consumer) {
        this.#backlogTimer ??= setTimeout(() => this.#giveBackBacklog(), BACKLOG_MS)
        return
      }
      this.#handTo(consumer, this.#backlog.shift()!)
    }
    clearTimeout(this.#backlogTimer)
    this.#backlogTimer = undefined
  }

  /** To whoever has credit elsewhere. */
  #giveBackBacklog(): void {
    clearTimeout(this.#backlogTimer)
    this.#backlogTimer = undefined
    // From the last: each is then the last that was delivered, and does not count (return.lua).
    for (const delivery of this.#backlog.splice(0).reverse()) this.giveBack(delivery, UNSEEN)
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
}
