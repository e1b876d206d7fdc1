/**
 * Schedules, carried out: BullMQ hands each tick to one reaper, and to another when that one dies.
 *
 * What is scheduled follows the documents: each reaper compares the two when they change and every
 * minute, and any of them may set right what differs. A tick is published with an id of its own, so
 * that two reapers which carry out the same one store it once.
 */
import { BrokerError, onAbort, type Report, type Start } from '@sluice/core'
import {
  type Deps,
  isOutdated,
  type KeptSchedule,
  keepSchedule,
  messageOf,
  openSchedule,
  readSchedule,
  timesOf,
} from '@sluice/server'
import { JOBS_PREFIX, noKey, TICK_SETTINGS, TICKS_QUEUE, type TickData } from '@sluice/store'
import type { Json, Topology } from '@sluice/topology'
import { type Job, Worker } from 'bullmq'
import { every } from './every.ts'
import { closeWorker } from './maintenance.ts'

type Needs = Pick<Deps, 'store' | 'topology' | 'publisher' | 'metrics' | 'log' | 'encryption'>

/** Ticks carried out at once. */
const CONCURRENCY = 16
/** A reaper that dies gives its tick back after this, plus a look of another one. */
const LOCK_MS = 10_000
const STALLED_LOOK_MS = 5_000
const STALLED_MAX = 100
/** What differs is set right within this if a hint was lost. */
const LOOK_MS = 60_000
/** A tick that comes later than this was missed: nobody could work. */
const LATE_MS_MAX = 5_000

export function schedules(deps: Needs, report: Report): Start {
  return async (signal) => {
    const connection = await deps.store.jobs.connectWorker()
    const worker = new Worker(TICKS_QUEUE, (job) => carryOut(deps, job), {
      connection,
      prefix: JOBS_PREFIX,
      settings: TICK_SETTINGS,
      concurrency: CONCURRENCY,
      lockDuration: LOCK_MS,
      stalledInterval: STALLED_LOOK_MS,
      maxStalledCount: STALLED_MAX,
    })
    worker.on('error', report)
    worker.on('failed', (_job, error) => report(error))
    const follower = new Follower(deps, report)
    const stopFollowing = deps.topology.watch(() => follower.follow())
    const looks = every(LOOK_MS, signal, async () => follower.follow(), report)
    const stopped = new Promise<void>((resolve) => onAbort(signal, resolve))
    const closed = stopped.then(async () => {
      stopFollowing()
      await closeWorker(worker)
      connection.disconnect()
      await looks.closed
      await follower.idle()
    })
    return { closed }
  }
}

/** Keeps what is scheduled as the documents say, one comparison at a time. */
class Follower {
  readonly #deps: Needs
  readonly #report: Report
  #running: Promise<void> | undefined
  #again = false
  /** The documents that were compared last, all vhosts in one. */
  #compared = ''

  constructor(deps: Needs, report: Report) {
    this.#deps = deps
    this.#report = report
  }

  follow(): void {
    this.#again = true
    this.#running ??= this.#run().finally(() => {
      this.#running = undefined
    })
  }

  async idle(): Promise<void> {
    await this.#running
  }

  async #run(): Promise<void> {
    while (this.#again) {
      this.#again = false
      await this.#compare().catch(this.#report)
      await keepAnew(this.#deps, this.#report).catch(this.#report)
    }
  }

  async #compare(): Promise<void> {
    const { jobs } = this.#deps.store
    const wanted = scheduled(this.#deps)
    const texts = [...wanted].map(([id, { times }]) => [id, JSON.stringify(times)] as const)
    const now = JSON.stringify(texts)
    if (now === this.#compared) return
    const there = await jobs.ticks()
    for (const [id, text] of texts) {
      const { times, data } = wanted.get(id)!
      if (there.get(id) !== text) await jobs.setTicks(id, times, data)
    }
    for (const id of there.keys()) if (!wanted.has(id)) await jobs.removeTicks(id)
    this.#compared = now
  }
}

