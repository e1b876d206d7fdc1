/**
 * Everything of ours that is in Redis, opened once a process.
 *
 * Holds the connections, this process's slot, and the queues it works with; knows what the server
 * can promise at the moment and refuses what it cannot (`refusal`), so that no promise is faked.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { type Appended, BrokerError, type Durability, limits, type Report } from '@sluice/core'
import type { Redis } from 'ioredis'
import { Budget } from './budget.ts'
import { Definitions } from './definitions.ts'
import { checkFormat } from './format.ts'
import { Jobs } from './jobs.ts'
import { KeyRing } from './key-ring.ts'
import { directChannel, parseQueueBase } from './keys.ts'
import type { QueueContext } from './queue-context.ts'
import { QueueStore } from './queue-store.ts'
import { decodeRecord, type MessageRecord, SIZE_BYTES } from './record.ts'
import {
  connect,
  isCluster,
  notReached,
  type RedisTarget,
  readServerState,
  type ServerState,
  twinOf,
  unavailable,
} from './redis.ts'
import { Requests } from './requests.ts'
import { needsFsync, replicasOf, type Safety, safetyOf } from './safety.ts'
import type { QueueSettings } from './settings.ts'
import { Slot } from './slot.ts'
import { type RoomOptions, WaitingRoom } from './waiting-room.ts'

export interface StoreOptions extends RedisTarget {
  readonly report: Report
  /** The least durability of every message. */
  readonly durability?: Durability
  /** Share of maxmemory at which publishes are refused, 0..1. */
  readonly memoryHigh?: number
  /** Start although Redis may evict keys, that is, lose messages. */
  readonly allowEviction?: boolean
  /** How long a publisher waits for Redis before it is told that the outcome is unknown. */
  readonly appendTimeoutMs?: number
  /** How long an append waits for replicas. */
  readonly replicaTimeoutMs?: number
  /** Hears each second how long Redis took to answer, behind what is under way. */
  readonly roundTrip?: (seconds: number) => void
  /** Hears how many messages each append stores together. */
  readonly batch?: (messages: number) => void
  /** Hears of each message that ended since it never will be read. */
  readonly unreadable?: (vhost: string, queue: string, why: 'shredded' | 'forged') => void
}

/**
 * Redis 7.0 is the floor: XAUTOCLAIM's deleted entries, ZRANGEBYLEX in scripts, no effects flag.
 */
const VERSION_MIN = 7
const STATE_EVERY_MS = 1_000
/** Looks in a row without an answer after which publishers are asked to wait. */
const UNANSWERED_MAX = 3
/** A look comes early once this much of the room for messages was used. */
const EARLY_LOOK_SHARE = 0.25
/** Between looks while replicas are missing that a publish must have, ms. */
const REPLICAS_LOOK_MS = 100
/** How long a closing store waits for Redis to answer what was sent. */
const CLOSE_MS_MAX = 5_000

/** Opens the store; throws a BrokerError that says what to change when Redis will not do. */
export async function openStore(options: StoreOptions): Promise<Store> {
  const connections: Redis[] = []
  try {
    for (const role of ['writes', 'work', 'subscriber'] as const) {
      connections.push(await connect(options, role))
    }
    const [writes, work, subscriber] = connections as [Redis, Redis, Redis]
    const state = await readServerState(work)
    checkServer(state, options)
    if (state.mode === 'cluster' && !isCluster(work)) await checkAlone(work)
    await checkFormat(work)
    const store = new Store(options, { writes, work, subscriber }, state)
    await store.slot.open()
    return store
  } catch (error) {
    for (const connection of connections) connection.disconnect()
    throw notReached(options, error)
  }
}

/** A node that serves all slots of its cluster can be used as a server of its own. */
async function checkAlone(redis: Redis): Promise<void> {
  const info = String(await redis.cluster('INFO').catch(() => '')) // it may not be allowed to ask
  const isAlone = info.includes('cluster_slots_ok:16384\r') && info.includes('cluster_size:1\r')
  if (isAlone || info === '') return
  throw new BrokerError(
    'store_unavailable',
    'This Redis is part of a cluster: begin REDIS_URL with redis+cluster://.',
  )
}

