/**
 * Redriving: a dead letter goes back to the queue in which it died, and only there.
 *
 * Leased here, appended there, acknowledged here, in this order. The de-duplication id of the
 * append is the letter's own identity, so that doing it again after a crash in between stores one
 * copy (for as long as the queue remembers ids, x-dedup-window).
 */
import { decodeProperties, type Properties } from '@sluice/amqp'
import type { Appended, Message } from '@sluice/core'
import { type MessageRecord, messageIdentity, type Peeked, type QueueReply } from '@sluice/store'
import { endSpan, type TraceContext, type Tracing } from '@sluice/telemetry'
import { deathHistory, originalQueue } from './dead-letter.ts'
import type { QueueEntry } from './routing-table.ts'
import type { Topology } from './topology.ts'
import { carriedContext } from './trace.ts'

export type Redriven =
  | { readonly kind: 'redriven'; readonly queue: string }
  /** It never died, as far as its headers say. */
  | { readonly kind: 'no-origin' }
  /** The queue in which it died is not there any more. */
  | { readonly kind: 'origin-gone'; readonly queue: string }
  /** Somebody else holds it, or it is gone. */
  | { readonly kind: 'taken' }
  /** The queue did not take it; it stays where it is. */
  | { readonly kind: 'refused'; readonly queue: string; readonly outcome: Appended }

/** A crash holds a letter back for this long: longer than an append may take. */
export const REDRIVE_LEASE_MS = 15_000

interface RedriveOptions {
  /** Names who does it, while it is under way. */
  readonly holder: string
  /** The trace of whoever asked for it. */
  readonly request?: TraceContext | undefined
}

export async function redrive(
  { topology, tracing }: { readonly topology: Topology; readonly tracing: Tracing },
  from: QueueEntry,
  letter: Pick<Peeked, 'ref' | 'record'>,
  { holder, request }: RedriveOptions,
): Promise<Redriven> {
  if (!tracing.on) return redriveLetter(topology, from, letter, holder)
  const carried = carriedContext(letter.record.properties)
  const links = [request]
  const span = tracing.start('redrive', from.vhost, from.definition.name, carried, { links })
  const redriven = await redriveLetter(topology, from, letter, holder)
  const { kind } = redriven
  if (span) endSpan(span, kind === 'redriven' ? undefined : kind, { 'sluice.outcome': kind })
  return redriven
}

async function redriveLetter(
  topology: Topology,
  from: QueueEntry,
  letter: Pick<Peeked, 'ref' | 'record'>,
  holder: string,
): Promise<Redriven> {
  const { ref } = letter
  const properties = readProperties(letter.record)
  const origin = originalQueue(properties.headers)
  if (origin === undefined) return { kind: 'no-origin' }
  const target = await find(topology, from.vhost, origin)
  if (!target) return { kind: 'origin-gone', queue: origin }

  const leased = await from.store.pick(ref, REDRIVE_LEASE_MS, holder)
  if (!leased) return { kind: 'taken' }
  const { token } = leased
  const message = revived(leased.record, properties, messageIdentity(from.store, ref))
  const outcome = await appendTo(target, message)
  if (outcome !== 'stored' && outcome !== 'duplicate') {
    await from.store.settle([{ token, outcome: 'release' }])
    if (outcome === 'gone') return { kind: 'origin-gone', queue: origin }
    return { kind: 'refused', queue: origin, outcome }
  }
  await from.store.settle([{ token, outcome: 'ack' }])
  return { kind: 'redriven', queue: origin }
}

/** Appends to one queue, without routing. */
export function appendTo({ store }: QueueEntry, message: Message): Promise<Appended> {
  return new Promise((resolve) => {
    const reply: QueueReply = { appended: (_token, outcome) => resolve(outcome) }
    store.publish(message, { record: undefined, sealed: undefined }, reply, 0)
  })
}

/** The message as it was when it died last, its history included. */
function revived(record: MessageRecord, properties: Properties, dedupId: string): Message {
  const [death] = deathHistory(properties.headers).deaths
  return {
    exchange: death?.exchange ?? record.exchange,
    routingKey: death?.routingKeys[0] ?? record.routingKey,
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

function readProperties(record: MessageRecord): Properties {
  try {
    return decodeProperties(record.properties)
  } catch {
    return {}
  }
}
