/**
 * What a publisher may say about a message, beside its body: as request headers, or as fields of a
 * JSON object (read-message.ts). One table names both and reads both.
 *
 *   header                     │ field          │ meaning
 *   ───────────────────────────┼────────────────┼──────────────────────────────────────────────────
 *   Sluice-Routing-Key         │ routingKey     │ at most 255 bytes
 *   Sluice-Mandatory           │ mandatory      │ refuse the publish when no queue is reached
 *   Sluice-Delay               │ delayMs        │ not delivered before that many ms
 *   Sluice-Deliver-At          │ deliverAt      │ RFC 3339, or ms since 1970; in the past: at once
 *   Sluice-Ttl                 │ ttlMs          │ dead after that many ms in a queue
 *   Sluice-Priority            │ priority       │ 0 .. 255
 *   Sluice-Ordering-Key        │ orderingKey    │ at most 255 bytes
 *   Sluice-Durability          │ durability     │ memory, fsync, replicas=n
 *   Sluice-Persistent          │ persistent     │ AMQP delivery mode; true unless told
 *   Idempotency-Key            │ idempotencyKey │ at most 255 bytes
 *   Sluice-Message-Id, Sluice-Correlation-Id, Sluice-Reply-To, Sluice-Type, Sluice-App-Id,
 *   Sluice-Timestamp (s since 1970), Content-Type, Content-Encoding: AMQP properties
 *   Sluice-Header-<Name>       │ headers        │ the message's own headers
 *
 * Hot path: read for every message published by HTTP; no schema library here. Header values are
 * UTF-8. Measured by test/bench/http.bench.ts.
 */
import { isUtf8 } from 'node:buffer'
import { encodeProperties, type Properties, type Table } from '@sluice/amqp'
import { BrokerError, type Durability, limits, type Message } from '@sluice/core'
import { readTraceContext, writeTraceContext } from '@sluice/telemetry'
import { z } from 'zod'

/** A message while its fields are read. */
export class Draft {
  routingKey: string
  orderingKey = ''
  persistent = true
  priority = 0
  ttlMs = -1
  delayMs = 0
  /** Milliseconds since 1970; -1 = not given. */
  deliverAtMs = -1
  dedupId = ''
  durability: Durability | null = null
  mandatory = false
  readonly properties: Properties = {}

  constructor(routingKey: string) {
    this.routingKey = routingKey
  }
}

type Kind = 'text' | 'integer' | 'boolean' | 'time' | 'table'

interface Field {
  /** As a request header, in lower case; '' = only in JSON. */
  readonly header: string
  readonly kind: Kind
  readonly set: (draft: Draft, value: never) => void
  readonly doc: string
  readonly max?: number
}

const text = (header: string, doc: string, set: (draft: Draft, value: string) => void): Field => ({
  header,
  kind: 'text',
  set,
  doc,
})
const integer = (
  header: string,
  max: number,
  doc: string,
  set: (draft: Draft, value: number) => void,
): Field => ({ header, kind: 'integer', max, set, doc })
const flag = (header: string, doc: string, set: (draft: Draft, value: boolean) => void): Field => ({
  header,
  kind: 'boolean',
  set,
  doc,
})

