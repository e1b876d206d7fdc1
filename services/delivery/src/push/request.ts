/**
 * The request that a message becomes: what the subscription says of all of them, and what the
 * message says of itself, under the names that publishing takes (docs/publishing.md).
 *
 * Hot path: one list of headers a message; what does not change is made once.
 */
import { hash } from 'node:crypto'
import type { FieldValue, Properties } from '@sluice/amqp'
import { type WebhookSigner, webhookSigner } from '@sluice/security'
import { type CloudEvent, EVENT_TYPE, eventHeaders, eventJson } from '@sluice/server'
import type { MessageRecord } from '@sluice/store'
import { readTraceContext, TRACE_FIELDS, type TraceContext } from '@sluice/telemetry'
import { type HttpRequest, readRequest } from '@sluice/topology'
import { readProperties, storedEvent, valueJson } from '../message-json.ts'
import { replayedHeaders, replayedPath } from './replay.ts'
import type { Subscription } from './subscription.ts'

/** Of a digest, base64url: as many bits as a UUID has. */
const ID_LENGTH = 22

/** A message as a queue hands it out for a push. */
export interface PushMessage {
  /** Its ref: the same in every delivery of this message. */
  readonly id: string
  readonly record: MessageRecord
  /** Deliveries so far, this one included. */
  readonly deliveryCount: number
  /** Of this attempt; where there is none, what the message carries goes along. */
  readonly trace?: TraceContext | undefined
}

export interface PushRequest {
  readonly method: string
  /** With its query. */
  readonly path: string
  /** Name and value in turn; values as latin1, ready for the wire. */
  readonly headers: string[]
  /** How many headers, from the first on, are the subscription's own: their values are secrets. */
  readonly ownHeaders: number
  readonly body: Buffer
  /** The request of an ingest that it is, sent on. */
  readonly replayed?: HttpRequest
}

const PROPERTY_HEADERS: readonly (readonly [keyof Properties, string])[] = [
  ['messageId', 'Sluice-Message-Id'],
  ['correlationId', 'Sluice-Correlation-Id'],
  ['replyTo', 'Sluice-Reply-To'],
  ['type', 'Sluice-Type'],
  ['appId', 'Sluice-App-Id'],
  ['userId', 'Sluice-User-Id'],
  ['timestamp', 'Sluice-Timestamp'],
  ['priority', 'Sluice-Priority'],
  ['expiration', 'Sluice-Ttl'],
]

/** Headers of a stored event that are its attributes, and the type of one that is stored whole. */
const ATTRIBUTE = /^cloudEvents[:_]/
const STRUCTURED = /^application\/cloudevents\+json\s*(?:;|$)/i

/** Go under their own names. */
const TRACED: ReadonlySet<string> = new Set(TRACE_FIELDS)

const NOTHING = Buffer.alloc(0)

/** What a form makes of a message's body, and the headers that go with it. */
interface Content {
  readonly contentType: string | undefined
  readonly contentEncoding: string | undefined
  readonly headers: readonly string[]
  readonly body: Buffer
}

export class RequestWriter {
  readonly #subscription: Subscription
  readonly #path: string
  readonly #own: readonly string[]
  /** What configured headers say for messages that have none. */
  readonly #contentType: string | undefined
  readonly #named: readonly string[]
  readonly #place: { readonly vhost: string; readonly queue: string }
  readonly #idPrefix: string
  readonly #sign: WebhookSigner | undefined

  constructor(vhost: string, name: string, subscription: Subscription) {
    const { endpoint, queue, signing } = subscription
    const { pathname, search } = new URL(endpoint.url)
    this.#subscription = subscription
    this.#path = pathname + search
    const configured = Object.entries(endpoint.headers)
    const isType = ([header]: [string, string]) => header.toLowerCase() === 'content-type'
    this.#own = configured.filter((header) => !isType(header)).flatMap(([n, v]) => [n, onWire(v)])
    this.#contentType = configured.find(isType)?.[1]
    const agent = configured.some(([header]) => header.toLowerCase() === 'user-agent')
    this.#named = [...(agent ? [] : ['User-Agent', 'Sluice']), 'Sluice-Subscription', onWire(name)]
    this.#place = { vhost, queue }
    this.#idPrefix = `${encodeURIComponent(vhost)}/${encodeURIComponent(queue)}/`
    this.#sign = signing && webhookSigner(signing.scheme, signing.keys)
  }

