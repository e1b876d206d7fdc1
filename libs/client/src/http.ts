/** Requests to the broker: credentials, JSON, errors, tries. */
import { problemError, SluiceError } from './errors.ts'
import { RETRY_DEFAULT, type RetryOptions, retrying } from './wait.ts'

/** Where the broker is, and who asks. */
export interface SluiceOptions {
  /** e.g. http://127.0.0.1:8080 */
  readonly url: string | URL
  /** Name of the user, with `password`. */
  readonly user?: string
  /** Password of the user. */
  readonly password?: string
  /** A bearer token or an API key instead; a function is asked anew for each request. */
  readonly token?: string | (() => string | Promise<string>)
  /** The virtual host. Default '/'. */
  readonly vhost?: string
  /** How requests that may succeed later are tried again. */
  readonly retry?: RetryOptions
  /** How long to wait for an answer, ms. Default 30 000. */
  readonly timeoutMs?: number
  /** The trace that publishes belong to, asked for each: `traceparent` and `tracestate`. */
  readonly trace?: () => TraceContext | undefined
  /** Instead of the platform's own, e.g. with a proxy. */
  readonly fetch?: typeof globalThis.fetch
  /** Instead of the platform's own. */
  readonly WebSocket?: typeof globalThis.WebSocket
}

/** W3C trace context, as it travels with a message. */
export interface TraceContext {
  readonly traceparent?: string
  readonly tracestate?: string
}

/** What every call takes. */
export interface CallOptions {
  /** Ends the call at once, with the signal's reason. */
  readonly signal?: AbortSignal | undefined
}

export interface Request extends CallOptions {
  readonly query?: Readonly<Record<string, string | number | boolean | undefined>>
  /** Sent as JSON. */
  readonly body?: unknown
  readonly contentType?: string
  /** On top of the client's own, ms: for requests that wait at the broker. */
  readonly waitMs?: number
  readonly headers?: Readonly<Record<string, string>>
}

export interface Answer {
  readonly status: number
  readonly json: unknown
}

export class Http {
  readonly #url: string
  readonly #options: SluiceOptions
  readonly #retry: Required<RetryOptions>
  readonly #timeoutMs: number
  readonly #fetch: typeof globalThis.fetch
  readonly vhost: string

  constructor(options: SluiceOptions) {
    this.#options = options
    this.#url = String(options.url).replace(/\/+$/, '')
    this.#retry = { ...RETRY_DEFAULT, ...options.retry }
    this.#timeoutMs = options.timeoutMs ?? 30_000
    this.#fetch = options.fetch ?? globalThis.fetch.bind(globalThis)
    this.vhost = options.vhost ?? '/'
  }

  get options(): SluiceOptions {
    return this.#options
  }

  get retry(): Required<RetryOptions> {
    return this.#retry
  }

  get webSocketUrl(): string {
    return `${this.#url.replace(/^http/, 'ws')}/ws`
  }

  /** The Authorization header's value; undefined without a credential. */
  async authorization(): Promise<string | undefined> {
    const { token, user, password } = this.#options
    if (token !== undefined) return `Bearer ${typeof token === 'string' ? token : await token()}`
    if (user === undefined) return undefined
    const bytes = new TextEncoder().encode(`${user}:${password ?? ''}`)
    return `Basic ${btoa(String.fromCharCode(...bytes))}`
  }

  /** A path below the vhost. */
  path(...segments: readonly string[]): string {
    return `/v1/vhosts/${[this.vhost, ...segments].map(encodeURIComponent).join('/')}`
  }

  /** Asks until there is an answer that another try would not change. Throws SluiceError. */
  request(method: string, path: string, request: Request = {}): Promise<Answer> {
    return retrying(this.#retry, request.signal, () => this.once(method, path, request))
  }

  /** Asks once. */
  async once(method: string, path: string, request: Request = {}): Promise<Answer> {
    const ended = new AbortController()
    const late = () => ended.abort(LATE)
    const abort = () => ended.abort(request.signal?.reason)
    if (request.signal?.aborted) throw request.signal.reason
    request.signal?.addEventListener('abort', abort, { once: true })
    const timer = setTimeout(late, this.#timeoutMs + (request.waitMs ?? 0))
    try {
      const response = await this.open(method, path, request, ended.signal)
      const text = await response.text()
      const json = parse(text)
      if (response.ok) return { status: response.status, json }
      throw problemError(json, response.status, retryAfterMs(response))
    } catch (error) {
      if (error instanceof SluiceError) throw error
      if (request.signal?.aborted) throw request.signal.reason
      throw ended.signal.reason === LATE
        ? new SluiceError('timed_out', `${method} ${path}: no answer in time${this.#from()}.`)
        : new SluiceError('connection_failed', `${method} ${path}: no answer${this.#from()}.`, {
            cause: error,
          })
    } finally {
      clearTimeout(timer)
      request.signal?.removeEventListener('abort', abort)
    }
  }

  /** Who did not answer; a password in the URL is nobody's. */
  #from(): string {
    return URL.canParse(this.#url) ? ` from ${new URL(this.#url).origin}` : ''
  }

  /** Sends a request; the answer's body is the caller's to read. */
  async open(
    method: string,
    path: string,
    { query = {}, body, contentType = 'application/json', headers }: Request,
    signal: AbortSignal,
  ): Promise<Response> {
    const authorization = await this.authorization()
    const asked = new URLSearchParams()
    for (const [name, value] of Object.entries(query)) {
      if (value !== undefined) asked.set(name, String(value))
    }
    const url = `${this.#url}${path}${asked.size > 0 ? `?${asked}` : ''}`
    return this.#fetch(url, {
      method,
      headers: {
        ...(authorization !== undefined && { Authorization: authorization }),
        ...(body !== undefined && { 'Content-Type': contentType }),
        ...headers,
      },
      ...(body !== undefined && { body: JSON.stringify(body) }),
      signal,
    })
  }
}

const LATE = Symbol('late')

function parse(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function retryAfterMs(response: Response): number {
  const seconds = Number(response.headers.get('retry-after') ?? 0)
  return Number.isFinite(seconds) ? Math.max(0, seconds * 1_000) : 0
}