const FIELDS: Readonly<Record<string, Field>> = {
  routingKey: text('sluice-routing-key', 'Routing key.', (draft, value) => {
    draft.routingKey = value
  }),
  mandatory: flag(
    'sluice-mandatory',
    'Refuse with unroutable when no queue is reached.',
    (draft, value) => {
      draft.mandatory = value
    },
  ),
  delayMs: integer(
    'sluice-delay',
    limits.DURATION_MS_MAX,
    'Not delivered before that many milliseconds.',
    (draft, value) => {
      draft.delayMs = value
    },
  ),
  deliverAt: {
    header: 'sluice-deliver-at',
    kind: 'time',
    doc: 'Not delivered before: RFC 3339, or milliseconds since 1970. In the past: at once.',
    set: (draft, value: number) => {
      draft.deliverAtMs = value
    },
  },
  ttlMs: integer(
    'sluice-ttl',
    limits.DURATION_MS_MAX,
    'Time to live, milliseconds.',
    (draft, value) => {
      draft.ttlMs = value
      draft.properties.expiration = String(value)
    },
  ),
  priority: integer(
    'sluice-priority',
    255,
    'Priority; queues without x-max-priority ignore it.',
    (draft, value) => {
      draft.priority = value
      draft.properties.priority = value
    },
  ),
  orderingKey: text(
    'sluice-ordering-key',
    'Queues with x-ordering-key keep the order of a key.',
    (draft, value) => {
      draft.orderingKey = value
    },
  ),
  durability: text(
    'sluice-durability',
    'memory, fsync or replicas=n: refused when it cannot be had.',
    (draft, value) => {
      if (!/^(?:memory|fsync|replicas=[1-9]\d?)$/.test(value)) {
        throw wrong('durability', 'is memory, fsync or replicas=<1..99>')
      }
      draft.durability = value as Durability
    },
  ),
  persistent: flag(
    'sluice-persistent',
    'AMQP delivery mode: persistent unless false.',
    (draft, value) => {
      draft.persistent = value
    },
  ),
  idempotencyKey: text(
    'idempotency-key',
    'Stored once within the window of each queue.',
    (draft, value) => {
      draft.dedupId = value
    },
  ),
  messageId: text('sluice-message-id', 'AMQP message-id.', (draft, value) => {
    draft.properties.messageId = value
  }),
  correlationId: text('sluice-correlation-id', 'AMQP correlation-id.', (draft, value) => {
    draft.properties.correlationId = value
  }),
  replyTo: text('sluice-reply-to', 'AMQP reply-to.', (draft, value) => {
    draft.properties.replyTo = value
  }),
  type: text('sluice-type', 'AMQP type.', (draft, value) => {
    draft.properties.type = value
  }),
  appId: text('sluice-app-id', 'AMQP app-id.', (draft, value) => {
    draft.properties.appId = value
  }),
  timestamp: integer(
    'sluice-timestamp',
    253_402_300_799,
    'AMQP timestamp, seconds since 1970.',
    (draft, value) => {
      draft.properties.timestamp = value
    },
  ),
  contentType: text('content-type', 'Media type of the body, kept as it is.', (draft, value) => {
    draft.properties.contentType = value
  }),
  contentEncoding: text(
    'content-encoding',
    'Kept as it is; the body is not decoded.',
    (draft, value) => {
      draft.properties.contentEncoding = value
    },
  ),
  headers: {
    header: '',
    kind: 'table',
    doc: 'The message’s own headers.',
    set: (draft, value: Table) => {
      draft.properties.headers = value
    },
  },
}

const BY_NAME = new Map(Object.entries(FIELDS))
const BY_HEADER = new Map(
  Object.entries(FIELDS).map(([name, field]) => [field.header, { name, ...field }]),
)

/** Message headers travel as `Sluice-Header-<Name>`; the case of the name is kept as it came. */
const HEADER_PREFIX = 'sluice-header-'

/**
 * Reads what the request headers say. `rawHeaders` as Node gives them: name, value, name, value.
 * Throws invalid_request, also for a Sluice- header that does not exist.
 */
export function readHeaders(rawHeaders: readonly string[], draft: Draft): void {
  let table: Table | undefined
  const seen = new Set<string>()
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const raw = rawHeaders[i]!
    const name = raw.toLowerCase()
    if (name.startsWith(HEADER_PREFIX)) {
      table ??= Object.create(null) as Table
      const key = raw.slice(HEADER_PREFIX.length)
      if (key in table) throw wrong(raw, 'is given twice')
      table[key] = decodeHeader(raw, rawHeaders[i + 1]!)
      continue
    }
    const field = BY_HEADER.get(name)
    if (field === undefined) {
      if (name.startsWith('sluice-')) throw wrong(raw, 'is no header that this broker knows')
      continue
    }
    if (seen.has(name)) throw wrong(raw, 'is given twice')
    seen.add(name)
    const value = decodeHeader(raw, rawHeaders[i + 1]!)
    field.set(draft, parseHeader(raw, field, value) as never)
  }
  if (table !== undefined) draft.properties.headers = table
}

