/**
 * HTTP pull: a consumer leases messages, works, then settles each.
 *
 * Any process settles what any other leased. What a lease is: libs/store/src/leases.ts.
 */
import { BrokerError, limits } from '@sluice/core'
import {
  type Call,
  type Deps,
  EVENT_TYPE,
  EVENTS_TYPE,
  type EventMode,
  eventHeaders,
  eventJson,
  type Reply,
  type Route,
  route,
} from '@sluice/server'
import type { LeasedMessage } from '@sluice/store'
import type { Count } from '@sluice/telemetry'
import { z } from 'zod'
import { findQueue, onQueue } from './find-queue.ts'
import type { LeaseSpans } from './lease-spans.ts'
import { Encoding, StoredFields, storedEvent, storedJson } from './message-json.ts'

const LEASE_MESSAGES_MAX = 1_000
const SETTLEMENTS_MAX = 1_000
/** Shorter than the 60 s after which the usual proxies cut a silent request. */
const WAIT_MS_MAX = 50_000
const LEASE_MS_MIN = 1_000
const LEASE_MS_MAX = 12 * 3_600_000
/** Requests that wait for a message, in this process: each holds a socket and a timer. */
const LONG_POLLS_MAX = 5_000

const leaseMs = z.int().min(LEASE_MS_MIN).max(LEASE_MS_MAX)

const Lease = z.strictObject({
  max: z.int().min(1).max(LEASE_MESSAGES_MAX).default(1),
  waitMs: z.int().min(0).max(WAIT_MS_MAX).default(0).meta({
    description: 'How long to wait for a first message; 0 answers at once.',
  }),
  leaseMs: leaseMs.default(30_000).meta({
    description: 'After this a message that is not settled is delivered again.',
  }),
  consumer: z.string().min(1).max(255).optional().meta({
    description: 'Kept with dead letters, to tell who had them. Default: the name of the user.',
  }),
})

const Leased = StoredFields.extend({
  id: z.string().meta({ description: 'Names the message within its queue.' }),
  token: z.string().meta({ description: 'Settles this delivery.' }),
  deliveryCount: z.int().meta({ description: 'Deliveries so far, this one included.' }),
  failedCount: z.int(),
  redelivered: z.boolean(),
  leaseMs: z.int(),
}).meta({ id: 'LeasedMessage' })

const LeaseQuery = z.strictObject({
  encoding: Encoding,
  events: z
    .enum(['batched', 'structured', 'binary'])
    .optional()
    .meta({
      description:
        'Answers with CloudEvents in this mode. structured and binary take one message, and answer ' +
        '204 when there is none. The attribute sluicetoken settles it.',
    }),
})

const token = z.string().min(1).max(64)
const reason = z.string().max(limits.REASON_BYTES_MAX)

const Settlement = z.discriminatedUnion('outcome', [
  z.strictObject({ token, outcome: z.literal('ack') }).meta({ description: 'Done; it is gone.' }),
  z
    .strictObject({
      token,
      outcome: z.literal('retry'),
      delayMs: z.int().min(0).max(limits.DURATION_MS_MAX).optional(),
      reason: reason.optional(),
    })
    .meta({ description: 'Failed: again after delayMs, or after the back-off of the queue.' }),
  z
    .strictObject({ token, outcome: z.literal('release') })
    .meta({ description: 'Not tried: back to its old place, at once.' }),
  z
    .strictObject({ token, outcome: z.literal('dead-letter'), reason: reason.default('') })
    .meta({ description: 'Given up: to the dead letters.' }),
  z
    .strictObject({ token, outcome: z.literal('extend'), leaseMs })
    .meta({ description: 'The lease ends leaseMs from the moment of this request.' }),
])

const SettleBody = z.strictObject({
  settlements: z.array(Settlement).min(1).max(SETTLEMENTS_MAX),
})

const OUTCOMES = ['settled', 'retried', 'released', 'dead-lettered', 'extended', 'stale'] as const

