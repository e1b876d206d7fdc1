/**
 * Server-Sent Events: messages as they come, over one HTTP response.
 *
 *   GET /v1/vhosts/:vhost/queues/:queue/events         consumes; settled by HTTP, with the tokens
 *   GET /v1/vhosts/:vhost/exchanges/:exchange/events   every reader sees every message
 */
import { BrokerError, limits } from '@sluice/core'
import { type Call, type Deps, eventJson, type Route, route, toProblem } from '@sluice/server'
import type { LeasedMessage } from '@sluice/store'
import { z } from 'zod'
import { findQueue } from './find-queue.ts'
import type { LeaseSpans } from './lease-spans.ts'
import { Encoding, type Origin, storedEvent, storedJson } from './message-json.ts'
import { EventStream } from './sse/event-stream.ts'
import { serveExchange } from './sse/exchange-stream.ts'
import { QueueStreams } from './sse/queue-stream.ts'

const CREDIT_MAX = 1_000

const Shown = z.strictObject({
  encoding: Encoding,
  format: z.enum(['message', 'event']).default('message').meta({
    description: 'Each message as JSON with its fields, or as a CloudEvent in its JSON form.',
  }),
})
const QueueQuery = Shown.extend({
  credit: z.coerce.number<string>().int().min(1).max(CREDIT_MAX).default(100).meta({
    description: 'Most deliveries that are not settled.',
  }),
  leaseMs: z.coerce.number<string>().int().min(1_000).max(43_200_000).default(30_000).meta({
    description: 'How long a delivery stays with a reader that has gone.',
  }),
})
const ExchangeQuery = Shown.extend({
  bindingKey: z.string().max(limits.NAME_BYTES_MAX).default('#').meta({
    description: 'Which messages: as in a binding of a queue to this exchange.',
  }),
})

const LastEventId = z.object({
  'Last-Event-ID': z.string().optional().meta({
    description: 'The last event that a reader got before it lost the connection.',
  }),
})

type Parts = Pick<Deps, 'topology' | 'metrics' | 'report'>
/** Runs a stream; what ends it after it has begun is its last event. */
type Serve = (
  call: Call<{ vhost: string }, unknown, undefined>,
  run: (stream: EventStream, lastEventId: string) => Promise<void>,
) => Promise<undefined>

export function eventRoutes(parts: Parts, spans: LeaseSpans): Route[] {
  let open = 0
  const serve: Serve = async (call, run) => {
    if (open >= limits.EVENT_STREAMS_MAX) {
      throw new BrokerError('too_many_requests', `${limits.EVENT_STREAMS_MAX} streams are open.`)
    }
    open++
    const { req, res, signal } = call
    const stream = new EventStream(res, signal)
    try {
      await run(stream, req.get('last-event-id') ?? '')
    } catch (error) {
      if (!res.headersSent) throw error
      const problem = toProblem(error)
      if (problem.status === 500) parts.report(error)
      if (!signal.aborted) await stream.send({ id: '', event: 'end', data: problem })
    } finally {
      open--
      if (res.headersSent) stream.end()
    }
    return undefined
  }
  return [queueRoute(parts, serve, spans), exchangeRoute(parts, serve)]
}

function queueRoute({ topology, metrics, report }: Parts, serve: Serve, spans: LeaseSpans): Route {
  const delivered = metrics.count('leased', { door: 'sse' })
  const queues = new QueueStreams()
  return route({
    method: 'get',
    path: '/v1/vhosts/:vhost/queues/:queue/events',
    tag: 'consume',
    needs: { read: 'queue' },
    summary: 'Stream the messages of a queue',
    description:
      'Server-Sent Events. Each `message` is a delivery, to be settled with its token; it stays leased ' +
      'while the reader is connected. At most `credit` are out.',
    query: QueueQuery,
    headers: LastEventId,
    answers: { 200: { description: 'The stream.', type: 'text/event-stream' } },
    refusals: ['vhost_not_found', 'queue_not_found', 'too_many_requests'],
    async handle(call) {
      const { params, query, principal, signal } = call
      const { store } = await findQueue(topology, params)
      const { credit, leaseMs } = query
      const shown = (message: LeasedMessage) => {
        delivered.value++
        spans.leased(params, [message], call.req.headers)
        return deliveryJson(params, query, message)
      }
      const options = { store, credit, leaseMs, consumer: principal.name, shown, report }
      return serve(call, (stream, last) => queues.serve(options, stream, last, signal))
    },
  })
}

function exchangeRoute({ topology, metrics }: Parts, serve: Serve): Route {
  const delivered = metrics.count('leased', { door: 'sse' })
  return route({
    method: 'get',
    path: '/v1/vhosts/:vhost/exchanges/:exchange/events',
    tag: 'consume',
    needs: { read: 'exchange' },
    summary: 'Stream what is published to an exchange, to every reader',
    description:
      'Server-Sent Events. Nothing is consumed: each reader sees every message from the moment it ' +
      'connects, and with Last-Event-ID from where it was, if that is less than a minute ago.',
    query: ExchangeQuery,
    headers: LastEventId,
    answers: { 200: { description: 'The stream.', type: 'text/event-stream' } },
    refusals: ['vhost_not_found', 'exchange_not_found', 'too_many_requests'],
    async handle(call) {
      const { params, query, principal, signal } = call
      const { vhost, exchange } = params
      call.require('read', { kind: 'exchange', name: exchange }, query.bindingKey)
      const shown = (message: LeasedMessage) => {
        delivered.value++
        return messageJson({ vhost, exchange }, query, message)
      }
      const { bindingKey } = query
      const options = { topology, vhost, exchange, bindingKey, consumer: principal.name, shown }
      return serve(call, (stream, last) => serveExchange(options, stream, last, signal))
    },
  })
}

/** A message that is to be settled. */
function deliveryJson(
  origin: Origin,
  query: z.output<typeof Shown>,
  message: LeasedMessage,
): object {
  const { token, deliveryCount, failedCount, redelivered } = message
  if (query.format === 'event') {
    const more = { sluicetoken: token, sluicedeliverycount: deliveryCount }
    return eventJson(storedEvent(origin, message.id, message.record), more)
  }
  const shown = messageJson(origin, query, message)
  return { ...shown, token, deliveryCount, failedCount, redelivered }
}

function messageJson(
  origin: Origin,
  query: z.output<typeof Shown>,
  message: LeasedMessage,
): object {
  const { id, record } = message
  if (query.format === 'event') return eventJson(storedEvent(origin, id, record))
  return { id, ...storedJson(record, query.encoding) }
}
