/**
 * The reaper's side of the maintenance jobs (libs/store/src/jobs.ts): BullMQ hands each to one
 * reaper, and to another when that one dies.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { onAbort, type Report, type Start } from '@sluice/core'
import type { Deps } from '@sluice/server'
import {
  JOBS_PREFIX,
  JOBS_QUEUE,
  REDRIVE_JOB,
  REDRIVE_START,
  REDRIVES_QUEUE,
  type RedriveData,
  type RedriveProgress,
  SWEEP_JOB,
} from '@sluice/store'
import { DelayedError, type Job, type Processor, Worker } from 'bullmq'
import { every } from './every.ts'
import { redriveAll } from './redrive-all.ts'
import { sweep } from './sweep.ts'

interface MaintenanceOptions {
  readonly sweepMs: number
}

/** Redrives at a rate mostly wait; each gives up its place after a while, so none is starved. */
const REDRIVES = 8
/** A reaper that dies gives its job back after this, plus a look of another one. */
const LOCK_MS = 10_000
const STALLED_LOOK_MS = 5_000
/** A reaper that is told to stop while Redis is away waits for it this long. */
const RECONNECT_WAIT_MS_MAX = 3_000
/** Reapers that may die over one job. */
const STALLED_MAX = 100
/** The scheduler is put back within this if Redis lost it. */
const SCHEDULE_LOOK_MS = 60_000
/** A paused job is looked at this often; resuming it says so besides. */
const PAUSED_LOOK_MS = 5_000
/** A job that a stopping reaper lays down is taken up again after this. */
const LAID_DOWN_MS = 100

export function maintenance(deps: Needs, { sweepMs }: MaintenanceOptions, report: Report): Start {
  return async (signal) => {
    const connections = await Promise.all([
      deps.store.jobs.connectWorker(),
      deps.store.jobs.connectWorker(),
    ])
    const open = (queue: string, index: 0 | 1, processor: Processor, concurrency: number) => {
      const worker = new Worker(queue, processor, {
        connection: connections[index],
        prefix: JOBS_PREFIX,
        concurrency,
        lockDuration: LOCK_MS,
        stalledInterval: STALLED_LOOK_MS,
        maxStalledCount: STALLED_MAX,
      })
      worker.on('error', report)
      worker.on('failed', (_job, error) => report(error))
      return worker
    }
    const workers = [
      open(JOBS_QUEUE, 0, (job) => maintain(deps, job, signal), 1),
      open(REDRIVES_QUEUE, 1, (job, token) => carryOn(deps, job, token, signal), REDRIVES),
    ]
    const schedule = every(
      SCHEDULE_LOOK_MS,
      signal,
      () => deps.store.jobs.scheduleSweep(sweepMs),
      report,
    )
    const stopped = new Promise<void>((resolve) => onAbort(signal, resolve))
    const closed = stopped.then(async () => {
      await Promise.all(workers.map(closeWorker)) // the jobs under way lay down their work
      for (const connection of connections) connection.disconnect()
      await schedule.closed
    })
    return { closed }
  }
}

/**
 * Closes a worker. BullMQ waits for ever for the end of a connection that is just being made again,
 * so that is waited for here first; when Redis stays away, the connections are cut.
 */
export async function closeWorker(worker: Worker): Promise<void> {
  const connected = worker.backend.reconnectBlocking().then(
    () => true,
    () => false,
  )
  const late = sleep(RECONNECT_WAIT_MS_MAX, false, { ref: false })
  const cut = !(await Promise.race([connected, late]))
  // Else a worker about to wait brings its connection to a cluster back while that is being ended,
  // and then waits for its end for ever.
  worker.backend.blockingConnection?.['disableBlockingClusterReconnect']()
  await worker.close(cut)
}

type Needs = Pick<Deps, 'store' | 'topology' | 'metrics' | 'tracing' | 'publisher'>

async function maintain(deps: Needs, job: Job, signal: AbortSignal): Promise<void> {
  if (job.name !== SWEEP_JOB) throw new Error(`there is no job ${job.name}`)
  return sweep(deps, signal)
}

async function carryOn(
  deps: Needs,
  job: Job,
  token: string | undefined,
  signal: AbortSignal,
): Promise<unknown> {
  if (job.name !== REDRIVE_JOB) throw new Error(`there is no job ${job.name}`)
  const id = job.id!
  const data = await deps.store.jobs.redriveData(id)
  if (data?.paused && !data.cancelled) return putOff(job, token, PAUSED_LOOK_MS)
  const ended = await redriveAll(deps, data ?? (job.data as RedriveData), {
    holder: `redrive-${id}`,
    signal,
    from: { ...REDRIVE_START, ...(job.progress as Partial<RedriveProgress>) },
    progress: (progress) => job.updateProgress({ ...progress }),
    asked: () => deps.store.jobs.redriveData(id),
  })
  return ended === 'ended' ? undefined : putOff(job, token, LAID_DOWN_MS)
}

/** Lays a job down, to be taken up again after a while. */
async function putOff(job: Job, token: string | undefined, ms: number): Promise<never> {
  await job.moveToDelayed(Date.now() + ms, token)
  throw new DelayedError()
}
