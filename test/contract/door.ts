/**
 * One suite of delivery promises for every door: what a test asks of a door, and the doors.
 *
 * A test is written once, against `Door`, and runs through each. A door that differs on purpose says
 * so where it is made, with the reason.
 */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { type TestBroker, withBroker } from '../support/broker.ts'
import { WsPeer } from '../support/ws-peer.ts'
import { webSocketDoor } from './websocket-door.ts'

export interface Publish {
  readonly exchange?: string
  readonly routingKey?: string
  readonly headers?: Readonly<Record<string, string>>
  readonly orderingKey?: string
  readonly priority?: number
  readonly ttlMs?: number
  readonly delayMs?: number
  readonly deliverAt?: Date
  readonly dedupId?: string
}

export type Published = 'stored' | 'duplicate' | 'unroutable' | 'full'

export interface Delivery {
  readonly id: string
  readonly token: string
  readonly body: string
  readonly exchange: string
  readonly routingKey: string
  readonly headers: Readonly<Record<string, unknown>>
  readonly deliveryCount: number
  readonly failedCount: number
  readonly redelivered: boolean
}

export interface Take {
  readonly max?: number
  readonly waitMs?: number
  readonly leaseMs?: number
  readonly consumer?: string
}

export type Settlement =
  | { readonly outcome: 'ack' | 'release' }
  | { readonly outcome: 'retry'; readonly delayMs?: number; readonly reason?: string }
  | { readonly outcome: 'dead-letter'; readonly reason: string }
  | { readonly outcome: 'extend'; readonly leaseMs: number }

export interface Door {
  readonly broker: TestBroker
  declare(queue: string, args?: Readonly<Record<string, unknown>>): Promise<void>
  /** A fanout exchange bound to a new queue: somewhere for dead letters. */
  deadLetterExchange(exchange: string, queue: string): Promise<void>
  publish(queue: string, body: string, options?: Publish): Promise<Published>
  /** Up to `max` (100) messages, waiting up to `waitMs` (10 s) for the first. */
  take(queue: string, options?: Take): Promise<Delivery[]>
  settle(queue: string, delivery: Delivery, settlement: Settlement): Promise<string>
  /** Before the broker stops. */
  close?(): Promise<void>
  /** Ready, unacked, delayed and dead messages. */
  counts(queue: string): Promise<Record<'ready' | 'unacked' | 'delayed' | 'dead', number>>
}

/** Runs a promise's test through every door that makes it. */
export function promise(title: string, body: (door: Door, t: TestContext) => Promise<void>): void {
  for (const { name, open, without } of DOORS) {
    if (without?.some((words) => title.includes(words))) continue
    test(`${name}: ${title}`, async (t) => {
      const door = await open(await withBroker(t))
      try {
        await body(door, t)
      } finally {
        await door.close?.()
      }
    })
  }
}

interface DoorKind {
  readonly name: string
  readonly open: (broker: TestBroker) => Door | Promise<Door>
  /** Words of the titles of promises that it does not make. */
  readonly without?: readonly string[]
}

const DOORS: readonly DoorKind[] = [
  { name: 'http', open: (broker) => httpDoor(broker) },
  {
    name: 'websocket',
    open: async (broker) => {
      const peer = await WsPeer.open(broker.http, { vhost: broker.vhost })
      return webSocketDoor(broker, httpDoor(broker), peer)
    },
    without: [
      // Its connection holds what it was handed, for as long as it lives: there is no lease, and
      // nobody else settles. test/e2e/websocket.test.ts says when that ends.
      'a lease that',
      'comes too late, or twice',
      'any process settles',
      // A settlement has no answer, and no name is kept of who held a message.
      'past its delivery limit',
      // Its back-off is shorter than it takes to be sure that nothing comes.
      'a retry without a delay',
    ],
  },
]

/** @param vhost another broker's, to meet its messages through this one. */
export function httpDoor(broker: TestBroker, vhost: string = broker.vhost): Door {
  const base = `/v1/vhosts/${encodeURIComponent(vhost)}`
  const ask = async (method: string, path: string, body: unknown, status: number) => {
    const answer = await broker.request(method, base + path, { body })
    assert.equal(answer.status, status, `${method} ${path}: ${answer.text}`)
    return answer.json
  }
  return {
    broker,
    async declare(queue, args = {}) {
      await ask('PUT', `/queues/${queue}`, { arguments: args }, 201)
    },
    async deadLetterExchange(exchange, queue) {
      await ask('PUT', `/exchanges/${exchange}`, { type: 'fanout' }, 201)
      await ask('PUT', `/queues/${queue}`, {}, 201)
      const binding = { source: exchange, destination: queue, destinationType: 'queue' }
      await ask('PUT', '/bindings', binding, 201)
    },
    async publish(queue, body, options = {}) {
      const exchange = encodeURIComponent(options.exchange ?? 'amq.default')
      const headers = publishHeaders(options, options.routingKey ?? queue)
      const path = `${base}/exchanges/${exchange}/messages`
      const { status, json, text } = await broker.request('POST', path, { headers, body })
      if (status === 429) {
        assert.equal(json.title, 'queue_full', text)
        return 'full'
      }
      assert.equal(status, 200, text)
      return json.duplicate ? 'duplicate' : json.routed ? 'stored' : 'unroutable'
    },
    async take(queue, { max = 100, waitMs = 10_000, leaseMs = 30_000, consumer } = {}) {
      const options = { max, waitMs, leaseMs, consumer }
      return (await ask('POST', `/queues/${queue}/leases`, options, 200)).messages
    },
    async settle(queue, { token }, settlement) {
      const settlements = [{ token, ...settlement }]
      return (await ask('POST', `/queues/${queue}/settlements`, { settlements }, 200)).outcomes[0]
    },
    async counts(queue) {
      const { ready, unacked, delayed, dead } = (
        await ask('GET', `/queues/${queue}`, undefined, 200)
      ).messages
      return { ready, unacked, delayed, dead }
    },
  }
}

function publishHeaders(options: Publish, routingKey: string): Record<string, string> {
  const { headers = {}, orderingKey, priority, ttlMs, delayMs, deliverAt, dedupId } = options
  const named: Record<string, string | number | undefined> = {
    'Content-Type': 'text/plain',
    'Sluice-Routing-Key': routingKey,
    'Sluice-Ordering-Key': orderingKey,
    'Sluice-Priority': priority,
    'Sluice-Ttl': ttlMs,
    'Sluice-Delay': delayMs,
    'Sluice-Deliver-At': deliverAt?.toISOString(),
    'Idempotency-Key': dedupId,
  }
  for (const [name, value] of Object.entries(headers)) named[`Sluice-Header-${name}`] = value
  return Object.fromEntries(
    Object.entries(named).flatMap(([name, value]) =>
      value === undefined ? [] : [[name, String(value)]],
    ),
  )
}

export const bodies = (deliveries: readonly Delivery[]): string[] =>
  deliveries.map(({ body }) => body)

/** Takes one message; fails when there is none within 10 s. */
export async function takeOne(door: Door, queue: string, options: Take = {}): Promise<Delivery> {
  const [delivery] = await door.take(queue, { ...options, max: 1 })
  return delivery ?? assert.fail(`nothing came from ${queue}`)
}
