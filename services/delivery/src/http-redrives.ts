/** Redrives over HTTP: one letter at once, many as a job that one follows, pauses and cancels. */
import { BrokerError, limits } from '@sluice/core'
import { type Call, type Deps, type Route, refusalOf, route } from '@sluice/server'
import type { RedriveStatus } from '@sluice/store'
import { readTraceContext } from '@sluice/telemetry'
import { type QueueEntry, redrive } from '@sluice/topology'
import { z } from 'zod'
import { Filter, readFilter } from './dead-letter-query.ts'
import { findQueue } from './find-queue.ts'
import { findMessage } from './http-messages.ts'
import { timeJson } from './message-json.ts'

const path = '/v1/vhosts/:vhost/queues/:queue'

const rate = z.number().min(0).max(1_000_000)

const RedriveBody = z.strictObject({
  id: z.string().max(64).optional().meta({
    description: 'Only this one, at once. Absent: all that match, as a job.',
  }),
  filter: Filter.default({}).meta({ description: 'Which ones. Empty: all.' }),
  to: z
    .union([
      z.enum(['queue', 'exchange']),
      z.strictObject({ queue: z.string().min(1).max(limits.NAME_BYTES_MAX) }),
    ])
    .default('queue')
    .meta({
      description:
        'queue: where each died. exchange: as it was first published; the filter names which ' +
        'exchange. {"queue": name}: all to this one.',
    }),
  perSecond: rate.default(0).meta({ description: 'Letters a second; 0: as fast as it goes.' }),
  limit: z.int().min(0).max(1_000_000_000).default(0).meta({
    description: 'Ends after that many; 0: no limit.',
  }),
  dryRun: z.boolean().default(false).meta({ description: 'Counts, and moves nothing.' }),
})

const ChangeBody = z.strictObject({
  paused: z.boolean().optional().meta({ description: 'true pauses, false goes on.' }),
  cancelled: z.literal(true).optional().meta({ description: 'Ends it where it is.' }),
  perSecond: rate.optional().meta({ description: 'Another rate; 0: as fast as it goes.' }),
})

const Status = z
  .object({
    id: z.string(),
    state: z.enum(['waiting', 'running', 'paused', 'done', 'cancelled', 'failed']),
    dryRun: z.boolean(),
    to: z.union([z.string(), z.object({ queue: z.string() })]),
    perSecond: z.number().meta({ description: 'The rate it keeps; 0: none.' }),
    limit: z.int(),
    by: z.string().meta({ description: 'Who asked for it.' }),
    total: z.int().optional().meta({ description: 'Messages in the queue at its start.' }),
    scanned: z.int().meta({ description: 'Looked at so far.' }),
    matched: z.int().meta({ description: 'Exactly redriven and skipped together.' }),
    redriven: z.int().meta({ description: 'Moved; in a dry run, what would be.' }),
    skipped: z.int().meta({ description: 'Left where they are.' }),
    causes: z.record(z.string(), z.int()).meta({ description: 'Skipped, by cause.' }),
    workedMs: z.int().meta({ description: 'How long it was worked on.' }),
    rate: z.number().meta({ description: 'Redriven a second, of that time.' }),
    askedAt: z.iso.datetime(),
    estimatedEnd: z.iso.datetime().optional(),
    finishedAt: z.iso.datetime().optional(),
    error: z.string().optional(),
  })
  .meta({ id: 'Redrive' })

export function redriveRoutes(deps: Deps): Route[] {
  return [startRoute(deps), listRoute(deps), statusRoute(deps), changeRoute(deps)]
}

function startRoute(deps: Deps): Route {
  const { topology, store } = deps
  return route({
    method: 'post',
    path: `${path}/redrive`,
    tag: 'operate',
    needs: { read: 'queue', write: 'default exchange' },
    summary: 'Return dead letters to the queues where they died',
    description:
      'With `id` one of them, at once. Without, all that match and are here now: a job, whose ' +
      'progress is at `Location`. The same one asked for again while it is under way is not doubled.',
    body: RedriveBody,
    answers: {
      200: { description: 'It is back in its queue.', body: z.object({ queue: z.string() }) },
      202: { description: 'The job that does it.', body: z.object({ id: z.string() }) },
    },
    refusals: [
      ...(['vhost_not_found', 'queue_not_found', 'message_not_found', 'in_use'] as const),
      ...(['queue_full', 'forbidden'] as const),
    ],
    async handle(call) {
      const { req, params, body, principal } = call
      const entry = await findQueue(topology, params)
      requireTarget(call, body)
      if (body.id !== undefined) {
        const queue = await redriveOne(deps, entry, body.id, {
          holder: `redrive by ${principal.name}`,
          to: body.to,
          request: readTraceContext(req.headers),
        })
        return { status: 200, body: { queue } }
      }
      const { to, perSecond, limit, dryRun } = body
      const job = await store.jobs.startRedrive({
        vhost: params.vhost,
        queue: params.queue,
        epoch: entry.definition.epoch,
        untilMs: await store.nowMs(),
        filter: readFilter(body.filter),
        ...{ to, perSecond, limit, dryRun },
        by: principal.name,
      })
      const { vhost, queue } = params
      const location = `/v1/vhosts/${encodeURIComponent(vhost)}/queues/${encodeURIComponent(queue)}/redrives/${job}`
      return { status: 202, body: { id: job }, headers: { Location: location } }
    },
  })
}

