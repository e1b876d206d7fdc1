/**
 * The client that tests use against processes of their own: small, typed, and honest about failure.
 *
 * It never tries again by itself, so that a test knows what was sent how often. Sockets are kept
 * alive. What gets no answer rejects with NoAnswer: whether it happened is unknown then.
 */
import { Agent, request as httpRequest, type IncomingMessage } from 'node:http'
import type { Readable } from 'node:stream'

/** The admin password of every process that tests start. */
export const PASSWORD = 'correct horse'

const TIMEOUT_MS = 30_000
const SOCKETS_MAX = 256

export class NoAnswer extends Error {
  override readonly name = 'NoAnswer'
}

export interface RequestOptions {
  readonly headers?: Readonly<Record<string, string | number | undefined>>
  /** Text, bytes and streams are sent as they are, anything else as JSON. */
  readonly body?: unknown
  /** How long to wait for the whole answer. Default 30 s. */
  readonly timeoutMs?: number
  readonly signal?: AbortSignal
}

export interface Answer {
  readonly status: number
  readonly headers: IncomingMessage['headers']
  readonly text: string
  /** The text parsed, or undefined when it is no JSON. */
  // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of any shape
  readonly json: any
}

export interface HttpClient {
  /** Rejects with NoAnswer. `path` starts with a slash. */
  request(method: string, path: string, options?: RequestOptions): Promise<Answer>
  close(): void
}

/** @param base e.g. http://127.0.0.1:8080, asked anew at each request: a restart changes it. */
export function httpClient(base: string | (() => string)): HttpClient {
  const agent = new Agent({ keepAlive: true, maxSockets: SOCKETS_MAX })
  const at = typeof base === 'string' ? () => base : base
  return {
    request: (method, path, options = {}) => send(agent, method, at() + path, options),
    close: () => agent.destroy(),
  }
}

function send(agent: Agent, method: string, url: string, options: RequestOptions): Promise<Answer> {
  const { body, timeoutMs = TIMEOUT_MS, signal } = options
  const headers: Record<string, string | number> = { Authorization: `Bearer ${PASSWORD}` }
  const bytes = isRaw(body) || body === undefined ? body : JSON.stringify(body)
  if (bytes !== body) headers['Content-Type'] = 'application/json'
  // Node frames the body of a DELETE only when told its length.
  if (bytes !== undefined && !isStream(bytes)) headers['Content-Length'] = Buffer.byteLength(bytes)
  for (const [name, value] of Object.entries(options.headers ?? {})) {
    if (value !== undefined) headers[name] = value
  }
  return new Promise((resolve, reject) => {
    const fail = (cause: unknown) => {
      clearTimeout(timer)
      reject(new NoAnswer(`${method} ${url}: ${(cause as Error).message}`, { cause }))
    }
    const req = httpRequest(url, { method, agent, headers, ...(signal && { signal }) }, (res) => {
      const chunks: Buffer[] = []
      res.on('data', (chunk: Buffer) => chunks.push(chunk))
      res.on('end', () => {
        clearTimeout(timer)
        const text = Buffer.concat(chunks).toString()
        resolve({ status: res.statusCode!, headers: res.headers, text, json: parse(text) })
      })
      res.on('error', fail)
    })
    const late = () => req.destroy(new Error(`no answer within ${timeoutMs} ms`))
    const timer = setTimeout(late, timeoutMs)
    req.on('error', fail)
    if (isStream(bytes)) bytes.on('error', (error) => req.destroy(error)).pipe(req)
    else req.end(bytes)
  })
}

function isStream(body: unknown): body is Readable {
  return typeof body === 'object' && body !== null && 'pipe' in body
}

function isRaw(body: unknown): body is string | Uint8Array | Readable {
  return typeof body === 'string' || body instanceof Uint8Array || isStream(body)
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
