/**
 * Dead letters: what a message that died becomes, and how its history is read back (pure).
 *
 * The history is RabbitMQ's (amqp-0-9-1, 77-82): `x-death`, an entry for each queue and reason,
 * newest first, `x-first-death-*` and `x-last-death-*`. Like RabbitMQ 3 it goes on from an `x-death`
 * that a client published. Beside it stand ours: `x-sluice-error`, `x-sluice-holder`,
 * `x-sluice-delivery-count` and `x-sluice-attempts` tell the last error, who held the message last,
 * how often it was delivered and what came of each push, in the queue where it died last.
 *
 * Headers are decoded and encoded again: a number keeps its value but may change its width.
 */
import {
  decodeProperties,
  encodeProperties,
  type FieldValue,
  PROPERTIES_DECODED_BYTES_MAX,
  type Properties,
  type Table,
} from '@sluice/amqp'
import { BrokerError, DEAD_LETTER_QUEUE, type DeathReason, type Message } from '@sluice/core'
import type { MessageRecord } from '@sluice/store'
import type { QueueEntry } from './vhost-table.ts'

/** How a message died. */
export interface Death {
  readonly queue: string
  readonly reason: DeathReason
  /** When, ms since 1970; kept in whole seconds. */
  readonly timeMs: number
  /** Deliveries in that queue. */
  readonly deliveryCount: number
  /** The last error a consumer gave; '' = none. */
  readonly error: string
  /** Who had it last; '' = nobody. */
  readonly holder: string
  /** What came of pushing it, newest first, a JSON text each. */
  readonly attempts: readonly string[]
}

/** Where a dead letter is published. */
export interface DeadLetterTarget {
  readonly exchange: string
  /** undefined = the message keeps its own routing key. */
  readonly routingKey: string | undefined
}

/** One entry of `x-death`: all deaths in a queue for a reason. */
export interface DeathEntry {
  readonly queue: string
  readonly reason: string
  readonly count: number
  /** When it first died so, ms since 1970; undefined where a client wrote none. */
  readonly timeMs: number | undefined
  /** The exchange it had been published to. */
  readonly exchange: string
  /** Routing key and CC. */
  readonly routingKeys: readonly string[]
  readonly originalExpiration: string | undefined
}

/** The history of a dead letter, for lists. */
export interface DeathHistory {
  /** Newest first. */
  readonly deaths: readonly DeathEntry[]
  readonly error: string | undefined
  readonly holder: string | undefined
  readonly deliveryCount: number | undefined
  /** Newest first, a JSON text each. */
  readonly attempts: readonly string[]
}

/** Entries kept; merging leaves real histories one for each queue on the way. */
const DEATHS_MAX = 64

const COUNT_MAX = 2n ** 63n - 1n
/** Of properties that nobody can read. */
const MALFORMED_BYTES_KEPT = 64 * 1024

/** A queue's dead letter exchange, or the vhost's `amq.dead-letters` where it has none. */
export function deadLetterTarget(entry: QueueEntry): DeadLetterTarget {
  const exchange = entry.deadLetterExchange
  if (exchange === undefined) return { exchange: '', routingKey: DEAD_LETTER_QUEUE }
  return { exchange, routingKey: entry.deadLetterRoutingKey }
}

/**
 * The message to publish for one that died, and its history, this death included, for `isCycle`.
 * Its time to live ended with it: the dead letter has none of its own.
 *
 * @param dedupId tells this move from others, so that repeating it stores one copy.
 */
export function deadLetter(
  record: MessageRecord,
  death: Death,
  target: DeadLetterTarget,
  dedupId: string,
): { message: Message; history: DeathHistory } {
  const properties = readProperties(record.properties)
  const headers = { ...properties.headers }
  const carbons = strings(headers['CC'])
  const entries = withDeath(merged(tables(headers['x-death'])), death, record, properties, carbons)

  markDeath(headers, death, record.exchange)
  setOrDelete(headers, 'x-sluice-error', death.error)
  setOrDelete(headers, 'x-sluice-holder', death.holder)
  setOrDelete(headers, 'x-sluice-attempts', [...death.attempts])
  headers['x-sluice-delivery-count'] = death.deliveryCount
  delete headers['BCC']
  if (target.routingKey !== undefined) delete headers['CC']
  delete properties.expiration

  const message: Message = {
    exchange: target.exchange,
    routingKey: target.routingKey ?? record.routingKey,
    orderingKey: record.orderingKey,
    persistent: record.persistent,
    priority: properties.priority ?? 0,
    ttlMs: -1,
    delayMs: 0,
    dedupId,
    durability: null,
    ...(record.sealedBy !== undefined && { sealedBy: record.sealedBy }),
    properties: encode(properties, headers, entries),
    body: record.body,
  }
  return { message, history: deathHistory({ ...headers, 'x-death': entries }) }
}

/**
 * Whether storing a dead letter in `queue` closes a circle that nothing but the broker turns: the
 * queue is in its history, and no consumer rejected it since. Such a message is dropped.
 */
