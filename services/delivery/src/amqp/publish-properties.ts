/**
 * What the broker itself looks at in a message's properties; the rest passes through unread.
 *
 * Basic-properties are flags, then values in the order of their flags (specification 4.2.6.1, 1.8).
 * Hot path: walks the values without decoding those it has no use for.
 */
import { AmqpError, decodeProperties, REPLY_CODES, type Table } from '@sluice/amqp'
import { limits } from '@sluice/core'
import { precondition } from './reply.ts'

export interface PublishProperties {
  readonly persistent: boolean
  readonly priority: number
  /** -1 = none; NaN = an expiration that is none. */
  readonly ttlMs: number
  readonly expiration: string
  readonly replyTo: string
  readonly messageId: string
  readonly userId: string
  /** Whether the body is a CloudEvent in structured mode. */
  readonly event: boolean
  /** Bytes of the header table; 0 = there is none, or it is empty. */
  readonly headersSize: number
}

const TRANSIENT = 1
const MORE_FLAGS = 1

/** Throws AmqpError 502 when they are malformed. */
export function readPublishProperties(bytes: Buffer): PublishProperties {
  const flags = bytes.length < 2 ? MORE_FLAGS : bytes.readUInt16BE(0)
  if (flags & MORE_FLAGS) throw malformed()
  let at = 2
  const short = (flag: number, wanted: boolean): string => {
    if (!(flags & flag)) return ''
    const start = at + 1
    at = start + (bytes[at] ?? bytes.length)
    return wanted ? bytes.toString('utf8', start, at) : ''
  }
  const octet = (flag: number): number => (flags & flag ? (bytes[at++] ?? 0) : 0)

  const event = isEventType(flags & 0x8000 ? bytes : undefined)
  short(0x8000, false) // content-type
  short(0x4000, false) // content-encoding
  let headersSize = 0
  if (flags & 0x2000) {
    if (at + 4 > bytes.length) throw malformed()
    headersSize = bytes.readUInt32BE(at)
    at += 4 + headersSize
  }
  const deliveryMode = octet(0x1000)
  const priority = octet(0x0800)
  short(0x0400, false) // correlation-id
  const replyTo = short(0x0200, true)
  const expiration = short(0x0100, true)
  const hasExpiration = (flags & 0x0100) !== 0
  const messageId = short(0x0080, true)
  if (flags & 0x0040) at += 8 // timestamp
  short(0x0020, false) // type
  const userId = short(0x0010, true)
  if (at > bytes.length) throw malformed()
  return {
    persistent: deliveryMode !== TRANSIENT && (flags & 0x1000) !== 0,
    priority,
    ttlMs: hasExpiration ? readExpiration(expiration) : -1,
    expiration,
    replyTo,
    messageId,
    userId,
    event,
    headersSize,
  }
}

const EVENT_TYPE = Buffer.from('application/cloudevents+json')

/** @param bytes properties with a content type, which comes first; undefined = there is none. */
function isEventType(bytes: Buffer | undefined): boolean {
  if (bytes === undefined || bytes[2]! < EVENT_TYPE.length) return false
  return bytes.subarray(3, 3 + EVENT_TYPE.length).equals(EVENT_TYPE)
}

/** Milliseconds as a decimal string, 0 .. 10 years; else NaN. */
function readExpiration(text: string): number {
  const ms = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN
  return ms <= limits.DURATION_MS_MAX ? ms : Number.NaN
}

/** Further routing keys that a message asks for: CC is delivered with it, BCC is not. */
export function furtherKeys(headers: Table): { cc: readonly string[]; bcc: readonly string[] } {
  return { cc: keys(headers, 'CC'), bcc: keys(headers, 'BCC') }
}

function keys(headers: Table, name: string): readonly string[] {
  const value = headers[name]
  if (value === undefined) return []
  if (!Array.isArray(value)) throw precondition(`invalid '${name}' header: not an array of strings`)
  return value.map((key) => {
    const text = Buffer.isBuffer(key) ? key.toString() : key
    if (typeof text === 'string' && Buffer.byteLength(text) <= limits.NAME_BYTES_MAX) return text
    throw precondition(`invalid '${name}' header: not an array of strings`)
  })
}

/** The header table; decoded only for the few messages whose headers the broker must know. */
export function headersOf(properties: Buffer): Table {
  return decodeProperties(properties).headers ?? {}
}

function malformed(): AmqpError {
  return new AmqpError(REPLY_CODES.syntaxError, 'malformed properties')
}
