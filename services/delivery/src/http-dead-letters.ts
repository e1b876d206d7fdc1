/**
 * Dead letters over HTTP: why each died, and the way back.
 *
 * They wait in ordinary queues, in `amq.dead-letters` unless a dead letter exchange says otherwise,
 * with their history in their headers (libs/topology/src/dead-letter.ts).
 */
import { BrokerError } from '@sluice/core'
import { type Deps, type Route, route } from '@sluice/server'
import { noKey, type Peeked } from '@sluice/store'
import { readTraceContext } from '@sluice/telemetry'
import { deathHistory, originalQueue, type QueueEntry, redrive } from '@sluice/topology'
import { z } from 'zod'
import { findQueue } from './find-queue.ts'
import { PageQuery, PeekedJson, pageOf, peekedJson, readPage } from './http-messages.ts'
import { type Encoding, readHeaders, timeJson } from './message-json.ts'
import { KeptAttempt, parseAttempt } from './push/kept-attempt.ts'

const path = '/v1/vhosts/:vhost/queues/:queue'

const Death = z.object({
  queue: z.string(),
  reason: z.string(),
  count: z.int(),
  at: z.iso.datetime().optional().meta({ description: 'When it first died so.' }),
  exchange: z.string().meta({ description: 'Where it had been published.' }),
  routingKeys: z.array(z.string()),
})

const DeadLetter = PeekedJson.extend({
  death: z.object({
    queue: z.string().optional().meta({ description: 'Where it died last: a redrive’s target.' }),
    reason: z.string().optional().meta({
      description: 'rejected, expired, maxlen or delivery_limit.',
    }),
    lastError: z.string().optional(),
    heldBy: z.string().optional().meta({ description: 'Who had it last.' }),
    attempts: z.array(KeptAttempt).meta({
      description: 'What came of pushing it, newest first: the last 20, in 16 KiB.',
    }),
    deliveryCount: z.int().optional().meta({ description: 'Deliveries before it died.' }),
    history: z.array(Death).meta({ description: 'Newest first.' }),
  }),
}).meta({ id: 'DeadLetter' })

const RedriveBody = z.strictObject({
  id: z.string().max(64).optional().meta({ description: 'Only this one. Absent: all of them.' }),
})

const Status = z
  .object({
    id: z.string(),
    state: z.enum(['waiting', 'running', 'done', 'failed']),
    redriven: z.int().meta({ description: 'Back in their queues.' }),
    skipped: z.int().meta({ description: 'Left: their queue is gone or did not take them.' }),
    error: z.string().optional(),
  })
  .meta({ id: 'Redrive' })

export function deadLetterRoutes(deps: Deps): Route[] {
  return [listRoute(deps), redriveRoute(deps), statusRoute(deps)]
}

function listRoute({ topology }: Deps): Route {
  return route({
    method: 'get',
    path: `${path}/dead-letters`,
    tag: 'operate',
    needs: { read: 'queue' },
    summary: 'List dead letters, with why they died',
    description: 'The messages in this queue that died before. Nothing is touched.',
    query: PageQuery,
    answers: { 200: { description: 'A page of them.', body: pageOf(DeadLetter) } },
    refusals: ['vhost_not_found', 'queue_not_found'],
    async handle({ params, query: { encoding, ...place } }) {
      const { store } = await findQueue(topology, params)
      const died = ({ record }: Peeked) => originalQueue(readHeaders(record)) !== undefined
      const { messages, next } = await readPage(store, { state: 'ready', ...place }, died)
      const letters = messages.map((message) => letterJson(message, encoding))
      return { status: 200, body: { messages: letters, ...(next !== '' && { next }) } }
    },
  })
}

function redriveRoute(deps: Deps): Route {
  const { topology, store } = deps
  return route({
    method: 'post',
    path: `${path}/redrive`,
    tag: 'operate',
    needs: { read: 'queue', write: 'default exchange' },
    summary: 'Return dead letters to the queues where they died',
    description:
      'With `id` one of them, at once. Without, all that are here now: a job, whose progress is at `Location`.',
    body: RedriveBody,
    answers: {
      200: {
        description: 'It is back in its queue.',
        body: z.object({ queue: z.string() }),
      },
      202: { description: 'The job that does it.', body: z.object({ id: z.string() }) },
    },
    refusals: ['vhost_not_found', 'queue_not_found', 'message_not_found', 'in_use', 'queue_full'],
    async handle({ req, params, body: { id }, principal }) {
      const entry = await findQueue(topology, params)
      if (id !== undefined) {
        const queue = await redriveOne(deps, entry, id, {
          holder: `redrive by ${principal.name}`,
          request: readTraceContext(req.headers),
        })
        return { status: 200, body: { queue } }
      }
      const untilMs = await store.nowMs()
      const job = await store.jobs.startRedrive({ ...params, untilMs })
      const { vhost, queue } = params
      const location = `/v1/vhosts/${encodeURIComponent(vhost)}/queues/${encodeURIComponent(queue)}/redrives/${job}`
      return { status: 202, body: { id: job }, headers: { Location: location } }
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
    async handle({ params: { vhost, queue, redrive: id } }) {
      const status = /^\d{1,15}$/.test(id) ? await store.jobs.redrive(id, vhost, queue) : undefined
      if (!status) throw new BrokerError('not_found', `There is no redrive ${JSON.stringify(id)}.`)
      return { status: 200, body: status }
    },
  })
}

/** The queue it went to. Throws what keeps it from going there. */
async function redriveOne(
  deps: Pick<Deps, 'topology' | 'tracing'>,
  entry: QueueEntry,
  id: string,
  asked: Parameters<typeof redrive>[3],
): Promise<string> {
  const found = await entry.store.find(id)
  if (!found) throw notFound(id)
  const result = await redrive(deps, entry, found.message, asked)
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
      throw refused(result.queue, result.outcome)
  }
}

function refused(queue: string, outcome: string): BrokerError {
  if (outcome === 'full') return new BrokerError('queue_full', `Queue '${queue}' is full.`)
  if (outcome === 'memory-high') {
    return new BrokerError('memory_high', 'Redis is short of memory; consume, then try again.')
  }
  if (outcome === 'disk-low') {
    return new BrokerError('store_unavailable', 'Redis cannot write to its disk; try again.')
  }
  if (outcome === 'no-key') return noKey()
  if (outcome === 'not-durable') {
    return new BrokerError(
      'durability_unavailable',
      `What queue '${queue}' promises of its messages cannot be kept at the moment.`,
    )
  }
  return new BrokerError('store_unavailable', 'Redis does not answer; try again.')
}

function notFound(id: string): BrokerError {
  return new BrokerError('message_not_found', `There is no message ${JSON.stringify(id)} here.`)
}

function letterJson(message: Peeked, encoding: Encoding) {
  const headers = readHeaders(message.record)
  const { deaths, error, holder, deliveryCount, attempts } = deathHistory(headers)
  const reason = headers['x-last-death-reason'] ?? deaths[0]?.reason
  return {
    ...peekedJson(message, 'ready', encoding),
    death: {
      queue: originalQueue(headers),
      reason: typeof reason === 'string' ? reason : undefined,
      lastError: error,
      heldBy: holder,
      attempts: attempts.flatMap((text) => parseAttempt(text) ?? []),
      deliveryCount,
      history: deaths.map(({ queue, reason, count, timeMs, exchange, routingKeys }) => ({
        queue,
        reason,
        count,
        ...(timeMs !== undefined && { at: timeJson(timeMs) }),
        exchange,
        routingKeys,
      })),
    },
  }
}
