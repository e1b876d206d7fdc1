/**
 * Publishing one message over HTTP: the body as it came, properties from the request headers.
 *
 *   POST /v1/vhosts/:vhost/exchanges/:exchange/messages   routing key by header or query
 *   POST /v1/vhosts/:vhost/queues/:queue/messages         through the default exchange
 *
 * Hot path: headers are read by hand, the body is not parsed, the answer is one write.
 * Measured by test/bench/http.bench.ts against an Express app that answers 200.
 */
import {
  BrokerError,
  DEFAULT_EXCHANGE,
  type Durability,
  type ErrorCode,
  exchangeName,
  limits,
} from '@sluice/core'
import type { Grants } from '@sluice/security'
import {
  type Call,
  carryTrace,
  type Deps,
  Draft,
  describeReached,
  draftEvent,
  type EventMode,
  eventFromHeaders,
  eventMode,
  eventsFromBody,
  noQueue,
  noVhost,
  type PublishCounts,
  PublishHeaders,
  publishCounts,
  type Route,
  readHeaders,
  receiveBody,
  refusalOf,
  requirePublish,
  route,
  sendProblem,
  stronger,
  toMessage,
  toProblem,
} from '@sluice/server'
import type { Published, PublishReply, QueueEntry } from '@sluice/topology'
import type { Request, Response } from 'express'
import { z } from 'zod'

const Receipt = z
  .object({
    routed: z.boolean().meta({ description: 'Whether any queue was reached.' }),
    queues: z.array(z.string()).meta({ description: 'The queues reached.' }),
    duplicate: z.boolean().meta({
      description: 'Every queue had a message with this Idempotency-Key; nothing was added.',
    }),
    durability: z
      .string()
      .meta({ description: 'What was promised, and given: memory, fsync or replicas=n.' }),
  })
  .meta({ id: 'Receipt' })

export const PUBLISH_REFUSALS: readonly ErrorCode[] = [
  'vhost_not_found',
  'exchange_not_found',
  'forbidden',
  'unroutable',
  'queue_full',
  'memory_high',
  'durability_unavailable',
  'encryption_unavailable',
]

interface PublishOptions {
  readonly messageBytesMax: number
  readonly durability: Durability
}

export function publishRoutes(deps: Deps, options: PublishOptions): Route[] {
  const counts = publishCounts(deps, 'http')
  const common = {
    method: 'post',
    tag: 'publish',
    hot: true,
    headers: PublishHeaders,
    body: {
      raw: true,
      description:
        'The message’s body: any bytes of any type, kept as they are. With ce- headers, or as ' +
        'application/cloudevents+json, a CloudEvent.',
      types: { '*/*': undefined },
    },
    bodyBytesMax: options.messageBytesMax,
    answers: {
      200: { description: 'It is stored, or no queue wanted it (routed: false).', body: Receipt },
    },
  } as const

  const send = (
    call: Call<object, unknown, undefined>,
    vhost: string,
    exchange: string,
    key: string,
  ) => new Publication(deps, options, counts, call, vhost, exchange, key).start()

  return [
    route({
      ...common,
      path: '/v1/vhosts/:vhost/exchanges/:exchange/messages',
      needs: { write: 'exchange' },
      summary: 'Publish a message',
      description:
        'The routing key comes by query or by Sluice-Routing-Key. amq.default is the default exchange.',
      query: z.strictObject({
        routingKey: z.string().default('').meta({ description: 'Routing key.' }),
      }),
      refusals: PUBLISH_REFUSALS,
      handle(call) {
        const { vhost, exchange } = call.params
        send(call, vhost, exchangeName(exchange), call.query.routingKey)
        return undefined
      },
    }),
    route({
      ...common,
      path: '/v1/vhosts/:vhost/queues/:queue/messages',
      needs: { write: 'default exchange' },
      summary: 'Publish a message to one queue',
      description: 'Refused with queue_not_found when the queue does not exist.',
      refusals: [...PUBLISH_REFUSALS, 'queue_not_found'],
      handle(call) {
        const { vhost, queue } = call.params
        send(call, vhost, DEFAULT_EXCHANGE, queue)
        return undefined
      },
    }),
  ]
}

