/**
 * Which dead letters are meant: one value for a search, a dry run and a redrive, so that all three
 * find the same letters. What never died never matches.
 */
import { decodeProperties, type FieldValue, type Properties } from '@sluice/amqp'
import type { MessageRecord } from '@sluice/store'
import { type DeathHistory, deathHistory, originalQueue } from './dead-letter.ts'

/** All that is given must hold; an empty filter matches every dead letter. */
export interface DeadLetterFilter {
  /** Why it died last: rejected, expired, maxlen or delivery_limit. */
  readonly reason?: string | undefined
  /** Where it died last. */
  readonly queue?: string | undefined
  /** When it became a dead letter here, ms of Redis's clock: from `sinceMs` on, before `untilMs`. */
  readonly sinceMs?: number | undefined
  readonly untilMs?: number | undefined
  /** A header of this name, and with this value if one is given. */
  readonly header?: { readonly name: string; readonly value?: string | undefined } | undefined
  /** As it was first published. */
  readonly exchange?: string | undefined
  readonly routingKey?: string | undefined
  /** Bytes that the body has, as UTF-8. */
  readonly text?: string | undefined
}

/** What a dead letter says of itself. */
export interface Letter {
  readonly properties: Properties
  readonly history: DeathHistory
  /** Where it died last. */
  readonly queue: string
  readonly reason: string | undefined
  /** As it was first published. */
  readonly exchange: string
  readonly routingKey: string
}

/** undefined: it never died. */
export function readLetter(record: MessageRecord): Letter | undefined {
  const properties = readProperties(record)
  const queue = originalQueue(properties.headers)
  if (queue === undefined) return undefined
  const history = deathHistory(properties.headers)
  const { deaths } = history
  const reason = properties.headers?.['x-last-death-reason'] ?? deaths[0]?.reason
  const first = deaths.at(-1)
  return {
    properties,
    history,
    queue,
    reason: typeof reason === 'string' ? reason : undefined,
    exchange: first?.exchange ?? record.exchange,
    routingKey: first?.routingKeys[0] ?? record.routingKey,
  }
}

/** Compiles a filter. */
export function matcher(filter: DeadLetterFilter): (record: MessageRecord) => boolean {
  const { reason, queue, header, exchange, routingKey } = filter
  const { sinceMs = 0, untilMs = Number.POSITIVE_INFINITY } = filter
  const text = Buffer.from(filter.text ?? '')
  return (record) => {
    // The cheap questions first: a body is searched only where all else holds.
    if (record.timeMs < sinceMs || record.timeMs >= untilMs) return false
    const letter = readLetter(record)
    if (!letter) return false
    if (reason !== undefined && letter.reason !== reason) return false
    if (queue !== undefined && letter.queue !== queue) return false
    if (exchange !== undefined && letter.exchange !== exchange) return false
    if (routingKey !== undefined && letter.routingKey !== routingKey) return false
    if (header && !hasHeader(letter.properties, header)) return false
    if (text.length === 0) return true
    return record.unreadable === undefined && record.body.includes(text)
  }
}

function hasHeader(
  { headers = {} }: Properties,
  { name, value }: NonNullable<DeadLetterFilter['header']>,
): boolean {
  if (!Object.hasOwn(headers, name)) return false
  return value === undefined || headerText(headers[name]!) === value
}

function headerText(value: FieldValue): string {
  if (Buffer.isBuffer(value)) return value.toString()
  if (value instanceof Date) return Number.isNaN(+value) ? '' : value.toISOString()
  return String(value)
}

function readProperties(record: MessageRecord): Properties {
  try {
    return decodeProperties(record.properties)
  } catch {
    return {}
  }
}
