/** How connections to an endpoint are made: past the guard, and with its TLS options. */
import type { TLSSocket } from 'node:tls'
import { buildConnector, Client, type Dispatcher, Pool } from 'undici'
import type { Guard } from './guard.ts'
import type { Subscription } from './subscription.ts'

type EndpointOptions = Subscription['endpoint']

/** Line and headers of an answer, bytes: Node's own bound for those that it is sent. */
const ANSWER_HEADERS_BYTES_MAX = 16 * 1024
/** A connection is as old at most, ms: so a name that moves to other addresses is followed. */
const CONNECTION_AGE_MS_MAX = 300_000

const COMMON = {
  maxHeaderSize: ANSWER_HEADERS_BYTES_MAX,
  // exchange.ts keeps the time.
  headersTimeout: 0,
  bodyTimeout: 0,
} as const

/** When the steps of a connection were done, ms since it was asked for. */
export interface ConnectionTimes {
  lookupMs?: number
  connectMs?: number
  tlsMs?: number
}

/** The connections of one endpoint, kept alive. */
export function openPool(
  origin: string,
  options: EndpointOptions,
  connectionsMax: number,
  guard: Guard,
  times?: ConnectionTimes,
): Pool {
  return new Pool(origin, {
    ...COMMON,
    connections: connectionsMax,
    clientTtl: CONNECTION_AGE_MS_MAX,
    connect: connector(guard, options.timeoutMs, options.tls, times),
  })
}

/** One connection to where a redirect leads: a stranger, who sees no client certificate. */
export function openOnce(origin: string, timeoutMs: number, guard: Guard): Dispatcher {
  return new Client(origin, { ...COMMON, connect: connector(guard, timeoutMs) })
}

function connector(
  guard: Guard,
  timeoutMs: number,
  tls: EndpointOptions['tls'] = { rejectUnauthorized: true },
  times?: ConnectionTimes,
): buildConnector.connector {
  const given = Object.entries(tls).filter(([, value]) => value !== undefined)
  const connect = buildConnector({
    ...Object.fromEntries(given),
    lookup: guard.lookup,
    timeout: timeoutMs,
    allowH2: false,
  })
  return (options, callback) => {
    const refusal = guard.refusal(options.hostname)
    if (refusal !== undefined) {
      process.nextTick(callback, refusal, null) // undici expects no answer at once
      return
    }
    const startedMs = performance.now()
    // As documented it returns nothing; what it returns is the socket.
    const socket = connect(options, callback) as unknown as TLSSocket | undefined
    if (times === undefined) return
    for (const [event, name] of [
      ['lookup', 'lookupMs'],
      ['connect', 'connectMs'],
      ['secureConnect', 'tlsMs'],
    ] as const) {
      socket?.once(event, () => {
        times[name] = performance.now() - startedMs
      })
    }
  }
}
