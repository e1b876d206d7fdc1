/**
 * The queues that chaos works on, and what each promises: the checkers read it from here.
 */
import assert from 'node:assert/strict'
import type { HttpClient } from '../support/http.ts'

export const VHOST = 'chaos'
export const BASE = `/v1/vhosts/${VHOST}`
const DEAD_LETTERS = 'amq.dead-letters'

export interface QueuePlan {
  readonly name: string
  readonly arguments: Readonly<Record<string, unknown>>
  /**
   * Consumers over HTTP and over AMQP; with one, first deliveries come in the order of publishing.
   */
  readonly http: number
  readonly amqp: number
  /** Deliveries that may fail before the message dies. */
  readonly deliveryLimit: number
  /** Messages carry an ordering key, and keep the order of each. */
  readonly keyed?: true
  /** Where its dead letters go. */
  readonly deadTo: string
}

/** The broker's own limit, where a queue names none. */
const LIMIT_DEFAULT = 20
const quick = { base: 100, factor: 2, max: 800, jitter: 0.5 }

export const QUEUES: readonly QueuePlan[] = [
  plan('plain', 2, 2),
  plan('line', 1, 0),
  plan('keyed', 2, 1, { keyed: true, arguments: { 'x-ordering-key': true, 'x-retry': quick } }),
  plan('once', 1, 1, { arguments: { 'x-dedup-window': 3_600_000 } }),
  plan('retried', 2, 1, {
    deliveryLimit: 3,
    deadTo: 'dead',
    arguments: { 'x-retry': quick, 'x-delivery-limit': 3, 'x-dead-letter-exchange': 'dlx' },
  }),
  plan('levels', 1, 1, { arguments: { 'x-max-priority': 4 } }),
  plan('later', 1, 0),
  plan('fan.a', 1, 0),
  plan('fan.b', 0, 1),
  plan('fan.c', 1, 1, {
    keyed: true,
    deliveryLimit: 2,
    arguments: { 'x-ordering-key': true, 'x-delivery-limit': 2, 'x-retry': quick },
  }),
]

/** Queues that only hold what died elsewhere. */
export const GRAVES: readonly string[] = ['dead', DEAD_LETTERS]

function plan(name: string, http: number, amqp: number, rest: Partial<QueuePlan> = {}): QueuePlan {
  return {
    name,
    http,
    amqp,
    deliveryLimit: LIMIT_DEFAULT,
    deadTo: DEAD_LETTERS,
    arguments: {},
    ...rest,
  }
}

export const planOf = (queue: string): QueuePlan =>
  QUEUES.find(({ name }) => name === queue) ?? assert.fail(`no queue ${queue}`)

/** How a kind of message is published, and where it must arrive. */
export interface Stream {
  readonly exchange: string
  readonly routingKey: string
  readonly queues: readonly string[]
}

export const STREAMS: readonly Stream[] = [
  ...['plain', 'line', 'keyed', 'once', 'retried', 'levels', 'later'].map((queue) => ({
    exchange: 'amq.default',
    routingKey: queue,
    queues: [queue],
  })),
  { exchange: 'fan', routingKey: '', queues: ['fan.a', 'fan.b', 'fan.c'] },
]

export async function declareAll(http: HttpClient): Promise<void> {
  const put = async (path: string, body: unknown) => {
    const { status, text } = await http.request('PUT', BASE + path, { body })
    assert.ok(status === 200 || status === 201, `${path}: ${text}`)
  }
  await put('', {})
  for (const { name, arguments: args } of QUEUES) await put(`/queues/${name}`, { arguments: args })
  await put('/queues/dead', {})
  await put('/exchanges/fan', { type: 'fanout' })
  await put('/exchanges/dlx', { type: 'fanout' })
  for (const destination of ['fan.a', 'fan.b', 'fan.c']) {
    await put('/bindings', { source: 'fan', destination })
  }
  await put('/bindings', { source: 'dlx', destination: 'dead' })
}
