/**
 * Maintenance jobs: work that is asked for here and done by some reaper, once, though processes
 * die.
 *
 * BullMQ keeps them, under `{sluice}:jobs`. This side asks and looks; the reaper works
 * (services/reaper/src/maintenance.ts).
 */
import { createHash } from 'node:crypto'
import { type Job, Queue } from 'bullmq'
import type { Redis } from 'ioredis'
import { unavailable } from './redis.ts'
import { TICK_SETTINGS, type TickTimes } from './tick-times.ts'

export const JOBS_PREFIX = '{sluice}:jobs'
export const JOBS_QUEUE = 'maintenance'
/** Queues of their own: neither a tick nor a sweep must wait behind long redrives. */
export const TICKS_QUEUE = 'ticks'
/**
 * Named for what RedriveData says: a reaper that does not heed all of it, as in the midst of an
 * upgrade, must not take such a job. What changes the meaning of the data changes this name.
 */
export const REDRIVES_QUEUE = 'redrives-2'

/** What the jobs are called. */
export const REDRIVE_JOB = 'redrive'
export const SWEEP_JOB = 'sweep'

/** How long the outcome of a job can be asked for, and of how many, seconds. */
const KEPT = { age: 24 * 3_600, count: 1_000 }
/** Tries of a job that failed, e.g. since Redis was away, with the pause between them. */
const ATTEMPTS = 10
const BACKOFF = { type: 'exponential', delay: 1_000 } as const
/** A tick is published within the minute, or not at all: the next one comes. */
const TICK_ATTEMPTS = { attempts: 6, backoff: BACKOFF }
const TICKS_PAGE = 500
/** Redrives of all queues that are looked at for a list. */
const REDRIVES_MAX = 200
/** BullMQ tells each progress to a stream that nobody reads here. */
const EVENTS_MAX = 100

/** Dead letters of a queue, moved to where they belong. */
export interface RedriveData {
  readonly vhost: string
  readonly queue: string
  /** Of the queue: a job does not go on in another one that has the name since. */
  readonly epoch: number
  /** Letters stored after this stay, or the job would never end; ms of Redis's clock. */
  readonly untilMs: number
  /** As the topology knows it (DeadLetterFilter). */
  readonly filter: object
  /** As the topology knows it (RedriveTarget). */
  readonly to: string | { readonly queue: string }
  /** Letters a second, 0 = as fast as it goes. */
  readonly perSecond: number
  /** Most letters to move, 0 = no limit. */
  readonly limit: number
  /** Looks and counts, and moves nothing. */
  readonly dryRun: boolean
  /** Who asked. */
  readonly by: string
  readonly paused?: boolean
  readonly cancelled?: boolean
  /** Changed while it runs: the rate. */
  readonly rate?: number
}

/** What may be changed of a job under way. */
export type RedriveChange = Partial<Pick<RedriveData, 'paused' | 'cancelled' | 'rate'>>

const TICK_JOB = 'tick'

/** Which schedule a tick is of. */
export interface TickData {
  readonly vhost: string
  readonly name: string
}

/**
 * How far a redrive is. What is `redriven` is counted by the script that acknowledges; the rest is
 * written together with the place that it was counted up to: so a job that was killed goes on, and
 * its counts stay exact.
 */
export interface RedriveProgress {
  /** Letters looked at. */
  readonly scanned: number
  /** Moved; in a dry run, what would be. */
  readonly redriven: number
  /** Matched, and left where they are, by cause. */
  readonly skipped: Readonly<Record<string, number>>
  /** Of the next page. */
  readonly cursor: string
  /** Letters of pages before that which matched, and may not have an outcome yet. */
  readonly hands: readonly string[]
  /** Time it was worked on, ms. */
  readonly workedMs: number
  /** When the next letter may go, ms of Redis's clock. */
  readonly nextMs: number
  /** Letters in the queue at its start. */
  readonly total: number
  readonly end?: 'done' | 'cancelled'
}

