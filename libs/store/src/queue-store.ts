/**
 * One queue in Redis, as a process works with it.
 *
 * Two ways to consume: a slot holds whole batches until it settles or dies (`take`, `settleHeld`,
 * `returnHeld`); a lease holds single messages until its deadline, and any process may settle it
 * (`lease`, `settle`). Both see the same messages. What each transition guarantees is said in the
 * header of its script in ./lua.
 */
import { BrokerError, type Durability, limits } from '@sluice/core'
import type { Appender, AppendReply, AppendTarget } from './appender.ts'
import { queueBase } from './keys.ts'
import {
  type LeasedMessage,
  type LeaseOptions,
  type LeaseSettlement,
  Leases,
  leasedMessage,
  type SettleOutcome,
} from './leases.ts'
import { openAppender, type QueueContext } from './queue-context.ts'
import { type QueueStats, readStats } from './queue-stats.ts'
import { unavailable } from './redis.ts'
import { both, replicasOf, type Safety, safetyOf } from './safety.ts'
import * as scripts from './scripts.ts'
import type { QueueSettings } from './settings.ts'
import { Waiters } from './waiters.ts'

/** Where a message is; 'ready' ones also when they wait behind another of their ordering key. */
export type MessageState = 'ready' | 'delayed' | 'held' | 'dead'

const REPLY_BYTES = limits.REPLY_BYTES_MAX

/** How long a deletion is remembered: longer than any process goes on with an old table. */
const TOMBSTONE_MS = 3_600_000

/** Looks at a queue again after Redis was away, while a caller still waits. */
const RETRY_MS = 200

export type QueueReply = AppendReply<QueueStore>

export class QueueStore implements AppendTarget {
  readonly vhost: string
  readonly name: string
  /** The topology version that declared it: tells it from an earlier queue of the same name. */
  readonly epoch: number
  readonly base: string
  /** Called once the topology has no such queue any more (Store.forget). */
  readonly onForgotten = new Set<() => void>()
  readonly #context: QueueContext
  readonly #leases: Leases
  readonly #appenders = new Map<number, Appender<QueueStore>>()
  readonly #plain: Appender<QueueStore>
  readonly #waiters = new Waiters(() => this.#passOn())
  #settings!: QueueSettings
  #safety: Safety = 0
  scriptOptions = ''
  scriptLimits = ''

  constructor(
    context: QueueContext,
    vhost: string,
    name: string,
    epoch: number,
    settings: QueueSettings,
  ) {
    this.#context = context
    this.vhost = vhost
    this.name = name
    this.epoch = epoch
    this.base = queueBase(vhost, name)
    this.settings = settings
    this.#leases = new Leases(context, this)
    this.#plain = this.#appender(0)
  }

  get settings(): QueueSettings {
    return this.#settings
  }

  set settings(settings: QueueSettings) {
    const { levels, ordered, deadLetters, deliveryLimit, maxLength, maxBytes, overflow } = settings
    this.#settings = settings
    this.#safety = safetyOf(settings.durability)
    this.scriptOptions = `${levels} ${ordered ? 1 : 0} ${deadLetters} ${deliveryLimit}`
    this.scriptLimits = maxLength < 0 && maxBytes < 0 ? '' : `${maxLength} ${maxBytes} ${overflow}`
  }

  get ttlMs(): number {
    return this.#settings.ttlMs
  }
  get dedupWindowMs(): number {
    return this.#settings.dedupWindowMs
  }
  get levels(): number {
    return this.#settings.levels
  }
  get scriptRoom(): string {
    return ''
  }
  refused(): void {}

