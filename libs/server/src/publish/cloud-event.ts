/**
 * CloudEvents 1.0.2 in each of their forms: as JSON, as HTTP headers, and as a stored message.
 *
 *   form         │ attributes                       │ data
 *   ─────────────┼──────────────────────────────────┼───────────────────────────────────────
 *   structured   │ fields of a JSON object          │ `data`, or `data_base64`
 *   binary, HTTP │ headers ce-<name>, Content-Type  │ the body
 *   stored       │ headers cloudEvents:<name> and   │ the body
 *                │ content-type (AMQP binding, 3.1) │
 *
 * AMQP publishers may write `cloudEvents_<name>` as well, or send an event whole as
 * application/cloudevents+json; both are read. `traceparent` and `tracestate` are stored without a
 * prefix, where every tracer looks for them. A message that is no event can be shown as one.
 */
import { isUtf8 } from 'node:buffer'
import { createHash } from 'node:crypto'
import { decodeProperties, type FieldValue, type Properties, type Table } from '@sluice/amqp'
import { BrokerError } from '@sluice/core'
import { parseJson } from '../http/body.ts'
import type { Draft } from './publish-fields.ts'

export type EventAttribute = string | number | boolean

export interface CloudEvent {
  /** All but datacontenttype, specversion included. */
  readonly attributes: Readonly<Record<string, EventAttribute>>
  /** datacontenttype; undefined where there is no data, or nobody said. */
  readonly contentType: string | undefined
  /** undefined = none. */
  readonly data: Buffer | undefined
}

/** How an HTTP body carries events. */
export type EventMode = 'binary' | 'structured' | 'batched'

export const EVENT_TYPE = 'application/cloudevents+json'
export const EVENTS_TYPE = 'application/cloudevents-batch+json'

const NAME = /^[a-z0-9]{1,64}$/
/** What the JSON form uses for itself. */
const NO_ATTRIBUTES: ReadonlySet<string> = new Set(['data', 'data_base64', 'datacontenttype'])
const REQUIRED = ['id', 'source', 'type'] as const
const TRACE: ReadonlySet<string> = new Set(['traceparent', 'tracestate'])
const STORED_PREFIX = /^cloudEvents[:_](?=[a-z0-9]+$)/
const TIME = /^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:\d\d)$/
const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/
const JSON_TYPE = /^[^;]*[/+]json\s*(?:;|$)/i
const TEXT_TYPE = /^(?:text\/|[^;]*[/+]xml\s*(?:;|$))/i

/** Throws unsupported_media_type for a format of events other than JSON. undefined = no event. */
export function eventMode(
  headers: Readonly<Record<string, string | string[] | undefined>>,
): EventMode | undefined {
  const type = String(headers['content-type'] ?? '')
  if (/^application\/cloudevents/i.test(type)) {
    if (/^application\/cloudevents\+json\s*(?:;|$)/i.test(type)) return 'structured'
    if (/^application\/cloudevents-batch\+json\s*(?:;|$)/i.test(type)) return 'batched'
    throw new BrokerError('unsupported_media_type', 'Events come as JSON, or in binary mode.')
  }
  return headers['ce-specversion'] === undefined ? undefined : 'binary'
}

/** An event from its JSON form. Throws invalid_request. */
export function eventFromJson(value: unknown): CloudEvent {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw invalid('event', 'is an object')
  }
  const { data, data_base64: base64, datacontenttype, ...rest } = value as Record<string, unknown>
  if (typeof (datacontenttype ?? '') !== 'string') throw invalid('datacontenttype', 'is a string')
  const attributes: Record<string, EventAttribute> = {}
  for (const [name, attribute] of Object.entries(rest)) {
    if (attribute === null) continue // absent (JSON format, 2.2)
    if (!NAME.test(name)) throw invalid(name, 'is no name: lower-case letters and digits')
    if (typeof attribute === 'boolean' || typeof attribute === 'string') {
      attributes[name] = attribute
    } else if (Number.isInteger(attribute)) {
      attributes[name] = attribute as number
    } else throw invalid(name, 'is a string, a whole number or a boolean')
  }
  check(attributes)
  const type = (datacontenttype ?? undefined) as string | undefined
  if (base64 !== undefined && base64 !== null) {
    if ((data ?? undefined) !== undefined) throw invalid('data_base64', 'takes the place of data')
    if (typeof base64 !== 'string' || !BASE64.test(base64))
      throw invalid('data_base64', 'is base64')
    return { attributes, contentType: type, data: Buffer.from(base64, 'base64') }
  }
  if (data === undefined) return { attributes, contentType: type, data: undefined }
  // Without a type it is JSON (JSON format, 3.1); of another type it is text.
  if (type === undefined || JSON_TYPE.test(type)) {
    const text = Buffer.from(JSON.stringify(data))
    return { attributes, contentType: type ?? 'application/json', data: text }
  }
  if (typeof data !== 'string') throw invalid('data', `is a string where its type is ${type}`)
  return { attributes, contentType: type, data: Buffer.from(data) }
}

