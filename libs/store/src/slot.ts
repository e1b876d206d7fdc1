/**
 * A process's name in the consumer groups, and its ear for wake-ups.
 *
 * A name is new at each start and alive while its heartbeat key is. What a name without heartbeat
 * holds is reclaimed by any reaper. A process that was paused past its heartbeat finds its key
 * gone: what it held is someone else's by then, so it goes on under a new name and tells `onLost`.
 *
 * The heartbeat carries the process's id and a note, for what processes must know of each other
 * while they live.
 *
 * The number in a name is random. A counter in Redis would come back with an older copy of its data
 * and give a name twice: two processes would pass for one, and appends of the one for the other's.
 */
import { randomInt } from 'node:crypto'
import { limits, type Report } from '@sluice/core'
import type { Redis } from 'ioredis'
import { AGENDA_CHANNEL, SLOTS_BASE, wakeChannel } from './keys.ts'

/** Lua writes a number of more than 14 digits with an exponent. */
const NUMBERS = 1e14

const ALL = `${SLOTS_BASE}all`
const aliveKey = (slot: string) => `${SLOTS_BASE}alive:${slot}`
const queuesKey = (slot: string) => `${SLOTS_BASE}queues:${slot}`

export class Slot {
  readonly #redis: Redis
  readonly #subscriber: Redis
  readonly #report: Report
  readonly #onWake: (base: string) => void
  readonly #onLost: () => void
  #onAgenda: ((base: string, atMs: number) => void) | undefined
  /** What this process lets the others know. */
  note: () => string = () => ''
  #name = ''
  /** Queues in which this name may have left something. */
  #queues = new Map<string, Promise<void>>()
  #timer: NodeJS.Timeout | undefined
  /** The heartbeat that waits for its reply. */
  #beating: Promise<void> | undefined

  constructor(
    redis: Redis,
    subscriber: Redis,
    report: Report,
    on: { wake: (base: string) => void; lost: () => void },
  ) {
    this.#redis = redis
    this.#subscriber = subscriber
    this.#report = report
    this.#onWake = on.wake
    this.#onLost = on.lost
  }

  get name(): string {
    return this.#name
  }

  /** The number in the name; held messages carry it (lua/prelude.lua, held). */
  get number(): number {
    return Number(this.#name.slice(1))
  }

  async open(): Promise<void> {
    this.#subscriber.on('message', this.#hear)
    await this.#take()
    let listening = false
    this.#timer = setInterval(() => {
      if (!listening) {
        // Half-open it would hear nothing for ever: an unanswered command ends it (redis.ts).
        listening = true
        const heard = () => {
          listening = false
        }
        this.#subscriber.ping().then(heard, heard)
      }
      this.#beating ??= this.#beat()
        .catch(this.#report)
        .finally(() => {
          this.#beating = undefined
        })
    }, limits.SLOT_HEARTBEAT_MS)
    this.#timer.unref()
  }

  readonly #hear = (channel: string, payload: string): void => {
    if (channel === AGENDA_CHANNEL) {
      const space = payload.lastIndexOf(' ')
      this.#onAgenda?.(payload.slice(0, space), Number(payload.slice(space + 1)))
    } else if (channel === wakeChannel(this.#name)) {
      this.#onWake(payload)
    }
  }

  /** Hears of the next time something happens in a queue; for reapers. */
  async onAgenda(listener: (base: string, atMs: number) => void): Promise<void> {
    this.#onAgenda = listener
    await this.#subscriber.subscribe(AGENDA_CHANNEL)
  }

  /**
   * Notes that this name may hold something in a queue, before it does: a reaper looks there when
   * the name is dead.
   */
  register(base: string): Promise<void> {
    let registered = this.#queues.get(base)
    if (!registered) {
      registered = this.#redis.sadd(queuesKey(this.#name), base).then(
        () => {},
        (error) => {
          this.#queues.delete(base)
          throw error
        },
      )
      this.#queues.set(base, registered)
    }
    return registered
  }

  /** Names without heartbeat, and the bases of the queues in which each may have left something. */
  async dead(): Promise<{ slot: string; bases: string[] }[]> {
    const dead = (await this.#beats()).filter(({ beat }) => beat === null)
    return Promise.all(
      dead.map(async ({ slot }) => ({ slot, bases: await this.#redis.smembers(queuesKey(slot)) })),
    )
  }

  /** Forgets that a dead name left something in these queues; without any left, the name. */
  async forget(slot: string, bases: readonly string[]): Promise<void> {
    if (bases.length > 0) await this.#redis.srem(queuesKey(slot), ...bases)
    if ((await this.#redis.exists(queuesKey(slot))) === 0) await this.#redis.srem(ALL, slot)
  }

  async isAlive(slot: string): Promise<boolean> {
    return (await this.#redis.exists(aliveKey(slot))) === 1
  }

  /** Names with heartbeat. */
  async alive(): Promise<string[]> {
    return (await this.#beats()).flatMap(({ slot, beat }) => (beat === null ? [] : [slot]))
  }

  /** Whether, of all names with heartbeat, this one is the first: one process answers for all. */
  async isFirst(): Promise<boolean> {
    return (await this.alive()).sort()[0] === this.#name
  }

  /** Sends a heartbeat before it is due, for its note. */
  async tell(): Promise<void> {
    await this.#renew()
  }

  /** The notes of the others with heartbeat; '' = none. */
  async notes(): Promise<string[]> {
    return (await this.#beats()).flatMap(({ slot, beat }) =>
      beat === null || slot === this.#name ? [] : [beat.slice(beat.indexOf(' ') + 1)],
    )
  }

  /** All names, each with what its last heartbeat said; null = it is dead. */
  async #beats(): Promise<{ slot: string; beat: string | null }[]> {
    const all = await this.#redis.smembers(ALL)
    if (all.length === 0) return []
    const beats = await this.#redis.mget(all.map(aliveKey))
    return all.map((slot, index) => ({ slot, beat: beats[index]! }))
  }

  /** Ends the heartbeat; reapers take over whatever is still held. */
  async close(): Promise<void> {
    clearInterval(this.#timer)
    await this.#beating // which may be about to take another name
    // What came until here is passed on before the answer; what comes later could not be.
    this.#subscriber.off('message', this.#hear)
    await this.#redis.del(aliveKey(this.#name))
  }

  async #take(): Promise<void> {
    const previous = this.#name
    const name = `d${randomInt(1, NUMBERS)}`
    await this.#redis.set(aliveKey(name), this.#said(), 'PX', limits.SLOT_TTL_MS)
    await this.#redis.sadd(ALL, name)
    await this.#subscriber.subscribe(wakeChannel(name))
    if (previous !== '') await this.#subscriber.unsubscribe(wakeChannel(previous))
    const bases = [...this.#queues.keys()]
    this.#queues = new Map()
    this.#name = name
    if (bases.length === 0) return
    // Since it was taken for dead and perhaps forgotten, more may have been taken in its name.
    await this.#redis.sadd(queuesKey(previous), ...bases)
    await this.#redis.sadd(ALL, previous)
  }

  async #beat(): Promise<void> {
    if (await this.#renew()) return
    await this.#take()
    this.#onLost()
  }

  #said(): string {
    return `${process.pid} ${this.note()}`
  }

  /** False when the name is taken for dead. */
  async #renew(): Promise<boolean> {
    const key = aliveKey(this.#name)
    return (await this.#redis.set(key, this.#said(), 'PX', limits.SLOT_TTL_MS, 'XX')) !== null
  }
}