/**
 * Puts the trace that a request belongs to into the message's headers, unless it has its own
 * there. `carrier` are the request's headers, names in lower case.
 */
export function carryTrace(draft: Draft, carrier: Readonly<Record<string, unknown>>): void {
  const context = readTraceContext(carrier)
  if (context === undefined) return
  const { traceparent, tracestate, baggage } = context
  const headers = { ...draft.properties.headers }
  if (!('traceparent' in headers)) writeTraceContext({ traceparent, tracestate }, headers)
  if (!('baggage' in headers)) writeTraceContext({ baggage }, headers)
  draft.properties.headers = headers
}

/**
 * Reads the fields of a JSON object, but for those in `others`, which the caller reads.
 * Throws invalid_request, also for a field that does not exist.
 */
export function readFields(
  object: Readonly<Record<string, unknown>>,
  draft: Draft,
  others: ReadonlySet<string>,
): void {
  for (const name in object) {
    const field = BY_NAME.get(name)
    if (field === undefined) {
      if (others.has(name)) continue
      throw wrong(name.slice(0, 100), 'is no field of a message')
    }
    field.set(draft, parseField(name, field, object[name]) as never)
  }
}

/**
 * The message that a draft has become. Throws invalid_request where a property is too long.
 *
 * @param clockAheadMs how far Redis's clock is ahead of ours: `deliverAt` is by Redis's.
 */
export function toMessage(
  draft: Draft,
  exchange: string,
  body: Buffer,
  clockAheadMs: number,
): Message {
  const { routingKey, orderingKey, persistent, priority, ttlMs, dedupId, durability } = draft
  const delayMs = draft.deliverAtMs < 0 ? draft.delayMs : delayUntil(draft, clockAheadMs)
  draft.properties.deliveryMode = persistent ? 2 : 1
  return {
    exchange,
    routingKey,
    orderingKey,
    persistent,
    priority,
    ttlMs,
    delayMs,
    dedupId,
    durability,
    properties: encodeCommon(draft.properties) ?? encodeProperties(draft.properties),
    body,
  }
}

function delayUntil({ delayMs, deliverAtMs }: Draft, clockAheadMs: number): number {
  if (delayMs > 0) throw wrong('deliverAt', 'and a delay exclude each other')
  const wait = deliverAtMs - (Date.now() + clockAheadMs)
  return Math.min(Math.max(wait, 0), limits.DURATION_MS_MAX)
}

/** Persistent with nothing but a media type is what most publishers send. Bounded: few types. */
const common = new Map<string | undefined, Buffer>()
const COMMON_MAX = 100

function encodeCommon(properties: Properties): Buffer | undefined {
  const { contentType, deliveryMode } = properties
  const size = contentType === undefined ? 1 : 2
  if (deliveryMode !== 2 || Object.keys(properties).length !== size) return undefined
  const known = common.get(contentType)
  if (known !== undefined || common.size >= COMMON_MAX) return known
  const encoded = encodeProperties(properties)
  common.set(contentType, encoded)
  return encoded
}

/** Node reads header bytes as latin1; they are UTF-8 here. */
function decodeHeader(name: string, value: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: it asks for ASCII, all of it
  if (/^[\x00-\x7f]*$/.test(value)) return value
  const bytes = Buffer.from(value, 'latin1')
  if (!isUtf8(bytes)) throw wrong(name, 'is not UTF-8')
  return bytes.toString()
}