/** Events from a body in structured or batched mode. Throws invalid_request. */
export function eventsFromBody(mode: 'structured' | 'batched', body: Buffer): CloudEvent[] {
  const value = parseJson(body)
  if (mode === 'structured') return [eventFromJson(value)]
  if (!Array.isArray(value)) throw invalid('batch', 'is an array')
  return value.map(eventFromJson)
}

/** An event in HTTP's binary mode. `rawHeaders` as Node gives them. Throws invalid_request. */
export function eventFromHeaders(rawHeaders: readonly string[], body: Buffer): CloudEvent {
  const attributes: Record<string, EventAttribute> = {}
  let contentType: string | undefined
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const header = rawHeaders[i]!.toLowerCase()
    const value = rawHeaders[i + 1]!
    if (header === 'content-type') contentType = value
    if (!header.startsWith('ce-')) continue
    const name = header.slice(3)
    if (!NAME.test(name)) throw invalid(header, 'is no name: lower-case letters and digits')
    if (name in attributes) throw invalid(header, 'is given twice')
    attributes[name] = decodeHeader(header, value)
  }
  check(attributes)
  return { attributes, contentType, data: body.length > 0 ? body : undefined }
}

/**
 * Makes a draft of an event. What the request says besides counts for more: its routing key, else
 * the event's type; its Idempotency-Key, else source and id; its ordering key, else partitionkey.
 */
export function draftEvent(draft: Draft, { attributes, contentType, data }: CloudEvent): Buffer {
  const headers: Table = { ...draft.properties.headers }
  for (const [name, value] of Object.entries(attributes)) {
    headers[TRACE.has(name) ? name : `cloudEvents:${name}`] = value
  }
  draft.properties.headers = headers
  if (contentType === undefined) delete draft.properties.contentType
  else draft.properties.contentType = contentType
  if (draft.routingKey === '') draft.routingKey = String(attributes['type'])
  if (draft.dedupId === '') draft.dedupId = eventIdentity(attributes['source'], attributes['id'])
  if (draft.orderingKey === '') draft.orderingKey = String(attributes['partitionkey'] ?? '')
  return data ?? Buffer.alloc(0)
}

/** De-duplication id of an event: `source` and `id` name it together (CloudEvents, 3.1.1). */
export function eventIdentity(source: unknown, id: unknown): string {
  const text = JSON.stringify([String(source), String(id)])
  return `ce:${createHash('sha256').update(text).digest('base64url')}`
}

/**
 * What names an event that came by AMQP, from its headers, or from its body in structured mode;
 * undefined when it is none.
 */
export function storedIdentity(
  headers: Table,
  structured: boolean,
  body: Buffer,
): string | undefined {
  const attributes = structured ? jsonAttributes(body) : headers
  const read = (name: string) =>
    structured
      ? attributes[name]
      : (headers[`cloudEvents:${name}`] ?? headers[`cloudEvents_${name}`])
  if (read('specversion') !== '1.0') return undefined
  const [source, id] = [read('source'), read('id')]
  return typeof source === 'string' && typeof id === 'string' && source !== '' && id !== ''
    ? eventIdentity(source, id)
    : undefined
}

function jsonAttributes(body: Buffer): Readonly<Record<string, unknown>> {
  try {
    return eventFromJson(parseJson(body)).attributes
  } catch {
    return {} // it is stored as the message that it is
  }
}

/** The attributes that a message's own headers carry; undefined when it is no event. */
function storedAttributes(headers: Table): Record<string, EventAttribute> | undefined {
  const attributes: Record<string, EventAttribute> = {}
  let event = false
  for (const [key, value] of Object.entries(headers)) {
    const name = key.replace(STORED_PREFIX, '')
    const attribute = attributeOf(value)
    if (attribute === undefined || !NAME.test(name) || NO_ATTRIBUTES.has(name)) continue
    if (name !== key) event ||= name === 'specversion'
    else if (name.length > 20 || name in attributes) continue
    attributes[name] = attribute
  }
  return event ? attributes : undefined
}

/** What stands for a message that is no event. */
export interface MessageFacts {
  /** Names it within its source. */
  readonly id: string
  readonly source: string
  readonly routingKey: string
  readonly timeMs: number
}

