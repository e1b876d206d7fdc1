/**
 * A message as a CloudEvent 1.0, in the HTTP binding's two modes.
 *
 * Attributes are those headers of the message that name one in the form of another binding:
 * `cloudEvents:id`, `cloudEvents_id` (AMQP), `ce-id` (HTTP), `ce_id` (Kafka). What an event must
 * have and the message does not say comes from the message itself. A body that is an event in
 * structured mode already stays one, or is taken apart for binary mode.
 */
import type { FieldValue, Properties, Table } from '@sluice/amqp'
import { isText, timeJson } from '../message-json.ts'

/** JSON is parsed up to this size, bytes: the process does nothing else meanwhile. */
const JSON_BYTES_MAX = 1024 * 1024

/** Without a charset, which JSON does not need and some readers refuse. */
const STRUCTURED = 'application/cloudevents+json'
const HEADER = /^(?:cloudevents[:_]|ce[-_])([a-z\d]{1,20})$/i
const ATTRIBUTE = /^[a-z\d]{1,20}$/
/** In the value of a `ce-` header: CloudEvents, HTTP binding 3.1.3.2. */
const UNSAFE = /[^\x21\x23\x24\x26-\x7e]/gu
const HEX = '0123456789ABCDEF'
/** Not attributes, or said elsewhere. */
const OTHERS = new Set(['specversion', 'datacontenttype', 'data', 'data_base64'])

type Value = string | number | boolean

export interface EventDefaults {
  readonly id: string
  readonly source: string
  /** Ms since 1970. */
  readonly timeMs: number
}

/** What a form makes of a message's body, and the headers that go with it. */
export interface Content {
  readonly contentType: string | undefined
  readonly contentEncoding: string | undefined
  /** `ce-` headers of binary mode, name and value in turn; values are printable ASCII. */
  readonly headers: readonly string[]
  readonly body: Buffer
}

/** Whether a header of a message is an attribute of its event. */
export function isEventHeader(name: string): boolean {
  return HEADER.test(name)
}

export function binaryEvent(
  properties: Properties,
  body: Buffer,
  defaults: EventDefaults,
): Content {
  const opened = isStructured(properties) ? openStructured(body) : undefined
  if (opened === undefined && isStructured(properties)) {
    return plain(properties, body)
  }
  const attributes = opened?.attributes ?? attributesOf(properties, defaults)
  const headers = ['ce-specversion', '1.0']
  for (const [name, value] of attributes)
    headers.push(`ce-${name}`, percentEncoded(String(value), UNSAFE))
  return {
    contentType: opened ? opened.contentType : properties.contentType,
    contentEncoding: properties.contentEncoding,
    headers,
    body: opened?.data ?? body,
  }
}

export function structuredEvent(
  properties: Properties,
  body: Buffer,
  defaults: EventDefaults,
): Content {
  if (isStructured(properties)) return plain(properties, body)
  const { contentType, contentEncoding } = properties
  const attributes = Object.fromEntries(attributesOf(properties, defaults))
  const event = JSON.stringify({
    specversion: '1.0',
    ...attributes,
    ...(contentType !== undefined && { datacontenttype: contentType }),
    // Of the data, not of the request: an extension.
    ...(contentEncoding !== undefined && { contentencoding: contentEncoding }),
  })
  const parts = [Buffer.from(event.slice(0, -1)), ...dataMember(properties, body), Buffer.from('}')]
  return {
    contentType: STRUCTURED,
    contentEncoding: undefined,
    headers: [],
    body: Buffer.concat(parts),
  }
}

/** The message as it was published. */
export function plain({ contentType, contentEncoding }: Properties, body: Buffer): Content {
  return { contentType, contentEncoding, headers: [], body }
}

/** JSON goes in as it came, byte by byte: parsing it would round its numbers. */
function dataMember(properties: Properties, body: Buffer): Buffer[] {
  if (body.length === 0) return []
  if (isText(properties, body)) {
    if (!isJson(properties.contentType)) {
      return [Buffer.from(`,"data":${JSON.stringify(body.toString())}`)]
    }
    if (parsed(body) !== undefined) return [Buffer.from(',"data":'), body]
  }
  return [Buffer.from(`,"data_base64":"${body.toString('base64')}"`)]
}

function attributesOf(properties: Properties, defaults: EventDefaults): Map<string, Value> {
  const { messageId, type, timestamp, headers = {} } = properties
  const attributes = new Map<string, Value>([
    ['id', messageId || defaults.id],
    ['source', defaults.source],
    ['type', type || 'sluice.message'],
    ['time', timeJson(timestamp === undefined ? defaults.timeMs : timestamp * 1_000)],
  ])
  for (const [name, value] of Object.entries(headers as Table)) {
    const attribute = HEADER.exec(name)?.[1]?.toLowerCase()
    const said = attributeValue(value)
    if (attribute === undefined || OTHERS.has(attribute) || said === undefined) continue
    if (said !== '') attributes.set(attribute, said)
  }
  return attributes
}

function attributeValue(value: FieldValue): Value | undefined {
  if (typeof value === 'bigint') return String(value)
  if (value instanceof Date) return timeJson(value.getTime())
  if (typeof value === 'string' || typeof value === 'boolean') return value
  if (typeof value !== 'number') return undefined
  return Number.isInteger(value) && Math.abs(value) < 2 ** 31 ? value : String(value)
}

function isStructured({ contentType = '' }: Properties): boolean {
  return /^application\/cloudevents\+json\s*(?:;|$)/i.test(contentType)
}

function isJson(contentType = ''): boolean {
  return /^(?:application|text)\/(?:[\w.+-]+\+)?json\s*(?:;|$)/i.test(contentType)
}

/** undefined when it is no JSON, or too large to be parsed. */
function parsed(body: Buffer): { readonly value: unknown } | undefined {
  if (body.length > JSON_BYTES_MAX) return undefined
  try {
    return { value: JSON.parse(body.toString()) }
  } catch {
    return undefined
  }
}

/** What a structured event holds; undefined when the body is none. */
function openStructured(body: Buffer) {
  const event = parsed(body)?.value
  if (typeof event !== 'object' || event === null || Array.isArray(event)) return undefined
  const { data, data_base64: base64, datacontenttype, ...rest } = event as Record<string, unknown>
  const contentType = typeof datacontenttype === 'string' ? datacontenttype : 'application/json'
  const attributes = new Map<string, Value>()
  for (const [name, value] of Object.entries(rest)) {
    if (name === 'specversion') continue
    if (!ATTRIBUTE.test(name) || !/^(?:string|number|boolean)$/.test(typeof value)) return undefined
    attributes.set(name, value as Value)
  }
  if (!['id', 'source', 'type'].every((name) => attributes.has(name))) return undefined
  return { attributes, contentType, data: dataOf(data, base64, contentType) }
}

function dataOf(data: unknown, base64: unknown, contentType: string): Buffer {
  if (typeof base64 === 'string') return Buffer.from(base64, 'base64')
  if (data === undefined) return Buffer.alloc(0)
  if (typeof data === 'string' && !isJson(contentType)) return Buffer.from(data)
  return Buffer.from(JSON.stringify(data))
}

/** Every character that `unsafe` finds, by the bytes of its UTF-8. */
export function percentEncoded(text: string, unsafe: RegExp): string {
  return text.replace(unsafe, (char) =>
    Buffer.from(char).reduce((hex, byte) => `${hex}%${HEX[byte >> 4]}${HEX[byte & 15]}`, ''),
  )
}
