/**
 * Sends messages to the endpoint of one subscription, each as one attempt that always ends: within
 * its time, in bounded memory, whatever the endpoint does (exchange.ts).
 *
 * Connections are kept alive and belong to the subscription, so what one endpoint does to its
 * connections others do not feel.
 */
import type { Dispatcher } from 'undici'
import { pressureOf, retryAfterMs, usualVerdict } from './answer.ts'
import { Connections, type ConnectionTimes, openOnce } from './connect.ts'
import { type Exchange, exchange } from './exchange.ts'
import type { Guard } from './guard.ts'
import type { Replayed } from './replay.ts'
import { type PushMessage, type PushRequest, RequestWriter } from './request.ts'
import type { Attempt, Subscription } from './subscription.ts'

/** Redirects that ask for the same request elsewhere; 303 asks for another one. */
const REPEATED = new Set([301, 302, 307, 308])

/** Bytes of an answer that stay with the message. */
const ATTEMPT_BYTES_MAX = 1024

/** Sees all that is sent and answered, for a test-fire. */
export interface Witness {
  readonly times: ConnectionTimes
  saw(url: URL, request: PushRequest, exchange: Exchange): void
}

export class Endpoint {
  readonly #subscription: Subscription
  readonly #guard: Guard
  readonly #witness: Witness | undefined
  readonly #replayed: Replayed | undefined
  readonly #writer: RequestWriter
  readonly #url: URL
  readonly #connections: Connections

  constructor(
    vhost: string,
    name: string,
    subscription: Subscription,
    guard: Guard,
    { witness, replayed }: { witness?: Witness; replayed?: Replayed } = {},
  ) {
    const { endpoint } = subscription
    this.#subscription = subscription
    this.#guard = guard
    this.#witness = witness
    this.#replayed = replayed
    this.#writer = new RequestWriter(vhost, name, subscription)
    this.#url = new URL(endpoint.url)
    const { origin } = this.#url
    this.#connections = new Connections(origin, endpoint, guard, witness?.times)
  }

  /**
   * One attempt. Never rejects. It ends at once when the signal aborts, as a retry that says
   * nothing of the message or its endpoint.
   */
  async send(message: PushMessage, signal: AbortSignal): Promise<Attempt> {
    const timeMs = Date.now()
    const startedMs = performance.now()
    const request = this.#writer.write(message, timeMs)
    const { redirects, timeoutMs } = this.#subscription.endpoint
    let last = await this.#sendHome(this.#url, request, timeoutMs, signal)
    if (redirects > 0) last = await this.#follow(request, last, startedMs + timeoutMs, signal)
    const attempt = attemptOf(this.#subscription, last, timeMs, performance.now() - startedMs)
    const brokenOff = signal.aborted && attempt.verdict === 'retry'
    if (request.replayed !== undefined && this.#replayed !== undefined && !brokenOff) {
      await this.#replayed(request.replayed, attempt.verdict, last)
    }
    return attempt
  }

  /** Lets go of its connections. Attempts under way end as failed ones. */
  async close(): Promise<void> {
    await this.#connections.close()
  }

  #sendHome(
    url: URL,
    request: PushRequest,
    timeoutMs: number,
    signal: AbortSignal,
  ): Promise<Exchange> {
    return this.#connections.use((client) =>
      this.#exchange(client, url, request, timeoutMs, signal),
    )
  }

  async #exchange(
    dispatcher: Dispatcher,
    url: URL,
    request: PushRequest,
    timeoutMs: number,
    signal: AbortSignal,
  ): Promise<Exchange> {
    const answer = await exchange(dispatcher, request, timeoutMs, signal)
    this.#witness?.saw(url, request, answer)
    return answer
  }

  async #follow(
    request: PushRequest,
    first: Exchange,
    untilMs: number,
    signal: AbortSignal,
  ): Promise<Exchange> {
    const { redirects } = this.#subscription.endpoint
    let last = first
    let url = this.#url
    for (let left = redirects; last.failure === undefined && isRedirect(last); left--) {
      const next = targetOf(last, url)
      if (typeof next === 'string') return failed(last, next)
      if (left === 0) return failed(last, `it redirects more than ${redirects} times`)
      url = next
      const leftMs = Math.max(1, Math.floor(untilMs - performance.now()))
      last = await this.#sendTo(url, request, leftMs, signal)
    }
    return last
  }

  async #sendTo(
    url: URL,
    request: PushRequest,
    timeoutMs: number,
    signal: AbortSignal,
  ): Promise<Exchange> {
    const path = url.pathname + url.search
    if (url.origin === this.#url.origin) {
      return this.#sendHome(url, { ...request, path }, timeoutMs, signal)
    }
    const { ownHeaders, headers } = request
    const without = { ...request, path, headers: headers.slice(2 * ownHeaders), ownHeaders: 0 }
    const once = openOnce(url.origin, timeoutMs, this.#guard)
    try {
      return await this.#exchange(once, url, without, timeoutMs, signal)
    } finally {
      await once.destroy()
    }
  }
}

function isRedirect({ status, headers }: Exchange): boolean {
  return REPEATED.has(status ?? 0) && headers['location'] !== undefined
}

/** Where a redirect leads, or why it is not followed. */
function targetOf({ headers }: Exchange, from: URL): URL | string {
  const location = String(headers['location'])
  const url = URL.parse(location, from.href)
  if (url === null) return 'it redirects to what is no URL'
  if (!/^https?:$/.test(url.protocol)) return 'it redirects to what is not http'
  if (from.protocol === 'https:' && url.protocol === 'http:') {
    return 'it redirects from https to http'
  }
  return url
}

function failed(exchange: Exchange, reason: string): Exchange {
  return { ...exchange, failure: { reason, pressure: 'down' } }
}

function attemptOf(
  { onStatus }: Subscription,
  { status, headers, body, failure, note }: Exchange,
  timeMs: number,
  durationMs: number,
): Attempt {
  const error = failure?.reason ?? note
  const verdict =
    failure !== undefined || status === undefined
      ? 'retry'
      : (onStatus[status] ?? usualVerdict(status))
  const nowMs = timeMs + durationMs
  const waitMs =
    status !== undefined && status >= 300
      ? retryAfterMs(textOf(headers['retry-after']), textOf(headers['date']), nowMs)
      : undefined
  return {
    timeMs,
    durationMs,
    ...(status !== undefined && { status }),
    ...(error !== undefined && { error }),
    answer: body.toString('utf8', 0, ATTEMPT_BYTES_MAX),
    ...(waitMs !== undefined && { retryAfterMs: waitMs }),
    verdict,
    pressure: failure?.pressure ?? (verdict === 'ack' ? 'none' : pressureOf(status ?? 0)),
  }
}

function textOf(value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value[0] : value
}
