/** How connections to an endpoint are made: past the guard, and with its TLS options. */
import type { TLSSocket } from 'node:tls'
import { buildConnector, Client, type Dispatcher } from 'undici'
import type { Exchange } from './exchange.ts'
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

/** When a connection was made. */
interface Kept {
  readonly client: Client
  readonly madeMs: number
}

/**
 * The connections of one endpoint, kept alive. Each carries one request at a time; the one used
 * last is used next, so that those that are not needed fall asleep. There are never more than
 * requests under way at a time.
 *
 * Hot path: undici's Pool looks through all of its connections for each request, which takes a
 * tenth of the time of a push. Measured by test/bench/push.bench.ts.
 */
export class Connections {
  readonly #make: () => Client
  readonly #all = new Set<Client>()
  readonly #free: Kept[] = []
  #closed = false

  constructor(origin: string, options: EndpointOptions, guard: Guard, times?: ConnectionTimes) {
    const connect = connector(guard, options.timeoutMs, options.tls, times)
    this.#make = () => new Client(origin, { ...COMMON, connect })
  }

  /** Runs a request on a connection that no other uses meanwhile; one that failed is let go. */
  async use(request: (client: Client) => Promise<Exchange>): Promise<Exchange> {
    const kept = this.#free.pop() ?? this.#open()
    if (this.#closed) await kept.client.destroy() // then the request fails at once
    const exchange = await request(kept.client)
    const old = performance.now() - kept.madeMs > CONNECTION_AGE_MS_MAX
    if (exchange.failure === undefined && !old && !this.#closed) {
      this.#free.push(kept)
    } else {
      this.#all.delete(kept.client)
      await kept.client.destroy()
    }
    return exchange
  }

  /** Requests under way end as failed ones. */
  async close(): Promise<void> {
    this.#closed = true
    await Promise.all([...this.#all].map((client) => client.destroy()))
  }

  #open(): Kept {
    const client = this.#make()
    this.#all.add(client)
    return { client, madeMs: performance.now() }
  }
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