export function isCycle({ deaths }: DeathHistory, queue: string): boolean {
  const last = deaths.findIndex((death) => death.queue === queue)
  return last >= 0 && deaths.slice(0, last + 1).every(({ reason }) => reason !== 'rejected')
}

/** Reads the history from headers; what is malformed in them is left out. */
export function deathHistory(headers: Table | undefined): DeathHistory {
  const number = headers?.['x-sluice-delivery-count']
  return {
    deaths: tables(headers?.['x-death']).map((entry) => ({
      queue: text(entry['queue']) ?? '',
      reason: text(entry['reason']) ?? '',
      count: Number(count(entry)),
      timeMs: entry['time'] instanceof Date ? entry['time'].getTime() : undefined,
      exchange: text(entry['exchange']) ?? '',
      routingKeys: strings(entry['routing-keys']),
      originalExpiration: text(entry['original-expiration']),
    })),
    error: text(headers?.['x-sluice-error']),
    holder: text(headers?.['x-sluice-holder']),
    deliveryCount: typeof number === 'number' ? number : undefined,
    attempts: strings(headers?.['x-sluice-attempts']),
  }
}

/** The queue in which it died last, to which a redrive returns it; undefined = it never died. */
export function originalQueue(headers: Table | undefined): string | undefined {
  return text(headers?.['x-last-death-queue']) ?? deathHistory(headers).deaths[0]?.queue
}

/** Properties that no decoder takes go along as bytes: the message must not be lost for them. */
function readProperties(bytes: Buffer): Properties {
  try {
    return decodeProperties(bytes, { wide: true })
  } catch {
    return { headers: { 'x-sluice-malformed-properties': bytes.subarray(0, MALFORMED_BYTES_KEPT) } }
  }
}

/** One entry for each queue and reason: old brokers wrote one for each death, without a count. */
function merged(entries: Table[]): Table[] {
  const known = new Map<string, Table>()
  for (const entry of entries) {
    const name = JSON.stringify([text(entry['queue']), text(entry['reason'])])
    const first = known.get(name)
    if (first) first['count'] = sum(count(first), count(entry))
    else known.set(name, { ...entry })
  }
  return [...known.values()]
}

const sum = (a: bigint, b: bigint): bigint => (a + b < COUNT_MAX ? a + b : COUNT_MAX)

function withDeath(
  entries: Table[],
  death: Death,
  record: MessageRecord,
  { expiration }: Properties,
  carbons: string[],
): Table[] {
  const same = ({ queue, reason }: Table) => queue === death.queue && reason === death.reason
  const known = entries.find(same)
  const newest: Table = known
    ? { ...known, count: sum(count(known), 1n) }
    : {
        count: 1n,
        reason: death.reason,
        queue: death.queue,
        time: new Date(death.timeMs),
        exchange: record.exchange,
        'routing-keys': [record.routingKey, ...carbons],
        ...(expiration !== undefined && { 'original-expiration': expiration }),
      }
  return [newest, ...entries.filter((entry) => entry !== known)].slice(0, DEATHS_MAX)
}

function markDeath(headers: Table, { queue, reason }: Death, exchange: string): void {
  const facts = { queue, reason, exchange }
  for (const [name, value] of Object.entries(facts)) {
    headers[`x-first-death-${name}`] ??= value
    headers[`x-last-death-${name}`] = value
  }
}

function setOrDelete(headers: Table, name: string, value: string | string[]): void {
  if (value.length === 0) delete headers[name]
  else headers[name] = value
}

/** A history that outgrows every limit, with long lists of CC, is cut to its newest entry. */
function encode(properties: Properties, headers: Table, entries: Table[]): Buffer {
  const bytes = (deaths: Table[]) =>
    encodeProperties(
      { ...properties, headers: { ...headers, 'x-death': deaths } },
      PROPERTIES_DECODED_BYTES_MAX,
    )
  try {
    return bytes(entries)
  } catch (error) {
    if (!(error instanceof BrokerError) || error.code !== 'message_too_large') throw error
    return bytes(entries.slice(0, 1))
  }
}

function tables(value: FieldValue | undefined): Table[] {
  if (!Array.isArray(value)) return []
  return value.filter((entry): entry is Table => {
    const isValue = entry === null || typeof entry !== 'object' || Array.isArray(entry)
    return !(isValue || Buffer.isBuffer(entry) || entry instanceof Date)
  })
}

function strings(value: FieldValue | undefined): string[] {
  return Array.isArray(value) ? value.filter((entry) => typeof entry === 'string') : []
}

function text(value: FieldValue | undefined): string | undefined {
  return typeof value === 'string' ? value : undefined
}

/** As a bigint, which is written as RabbitMQ's long; 1 where a client wrote no count. */
function count({ count: value }: Table): bigint {
  if (typeof value === 'bigint') return value
  return Number.isSafeInteger(value) ? BigInt(value as number) : 1n
}