/** A stored message as an event. One that is none is described: see docs/cloudevents.md. */
export function eventOfMessage(stored: Buffer, body: Buffer, facts: MessageFacts): CloudEvent {
  const properties = readProperties(stored)
  const { headers = {}, contentType } = properties
  if (contentType !== undefined && /^application\/cloudevents\+json/i.test(contentType)) {
    try {
      return eventsFromBody('structured', body)[0]!
    } catch (error) {
      if (!(error instanceof BrokerError)) throw error // it is shown as the message that it is
    }
  }
  const data = body.length > 0 ? body : undefined
  const attributes = storedAttributes(headers)
  if (attributes !== undefined) {
    try {
      check(attributes)
      return { attributes, contentType, data }
    } catch (error) {
      if (!(error instanceof BrokerError)) throw error
    }
  }
  const { id, source, routingKey, timeMs } = facts
  const described: Record<string, EventAttribute> = {
    specversion: '1.0',
    id: properties.messageId || id,
    source,
    type: properties.type || 'sluice.message',
    ...(routingKey !== '' && { subject: routingKey }),
    time: new Date(timeMs).toISOString(),
  }
  for (const name of TRACE) {
    const value = attributeOf(headers[name])
    if (value !== undefined) described[name] = value
  }
  return {
    attributes: described,
    contentType: contentType ?? (data && 'application/octet-stream'),
    data,
  }
}

/** The JSON form. `more` are extension attributes that a door adds. */
export function eventJson(
  { attributes, contentType, data }: CloudEvent,
  more: Readonly<Record<string, EventAttribute>> = {},
): Record<string, unknown> {
  const json: Record<string, unknown> = { ...attributes, ...more }
  if (contentType !== undefined) json['datacontenttype'] = contentType
  if (data === undefined) return json
  const text = data.toString('utf8')
  const isText = Buffer.from(text).equals(data)
  if (isText && contentType !== undefined && TEXT_TYPE.test(contentType)) json['data'] = text
  else if (isText && (contentType === undefined || JSON_TYPE.test(contentType))) {
    try {
      json['data'] = JSON.parse(text)
    } catch {
      json['data_base64'] = data.toString('base64')
    }
  } else json['data_base64'] = data.toString('base64')
  return json
}

/** The headers of HTTP's binary mode; the data is the body. */
export function eventHeaders(
  { attributes, contentType }: CloudEvent,
  more: Readonly<Record<string, EventAttribute>> = {},
): Record<string, string> {
  const headers: Record<string, string> = {}
  for (const [name, value] of Object.entries({ ...attributes, ...more })) {
    headers[`ce-${name}`] = encodeHeader(String(value))
  }
  if (contentType !== undefined) headers['Content-Type'] = contentType.replace(/[^\x20-\x7e]/g, '')
  return headers
}

/** Throws invalid_request when it is no event of CloudEvents 1.0. */
function check(attributes: Readonly<Record<string, EventAttribute>>): void {
  if (attributes['specversion'] !== '1.0') throw invalid('specversion', 'is 1.0')
  for (const name of REQUIRED) {
    const value = attributes[name]
    if (typeof value !== 'string' || value === '') throw invalid(name, 'is a string, not empty')
  }
  const { time } = attributes
  if (time !== undefined && (typeof time !== 'string' || !TIME.test(time))) {
    throw invalid('time', 'is a time like 2030-01-31T12:00:00Z')
  }
}

function readProperties(bytes: Buffer): Properties {
  try {
    return decodeProperties(bytes)
  } catch {
    return {} // shown without what nobody can read
  }
}

function attributeOf(value: FieldValue | undefined): EventAttribute | undefined {
  if (typeof value === 'bigint') return Number(value)
  if (value instanceof Date) return value.toISOString()
  if (Buffer.isBuffer(value)) return value.toString('utf8')
  const scalar =
    typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean'
  return scalar ? value : undefined
}

/** Space, quote, percent and whatever is no printable ASCII, percent-encoded (HTTP, 3.1.3.2). */
function encodeHeader(value: string): string {
  return value.toWellFormed().replace(/[^\x21\x23\x24\x26-\x7e]/gu, (character) => {
    const hex = Buffer.from(character).toString('hex').toUpperCase()
    return hex.replace(/../g, '%$&')
  })
}

function decodeHeader(name: string, value: string): string {
  const plain = /^".*"$/s.test(value) ? value.slice(1, -1).replace(/\\(.)/gs, '$1') : value
  const decoded = plain.replace(/(?:%[0-9A-Fa-f]{2})+/g, (encoded) => {
    const bytes = Buffer.from(encoded.replaceAll('%', ''), 'hex')
    if (!isUtf8(bytes)) throw invalid(name, 'is not UTF-8')
    return bytes.toString('utf8')
  })
  // Node reads header bytes as latin1. What was sent without encoding may be UTF-8, or just that.
  const raw = Buffer.from(plain, 'latin1')
  return decoded === plain && isUtf8(raw) ? raw.toString('utf8') : decoded
}

function invalid(name: string, what: string): BrokerError {
  const at = name.slice(0, 100)
  return new BrokerError('invalid_request', `Event: ${at} ${what}.`, { details: { at } })
}