/** A job runs for the caller: it reaches what the caller may write to, and nothing else. */
function requireTarget(
  call: Call<{ queue: string }, unknown, unknown>,
  { to, filter, id }: z.output<typeof RedriveBody>,
): void {
  if (typeof to === 'object' && to.queue === call.params.queue) {
    throw new BrokerError('invalid_request', 'These letters are in that queue already.')
  }
  if (to !== 'exchange' || call.principal.kind === 'administrator') return
  if (filter.exchange === undefined || id !== undefined) {
    const text = 'Through an exchange, name it in filter.exchange, and leave out id.'
    throw new BrokerError('invalid_request', text, { details: { at: 'filter.exchange' } })
  }
  call.require('write', { kind: 'exchange', name: filter.exchange })
}

function listRoute({ topology, store }: Deps): Route {
  return route({
    method: 'get',
    path: `${path}/redrives`,
    tag: 'operate',
    needs: { read: 'queue' },
    summary: 'The redrives of a queue',
    description: 'Newest first: those under way, and those of the last day.',
    answers: {
      200: { description: 'All of them.', body: z.object({ redrives: z.array(Status) }) },
    },
    refusals: ['vhost_not_found', 'queue_not_found'],
    async handle({ params }) {
      await findQueue(topology, params)
      const all = await store.jobs.redrives(params.vhost, params.queue)
      const nowMs = await store.nowMs()
      return { status: 200, body: { redrives: all.map((one) => statusJson(one, nowMs)) } }
    },
  })
}

function statusRoute({ store }: Deps): Route {
  return route({
    method: 'get',
    path: `${path}/redrives/:redrive`,
    tag: 'operate',
    needs: { read: 'queue' },
    summary: 'How far a redrive is',
    answers: { 200: { description: 'Its state and counts.', body: Status } },
    refusals: ['not_found'],
    async handle({ params }) {
      return { status: 200, body: statusJson(await find(store, params), await store.nowMs()) }
    },
  })
}

function changeRoute({ store }: Deps): Route {
  return route({
    method: 'put',
    path: `${path}/redrives/:redrive`,
    tag: 'operate',
    needs: { read: 'queue', write: 'default exchange' },
    summary: 'Pause, resume, cancel or pace a redrive',
    description: 'It heeds that within a second. What is moved by then stays moved.',
    body: ChangeBody,
    answers: { 200: { description: 'Its state and counts.', body: Status } },
    refusals: ['not_found', 'in_use'],
    async handle({ params, body: { paused, cancelled, perSecond } }) {
      await find(store, params)
      const changed = await store.jobs.changeRedrive(params.redrive, params, {
        ...(paused !== undefined && { paused }),
        ...(cancelled && { cancelled }),
        ...(perSecond !== undefined && { rate: perSecond }),
      })
      if (!changed) throw new BrokerError('in_use', 'It has ended: nothing of it can be changed.')
      return { status: 200, body: statusJson(await find(store, params), await store.nowMs()) }
    },
  })
}

/** Throws not_found. */
async function find(
  { jobs }: Deps['store'],
  { vhost, queue, redrive: id }: { vhost: string; queue: string; redrive: string },
): Promise<RedriveStatus> {
  const status = /^\d{1,15}$/.test(id) ? await jobs.redrive(id, vhost, queue) : undefined
  if (!status) throw new BrokerError('not_found', `There is no redrive ${JSON.stringify(id)}.`)
  return status
}

function statusJson(status: RedriveStatus, nowMs: number): z.output<typeof Status> {
  const { id, state, data, progress, askedMs, finishedMs, error } = status
  const { total, scanned, redriven, skipped: causes, workedMs } = progress
  const skipped = Object.values(causes).reduce((sum, count) => sum + count, 0)
  const left = Math.max(0, total - scanned)
  const leftMs = scanned > 0 ? (left * workedMs) / scanned : undefined
  const { dryRun, to, limit, by } = data
  return {
    ...{ id, state, dryRun, to, limit, by },
    perSecond: data.rate ?? data.perSecond,
    ...(total >= 0 && { total }),
    ...{ scanned, matched: redriven + skipped, redriven, skipped, causes, workedMs },
    rate: workedMs > 0 ? Math.round((redriven * 10_000) / workedMs) / 10 : 0,
    askedAt: timeJson(askedMs),
    ...(state === 'running' && leftMs !== undefined && { estimatedEnd: timeJson(nowMs + leftMs) }),
    ...(finishedMs !== undefined && { finishedAt: timeJson(finishedMs) }),
    ...(error !== undefined && { error }),
  }
}

/** The queue it went to. Throws what keeps it from going there. */
async function redriveOne(
  deps: Pick<Deps, 'topology' | 'tracing' | 'publisher'>,
  entry: QueueEntry,
  id: string,
  asked: Parameters<typeof redrive>[3],
): Promise<string> {
  const { message } = await findMessage(entry.store, id)
  const result = await redrive(deps, entry, message, asked)
  switch (result.kind) {
    case 'redriven':
      return result.queue
    case 'no-origin':
      throw new BrokerError('invalid_request', `Message ${id} is no dead letter.`)
    case 'origin-gone':
      throw new BrokerError('queue_not_found', `Its queue '${result.queue}' is not there.`)
    case 'taken':
      throw new BrokerError('in_use', `Somebody holds message ${id}, or it is gone.`)
    case 'refused':
      throw refusalOf(result.outcome, result)
  }
}