  /**
   * Stores a message, together with what else is published to this queue meanwhile.
   *
   * @param record from encodeRecord; the same bytes may go to several queues.
   * @param dedupId '' = none.
   * @param reply hears the outcome later, once, with `token`.
   */
  append(
    record: Buffer,
    priority: number,
    ttlMs: number,
    delayMs: number,
    dedupId: string,
    durability: Durability | null,
    reply: QueueReply,
    token: number,
  ): void {
    const { safety, refusal } = this.#context
    let asked = both(safety, this.#safety)
    if (durability !== null) asked = both(asked, safetyOf(durability))
    const refused = refusal(asked)
    if (refused !== undefined) {
      process.nextTick(() => reply.appended(token, refused, this))
      return
    }
    const replicas = replicasOf(asked)
    const appender = replicas > 0 ? this.#appender(replicas) : this.#plain
    appender.append(record, priority, ttlMs, delayMs, dedupId, reply, token)
  }

  /** Makes the queue's keys; repeating it counts as use of the queue. False when it was deleted. */
  async create(): Promise<boolean> {
    const outcome = await this.#run(
      scripts.create(this.#context.work, this.base, [this.scriptOptions, this.epoch]),
    )
    return outcome !== 'gone'
  }

  /** Deletes the queue and all it holds, or says why not. */
  drop({ ifEmpty = false, ifUnused = false, unusedMs = -1 }): Promise<scripts.DropOutcome> {
    return this.#run(
      scripts.drop(this.#context.work, this.base, [
        this.epoch,
        ifEmpty ? 1 : 0,
        unusedMs,
        ifUnused ? 1 : 0,
        TOMBSTONE_MS,
      ]),
    )
  }

  /**
   * Leases up to `max` messages, waiting up to `waitMs` for the first.
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
        const leased = taken.messages.map(leasedMessage)
        if (!signal?.aborted) return leased
        // The caller hung up while the take travelled: nobody saw these.
        await this.#leases.settle(leased.map(({ token }) => ({ token, outcome: 'release' })))
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

  /** Settles leases, whoever took them; an outcome each, in order. */
  settle(items: readonly LeaseSettlement[]): Promise<SettleOutcome[]> {
    return this.#leases.settle(items)
  }

  /**
   * Hears of hints that something arrived, until the function it returns is called. A listener
   * answers whether it has use for the message; otherwise the hint goes on to whoever has.
   */
  watch(listener: () => boolean): () => void {
    return this.#waiters.listen(listener)
  }

  /** A hint that something arrived. Passed on when nobody here waits any more. */
  wake(): void {
    this.#waiters.wake()
  }

  #passOn(): void {
    this.#take(0, 0, '', 0).catch((error) => {
      const deleted = error instanceof BrokerError && error.code === 'queue_not_found'
      if (!deleted) this.#context.report(error)
    })
  }

  /**
   * Takes up to `credit` messages for this process's slot: whole batches where they fit, else
   * single ones. They are held until settled or returned, or until the slot dies. After an error
   * the take may have happened: call `recover`.
   */
  async take(credit: number, wait: boolean): Promise<scripts.Taken> {
    await this.#run(this.#context.slot.register(this.base))
    return this.#take(credit, 0, '', wait ? 1 : 0)
  }

  /**
   * Registers a consumer of this process, or asks again whether it is active. `id` is unique over
   * all processes. Throws queue_not_found.
   */
  async attach(
    id: string,
    options: { priority: number; exclusive: boolean; single: boolean },
  ): Promise<{ kind: 'ok'; active: boolean; consumers: number } | { kind: 'exclusive' }> {
    const { work, slot } = this.#context
    await this.#run(slot.register(this.base))
    const { priority, exclusive, single } = options
    const args = [this.epoch, slot.name, id, priority, exclusive ? 1 : 0, single ? 1 : 0]
    let attached = await this.#run(scripts.attach(work, this.base, args))
    if (attached.kind === 'missing' && (await this.create())) {
      attached = await this.#run(scripts.attach(work, this.base, args))
    }
    if (attached.kind === 'ok' || attached.kind === 'exclusive') return attached
    throw this.#gone()
  }

  /** Forgets a consumer; answers how many the queue has left, in all processes. */
  detach(id: string): Promise<number> {
    return this.#run(scripts.detach(this.#context.work, this.base, [id]))
  }

  /**
   * Acknowledges what the slot holds: batches of which every record is settled or was given back,
   * `count` being all that they had, and single messages. A letter each: s(ettled) or x (stale).
   */
  settleHeld(
    level: number,
    batches: readonly { id: string; count: number }[],
    refs: readonly string[],
  ): Promise<string> {
    const args: (string | number)[] = []
    for (const { id, count } of batches) args.push(id, count)
    for (const ref of refs) args.push(ref, '')
    const { work, slot } = this.#context
    return this.#run(
      scripts.settle(work, this.base, [
        this.scriptOptions,
        slot.number,
        level,
        batches.length,
        0,
        ...args,
      ]),
    )
  }

  /**
   * Notes which records of a batch the slot has settled so far, so that a crash redelivers only the
   * rest. Repeating it changes nothing.
   */
  settlePartly(level: number, id: string, bitmap: Buffer): Promise<string> {
    const { work, slot } = this.#context
    return this.#run(
      scripts.settle(work, this.base, [this.scriptOptions, slot.number, level, 0, 1, id, bitmap]),
    )
  }

  /** Gives back what the slot holds; a letter each (return.lua). */
  returnHeld(items: readonly HeldReturn[]): Promise<string> {
    const { work, slot } = this.#context
    const args: (string | number)[] = []
    for (const { place, ref, action, delayMs, failure } of items) {
      args.push(place, ref, '', action, delayMs, failure)
    }
    return this.#run(scripts.giveBack(work, this.base, [this.scriptOptions, slot.number, ...args]))
  }

  /** After a lost reply: gives back what the slot holds apart from `keep` (reclaim.lua). */
  async recover(keep: readonly string[]): Promise<void> {
    const { slot } = this.#context
    while ((await this.reclaim(slot.name, { dead: false, keep })).more);
  }

  /** One bounded pass over what a slot holds: dead, or alive with `keep`. */
  reclaim(
    slot: string,
    { dead, keep = [] }: { dead: boolean; keep?: readonly string[] },
  ): Promise<{ more: boolean; messages: number }> {
    return this.#run(
      scripts.reclaim(this.#context.work, this.base, [
        this.scriptOptions,
        slot,
        limits.PASS_MESSAGES_MAX,
        dead ? 1 : 0,
        ...keep,
      ]),
    )
  }

  /** One bounded pass over what time changes here. */
  sweep(): Promise<scripts.Swept | scripts.Absent> {
    return this.#run(
      scripts.sweep(this.#context.work, this.base, [
        this.scriptOptions,
        this.epoch,
        limits.PASS_MESSAGES_MAX,
        this.scriptLimits,
      ]),
    )
  }

  /** Dead letters to move, nobody else's for `claimMs`. */
  claimDead(limit: number, claimMs: number): Promise<scripts.Tally[]> {
    return this.#run(scripts.claim(this.#context.work, this.base, [limit, claimMs, REPLY_BYTES]))
  }

  /** Forgets dead letters that were moved, or dropped for good. */
  bury(refs: readonly string[], counter: 'deadLettered' | 'dropped'): Promise<number> {
    return this.#run(scripts.bury(this.#context.work, this.base, [counter, ...refs]))
  }

  /** Leases one particular message; undefined when it is gone or held. */
  async pick(id: string, leaseMs: number, consumer: string): Promise<LeasedMessage | undefined> {
    const { work } = this.#context
    const args = [this.scriptOptions, id, leaseMs, consumer.replace(/[\r\n]/g, ' ')]
    const picked = await this.#run(scripts.pick(work, this.base, args))
    return picked && leasedMessage({ ref: id, ...picked })
  }

  /** Reads messages and changes nothing. `after` is the last reply's cursor, '' = the start. */
  peek(
    state: MessageState,
    after: string,
    limit: number,
  ): Promise<{ cursor: string; messages: scripts.Peeked[] }> {
    const { work } = this.#context
    const args = [this.scriptOptions, state, after, limit, REPLY_BYTES]
    return this.#run(scripts.peek(work, this.base, args))
  }

  /** Reads one message, wherever it is; undefined when it is gone. */
  async find(id: string): Promise<{ state: MessageState; message: scripts.Peeked } | undefined> {
    if (!/^[0-9a-f]{24}$/.test(id)) return undefined
    const args = [this.scriptOptions, 'one', id, 1, REPLY_BYTES]
    const found = await this.#run(scripts.peek(this.#context.work, this.base, args))
    const [message] = found.messages
    return message && { state: found.cursor as MessageState, message }
  }

  /** Removes the messages that are ready; returns how many. */
  async purge(): Promise<number> {
    let purged = 0
    let until = ''
    for (;;) {
      const pass = await this.#run(
        scripts.purge(this.#context.work, this.base, [
          this.scriptOptions,
          limits.PASS_MESSAGES_MAX,
          until,
        ]),
      )
      purged += pass.purged
      until = pass.until
      if (!pass.more) return purged
    }
  }

  /** How long the oldest ready message has been stored; 0 = none is ready. */
  oldestMs(): Promise<number> {
    return this.#run(scripts.oldest(this.#context.work, this.base, [this.scriptOptions]))
  }

  /** The counters that the scripts keep. */
  stats(): Promise<QueueStats> {
    return this.#run(readStats(this.#context.work, this.base))
  }

  #appender(replicas: number): Appender<QueueStore> {
    let appender = this.#appenders.get(replicas)
    if (!appender) {
      appender = openAppender<QueueStore>(this.#context, this, replicas, () => this.create())
      this.#appenders.set(replicas, appender)
    }
    return appender
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
  ): Promise<scripts.Taken | undefined> {
    try {
      if (joins > 0) await this.#run(this.#context.slot.register(this.base))
      return await this.#take(credit, leaseMs, consumer, joins)
    } catch (error) {
      const waits = error instanceof BrokerError && error.code === 'store_unavailable'
      if (waits && leftMs > RETRY_MS) return undefined
      throw error
    }
  }

  async #take(
    credit: number,
    leaseMs: number,
    holder: string,
    joins: number,
  ): Promise<scripts.Taken> {
    const { work, slot } = this.#context
    const args = [
      this.scriptOptions,
      this.epoch,
      slot.name,
      credit,
      leaseMs,
      holder,
      joins,
      REPLY_BYTES,
    ]
    let taken = await this.#run(scripts.take(work, this.base, args))
    if (taken.kind === 'missing' && (await this.create())) {
      taken = await this.#run(scripts.take(work, this.base, args))
    }
    if (taken.kind === 'ok') return taken
    throw this.#gone()
  }

  #gone(): BrokerError {
    return new BrokerError('queue_not_found', `There is no queue '${this.name}'.`)
  }

  async #run<T>(reply: Promise<T>): Promise<T> {
    try {
      return await reply
    } catch (error) {
      throw unavailable(error)
    }
  }
}

/** A message that the slot gives back (return.lua, six arguments). */
export interface HeldReturn {
  /** 'level:id' of its batch; '' when it is held on its own. */
  readonly place: string
  /** Its ref, or its index within the batch. */
  readonly ref: string | number
  readonly action: 'ready' | 'due' | 'dead'
  readonly delayMs: number
  /** From failureOf; '-' = not a failed delivery. */
  readonly failure: string
}
