/**
 * An HTTP request as a message: what an ingest writes into its headers, what a push that replays
 * reads there, and what those who end the message need to tell its sender.
 *
 *   header          │ value
 *   ────────────────┼────────────────────────────────────────────────────────────────────────────
 *   x-ingest        │ name of the ingest
 *   x-request-id    │ what `/v1/requests/{id}` knows it by
 *   x-http-method   │ as it came
 *   x-http-path     │ what followed `/ingest/{name}`, as it came, percent-encoding and all
 *   x-http-query    │ what followed the `?`, as it came; absent without one
 *   x-http-headers  │ table: name in lower case -> value, or a list of values; bytes as Latin-1
 *   x-answer-ms     │ how long the backend's answer is kept
 *   x-answer-bytes  │ how much of its body
 *
 * The message's body is the request's, and its content type and encoding are properties as well.
 */
import { decodeProperties, type FieldValue, type Table } from '@sluice/amqp'

/** Said of a connection and not of a request (RFC 9110, 7.6.1), or computed anew; lower case. */
export const CONNECTION_HEADERS: readonly string[] = [
  'connection',
  'content-length',
  'expect',
  'host',
  'keep-alive',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
]

export interface HttpRequest {
  readonly ingest: string
  readonly id: string
  readonly method: string
  /** Begins with a slash, or is empty. */
  readonly path: string
  /** undefined: there was none; '' when there was only the `?`. */
  readonly query: string | undefined
  readonly headers: Readonly<Record<string, string | string[]>>
  readonly keepMs: number
  readonly keepBytes: number
}

export function requestTable(request: HttpRequest): Table {
  const table: Table = {
    'x-ingest': request.ingest,
    'x-request-id': request.id,
    'x-http-method': request.method,
    'x-http-path': request.path,
    'x-http-headers': request.headers as Table,
    'x-answer-ms': request.keepMs,
    'x-answer-bytes': request.keepBytes,
  }
  if (request.query !== undefined) table['x-http-query'] = request.query
  return table
}

/** undefined: these are not the headers of such a message. */
export function readRequest(table: Table | undefined): HttpRequest | undefined {
  if (table === undefined) return undefined
  const id = table['x-request-id']
  const ingest = table['x-ingest']
  const method = table['x-http-method']
  const path = table['x-http-path']
  const query = table['x-http-query']
  if (typeof id !== 'string' || typeof ingest !== 'string') return undefined
  if (typeof method !== 'string' || !/^[A-Z-]{1,32}$/.test(method)) return undefined
  if (typeof path !== 'string' || !isTarget(path) || !/^(?:\/|$)/.test(path)) return undefined
  if (climbs(path)) return undefined
  if (query !== undefined && (typeof query !== 'string' || !isTarget(query))) return undefined
  return {
    ingest,
    id,
    method,
    path,
    query,
    headers: readHeaders(table['x-http-headers']),
    keepMs: count(table['x-answer-ms']),
    keepBytes: count(table['x-answer-bytes']),
  }
}

/** The same of a stored message's properties; undefined also when they cannot be read. */
export function requestOf(properties: Buffer): HttpRequest | undefined {
  if (!properties.includes('x-request-id')) return undefined
  try {
    return readRequest(decodeProperties(properties).headers)
  } catch {
    return undefined
  }
}

/**
 * Whether a path has segments `.` or `..`: what follows the endpoint's own path must stay below it.
 */
export function climbs(path: string): boolean {
  return /(?:^|[/\\])(?:\.|%2e){1,2}(?:[/\\]|$)/i.test(path)
}

/** What may stand in a request line. Anyone may publish a message with such headers. */
function isTarget(text: string): boolean {
  return /^[\x21-\x7e\x80-\xff]*$/.test(text)
}

function count(value: FieldValue | undefined): number {
  return typeof value === 'number' && value > 0 ? Math.floor(value) : 0
}

/** RFC 9110, 5.6.2 and 5.5, with bytes as Latin-1; what is neither is left out. */
function readHeaders(table: FieldValue | undefined): Record<string, string | string[]> {
  const headers: Record<string, string | string[]> = Object.create(null)
  if (typeof table !== 'object' || table === null || Array.isArray(table)) return headers
  for (const [name, value] of Object.entries(table)) {
    if (!/^[!#$%&'*+.^`|~\w-]+$/.test(name)) continue
    const values = (Array.isArray(value) ? value : [value]).filter(isHeaderValue)
    if (values.length > 0) headers[name] = values.length === 1 ? values[0]! : values
  }
  return headers
}

function isHeaderValue(value: unknown): value is string {
  return typeof value === 'string' && /^[\t\x20-\x7e\x80-\xff]*$/.test(value)
}
