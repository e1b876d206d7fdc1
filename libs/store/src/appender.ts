/**
 * Group commit: what is published to a queue while an append travels goes out together in the next.
 *
 * Hot path. A message costs one push onto each of a few arrays; a batch costs one script call, one
 * stream entry and one reply. Batches leave in flights: the next leaves when the last is answered
 * whole, so under load batches are full and publishers get no further ahead than consumers can
 * follow. A flight is one batch where Redis is near, and a few, up to APPENDS_IN_FLIGHT_MAX, where
 * each answer takes long (a distant Redis, an fsync a write; never in a cluster). Each batch of a
 * flight has a lane with a sequence of its own, so that a call sent again after a lost reply is
 * recognised (append.lua). At low rates a batch holds one message and nothing waits. Measured by
 * test/bench/store.bench.ts and test/bench/amqp.bench.ts.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { type Appended, limits } from '@sluice/core'
import type { Redis } from 'ioredis'
import { isCluster, nodeOf, outcomeOf, passes, RETRY_DELAY_MS } from './redis.ts'
import type { ScriptValue } from './script.ts'
import type { AppendOutcome } from './scripts.ts'
import { append } from './scripts.ts'

/** 'crowded': refused by a waiting room, since its client has its share; a queue never says it. */
export type Admitted = Appended | 'crowded'

/** Hears what became of an append. One object serves many messages, told apart by token. */
export interface AppendReply<Q, Outcome = Appended> {
  /** Called exactly once for each append, never during it. */
  appended(token: number, outcome: Outcome, queue: Q): void
  /** Whether it waits for as long as Redis is away, and is told no 'unavailable' meanwhile. */
  readonly patient?: boolean
}

/** What the appender asks of its queue at each flush. */
export interface AppendTarget {
  readonly base: string
  readonly epoch: number
  readonly name: string
  /** See the prelude's options, append's limits, queue TTL and window. */
  readonly scriptOptions: string
  readonly scriptLimits: string
  readonly ttlMs: number
  readonly dedupWindowMs: number
  readonly levels: number
  /** The room that admits its messages (append.lua), '' = none. */
  readonly scriptRoom: string
  /** Told at a refusal how long half of what waits will take, ms; -1 = not known. */
  refused(halfMs: number): void
}

/** The batch being gathered: parallel arrays, so that a message allocates nothing. */
interface Gathered<Q> {
  records: Buffer[]
  /** undefined once it was told. */
  replies: (AppendReply<Q, Admitted> | undefined)[]
  tokens: number[]
  levels: number[]
  delays: number[]
  dedupIds: string[]
  /** With a room: each message's client, as append.lua reads it. */
  clients: Buffer[]
  bytes: number
  soonestTtlMs: number
  plain: boolean
}

function gather<Q>(): Gathered<Q> {
  return {
    records: [],
    replies: [],
    tokens: [],
    levels: [],
    delays: [],
    dedupIds: [],
    clients: [],
    bytes: 0,
    soonestTtlMs: -1,
    plain: true,
  }
}

/** A flight has a batch for each so many ms that the quickest one lately took. */
const MS_PER_BATCH = 0.6
/** Times a batch is sent that finds no keys of its queue. */
const ATTEMPTS_MAX = 3
/** Flights between two looks at how long they take. */
const FLIGHTS_LOOKED_AT = 64

const LETTER_DUPLICATE = 'd'.charCodeAt(0)
const LETTER_FULL = 'f'.charCodeAt(0)
const LETTER_WAIT = 'w'.charCodeAt(0)
const LETTER_CROWDED = 'c'.charCodeAt(0)
const EMPTY = Buffer.alloc(0)

interface AppenderOptions<Q> {
  readonly redis: Redis
  readonly queue: Q & AppendTarget
  /**
   * This process's slot, for the names of its writers; asked at each flush, since it may change.
   */
  readonly slot: () => string
  /** Replicas that must have it before it counts as stored; 0 = none. */
  readonly replicas: number
  readonly replicaWaitMs: number
  /** Called once a turn when there is something to flush. */
  readonly schedule: (flush: () => void) => void
  /** Called when bytes start and stop waiting here. */
  readonly backlog: (bytes: number) => void
  /** Makes the queue's keys when they are missing; false when the queue is gone. */
  readonly restore: () => Promise<boolean>
  readonly report: (error: unknown) => void
  readonly timeoutMs: number
  /** Hears how many messages each call stores together. */
  readonly batch?: ((messages: number) => void) | undefined
}

/** Lanes are numbered over the whole process: with the slot before it, a number is used once. */
let lanesMade = 0