function* all({ table }: Topology) {
  for (const vhost of table.vhosts()) {
    for (const { name, value } of table.documents.list('schedule', vhost)) {
      const kept = readSchedule(value)
      if (kept) yield { data: { vhost, name }, value, kept }
    }
  }
}

function scheduled({ topology }: Needs) {
  const wanted = new Map<string, { times: ReturnType<typeof timesOf>; data: TickData }>()
  for (const { data, kept } of all(topology)) {
    const id = [data.vhost, data.name].map(encodeURIComponent).join('/')
    if (!kept.paused) wanted.set(id, { times: timesOf(kept), data })
  }
  return wanted
}

/**
 * Seals messages whose queues were encrypted since they were put, and anew what an older data key
 * sealed, so that no schedule ends with that.
 */
async function keepAnew(deps: Needs, report: Report): Promise<void> {
  const { topology, encryption, store } = deps
  if (!encryption.wraps()) return
  let changed = false
  for (const { data, value, kept } of all(topology)) {
    if (!isOutdated(deps, data, kept)) continue
    const schedule = await openSchedule(deps, data, kept)
    if (typeof schedule === 'string') continue
    try {
      const sealed = (await keepSchedule(deps, data, schedule)) as unknown as Json
      const before = JSON.stringify(value)
      await topology.changeDocument('schedule', data.vhost, data.name, (current) =>
        JSON.stringify(current) === before ? sealed : (current ?? null),
      )
      changed = true
    } catch (error) {
      // A vhost whose key is locked, or that was just deleted, does not keep others from theirs.
      if (!(error instanceof BrokerError) || error.code === 'store_unavailable') throw error
      report(error)
    }
  }
  // The feed of changes has what they were before.
  if (changed) await store.definitions.forgetHistory()
}

type Outcome = 'published' | 'unroutable' | 'exchange-missing' | 'full' | 'unreadable'

/** Publishes one tick. What it throws is tried again by BullMQ. */
async function carryOut(deps: Needs, job: Job<TickData>): Promise<void> {
  const { vhost, name } = job.data
  await deps.topology.refresh()
  const current = () => readSchedule(deps.topology.table.documents.get('schedule', vhost, name))
  const kept = current()
  if (!kept || kept.paused) return
  const tickMs = job.opts.prevMillis ?? job.timestamp + (job.opts.delay ?? 0)
  const late = Date.now() - tickMs > LATE_MS_MAX && job.attemptsMade === 0
  const count = (outcome: Outcome | 'missed') =>
    deps.metrics.count('scheduled', { vhost, outcome }).value++
  if (late && kept.missed === 'skip') count('missed')
  else count(await publish(deps, { vhost, name }, kept, tickMs))
  if (kept.at !== undefined) await forget(deps, { vhost, name }, kept)
}

async function publish(
  { publisher, store, log }: Needs,
  which: TickData,
  kept: KeptSchedule,
  tickMs: number,
): Promise<Outcome> {
  const schedule = await openSchedule({ store }, which, kept)
  if (schedule === 'locked') throw noKey()
  if (schedule === 'shredded') {
    log.warn(which, 'the data key of a scheduled message was shredded')
    return 'unreadable'
  }
  const { outcome } = await publisher.publishOne(which.vhost, messageOf(which, schedule, tickMs))
  if (outcome === 'stored' || outcome === 'duplicate') return 'published'
  if (outcome === 'unroutable' || outcome === 'exchange-missing' || outcome === 'full') {
    log.warn({ ...which, outcome }, 'a scheduled message was not kept')
    return outcome
  }
  throw new Error(`a scheduled message could not be stored: ${outcome}`)
}

/** A schedule for one moment goes when it has run, unless it was changed meanwhile. */
async function forget({ topology }: Needs, { vhost, name }: TickData, ran: KeptSchedule) {
  await topology.changeDocument('schedule', vhost, name, (value) =>
    value === undefined || readSchedule(value)?.at === ran.at ? null : value,
  )
}
