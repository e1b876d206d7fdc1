/**
 * What is published to an exchange, to every reader: each has a queue of its own, bound for it, and
 * kept for a minute after it was connected last.
 *
 * A message stays in that queue for a while after it was written, since what was written may not
 * have arrived. A reader that comes back with its Last-Event-ID, to whatever process, goes on right
 * behind that one.
 */
import { BrokerError, exchangeName } from '@sluice/core'
import type { LeasedMessage, QueueStore } from '@sluice/store'
import type { QueueEntry, Topology } from '@sluice/topology'
import { findQueue } from '../find-queue.ts'
import type { EventStream } from './event-stream.ts'

/** How long a reader may be away, and how much it may miss meanwhile; then the oldest go. */
const AWAY_MS_MAX = 60_000
const MISSED_MAX = 10_000

const LEASE_MESSAGES_MAX = 100
const LEASE_WAIT_MS = 10_000
const LEASE_MS = 30_000
/** What was written is kept for so long, and no more than so many of it. */
const WRITTEN_MS = 10_000
const WRITTEN_MAX = 1_000

const LAST_EVENT_ID = /^(amq\.gen-[\w-]{1,64})\/([0-9a-f]{24})$/

interface ExchangeStreamOptions {
  readonly topology: Topology
  readonly vhost: string
  /** As the path names it. */
  readonly exchange: string
  readonly bindingKey: string
  readonly consumer: string
  readonly shown: (message: LeasedMessage) => unknown
}

interface Written {
  readonly token: string
  readonly atMs: number
}

/** Serves a reader until the signal aborts. @param lastEventId '' = the reader is new. */
export async function serveExchange(
  options: ExchangeStreamOptions,
  stream: EventStream,
  lastEventId: string,
  signal: AbortSignal,
): Promise<void> {
  const { consumer, shown } = options
  const [, name = '', last = ''] = LAST_EVENT_ID.exec(lastEventId) ?? []
  const known = await knownQueue(options, name)
  const { definition, store } = known ?? (await newQueue(options))
  const after = known ? last : ''
  const written: Written[] = []
  stream.open()
  try {
    while (!signal.aborted) {
      const asked = { max: LEASE_MESSAGES_MAX, leaseMs: LEASE_MS, waitMs: LEASE_WAIT_MS }
      for (const message of await store.lease({ ...asked, consumer, signal })) {
        // What the reader has had is done with; its place in the queue tells.
        const had = message.id <= after
        written.push({ token: message.token, atMs: had ? 0 : performance.now() })
        if (had || signal.aborted) continue
        const id = `${definition.name}/${message.id}`
        await stream.send({ id, event: 'message', data: shown(message) })
      }
      await forget(store, written)
    }
  } finally {
    // Whoever comes back says how much of it arrived.
    await store.settle(written.map(({ token }) => ({ token, outcome: 'release' })))
  }
}

/** Acknowledges what was written long ago. */
async function forget(store: QueueStore, written: Written[]): Promise<void> {
  const beforeMs = performance.now() - WRITTEN_MS
  let count = Math.max(0, written.length - WRITTEN_MAX)
  while (count < written.length && written[count]!.atMs < beforeMs) count++
  const done = written.splice(0, count)
  if (done.length > 0) await store.settle(done.map(({ token }) => ({ token, outcome: 'ack' })))
}

/** The queue that a reader had; undefined when it is gone, or was not for this exchange. */
async function knownQueue(
  { topology, vhost, exchange }: ExchangeStreamOptions,
  name: string,
): Promise<QueueEntry | undefined> {
  if (name === '') return undefined
  try {
    const entry = await findQueue(topology, { vhost, queue: name })
    const bindings = topology.table.bindings(vhost, { source: exchangeName(exchange) })
    return bindings.some(({ destination }) => destination === name) ? entry : undefined
  } catch (error) {
    if (error instanceof BrokerError && error.code === 'queue_not_found') return undefined
    throw error
  }
}

async function newQueue(options: ExchangeStreamOptions): Promise<QueueEntry> {
  const { topology, vhost, exchange, bindingKey } = options
  const { definition } = await topology.declareQueue(vhost, {
    name: '',
    durable: false,
    exclusive: '',
    autoDelete: false,
    arguments: { 'x-expires': AWAY_MS_MAX, 'x-max-length': MISSED_MAX },
  })
  const { name } = definition
  try {
    await topology.bind(vhost, {
      source: exchangeName(exchange),
      destination: name,
      destinationType: 'queue',
      routingKey: bindingKey,
      arguments: {},
    })
  } catch (error) {
    await topology.deleteQueue(vhost, name)
    throw error
  }
  return findQueue(topology, { vhost, queue: name })
}