export class Appender<Q> {
  readonly #options: AppenderOptions<Q>
  readonly #waiting: Gathered<Q>[] = []
  #open: Gathered<Q> = gather()
  #scheduled = false
  /** Sequence of each lane, by its number; a lane is free while it is in #free. */
  readonly #sequences = new Map<number, number>()
  readonly #free: number[] = []
  /** Most batches in a flight. */
  #flightMax = 1
  #flights = 0
  #sentMs = 0
  /** Of the flights since the last look. */
  #quickestMs = Number.POSITIVE_INFINITY
  readonly #flush = () => this.#send()

  constructor(options: AppenderOptions<Q>) {
    this.#options = options
    // WAIT covers all earlier writes of its connection, so one lane is enough there. A cluster's
    // client sends each call again by itself (MOVED, TRYAGAIN): of two, the later might be first.
    const single = options.replicas > 0 || isCluster(options.redis)
    const lanes = single ? 1 : limits.APPENDS_IN_FLIGHT_MAX
    for (let left = lanes; left > 0; left--) {
      this.#sequences.set(lanesMade, 0)
      this.#free.push(lanesMade++)
    }
  }

  /**
   * @param record from encodeRecord; kept until Redis has answered.
   * @param client for a room: whose message it is (append.lua, extras).
   */
  append(
    record: Buffer,
    priority: number,
    ttlMs: number,
    delayMs: number,
    dedupId: string,
    reply: AppendReply<Q, Admitted>,
    token: number,
    client?: Buffer,
  ): void {
    let open = this.#open
    if (
      open.records.length >= limits.BATCH_RECORDS_MAX ||
      (open.bytes + record.length > limits.BATCH_BYTES_MAX && open.records.length > 0)
    ) {
      this.#waiting.push(open)
      open = this.#open = gather()
    }
    const level = Math.min(priority, this.#options.queue.levels - 1)
    open.records.push(record)
    open.replies.push(reply)
    open.tokens.push(token)
    open.levels.push(level)
    open.delays.push(delayMs)
    open.dedupIds.push(dedupId)
    open.bytes += record.length
    if (ttlMs >= 0 && (open.soonestTtlMs < 0 || ttlMs < open.soonestTtlMs)) {
      open.soonestTtlMs = ttlMs
    }
    if (client !== undefined) open.clients.push(client)
    if (level !== 0 || delayMs !== 0 || dedupId !== '' || client !== undefined) open.plain = false
    this.#options.backlog(record.length)
    if (!this.#scheduled && !this.#flying) {
      this.#scheduled = true
      this.#options.schedule(this.#flush)
    }
  }

  get #flying(): boolean {
    return this.#free.length < this.#sequences.size
  }