function parseHeader(name: string, { kind, max }: Field, value: string): string | number | boolean {
  switch (kind) {
    case 'text':
      return checkText(name, value)
    case 'boolean':
      if (value !== 'true' && value !== 'false') throw wrong(name, 'is true or false')
      return value === 'true'
    case 'time':
      return parseTime(name, /^\d{1,15}$/.test(value) ? Number(value) : value)
    default:
      if (!/^\d{1,15}$/.test(value)) throw wrong(name, 'is a whole number')
      return checkInteger(name, Number(value), max!)
  }
}

function parseField(name: string, { kind, max }: Field, value: unknown): unknown {
  switch (kind) {
    case 'text':
      if (typeof value !== 'string') throw wrong(name, 'is a string')
      return checkText(name, value)
    case 'boolean':
      if (typeof value !== 'boolean') throw wrong(name, 'is true or false')
      return value
    case 'time':
      return parseTime(name, value)
    case 'integer':
      return checkInteger(name, value, max!)
    case 'table':
      if (typeof value !== 'object' || value === null || Array.isArray(value)) {
        throw wrong(name, 'is an object')
      }
      return value
  }
}

function checkText(name: string, value: string): string {
  // A UTF-16 unit is at most 3 bytes: short texts need no counting.
  if (
    value.length * 3 > limits.NAME_BYTES_MAX &&
    Buffer.byteLength(value) > limits.NAME_BYTES_MAX
  ) {
    throw wrong(name, `has at most ${limits.NAME_BYTES_MAX} bytes`)
  }
  return value
}

function checkInteger(name: string, value: unknown, max: number): number {
  if (!Number.isSafeInteger(value) || (value as number) < 0 || (value as number) > max) {
    throw wrong(name, `is a whole number from 0 to ${max}`)
  }
  return value as number
}

const RFC_3339 = /^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)$/

function parseTime(name: string, value: unknown): number {
  const ms =
    typeof value === 'string' && RFC_3339.test(value) ? Date.parse(value.replace(' ', 'T')) : value
  if (!Number.isSafeInteger(ms) || (ms as number) < 0) {
    throw wrong(name, 'is a time like 2030-01-31T12:00:00Z, or milliseconds since 1970')
  }
  return ms as number
}

function wrong(name: string, what: string): BrokerError {
  return new BrokerError('invalid_request', `${name} ${what}.`, { details: { at: name } })
}

const schemaOf = ({ kind, doc, max }: Field, fromText: boolean): z.ZodType => {
  switch (kind) {
    case 'text':
      return z.string().max(limits.NAME_BYTES_MAX).optional().meta({ description: doc })
    case 'boolean':
      return z.boolean().optional().meta({ description: doc })
    case 'integer':
      return z.int().min(0).max(max!).optional().meta({ description: doc })
    case 'time':
      return (fromText ? z.string() : z.union([z.string(), z.int()]))
        .optional()
        .meta({ description: doc })
    case 'table':
      return z.record(z.string(), z.json()).optional().meta({ description: doc })
  }
}

/** For the OpenAPI document: the request headers of a publish. */
export const PublishHeaders = z.object({
  ...Object.fromEntries(
    Object.values(FIELDS)
      .filter(({ header }) => header !== '')
      .map((field) => [title(field.header), schemaOf(field, true)]),
  ),
  'Sluice-Header-{Name}': z
    .string()
    .optional()
    .meta({ description: 'A header of the message; as many as needed, each with its own name.' }),
})

/** For the OpenAPI document: the fields of a message in a batch. */
export const MessageFields = z.strictObject({
  body: z.json().optional().meta({
    description:
      'A string is taken as it is; any other value becomes JSON, with that content type.',
  }),
  bodyBase64: z
    .string()
    .optional()
    .meta({ description: 'A body of any bytes, instead of `body`.' }),
  ...Object.fromEntries(
    Object.entries(FIELDS).map(([name, field]) => [name, schemaOf(field, false)]),
  ),
})

function title(header: string): string {
  return header.replace(
    /(^|-)(\w)/g,
    (_, dash: string, letter: string) => dash + letter.toUpperCase(),
  )
}
