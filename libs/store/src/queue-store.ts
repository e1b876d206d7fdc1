/**
 * One queue in Redis, as a process works with it.
 *
 * Two ways to consume: a slot holds whole batches until it settles or dies (`take`, `settleHeld`,
 * `returnHeld`); a lease holds single messages until its deadline, and any process may settle it
 * (`lease`, `settle`). Both see the same messages. What each transition guarantees is said in the
 * header of its script in ./lua.
 */
import { BrokerError, type Durability, limits, type Message } from '@sluice/core'
import type { Appender, AppendReply, AppendTarget } from './appender.ts'
import { queueBase } from './keys.ts'
import {
  type LeasedMessage,
  type LeaseOptions,
  type LeaseSettlement,
  Leases,
  type SettleOutcome,
} from './leases.ts'
import { openAppender, type QueueContext } from './queue-context.ts'
import { acknowledged, type QueueStats, readStats } from './queue-stats.ts'
import { type Encodings, encodeRecord } from './record.ts'
import { unavailable } from './redis.ts'
import { both, replicasOf, type Safety, safetyOf } from './safety.ts'
import * as scripts from './scripts.ts'
import { isUnreadable, Sealing, type SlotTaken } from './sealing.ts'
import type { QueueSettings } from './settings.ts'
import { Waiters } from './waiters.ts'

/** Where a message is; 'ready' ones also when they wait behind another of their ordering key. */
export type MessageState = 'ready' | 'delayed' | 'held' | 'dead'

const REPLY_BYTES = limits.REPLY_BYTES_MAX

/** How long a deletion is remembered: longer than any process goes on with an old table. */
const TOMBSTONE_MS = 3_600_000

