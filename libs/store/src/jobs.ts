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

export const JOBS_PREFIX = '{sluice}:jobs'
export const JOBS_QUEUE = 'maintenance'

/** What the jobs are called. */
export const REDRIVE_JOB = 'redrive'
export const SWEEP_JOB = 'sweep'

/** How long the outcome of a job can be asked for, and of how many, seconds. */
const KEPT = { age: 24 * 3_600, count: 1_000 }
/** Tries of a job that failed, e.g. since Redis was away, with the pause between them. */
const ATTEMPTS = 10
const BACKOFF = { type: 'exponential', delay: 1_000 } as const

/** Dead letters of a queue, all of them, back to where they died. */
export interface RedriveData {
  readonly vhost: string
  readonly queue: string
  /** Letters stored after this stay, or the job would never end; ms of Redis's clock. */
  readonly untilMs: number
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

  async close(): Promise<void> {
    await this.#queue?.close()
  }

  async #ask<T>(ask: (queue: Queue) => Promise<T>): Promise<T> {
    try {
      return await ask(this.#open())
    } catch (error) {
      throw unavailable(error)
    }
  }

  #open(): Queue {
    if (!this.#queue) {
      this.#queue = new Queue(JOBS_QUEUE, { connection: this.#redis, prefix: JOBS_PREFIX })
      this.#queue.on('error', () => {}) // the call that fails says so
    }
    return this.#queue
  }
}

const STATES: Readonly<Record<string, RedriveStatus['state']>> = {
  active: 'running',
  completed: 'done',
  failed: 'failed',
}
