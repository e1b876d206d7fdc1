/**
 * A stored message as JSON: the form that the HTTP doors give consumers and operators.
 *
 *   field value      │ JSON
 *   ─────────────────┼─────────────────────────────────────
 *   number, string, boolean, null, array, table │ the same
 *   bigint           │ number up to 2^53, then a string of digits
 *   Date             │ RFC 3339 string
 *   bytes            │ { "base64": "..." }
 */
import { isUtf8 } from 'node:buffer'
import { decodeProperties, type FieldValue, type Properties, type Table } from '@sluice/amqp'
import { type CloudEvent, eventOfMessage } from '@sluice/server'
import type { MessageRecord } from '@sluice/store'
import { z } from 'zod'

const ENCODINGS = ['auto', 'base64'] as const
/** auto: text as `body`, everything else as `bodyBase64`; base64: always `bodyBase64`. */
export type Encoding = (typeof ENCODINGS)[number]

export const Encoding = z.enum(ENCODINGS).default('auto').meta({
  description: 'base64: the body as bodyBase64 whatever it is; auto: text as body.',
})

const PropertiesJson = z.object({
  contentType: z.string().optional(),
  contentEncoding: z.string().optional(),
  deliveryMode: z.int().optional(),
  priority: z.int().optional(),
  correlationId: z.string().optional(),
  replyTo: z.string().optional(),
  expiration: z.string().optional(),
  messageId: z.string().optional(),
  timestamp: z.int().optional().meta({ description: 'Seconds since 1970.' }),
  type: z.string().optional(),
  userId: z.string().optional(),
  appId: z.string().optional(),
  clusterId: z.string().optional(),
})

/** What every form of a message has, for the OpenAPI document. */
export const StoredFields = z.object({
  exchange: z.string().meta({ description: "Where it was published; '' = default exchange." }),
  routingKey: z.string(),
  orderingKey: z.string().optional(),
  properties: PropertiesJson,
  headers: z.record(z.string(), z.json()),
  body: z.string().optional().meta({ description: 'The body, when it is text in UTF-8.' }),
  bodyBase64: z.string().optional().meta({ description: 'The body, otherwise.' }),
  storedAt: z.iso.datetime(),
  expiresAt: z.iso.datetime().optional(),
  note: z.string().optional().meta({ description: 'What is wrong with the stored message.' }),
})

const UNREADABLE = {
  shredded: 'It cannot be read: its data key was shredded.',
  forged: 'It cannot be read: it is not what was stored.',
  locked: 'It cannot be read at the moment: its data key cannot be unwrapped.',
} as const

/** A message's own part of its JSON: what was published and when it was stored. */
export function storedJson(record: MessageRecord, encoding: Encoding) {
  const decoded = readProperties(record.properties)
  const { headers = {}, ...properties } = decoded.properties
  const { exchange, routingKey, orderingKey, timeMs, expiresMs, body, unreadable } = record
  const note = unreadable === undefined ? decoded.note : UNREADABLE[unreadable]
  return {
    exchange,
    routingKey,
    ...(orderingKey !== '' && { orderingKey }),
    properties,
    headers: tableJson(headers),
    ...(encoding === 'auto' && isText(properties, body)
      ? { body: body.toString('utf8') }
      : { bodyBase64: body.toString('base64') }),
    storedAt: new Date(timeMs).toISOString(),
    ...(expiresMs > 0 && { expiresAt: timeJson(expiresMs) }),
    ...(note !== undefined && { note }),
  }
}

/** What a message was handed out by: its queue, or to whoever only looks on, the exchange. */
export type Origin = { readonly vhost: string } & (
  | { readonly queue: string }
  | { readonly exchange: string }
)

/** A message as a CloudEvent. `id` names it within its origin. */
export function storedEvent(
  origin: Origin,
  id: string,
  { properties, body, routingKey, timeMs }: MessageRecord,
): CloudEvent {
  const [kind, name] = 'queue' in origin ? ['queues', origin.queue] : ['exchanges', origin.exchange]
  const source = `/v1/vhosts/${encodeURIComponent(origin.vhost)}/${kind}/${encodeURIComponent(name)}`
  return eventOfMessage(properties, body, { id, source, routingKey, timeMs })
}

/** A message's headers; none when its properties are malformed. */
export function readHeaders(record: MessageRecord): Table {
  return readProperties(record.properties).properties.headers ?? {}
}

/** A malformed message is delivered all the same, with a note: it must not hold up its queue. */
export function readProperties(bytes: Buffer): { properties: Properties; note?: string } {
  try {
    return { properties: decodeProperties(bytes) }
  } catch (error) {
    return { properties: {}, note: `Its properties cannot be read: ${(error as Error).message}.` }
  }
}

const TEXT = new RegExp(
  '^(?:text/.*|application/(?:(?:[\\w.+-]+\\+)?(?:json|xml)|json-seq|(?:x-)?ndjson|jsonl|' +
    'javascript|x-www-form-urlencoded))\\s*(?:;.*)?$',
  'i',
)

/** Whether a body is shown, or put into JSON, as text. */
export function isText(
  { contentType = '', contentEncoding = '' }: Properties,
  body: Buffer,
): boolean {
  if (
    contentEncoding !== '' &&
    contentEncoding !== 'identity' &&
    !/^utf-?8$/i.test(contentEncoding)
  ) {
    return false
  }
  return (contentType === '' || TEXT.test(contentType)) && isUtf8(body)
}

function tableJson(table: Table): { [name: string]: z.core.util.JSONType } {
  return Object.fromEntries(Object.entries(table).map(([name, value]) => [name, valueJson(value)]))
}

export function valueJson(value: FieldValue): z.core.util.JSONType {
  if (typeof value === 'bigint') {
    const number = Number(value)
    return Number.isSafeInteger(number) ? number : String(value)
  }
  if (typeof value !== 'object' || value === null) return value
  if (Buffer.isBuffer(value)) return { base64: value.toString('base64') }
  if (value instanceof Date) return timeJson(value.getTime())
  if (Array.isArray(value)) return value.map(valueJson)
  return tableJson(value)
}

/** RFC 3339; the last moment a Date can hold for times past it. */
export function timeJson(ms: number): string {
  const time = new Date(Math.min(ms, 8.64e15))
  return Number.isNaN(time.getTime()) ? String(ms) : time.toISOString()
}