  /** @param nowMs of the clock that receivers compare theirs with. */
  write(message: PushMessage, nowMs: number): PushRequest {
    const { record, deliveryCount } = message
    const { endpoint, body: form } = this.#subscription
    const { properties } = readProperties(record.properties)
    const replayed = this.#subscription.replay ? readRequest(properties.headers) : undefined
    const trace = traceHeaders(message.trace ?? readTraceContext(properties.headers ?? {}))
    if (replayed !== undefined) return this.#replay(replayed, message, trace, nowMs)
    // Messages of two queues may have the same ref, and their endpoint may be one.
    const id = `msg_${hash('sha256', this.#idPrefix + message.id, 'base64url').slice(0, ID_LENGTH)}`
    const content = this.#content(message, properties)
    const body = endpoint.method === 'GET' ? NOTHING : content.body
    const headers = [...this.#own, ...this.#named, 'webhook-id', id]
    headers.push('Sluice-Delivery-Count', String(deliveryCount), ...trace)
    this.#pushSignature(headers, id, body, nowMs)
    const contentType = content.contentType ?? this.#contentType
    if (contentType) headers.push('Content-Type', onWire(contentType))
    if (content.contentEncoding) headers.push('Content-Encoding', onWire(content.contentEncoding))
    headers.push(...content.headers)
    pushProperties(headers, record, properties)
    pushHeaders(headers, properties, form !== 'raw')
    const { method } = endpoint
    return { method, path: this.#path, headers, ownHeaders: this.#own.length / 2, body }
  }

  #replay(
    replayed: HttpRequest,
    { record, deliveryCount }: PushMessage,
    trace: readonly string[],
    nowMs: number,
  ): PushRequest {
    const { id, method } = replayed
    const { body } = record
    const taken = [...this.#own, ...trace]
    const headers = [...taken, ...replayedHeaders(replayed, taken)]
    headers.push('Sluice-Request-Id', onWire(id), 'Sluice-Delivery-Count', String(deliveryCount))
    if (this.#sign) headers.push('webhook-id', onWire(id))
    this.#pushSignature(headers, id, body, nowMs)
    const path = replayedPath(this.#path, replayed)
    return { method, path, headers, ownHeaders: this.#own.length / 2, body, replayed }
  }

  #pushSignature(headers: string[], id: string, body: Buffer, nowMs: number): void {
    if (!this.#sign) return
    const timestampS = Math.floor(nowMs / 1_000)
    headers.push('webhook-timestamp', String(timestampS))
    headers.push('webhook-signature', this.#sign(id, timestampS, body))
  }

  #content({ id, record }: PushMessage, properties: Properties): Content {
    const { body: form } = this.#subscription
    const { contentType, contentEncoding } = properties
    const isEvent = contentType !== undefined && STRUCTURED.test(contentType)
    if (form === 'raw' || (form === 'cloudevents-structured' && isEvent)) {
      return { contentType, contentEncoding, headers: [], body: record.body }
    }
    const event = storedEvent(this.#place, id, record)
    if (form === 'cloudevents-structured') {
      const body = structured(event, contentEncoding)
      return { contentType: EVENT_TYPE, contentEncoding: undefined, headers: [], body }
    }
    const { 'Content-Type': type, ...headers } = eventHeaders(event)
    const body = event.data ?? NOTHING
    return { contentType: type, contentEncoding, headers: Object.entries(headers).flat(), body }
  }
}

/** JSON goes in as it came: parsed and written again, its large numbers would be others. */
function structured(event: CloudEvent, contentEncoding: string | undefined): Buffer {
  // Of the data and not of the request, so it is an extension of the event.
  const { data, ...rest } = eventJson(
    event,
    contentEncoding ? { contentencoding: contentEncoding } : {},
  )
  const head = JSON.stringify(rest)
  if (data === undefined || event.data === undefined) return Buffer.from(head)
  const isText = typeof data === 'string' && event.data.equals(Buffer.from(data))
  return Buffer.concat([
    Buffer.from(`${head.slice(0, -1)},"data":`),
    isText ? Buffer.from(JSON.stringify(data)) : event.data,
    Buffer.from('}'),
  ])
}

function traceHeaders(trace: TraceContext | undefined): string[] {
  if (trace === undefined) return []
  return TRACE_FIELDS.flatMap((name) => {
    const value = trace[name]
    return value === undefined ? [] : [name, onWire(value)]
  })
}

function pushProperties(headers: string[], record: MessageRecord, properties: Properties): void {
  const { exchange, routingKey, orderingKey } = record
  if (exchange !== '') headers.push('Sluice-Exchange', onWire(exchange))
  if (routingKey !== '') headers.push('Sluice-Routing-Key', onWire(routingKey))
  if (orderingKey !== '') headers.push('Sluice-Ordering-Key', onWire(orderingKey))
  for (const [name, header] of PROPERTY_HEADERS) {
    const value = properties[name]
    if (value !== undefined && value !== '') headers.push(header, onWire(String(value)))
  }
}

function pushHeaders(headers: string[], { headers: table }: Properties, isEvent: boolean): void {
  for (const name in table) {
    if ((isEvent && ATTRIBUTE.test(name)) || TRACED.has(name)) continue
    headers.push(`Sluice-Header-${headerName(name)}`, onWire(headerText(table[name]!)))
  }
}

/** Text as it is; everything else as in the JSON of a lease. */
function headerText(value: FieldValue): string {
  return typeof value === 'string' ? value : JSON.stringify(valueJson(value))
}

/** What cannot stand in a header's name is percent-encoded. */
function headerName(name: string): string {
  return /^[\w.-]+$/.test(name) ? name : percentEncoded(name, /[^\w!#$&'*+.^`|~-]/gu)
}

/** UTF-8, byte by byte; control characters, which would end the header, percent-encoded. */
function onWire(value: string): string {
  if (/^[\x20-\x7e]*$/.test(value)) return value
  // biome-ignore lint/suspicious/noControlCharactersInRegex: it replaces them
  const safe = percentEncoded(value, /[\x00-\x08\x0a-\x1f\x7f]/g)
  return Buffer.from(safe).toString('latin1')
}

function percentEncoded(text: string, unsafe: RegExp): string {
  return text.replace(unsafe, (char) =>
    Buffer.from(char).toString('hex').toUpperCase().replace(/../g, '%$&'),
  )
}