/** @param pollsMax requests that may wait at a time. */
export function pullRoutes(
  { topology, metrics }: Pick<Deps, 'topology' | 'metrics'>,
  spans: LeaseSpans,
  pollsMax: number = LONG_POLLS_MAX,
): Route[] {
  const leased = metrics.count('leased', { door: 'http' })
  const redelivered = metrics.count('redelivered', { door: 'http' })
  let polls = 0

  const lease = route({
    method: 'post',
    path: '/v1/vhosts/:vhost/queues/:queue/leases',
    tag: 'consume',
    needs: { read: 'queue' },
    summary: 'Lease messages',
    description:
      'Hands out up to `max` messages, oldest first, to be settled within `leaseMs`. Answers with fewer, ' +
      'or none after `waitMs`, and stops short of `max` where messages are large (8 MiB).',
    query: LeaseQuery,
    body: Lease,
    answers: {
      200: { description: 'The messages.', body: z.object({ messages: z.array(Leased) }) },
      204: { description: 'None, where one event was asked for.' },
    },
    refusals: ['vhost_not_found', 'queue_not_found', 'too_many_requests'],
    async handle(call) {
      const { params, query, body, signal, principal } = call
      if (query.events !== undefined && query.events !== 'batched' && body.max > 1) {
        throw new BrokerError('invalid_request', `With events=${query.events}, max is 1.`)
      }
      const options = { ...body, consumer: body.consumer ?? principal.name, signal }
      const waits = body.waitMs > 0 ? 1 : 0
      if (polls + waits > pollsMax) {
        throw new BrokerError(
          'too_many_requests',
          `${pollsMax} requests wait here already; try again, or with waitMs 0.`,
        )
      }
      polls += waits
      try {
        const messages = await onQueue(topology, params, ({ store }) => store.lease(options))
        leased.value += messages.length
        for (const message of messages) if (message.redelivered) redelivered.value++
        spans.leased(params, messages, call.req.headers)
        if (query.events !== undefined) return leasedEvents(call, query.events, messages)
        return {
          status: 200,
          body: { messages: messages.map((m) => leasedJson(m, body.leaseMs, query.encoding)) },
        }
      } finally {
        polls -= waits
      }
    },
  })

  return [lease, settleRoute(topology, metrics, spans)]
}

function settleRoute(
  topology: Deps['topology'],
  metrics: Deps['metrics'],
  spans: LeaseSpans,
): Route {
  const settled = Object.fromEntries(
    OUTCOMES.map((outcome) => [outcome, metrics.count('settled', { door: 'http', outcome })]),
  ) as Record<(typeof OUTCOMES)[number], Count>
  return route({
    method: 'post',
    path: '/v1/vhosts/:vhost/queues/:queue/settlements',
    tag: 'consume',
    needs: { read: 'queue' },
    summary: 'Settle leased messages',
    description:
      'An outcome each, in the order of the request. `stale` came too late, or again: it changes nothing.',
    body: SettleBody,
    answers: {
      200: {
        description: 'What became of each.',
        body: z.object({ outcomes: z.array(z.enum(OUTCOMES)) }),
      },
    },
    refusals: ['vhost_not_found', 'queue_not_found'],
    async handle({ req, params, body: { settlements } }) {
      const { store } = await findQueue(topology, params)
      const outcomes = await store.settle(settlements)
      for (const outcome of outcomes) settled[outcome].value++
      spans.settled(params, settlements, outcomes, req.headers)
      return { status: 200, body: { outcomes } }
    },
  })
}

function leasedJson(message: LeasedMessage, leaseMs: number, encoding: Encoding) {
  const { id, token, record, deliveryCount, failedCount, redelivered } = message
  return {
    id,
    token,
    ...storedJson(record, encoding),
    deliveryCount,
    failedCount,
    redelivered,
    leaseMs,
  }
}

/** The messages as CloudEvents; what settles each is an extension attribute of it. */
function leasedEvents(
  { params, res }: Call<{ vhost: string; queue: string }, unknown, unknown>,
  mode: EventMode,
  messages: readonly LeasedMessage[],
): Reply | undefined {
  const events = messages.map((message) => ({
    event: storedEvent(params, message.id, message.record),
    more: { sluicetoken: message.token, sluicedeliverycount: message.deliveryCount },
  }))
  if (mode === 'batched') {
    const headers = { 'Content-Type': EVENTS_TYPE }
    return { status: 200, headers, body: events.map(({ event, more }) => eventJson(event, more)) }
  }
  const [first] = events
  if (first === undefined) return { status: 204 }
  const { event, more } = first
  if (mode === 'structured') {
    return { status: 200, headers: { 'Content-Type': EVENT_TYPE }, body: eventJson(event, more) }
  }
  for (const [name, value] of Object.entries(eventHeaders(event, more))) res.setHeader(name, value)
  res.end(event.data)
  return undefined
}
