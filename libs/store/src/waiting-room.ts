/**
 * A way into a queue that admits only so much: a waiting room with a limit, and a fair order of
 * those who wait where that is asked for. What it guarantees is said in lua/append.lua.
 *
 * Everything is decided in the script that stores, so any number of processes admit exactly.
 */
import type { Message } from '@sluice/core'
import type { Admitted, Appender, AppendReply, AppendTarget } from './appender.ts'
import { openAppender, type QueueContext } from './queue-context.ts'
import type { QueueStore } from './queue-store.ts'
import { encodeRecord } from './record.ts'
import { both, replicasOf, safetyOf } from './safety.ts'

export interface RoomOptions {
  /** Most messages in the queue, those held and delayed included. */
  readonly waitingMax: number
  /** None is admitted while the next one to go has waited for so long, ms; 0 = any time. */
  readonly oldestMs: number
  /** Clients wait by turns, and none takes more than its share. */
  readonly fair: boolean
  /** An id admitted once is not admitted again for so long, ms. */
  readonly dedupWindowMs: number
}

export type RoomReply = AppendReply<WaitingRoom, Admitted>

export class WaitingRoom implements AppendTarget {
  readonly scriptRoom: string
  readonly dedupWindowMs: number
  readonly queue: QueueStore
  /**
   * How long half of what waits will take, ms, by the rate at which the queue emptied of late;
   * -1 = not known. True while a reply hears 'full' or 'crowded'.
   */
  halfMs = -1
  readonly #context: QueueContext
  readonly #appenders = new Map<number, Appender<WaitingRoom>>()

  constructor(context: QueueContext, queue: QueueStore, options: RoomOptions) {
    const { waitingMax, oldestMs, fair, dedupWindowMs } = options
    this.#context = context
    this.queue = queue
    this.scriptRoom = `${waitingMax} ${oldestMs} ${fair ? 1 : 0}`
    this.dedupWindowMs = dedupWindowMs
  }

  get base(): string {
    return this.queue.base
  }
  get epoch(): number {
    return this.queue.epoch
  }
  get name(): string {
    return this.queue.name
  }
  get scriptOptions(): string {
    return this.queue.scriptOptions
  }
  get scriptLimits(): string {
    return this.queue.scriptLimits
  }
  get ttlMs(): number {
    return this.queue.ttlMs
  }
  get levels(): number {
    return this.queue.levels
  }

  refused(halfMs: number): void {
    this.halfMs = halfMs
  }

  /**
   * Stores a message, if there is room for it: sealed where the queue is encrypted.
   *
   * @param client from roomClient.
   * @param reply hears the outcome later, once, with `token`.
   */
  publish(message: Message, client: Buffer, reply: RoomReply, token: number): void {
    const { sealing, settings } = this.queue
    if (settings.encryption === 'none') {
      this.#append(encodeRecord(message), message.dedupId, client, reply, token)
      return
    }
    sealing.withKey(message, reply, (key) => {
      if (typeof key === 'string') return process.nextTick(() => reply.appended(token, key, this))
      const record = sealing.encode(message, key, { record: undefined, sealed: undefined })
      const id = message.dedupId && key.pseudonym('message id', message.dedupId)
      this.#append(record, id, sealing.client(key, client), reply, token)
    })
  }

  #append(record: Buffer, dedupId: string, client: Buffer, reply: RoomReply, token: number): void {
    const { safety, refusal } = this.#context
    const asked = both(safety, safetyOf(this.queue.settings.durability))
    const refused = refusal(asked)
    if (refused !== undefined) {
      process.nextTick(() => reply.appended(token, refused, this))
      return
    }
    const appender = this.#appender(replicasOf(asked))
    appender.append(record, 0, -1, 0, dedupId, reply, token, client)
  }

  #appender(replicas: number): Appender<WaitingRoom> {
    let appender = this.#appenders.get(replicas)
    if (!appender) {
      appender = openAppender<WaitingRoom>(this.#context, this, replicas, () => this.queue.create())
      this.#appenders.set(replicas, appender)
    }
    return appender
  }
}
