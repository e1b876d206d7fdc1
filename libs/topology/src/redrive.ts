/**
 * Redriving: a dead letter goes back to the queue in which it died, to another one that is named,
 * or through the exchange to which it was first published.
 *
 * Leased here, stored there, acknowledged here, in this order. The de-duplication id of the copy
 * is the letter's own identity, so that doing it again after a crash in between stores one copy
 * (for as long as the queue remembers ids, x-dedup-window). The script that acknowledges counts.
 */
import type { Appended, Message } from '@sluice/core'
import {
  type LeasedMessage,
  type MessageRecord,
  messageIdentity,
  type Peeked,
  type QueueReply,
} from '@sluice/store'
import { endSpan, type TraceContext, type Tracing } from '@sluice/telemetry'
import { type Letter, readLetter } from './dead-letter-filter.ts'
import type { Published, Publisher } from './publish.ts'
import type { QueueEntry } from './routing-table.ts'
import type { Topology } from './topology.ts'
import { carriedContext } from './trace.ts'

/** Where redriven letters go: where each died, as it was first published, or to one queue. */
export type RedriveTarget = 'queue' | 'exchange' | { readonly queue: string }

export type Redriven =
  /** `queue`: where it went, '' = through its exchange. */
  | { readonly kind: 'redriven'; readonly queue: string }
  /** It never died, as far as its headers say. */
  | { readonly kind: 'no-origin' }
  /** The queue it should go to is not there any more. */
  | { readonly kind: 'origin-gone'; readonly queue: string }
  /** Somebody else holds it, or it is gone. */
  | { readonly kind: 'taken' }
  /** It was not stored where it would go, '' and a name = that queue; it stays where it is. */
  | {
      readonly kind: 'refused'
      readonly exchange: string
      readonly routingKey: string
      readonly outcome: Published
    }

/** A crash holds a letter back for this long: longer than an append may take. */
const REDRIVE_LEASE_MS = 15_000

interface RedriveDeps {
  readonly topology: Topology
  readonly tracing: Tracing
  readonly publisher: Publisher
}

interface RedriveOptions {
  /** Names who does it, while it is under way. */
  readonly holder: string
  readonly to?: RedriveTarget
  /** Counts what leaves the queue under this name (QueueStore.acknowledged). */
  readonly countAs?: string
  /** The trace of whoever asked for it. */
  readonly request?: TraceContext | undefined
}

export async function redrive(
  deps: RedriveDeps,
  from: QueueEntry,
  letter: Pick<Peeked, 'ref' | 'record'>,
  options: RedriveOptions,
): Promise<Redriven> {
  const { tracing } = deps
  if (!tracing.on) return redriveLetter(deps, from, letter, options)
  const carried = carriedContext(letter.record.properties)
  const links = [options.request]
  const span = tracing.start('redrive', from.vhost, from.definition.name, carried, { links })
  const redriven = await redriveLetter(deps, from, letter, options)
  const { kind } = redriven
  if (span) endSpan(span, kind === 'redriven' ? undefined : kind, { 'sluice.outcome': kind })
  return redriven
}

/** What a redrive of it would come to, as far as can be said without trying. */
export async function foresee(
  topology: Topology,
  { vhost }: QueueEntry,
  letter: Letter | undefined,
  to: RedriveTarget,
): Promise<Redriven> {
  if (!letter) return { kind: 'no-origin' }
  const { exchange, routingKey } = letter
  if (to === 'exchange') {
    const headers = () => letter.properties.headers ?? {}
    const found = topology.table.exchange(vhost, exchange) !== undefined
    const { queues } = found
      ? topology.table.route(vhost, exchange, routingKey, headers)
      : { queues: [] }
    if (queues.length > 0) return { kind: 'redriven', queue: '' }
    const outcome = found ? 'unroutable' : 'exchange-missing'
    return { kind: 'refused', exchange, routingKey, outcome }
  }
  const queue = to === 'queue' ? letter.queue : to.queue
  const target = await find(topology, vhost, queue)
  return { kind: target ? 'redriven' : 'origin-gone', queue }
}

async function redriveLetter(
  deps: RedriveDeps,
  from: QueueEntry,
  { ref, record }: Pick<Peeked, 'ref' | 'record'>,
  { holder, to = 'queue', countAs = '' }: RedriveOptions,
): Promise<Redriven> {
  const letter = readLetter(record)
  const expected = await foresee(deps.topology, from, letter, to)
  if (!letter || expected.kind !== 'redriven') return expected
  const leased = await from.store.pick(ref, REDRIVE_LEASE_MS, holder)
  if (!leased) return { kind: 'taken' }
  const { queue } = expected
  const outcome = await send(deps, from, leased, letter, queue)
  const { token } = leased
  if (outcome !== 'stored' && outcome !== 'duplicate') {
    await from.store.settle([{ token, outcome: 'release' }])
    if (outcome === 'gone') return { kind: 'origin-gone', queue }
    const { exchange, routingKey } = queue === '' ? letter : { exchange: '', routingKey: queue }
    return { kind: 'refused', exchange, routingKey, outcome }
  }
  const [settled] = await from.store.settle([{ token, outcome: 'ack', countAs }])
  return settled === 'settled' ? expected : { kind: 'taken' }
}

/** Stores a copy: in this queue, or through the exchange where it is ''. */
async function send(
  { topology, publisher }: RedriveDeps,
  from: QueueEntry,
  { id, record }: LeasedMessage,
  letter: Letter,
  queue: string,
): Promise<Published | 'gone'> {
  const [last] = letter.history.deaths
  const { exchange, routingKey } = queue === '' ? letter : record
  const message = revived(record, letter, messageIdentity(from.store, id), {
    exchange: (queue === '' ? undefined : last?.exchange) ?? exchange,
    routingKey: (queue === '' ? undefined : last?.routingKeys[0]) ?? routingKey,
  })
  if (queue === '') return (await publisher.publishOne(from.vhost, message)).outcome
  const target = topology.table.queue(from.vhost, queue)
  return target ? appendTo(target, message) : 'gone'
}

/** Appends to one queue, without routing. */
export function appendTo({ store }: QueueEntry, message: Message): Promise<Appended> {
  return new Promise((resolve) => {
    const reply: QueueReply = { appended: (_token, outcome) => resolve(outcome) }
    store.publish(message, { record: undefined, sealed: undefined }, reply, 0)
  })
}

/** The message as it was published, its history included. */
function revived(
  record: MessageRecord,
  { properties }: Letter,
  dedupId: string,
  published: Pick<Message, 'exchange' | 'routingKey'>,
): Message {
  return {
    ...published,
    orderingKey: record.orderingKey,
    persistent: record.persistent,
    priority: properties.priority ?? 0,
    ttlMs: -1,
    delayMs: 0,
    dedupId,
    durability: null,
    ...(record.sealedBy !== undefined && { sealedBy: record.sealedBy }),
    properties: record.properties,
    body: record.body,
  }
}

async function find(topology: Topology, vhost: string, name: string) {
  const known = topology.table.queue(vhost, name)
  if (known) return known
  await topology.refresh()
  return topology.table.queue(vhost, name)
}