export const REDRIVE_START: RedriveProgress = {
  scanned: 0,
  redriven: 0,
  skipped: {},
  cursor: '',
  hands: [],
  workedMs: 0,
  nextMs: 0,
  total: -1,
}

export interface RedriveStatus {
  readonly id: string
  readonly state: 'waiting' | 'running' | 'paused' | 'done' | 'cancelled' | 'failed'
  readonly data: RedriveData
  readonly progress: RedriveProgress
  readonly askedMs: number
  readonly finishedMs?: number
  /** Why it failed. */
  readonly error?: string
}

/** All methods throw store_unavailable when Redis does not answer. */
export class Jobs {
  readonly #redis: Redis
  readonly #connect: () => Promise<Redis>
  #queue: Queue | undefined
  #redrivesQueue: Queue | undefined
  #ticksQueue: Queue | undefined

  /** @param connect opens a connection as workers need it: commands wait for Redis. */
  constructor(redis: Redis, connect: () => Promise<Redis>) {
    this.#redis = redis
    this.#connect = connect
  }

  /** A connection for one worker, which closes it. */
  connectWorker(): Promise<Redis> {
    return this.#connect()
  }

  /** Asks for a redrive; where the same one is under way, that is answered. */
  async startRedrive(data: RedriveData): Promise<string> {
    const { untilMs: _, by: __, ...same } = data
    const id = createHash('sha256').update(JSON.stringify(same)).digest('base64url')
    const job = await this.#ask(() =>
      this.#redrives().add(REDRIVE_JOB, data, {
        deduplication: { id },
        attempts: ATTEMPTS,
        backoff: BACKOFF,
        removeOnComplete: KEPT,
        removeOnFail: KEPT,
      }),
    )
    return job.id!
  }

  /** The redrives of a queue, newest first, at most REDRIVES_MAX. */
  async redrives(vhost: string, queue: string): Promise<RedriveStatus[]> {
    const states = ['active', 'waiting', 'delayed', 'completed', 'failed'] as const
    const jobs = await this.#ask(() => this.#redrives().getJobs([...states], 0, REDRIVES_MAX))
    const own = (jobs as (Job<RedriveData> | undefined)[]).filter(
      (job) => job?.name === REDRIVE_JOB && job.data.vhost === vhost && job.data.queue === queue,
    )
    const found = await Promise.all(own.map((job) => this.redrive(job!.id!, vhost, queue)))
    return found
      .filter((status) => status !== undefined)
      .toSorted((a, b) => b.askedMs - a.askedMs)
      .slice(0, REDRIVES_MAX)
  }

  /** How far a redrive is; undefined when this queue has no such job, or it is long done. */
  async redrive(id: string, vhost: string, queue: string): Promise<RedriveStatus | undefined> {
    // The state first: a job that is done by then has all its progress in what is read next.
    const state = await this.#ask(() => this.#redrives().getJobState(id))
    const job = await this.#redriveJob(id, vhost, queue)
    if (!job) return undefined
    const progress = { ...REDRIVE_START, ...(job.progress as Partial<RedriveProgress>) }
    const { finishedOn } = job
    return {
      id,
      state: stateOf(state, job.data, progress),
      data: job.data,
      progress,
      askedMs: job.timestamp,
      ...(finishedOn !== undefined && { finishedMs: finishedOn }),
      ...(state === 'failed' && { error: job.failedReason }),
    }
  }

  /** Pauses, resumes, cancels or paces a redrive; false when there is none under way. */
  async changeRedrive(
    id: string,
    { vhost, queue }: Pick<RedriveData, 'vhost' | 'queue'>,
    change: RedriveChange,
  ): Promise<boolean> {
    const job = await this.#redriveJob(id, vhost, queue)
    if (!job || job.finishedOn !== undefined) return false
    await this.#ask(() => job.updateData({ ...job.data, ...change }))
    // One that lies there paused is looked at now; where another looks already, that is as well.
    if (await this.#ask(() => job.isDelayed())) await job.promote().catch(() => {})
    return true
  }

  /** What is asked of a redrive by now; undefined once it was removed. */
  async redriveData(id: string): Promise<RedriveData | undefined> {
    return ((await this.#ask(() => this.#redrives().getJob(id))) as Job<RedriveData> | undefined)
      ?.data
  }

  async #redriveJob(id: string, vhost: string, queue: string) {
    const job = (await this.#ask(() => this.#redrives().getJob(id))) as Job<RedriveData> | undefined
    if (job?.name !== REDRIVE_JOB) return undefined
    return job.data.vhost === vhost && job.data.queue === queue ? job : undefined
  }

  /** Has a sweep run every so often, by one reaper each time. Repeating it changes nothing. */
  async scheduleSweep(everyMs: number): Promise<void> {
    const known = await this.#ask((queue) => queue.getJobScheduler(SWEEP_JOB))
    if (known?.every === everyMs) return
    await this.#ask((queue) =>
      queue.upsertJobScheduler(
        SWEEP_JOB,
        { every: everyMs },
        { name: SWEEP_JOB, opts: { removeOnComplete: true, removeOnFail: { count: 10 } } },
      ),
    )
  }

  /** Every schedule that has ticks to come: its times as JSON, by id. */
  async ticks(): Promise<Map<string, string>> {
    const all = new Map<string, string>()
    for (let from = 0; ; from += TICKS_PAGE) {
      const page = await this.#ask(() =>
        this.#ticks().getJobSchedulers(from, from + TICKS_PAGE - 1, true),
      )
      for (const { key, pattern } of page) all.set(key, pattern ?? '')
      if (page.length < TICKS_PAGE) return all
    }
  }

  /** Has each tick done by one reaper. Repeating it changes nothing. */
  async setTicks(id: string, times: TickTimes, data: TickData): Promise<void> {
    const opts = { removeOnComplete: true, removeOnFail: { count: 10 }, ...TICK_ATTEMPTS }
    await this.#ask(() =>
      this.#ticks().upsertJobScheduler(
        id,
        { pattern: JSON.stringify(times) },
        { name: TICK_JOB, data, opts },
      ),
    )
  }

  async removeTicks(id: string): Promise<void> {
    await this.#ask(() => this.#ticks().removeJobScheduler(id))
  }

  async close(): Promise<void> {
    await Promise.all([
      this.#queue?.close(),
      this.#redrivesQueue?.close(),
      this.#ticksQueue?.close(),
    ])
  }

  async #ask<T>(ask: (queue: Queue) => Promise<T>): Promise<T> {
    try {
      return await ask(this.#open())
    } catch (error) {
      throw unavailable(error)
    }
  }

  #open(): Queue {
    this.#queue ??= this.#openQueue(JOBS_QUEUE)
    return this.#queue
  }

  #redrives(): Queue {
    this.#redrivesQueue ??= this.#openQueue(REDRIVES_QUEUE)
    return this.#redrivesQueue
  }

  #ticks(): Queue {
    this.#ticksQueue ??= this.#openQueue(TICKS_QUEUE)
    return this.#ticksQueue
  }

  #openQueue(name: string): Queue {
    const queue = new Queue(name, {
      connection: this.#redis,
      prefix: JOBS_PREFIX,
      settings: TICK_SETTINGS,
      streams: { events: { maxLen: EVENTS_MAX } },
    })
    queue.on('error', () => {}) // the call that fails says so
    return queue
  }
}

function stateOf(
  state: string,
  { paused, cancelled }: RedriveData,
  { end }: RedriveProgress,
): RedriveStatus['state'] {
  if (state === 'failed') return 'failed'
  if (state === 'completed') return end === 'cancelled' ? 'cancelled' : 'done'
  if (paused && !cancelled) return 'paused'
  return state === 'active' ? 'running' : 'waiting'
}