/** The slot that create.lua hands messages to whose holder is not known any more. */
const NOBODY = 'd0'

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
  /** What of it is encrypted, and how. */
  readonly sealing: Sealing
  readonly #waiters = new Waiters(() => this.#passOn())
  #settings!: QueueSettings
  #safety: Safety = 0
  /** Begun anew when a reply of a slot's call was lost: the call may still be on its way. */
  #round = 0
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
    this.sealing = new Sealing(context, this)
    this.settings = settings
    this.#leases = new Leases(context, this, this.#waiters, async (credit, ms, holder, joins) => {
      if (joins > 0) await this.#register()
      return this.#take(credit, ms, holder, joins)
    })
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
   * Stores a message: sealed where this queue is encrypted, or where it was before.
   *
   * @param bytes of the same message for all queues it goes to.
   * @param reply hears the outcome later, once, with `token`.
   */
  publish(message: Message, bytes: Encodings, reply: QueueReply, token: number): void {
    const { priority, ttlMs, delayMs, durability } = message
    const { deduplicates, encryption } = this.#settings
    const id = message.dedupId || (deduplicates ? (message.messageId ?? '') : '')
    if (encryption === 'none' && !message.sealedBy) {
      bytes.record ??= encodeRecord(message)
      this.append(bytes.record, priority, ttlMs, delayMs, id, durability, reply, token)
      return
    }
    this.sealing.withKey(message, reply, (key) => {
      if (typeof key === 'string') return process.nextTick(() => reply.appended(token, key, this))
      const record = this.sealing.encode(message, key, bytes)
      const pseudonym = id && key.pseudonym('message id', id)
      this.append(record, priority, ttlMs, delayMs, pseudonym, durability, reply, token)
    })
  }

  /**
   * Stores a record, together with what else is published to this queue meanwhile.
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

  /**
   * Makes the queue's keys, or mends them; repeating it counts as use of the queue. False when it
   * was deleted.
   */
  async create(): Promise<boolean> {
    const { work, report } = this.#context
    const created = await this.#run(
      scripts.create(work, this.base, [this.scriptOptions, this.epoch]),
    )
    if (created.kind === 'mended') {
      const lost = created.lost > 0 ? `; ${created.lost} messages are gone` : ''
      report(new Error(`The log of queue '${this.name}' had lost its group: made again${lost}`))
      while ((await this.reclaim(NOBODY, { dead: true })).more);
    }
    return created.kind !== 'gone'
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
    return this.#leases.lease(options)
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
   * single ones. They are held until settled or returned, or until the slot dies; those that are
   * unreadable nobody is to be handed. After an error the take may have happened: call `recover`.
   * @param hint when to hear of what arrives next (`watch`): never, when nothing was there, or
   * whenever the credit was more than was there.
   */
  async take(credit: number, hint: scripts.Hint): Promise<SlotTaken> {
    this.sealing.requireKey()
    await this.#register()
    const slot = this.slot
    const taken = await this.#take(credit, 0, '', scripts.HINTS[hint])
    if (!taken.sealed) return { ...taken, slot, unreadable: false }
    return { ...(await this.sealing.openTaken(taken)), slot }
  }

  /** The name in which this process holds what it takes; another one once it was taken for dead. */
  get slot(): string {
    return this.#context.slot.name
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
    await this.#register()
    const { priority, exclusive, single } = options
    const flags = [exclusive ? 1 : 0, single ? 1 : 0]
    const args = [this.epoch, slot.name, id, priority, ...flags, this.#round]
    let attached = await this.#inRound(scripts.attach(work, this.base, args))
    if (attached.kind === 'missing' && (await this.create())) {
      attached = await this.#inRound(scripts.attach(work, this.base, args))
    }
    if (attached.kind === 'ok' || attached.kind === 'exclusive') return attached
    throw this.#gone()
  }

  /** Forgets a consumer; answers how many the queue has left, in all processes. */
  detach(id: string): Promise<number> {
    const { work, slot } = this.#context
    return this.#run(scripts.detach(work, this.base, [id, slot.name, this.#round]))
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
        '',
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
    const args = [this.scriptOptions, slot.number, level, 0, 1, '', id, bitmap]
    return this.#run(scripts.settle(work, this.base, args))
  }

  /** Gives back what the slot holds; a letter each (return.lua). */
  returnHeld(items: readonly scripts.HeldReturn[]): Promise<string> {
    const { work, slot } = this.#context
    const args: (string | number)[] = []
    for (const { place, ref, action, delayMs, failure } of items) {
      args.push(place, ref, '', action, delayMs, this.sealing.failure(failure))
    }
    const all = [this.scriptOptions, slot.number, this.#round, this.scriptLimits, ...args]
    return this.#inRound(scripts.giveBack(work, this.base, all))
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
    return this.#inRound(
      scripts.reclaim(this.#context.work, this.base, [
        this.scriptOptions,
        slot,
        limits.PASS_MESSAGES_MAX,
        dead ? 1 : 0,
        this.#round,
        this.scriptLimits,
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
  async claimDead(limit: number, claimMs: number): Promise<scripts.Tally[]> {
    const { work } = this.#context
    const claimed = await this.#run(scripts.claim(work, this.base, [limit, claimMs, REPLY_BYTES]))
    const letters = await this.sealing.openTallies(claimed)
    const lost = letters.filter(isUnreadable).map(({ ref }) => ref)
    if (lost.length > 0) await this.bury(lost, 'dropped')
    return letters.filter((letter) => !isUnreadable(letter))
  }

  /** Forgets dead letters that were moved, or dropped for good. */
  bury(refs: readonly string[], counter: 'deadLettered' | 'dropped'): Promise<number> {
    return this.#run(scripts.bury(this.#context.work, this.base, [counter, ...refs]))
  }

  /** Leases one particular message; undefined when it is gone or held. */
  pick(id: string, leaseMs: number, consumer: string): Promise<LeasedMessage | undefined> {
    return this.#leases.pick(id, leaseMs, consumer)
  }

  /** Reads messages and changes nothing. `after` is the last reply's cursor, '' = the start. */
  async peek(
    state: MessageState,
    after: string,
    limit: number,
  ): Promise<{ cursor: string; messages: scripts.Peeked[] }> {
    const { work } = this.#context
    const args = [this.scriptOptions, state, after, limit, REPLY_BYTES]
    const { cursor, messages } = await this.#run(scripts.peek(work, this.base, args))
    return { cursor, messages: await this.sealing.showTallies(messages) }
  }

  /** Reads one message, wherever it is; undefined when it is gone. */
  async find(id: string): Promise<{ state: MessageState; message: scripts.Peeked } | undefined> {
    if (!/^[0-9a-f]{24}$/.test(id)) return undefined
    const args = [this.scriptOptions, 'one', id, 1, REPLY_BYTES]
    const found = await this.#run(scripts.peek(this.#context.work, this.base, args))
    const [message] = await this.sealing.showTallies(found.messages)
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

  /** How many messages were acknowledged with `countAs`; `ends` forgets that count. */
  acknowledged(countAs: string, ends = false): Promise<number> {
    return this.#run(acknowledged(this.#context.work, this.base, countAs, ends))
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

  /** Before the slot may hold something here: a reaper looks where it is registered. */
  #register(): Promise<void> {
    return this.#run(this.#context.slot.register(this.base))
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
      this.#round,
    ]
    let taken = await this.#inRound(scripts.take(work, this.base, args))
    if (taken.kind === 'missing' && (await this.create())) {
      taken = await this.#inRound(scripts.take(work, this.base, args))
    }
    if (taken.kind === 'ok') return taken
    throw this.#gone()
  }

  #gone(): BrokerError {
    return new BrokerError('queue_not_found', `There is no queue '${this.name}'.`)
  }

  /** For calls of the slot that must not take effect once nobody waits for them any more. */
  async #inRound<T>(reply: Promise<T>): Promise<T> {
    try {
      return await reply
    } catch (error) {
      this.#round++
      throw unavailable(error)
    }
  }

  async #run<T>(reply: Promise<T>): Promise<T> {
    try {
      return await reply
    } catch (error) {
      throw unavailable(error)
    }
  }
}