  #send(): void {
    this.#scheduled = false
    this.#sentMs = performance.now()
    for (let left = Math.min(this.#flightMax, this.#free.length); left > 0; left--) {
      const batch = this.#waiting.shift() ?? this.#open
      if (batch.records.length === 0) return
      if (batch === this.#open) this.#open = gather()
      this.#sendOn(this.#free.pop()!, batch)
    }
  }

  /** The quickest flight tells how far Redis is; the others also tell how busy everybody is. */
  #landed(): void {
    this.#quickestMs = Math.min(this.#quickestMs, performance.now() - this.#sentMs)
    if (++this.#flights < FLIGHTS_LOOKED_AT) return
    const batches = Math.round(this.#quickestMs / MS_PER_BATCH)
    this.#flightMax = Math.max(1, Math.min(batches, limits.APPENDS_IN_FLIGHT_MAX))
    this.#flights = 0
    this.#quickestMs = Number.POSITIVE_INFINITY
  }

  #sendOn(lane: number, batch: Gathered<Q>): void {
    const sequence = this.#sequences.get(lane)! + 1
    this.#sequences.set(lane, sequence)
    this.#options.batch?.(batch.records.length)
    const pending = this.#attempt(lane, sequence, batch)
    // The lane stays busy until Redis answers; only publishers without patience stop waiting.
    const timer = setInterval(() => this.#giveUp(batch), this.#options.timeoutMs)
    pending
      .then(
        ([outcome, durable]) => this.#answer(batch, outcome, durable),
        (error) => {
          const outcome = outcomeOf(error)
          if (outcome === 'unavailable') this.#options.report(error)
          this.#tell(batch, () => outcome)
          if (outcome !== 'unavailable') this.#refuseWaiting(outcome)
        },
      )
      .finally(() => {
        clearInterval(timer)
        this.#options.backlog(-batch.bytes)
        this.#free.push(lane)
        if (this.#flying) return
        this.#landed()
        this.#send()
      })
      .catch(this.#options.report)
  }

  /** Sends a batch; makes the queue's keys when they are missing and sends it again. */
  async #attempt(
    lane: number,
    sequence: number,
    batch: Gathered<Q>,
  ): Promise<[AppendOutcome, boolean]> {
    const { queue, slot, restore } = this.#options
    const args = [
      queue.scriptOptions,
      queue.epoch,
      `${slot()}:${lane}`,
      sequence,
      batch.records.length,
      batch.records.length === 1 ? batch.records[0]! : Buffer.concat(batch.records),
      batch.soonestTtlMs,
      queue.ttlMs,
      queue.scriptLimits,
      queue.dedupWindowMs,
      batch.plain ? EMPTY : extras(batch),
      queue.scriptRoom,
    ]
    for (let attempts = ATTEMPTS_MAX; ; attempts--) {
      const [outcome, durable] = await this.#store(args)
      if (outcome.kind !== 'missing' || attempts === 1) return [outcome, durable]
      if (!(await restore())) return [{ kind: 'gone' }, true]
    }
  }

  /** Sends an append, and answers whether it is on as many replicas as it has to be. */
  async #store(args: readonly ScriptValue[]): Promise<[AppendOutcome, boolean]> {
    const { redis, queue, replicas, replicaWaitMs, timeoutMs } = this.#options
    if (replicas === 0) return [await append(redis, queue.base, args), true]
    const until = performance.now() + timeoutMs
    for (;;) {
      try {
        const node = await nodeOf(redis, queue.base)
        // On the same connection, right behind the append: WAIT answers for it.
        const [outcome, reached] = await Promise.all([
          append(node, queue.base, args),
          node.wait(replicas, replicaWaitMs),
        ])
        return [outcome, reached >= replicas]
      } catch (error) {
        // A failover, or a slot on its way to another node: what was stored is not stored again.
        if (!passes(error) || performance.now() > until) throw error
        await sleep(RETRY_DELAY_MS)
        await redis.exists(queue.base).catch(() => {}) // a cluster's client follows the move
      }
    }
  }

  #answer(batch: Gathered<Q>, outcome: AppendOutcome, durable: boolean): void {
    if (outcome.kind !== 'stored') {
      this.#tell(batch, () => (outcome.kind === 'gone' ? 'gone' : 'unavailable'))
      return
    }
    const stored = durable ? 'stored' : 'not-durable'
    const { letters, halfMs = -1 } = outcome
    if (!letters) {
      this.#tell(batch, () => stored)
      return
    }
    this.#options.queue.refused(halfMs)
    this.#tell(batch, (index) => {
      if (letters[index] === LETTER_FULL || letters[index] === LETTER_WAIT) return 'full'
      if (letters[index] === LETTER_CROWDED) return 'crowded'
      if (letters[index] === LETTER_DUPLICATE) return durable ? 'duplicate' : 'not-durable'
      return stored
    })
  }

  #tell(batch: Gathered<Q>, outcomeOf: (index: number) => Admitted): void {
    const { replies, tokens } = batch
    for (let index = 0; index < replies.length; index++) {
      replies[index]?.appended(tokens[index]!, outcomeOf(index), this.#options.queue)
    }
  }

  /** What came after a batch that Redis refused must not overtake it. */
  #refuseWaiting(outcome: Admitted): void {
    const behind = [...this.#waiting.splice(0), this.#open]
    this.#open = gather()
    for (const batch of behind) {
      this.#options.backlog(-batch.bytes)
      this.#tell(batch, () => outcome)
    }
  }

  #giveUp({ replies, tokens }: Gathered<Q>): void {
    for (const [index, reply] of replies.entries()) {
      if (reply === undefined || reply.patient) continue
      replies[index] = undefined
      reply.appended(tokens[index]!, 'unavailable', this.#options.queue)
    }
  }
}

/** '>BI6Bc0' a message: level, delay, de-duplication id; and its client (append.lua). */
function extras<Q>({ levels, delays, dedupIds, clients }: Gathered<Q>): Buffer {
  let size = 8 * levels.length
  for (const id of dedupIds) size += Buffer.byteLength(id)
  for (const client of clients) size += client.length
  const bytes = Buffer.allocUnsafe(size)
  let at = 0
  for (let index = 0; index < levels.length; index++) {
    at = bytes.writeUInt8(levels[index]!, at)
    at = bytes.writeUIntBE(delays[index]!, at, 6)
    const length = bytes.write(dedupIds[index]!, at + 1, 'utf8')
    at = bytes.writeUInt8(length, at) + length
    if (clients.length > 0) at += clients[index]!.copy(bytes, at)
  }
  return bytes
}