/** One publish, from its headers to its answer. */
class Publication implements PublishReply {
  readonly #deps: Deps
  readonly #options: PublishOptions
  readonly #counts: PublishCounts
  readonly #req: Request
  readonly #res: Response
  readonly #grants: Grants
  readonly #vhost: string
  readonly #exchange: string
  readonly #draft: Draft
  #event: EventMode | undefined

  constructor(
    deps: Deps,
    options: PublishOptions,
    counts: PublishCounts,
    { req, res, grants }: Call<object, unknown, undefined>,
    vhost: string,
    exchange: string,
    routingKey: string,
  ) {
    this.#deps = deps
    this.#options = options
    this.#counts = counts
    this.#req = req
    this.#res = res
    this.#grants = grants
    this.#vhost = vhost
    this.#exchange = exchange
    this.#draft = new Draft(routingKey)
  }

  /** Throws invalid_request before the body is read; later refusals are answered here. */
  start(): void {
    const draft = this.#draft
    const named = draft.routingKey
    readHeaders(this.#req.rawHeaders, draft)
    carryTrace(draft, this.#req.headers)
    this.#event = eventMode(this.#req.headers)
    if (this.#event === 'batched') {
      throw new BrokerError('unsupported_media_type', 'Send a batch of events to .../batch.')
    }
    if (named !== '' && draft.routingKey !== named) {
      throw new BrokerError('invalid_request', 'The routing key is given twice, and differently.')
    }
    if (Buffer.byteLength(draft.routingKey) > limits.NAME_BYTES_MAX) {
      throw new BrokerError(
        'invalid_request',
        `A routing key has at most ${limits.NAME_BYTES_MAX} bytes.`,
      )
    }
    receiveBody(this.#req, this.#res, this.#options.messageBytesMax, (error, body) => {
      if (error === undefined) this.#publish(body)
      else this.#refuse(error)
    })
  }

  #publish(received: Buffer): void {
    try {
      const { store, topology } = this.#deps
      const body = this.#event === undefined ? received : this.#readEvent(this.#event, received)
      const message = toMessage(this.#draft, this.#exchange, body, store.state.clockAheadMs)
      requirePublish(topology.table, this.#grants, message)
      this.#counts.bytes.value += body.length
      this.#deps.publisher.publish(this.#vhost, message, this, 0)
    } catch (error) {
      this.#refuse(error)
    }
  }

  /** The body of the message that a CloudEvent becomes; its attributes go into the draft. */
  #readEvent(mode: EventMode, received: Buffer): Buffer {
    const event =
      mode === 'binary'
        ? eventFromHeaders(this.#req.rawHeaders, received)
        : eventsFromBody('structured', received)[0]!
    return draftEvent(this.#draft, event)
  }

  published(_token: number, outcome: Published, queues: readonly QueueEntry[]): void {
    this.#counts[outcome].value++
    const routingKey = this.#draft.mandatory ? this.#draft.routingKey : undefined
    const refusal =
      this.#missing(outcome) ?? refusalOf(outcome, { exchange: this.#exchange, routingKey })
    if (refusal !== undefined) {
      this.#refuse(refusal)
      return
    }
    const { names, durability } = describeReached(queues)
    const least = stronger(durability, this.#options.durability)
    const given = this.#draft.durability === null ? least : stronger(least, this.#draft.durability)
    const text =
      `{"routed":${queues.length > 0},"queues":${names},` +
      `"duplicate":${outcome === 'duplicate'},"durability":"${given}"}\n`
    const res = this.#res
    res.setHeader('Content-Type', 'application/json')
    res.setHeader('Content-Length', Buffer.byteLength(text))
    res.end(text)
  }

  /** The more telling refusals, looked up only when something was missing. */
  #missing(outcome: Published): BrokerError | undefined {
    if (outcome !== 'exchange-missing' && outcome !== 'unroutable') return undefined
    const { table } = this.#deps.topology
    const vhost = this.#vhost
    if (outcome === 'exchange-missing') {
      return table.hasVhost(vhost) ? undefined : noVhost(vhost)
    }
    return this.#req.params['queue'] === undefined ? undefined : noQueue(this.#draft.routingKey)
  }

  #refuse(error: unknown): void {
    if (this.#res.destroyed) return // the client is gone
    const problem = toProblem(error)
    if (problem.status === 500) this.#deps.report(error)
    sendProblem(this.#req, this.#res, problem)
  }
}
