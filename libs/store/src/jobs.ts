/**
 * Maintenance jobs: work that is asked for here and done by some reaper, once, though processes
 * die.
 *
 * BullMQ keeps them, under `{sluice}:jobs`. This side asks and looks; the reaper works
 * (services/reaper/src/maintenance.ts).
 */
import { type Job, Queue } from 'bullmq'
import type { Redis } from 'ioredis'
import { unavailable } from './redis.ts'
import { TICK_SETTINGS, type TickTimes } from './tick-times.ts'

export const JOBS_PREFIX = '{sluice}:jobs'
export const JOBS_QUEUE = 'maintenance'
/** A queue of their own: a tick must not wait behind a long redrive. */
export const TICKS_QUEUE = 'ticks'

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

/** Dead letters of a queue, all of them, back to where they died. */
export interface RedriveData {
  readonly vhost: string
  readonly queue: string
  /** Letters stored after this stay, or the job would never end; ms of Redis's clock. */
  readonly untilMs: number
}

export const TICK_JOB = 'tick'

/** Which schedule a tick is of. */
export interface TickData {
  readonly vhost: string
  readonly name: string
}

export interface RedriveProgress {
  /** Back in their queues. */
  readonly redriven: number
  /** Left where they are: they never died, their queue is gone or did not take them. */
  readonly skipped: number
}

export interface RedriveStatus extends RedriveProgress {
  readonly id: string
  readonly state: 'waiting' | 'running' | 'done' | 'failed'
  /** Why it failed. */
  readonly error?: string
}

/** All methods throw store_unavailable when Redis does not answer. */
export class Jobs {
  readonly #redis: Redis
  readonly #connect: () => Promise<Redis>
  #queue: Queue | undefined
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

  /** Asks for a redrive; of a queue that is being redriven, the one under way is answered. */
  async startRedrive(data: RedriveData): Promise<string> {
    const job = await this.#ask((queue) =>
      queue.add(REDRIVE_JOB, data, {
        deduplication: { id: JSON.stringify([data.vhost, data.queue]) },
        attempts: ATTEMPTS,
        backoff: BACKOFF,
        removeOnComplete: KEPT,
        removeOnFail: KEPT,
      }),
    )
    return job.id!
  }

  /**
   * How far a redrive is; undefined when there is no such job of this queue, or it is long done.
   */
  async redrive(id: string, vhost: string, queue: string): Promise<RedriveStatus | undefined> {
    // The state first: a job that is done by then has all its progress in what is read next.
    const state = await this.#ask((jobs) => jobs.getJobState(id))
    const job = (await this.#ask((jobs) => jobs.getJob(id))) as Job<RedriveData> | undefined
    if (job?.name !== REDRIVE_JOB) return undefined
    if (job.data.vhost !== vhost || job.data.queue !== queue) return undefined
    const progress = job.progress as Partial<RedriveProgress>
    return {
      id,
      state: STATES[state] ?? 'waiting',
      redriven: progress.redriven ?? 0,
      skipped: progress.skipped ?? 0,
      ...(state === 'failed' && { error: job.failedReason }),
    }
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
    await Promise.all([this.#queue?.close(), this.#ticksQueue?.close()])
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

  #ticks(): Queue {
    this.#ticksQueue ??= this.#openQueue(TICKS_QUEUE)
    return this.#ticksQueue
  }

  #openQueue(name: string): Queue {
    const queue = new Queue(name, {
      connection: this.#redis,
      prefix: JOBS_PREFIX,
      settings: TICK_SETTINGS,
    })
    queue.on('error', () => {}) // the call that fails says so
    return queue
  }
}

const STATES: Readonly<Record<string, RedriveStatus['state']>> = {
  active: 'running',
  completed: 'done',
  failed: 'failed',
}