function checkServer(state: ServerState, { allowEviction = false }: StoreOptions): void {
  if (state.mode === 'sentinel') {
    throw new BrokerError(
      'store_unavailable',
      'This is a sentinel: REDIS_URL must be like redis+sentinel://host:26379/mymaster.',
    )
  }
  if (Number.parseInt(state.version, 10) < VERSION_MIN) {
    throw new BrokerError(
      'store_unavailable',
      `Redis ${state.version} is too old: Sluice needs Redis ${VERSION_MIN}.0 or Valkey.`,
    )
  }
  if (state.evictionPolicy !== 'noeviction' && !allowEviction) {
    throw new BrokerError(
      'store_unavailable',
      `Redis has maxmemory-policy ${state.evictionPolicy}, which would delete messages under memory ` +
        'pressure. Set it to noeviction (redis-cli CONFIG SET maxmemory-policy noeviction).',
    )
  }
}

export class Store {
  readonly slot: Slot
  /** The topology as stored. */
  readonly definitions: Definitions
  readonly jobs: Jobs
  /** Called when this process was taken for dead: what it held and attached is no more. */
  readonly onLost = new Set<() => void>()
  /** What became of requests that ingests accepted. */
  readonly requests: Requests
  /** Of queues that are encrypted. */
  readonly keys: KeyRing
  readonly #options: StoreOptions
  readonly #writes: Redis
  readonly #work: Redis
  readonly #subscriber: Redis
  #replicated: Redis | undefined
  #state: ServerState
  #stateFresh = true
  /** Looks since the last one that was answered. */
  #unanswered = 0
  readonly #stateTimer: NodeJS.Timeout
  readonly #queues = new Map<string, QueueStore>()
  readonly #flushes: (() => void)[] = []
  #backlogBytes = 0
  /** Since the last look at the server's state. */
  #storedBytes = 0
  #lookingEarly = false
  #closing = false
  readonly #context: QueueContext

