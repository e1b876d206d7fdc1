/**
 * A request that an ingest took in, sent on to the backend as it came: method, path and query
 * behind the endpoint's URL, headers and body. What the backend answers is kept where the one who
 * sent the request looks for it.
 *
 * Only a subscription that says `replay` does so, and only for messages of an ingest; other messages
 * of its queue are pushed as usual.
 */
import { BrokerError, limits, type Report } from '@sluice/core'
import type { DataKey, KeptAnswer, Requests } from '@sluice/store'
import { CONNECTION_HEADERS, type HttpRequest } from '@sluice/topology'
import type { Exchange } from './exchange.ts'
import type { Verdict } from './subscription.ts'

/** What is not passed on, in either direction. */
const HOP_BY_HOP = new RegExp(`^(?:${CONNECTION_HEADERS.join('|')}|proxy-.*)$`, 'i')

/** The path with its query behind the path of the endpoint; a query of the endpoint comes first. */
export function replayedPath(endpointPath: string, { path, query }: HttpRequest): string {
  const mark = endpointPath.indexOf('?')
  const base = mark < 0 ? endpointPath : endpointPath.slice(0, mark)
  const own = mark < 0 ? undefined : endpointPath.slice(mark + 1)
  const joined = path.startsWith('/') && base.endsWith('/') ? base.slice(0, -1) + path : base + path
  const queries = [own, query].filter((part) => part !== undefined)
  return queries.length === 0 ? joined : `${joined}?${queries.join('&')}`
}

/**
 * Name and value in turn, as Latin-1: those of the request without the ones that `own` says, which
 * are the endpoint's and not the sender's to choose.
 */
export function replayedHeaders({ headers }: HttpRequest, own: readonly string[]): string[] {
  const taken = new Set(own.filter((_, index) => index % 2 === 0).map((name) => name.toLowerCase()))
  const replayed: string[] = []
  for (const [name, value] of Object.entries(headers)) {
    if (taken.has(name.toLowerCase()) || HOP_BY_HOP.test(name)) continue
    for (const one of Array.isArray(value) ? value : [value]) replayed.push(name, one)
  }
  return replayed
}

/** Hears of attempts to replay a request, before their messages are settled. Never rejects. */
export type Replayed = (request: HttpRequest, verdict: Verdict, exchange: Exchange) => Promise<void>

const STATES = { ack: 'delivered', retry: 'failed', 'dead-letter': 'dead' } as const

/**
 * Tells whoever sent a request how an attempt went. What cannot be told since Redis is away is
 * lost: the message comes again then, since it cannot be settled either. `key` seals the answer.
 */
export function answerKeeper(
  requests: Requests,
  vhost: string,
  key: () => DataKey | undefined,
  report: Report,
): Replayed {
  return async (request, verdict, exchange) => {
    const { id, ingest, keepMs, keepBytes } = request
    try {
      await requests.note(id, STATES[verdict], {
        keepMs: Math.max(1, Math.min(keepMs, limits.REQUEST_WAITING_MS_MAX)),
        answer: answerOf(exchange, keepBytes),
        key: key(),
        record: { vhost, ingest, open: false },
      })
    } catch (error) {
      if (!(error instanceof BrokerError)) report(error)
    }
  }
}

function answerOf({ status, rawHeaders, body, failure, note }: Exchange, max: number): KeptAnswer {
  const headers: (readonly [string, string])[] = []
  for (let i = 0; i + 1 < rawHeaders.length; i += 2) {
    const name = latin1(rawHeaders[i]!)
    if (!HOP_BY_HOP.test(name)) headers.push([name, latin1(rawHeaders[i + 1]!)])
  }
  return {
    status: status ?? 0,
    headers,
    body: body.subarray(0, max),
    truncated:
      body.length > max || note !== undefined || (failure !== undefined && status !== undefined),
    atMs: Date.now(),
    ...(failure && { error: failure.reason }),
  }
}

/** undici gives raw headers as bytes, whatever its types say. */
function latin1(value: string | Buffer): string {
  return typeof value === 'string' ? value : value.toString('latin1')
}