  constructor(
    options: StoreOptions,
    { writes, work, subscriber }: { writes: Redis; work: Redis; subscriber: Redis },
    state: ServerState,
  ) {
    this.#options = options
    this.keys = new KeyRing(options.report)
    this.#writes = writes
    this.#work = work
    this.#subscriber = subscriber
    this.#state = state
    this.definitions = new Definitions(work, subscriber)
    this.jobs = new Jobs(work, () => connect(options, 'jobs'))
    this.requests = new Requests(writes, work, this.keys, () => this.slot.name)
    this.slot = new Slot(work, subscriber, options.report, {
      wake: (base) => (this.#queues.get(base) ?? this.requests).wake(base),
      lost: () => {
        options.report(new Error('this process was away for longer than its heartbeat'))
        for (const listener of [...this.onLost]) listener()
      },
    })
    this.#context = {
      work,
      writes,
      slot: this.slot,
      report: options.report,
      schedule: (flush) => this.#schedule(flush),
      batch: options.batch,
      keys: this.keys,
      unreadable: options.unreadable ?? (() => {}),
      backlog: (bytes) => {
        this.#backlogBytes += bytes
        if (bytes < 0) this.#stored(-bytes)
      },
      refusal: (safety) => this.#refusal(safety),
      safety: safetyOf(options.durability ?? 'memory'),
      replicated: () => this.#openReplicated(),
      timeouts: {
        appendMs: options.appendTimeoutMs ?? 10_000,
        replicaMs: options.replicaTimeoutMs ?? 1_000,
      },
    }
    this.#stateTimer = setInterval(() => {
      this.#unanswered++
      this.#measureRoundTrip()
      this.#look().catch(options.report)
    }, STATE_EVERY_MS)
    this.#stateTimer.unref()
  }

  /** For topology and maintenance, which live beside the queues in the same Redis. */
  get redis(): Redis {
    return this.#work
  }

  /** The queue of this name and epoch; `settings` take effect at once, here. */
  queue(vhost: string, name: string, epoch: number, settings: QueueSettings): QueueStore {
    const queue = new QueueStore(this.#context, vhost, name, epoch, settings)
    const known = this.#queues.get(queue.base)
    if (known?.epoch === epoch) {
      known.settings = settings
      return known
    }
    this.#queues.set(queue.base, queue)
    return queue
  }

  /** What all processes together may send for a subscription. */
  budget(vhost: string, subscription: string): Budget {
    return new Budget(this.#work, vhost, subscription, () => this.slot.name)
  }

  /** A way into a queue that admits only so much; to be kept while its options stay the same. */
  waitingRoom(queue: QueueStore, options: RoomOptions): WaitingRoom {
    return new WaitingRoom(this.#context, queue, options)
  }

  /** Lets go of a queue that was deleted. */
  forget(queue: QueueStore): void {
    if (this.#queues.get(queue.base) === queue) this.#queues.delete(queue.base)
    for (const listener of [...queue.onForgotten]) listener()
  }

  /** Names without heartbeat and the queues in which each may have left something. */
  async deadSlots(): Promise<
    { slot: string; queues: { vhost: string; name: string; base: string }[] }[]
  > {
    const dead = await this.slot.dead()
    return dead.map(({ slot, bases }) => ({
      slot,
      queues: bases.map((base) => ({ base, ...(parseQueueBase(base) ?? { vhost: '', name: '' }) })),
    }))
  }

  /** Redis's clock, ms: the only one that decides anything. */
  async nowMs(): Promise<number> {
    try {
      const [seconds, micros] = await this.#work.time()
      return Number(seconds) * 1_000 + Math.floor(Number(micros) / 1_000)
    } catch (error) {
      throw unavailable(error)
    }
  }

  /** Whether Redis answered within the last second. */
  get reachable(): boolean {
    return this.#stateFresh
  }

  /** Whether publishes are refused for want of memory. */
  get memoryHigh(): boolean {
    return this.#memoryHigh
  }

  /**
   * What was promised of all messages and cannot be kept at the moment; a sentence each. Shortage
   * is none, nor is a key of encryption (KeyRing.broken).
   */
  broken(): string[] {
    const { aof, evictionPolicy, persistenceFailing } = this.#state
    const promised = this.#options.durability ?? 'memory'
    const broken: string[] = []
    if (!this.canPromise(promised)) broken.push(`Durability ${promised} cannot be had.`)
    if (persistenceFailing) {
      broken.push(`Redis cannot write its ${aof ? 'AOF' : 'snapshot'} to disk.`)
    }
    if (evictionPolicy !== 'noeviction' && !this.#options.allowEviction) {
      broken.push(`Redis may delete messages: maxmemory-policy is ${evictionPolicy}.`)
    }
    return broken
  }

  /** What the server was like at most a second ago. */
  get state(): ServerState {
    return this.#state
  }

  /**
   * What the server lacks, for publishers that can wait: 'low on memory', 'low on disk'; that it
   * does not answer.
   */
  get alarms(): string[] {
    if (this.#unanswered > UNANSWERED_MAX) return ['Redis does not answer']
    const alarms: string[] = []
    if (this.#memoryHigh) alarms.push('low on memory')
    if (this.#state.persistenceFailing) alarms.push('low on disk')
    return alarms
  }

  /** Whether Redis answers. */
  async ping(): Promise<boolean> {
    try {
      await this.#work.ping()
      return true
    } catch {
      return false
    }
  }

  /** Where persistence is weaker than one may believe; a sentence each, with the remedy. */
  warnings(): string[] {
    const { aof, fsync, snapshots, persistenceFailing, evictionPolicy } = this.#state
    const promised = this.#options.durability ?? 'memory'
    const warnings: string[] = []
    if (!aof) {
      warnings.push(
        snapshots
          ? 'Redis has no AOF: a restart loses everything since the last snapshot. CONFIG SET appendonly yes.'
          : 'Redis persists nothing: a restart loses every message. CONFIG SET appendonly yes.',
      )
    } else if (fsync === 'no') {
      warnings.push(
        'Redis leaves fsync to the system (appendfsync no): a crash of the machine may lose half a minute. CONFIG SET appendfsync everysec.',
      )
    }
    if (persistenceFailing)
      warnings.push('The last write of the AOF or snapshot failed; see the log of Redis.')
    if (evictionPolicy !== 'noeviction') {
      warnings.push(
        `maxmemory-policy is ${evictionPolicy}: Redis may delete messages. CONFIG SET maxmemory-policy noeviction.`,
      )
    }
    if (!this.canPromise(promised)) {
      warnings.push(
        `${promised} is promised for every message and cannot be kept: publishes are refused until it can.`,
      )
    }
    return warnings
  }

  /** Whether a promise of this durability can be kept at the moment. */
  canPromise(durability: Durability): boolean {
    const refusal = this.#refusal(safetyOf(durability))
    return refusal !== 'not-durable' && refusal !== 'disk-low'
  }

  /** Hands a message to one process, past all queues; false when that process is not there. */
  async sendDirect(slot: string, address: string, record: Buffer): Promise<boolean> {
    const name = Buffer.from(address)
    const payload = Buffer.concat([Buffer.from([name.length]), name, record])
    try {
      const sent = this.#work.publish(directChannel(slot), payload)
      const [alive] = await Promise.all([this.slot.isAlive(slot), sent])
      return alive
    } catch (error) {
      throw unavailable(error)
    }
  }

  /** Whether a process hears of messages sent directly to it. */
  async hearsDirect(slot: string): Promise<boolean> {
    try {
      return await this.slot.isAlive(slot)
    } catch (error) {
      throw unavailable(error)
    }
  }

  /** Hears of messages sent directly to this process, by whatever name it goes. */
  async onDirect(listener: (address: string, record: MessageRecord) => void): Promise<void> {
    let channel = directChannel(this.slot.name)
    this.#subscriber.on('messageBuffer', (from: Buffer, payload: Buffer) => {
      if (from.toString() !== channel) return
      const start = 1 + payload[0]!
      const record = decodeRecord(payload, start + SIZE_BYTES, payload.length, Date.now(), 0)
      listener(payload.toString('utf8', 1, start), record)
    })
    this.onLost.add(() => {
      const before = channel
      channel = directChannel(this.slot.name)
      const { report } = this.#options
      Promise.all([
        this.#subscriber.subscribe(channel),
        this.#subscriber.unsubscribe(before),
      ]).catch(report)
    })
    await this.#subscriber.subscribe(channel)
  }

  /** Waits for appends under way, bounded, then ends the heartbeat and the connections. */
  async close(): Promise<void> {
    clearInterval(this.#stateTimer)
    this.#closing = true
    const deadline = Date.now() + CLOSE_MS_MAX
    while (this.#backlogBytes > 0 && Date.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
    await this.jobs.close().catch(this.#options.report)
    await this.slot.close().catch(this.#options.report)
    for (const redis of [this.#subscriber, this.#writes, this.#work, this.#replicated]) {
      redis?.disconnect()
    }
  }

  /** All flushes of one event-loop turn run together, after its input was read. */
  #schedule(flush: () => void): void {
    if (this.#flushes.push(flush) > 1) return
    setImmediate(() => {
      const flushes = this.#flushes.splice(0)
      for (const run of flushes) run()
    })
  }

  async #look(): Promise<void> {
    this.#storedBytes = 0
    try {
      this.#state = await readServerState(this.#work)
      this.#stateFresh = true
      this.#unanswered = 0
    } catch {
      this.#stateFresh = false // Redis is away; every caller that needs it says so
    }
  }

  /** Looks at once when much of the room for messages was used since the last look. */
  #stored(bytes: number): void {
    const { maxMemory, usedMemory } = this.#state
    this.#storedBytes += bytes
    const room = maxMemory * this.#memoryMark - usedMemory
    if (maxMemory === 0 || room < 0 || this.#storedBytes < room * EARLY_LOOK_SHARE) return
    this.#lookEarly(0)
  }

  #lookEarly(delayMs: number): void {
    if (this.#lookingEarly) return
    this.#lookingEarly = true
    const looked = sleep(delayMs, undefined, { ref: false })
      .then(() => this.#look())
      .finally(() => {
        this.#lookingEarly = false
      })
    looked.catch(this.#options.report)
  }

  #measureRoundTrip(): void {
    const { roundTrip } = this.#options
    if (roundTrip === undefined) return
    const from = performance.now()
    this.#work.ping().then(
      () => roundTrip((performance.now() - from) / 1_000),
      () => {}, // `reachable` tells
    )
  }

  get #memoryMark(): number {
    return this.#options.memoryHigh ?? 0.85
  }

  get #memoryHigh(): boolean {
    const { maxMemory, usedMemory } = this.#state
    return maxMemory > 0 && usedMemory > maxMemory * this.#memoryMark
  }

  /** Why nothing may be stored right now. */
  #refusal(
    safety: Safety,
  ): Extract<Appended, 'memory-high' | 'disk-low' | 'not-durable' | 'unavailable'> | undefined {
    if (this.#closing || this.#backlogBytes > limits.APPEND_BACKLOG_BYTES_MAX) return 'unavailable'
    const { aof, fsync, replicas, persistenceFailing } = this.#state
    if (this.#memoryHigh) return 'memory-high'
    if (needsFsync(safety)) {
      if (!aof || fsync !== 'always') return 'not-durable'
      if (persistenceFailing) return 'disk-low'
    }
    const needed = replicasOf(safety)
    if (needed === 0 || (this.#stateFresh && replicas >= needed)) return undefined
    this.#lookEarly(REPLICAS_LOOK_MS) // after a failover they are soon there
    return 'not-durable'
  }

  #openReplicated(): Redis {
    // Not 'writes': a WAIT that is sent again over another connection answers for nothing.
    this.#replicated ??= twinOf(this.#options, 'work')
    return this.#replicated
  }
}
