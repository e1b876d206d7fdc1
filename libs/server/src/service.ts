/**
 * A service is a value; a process is a list of services behind one HTTP listener.
 *
 * services/router, delivery and reaper each export one function that makes a Service. Alone or all
 * in one process, the very same values run: only the list in main.ts differs.
 */
import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Config } from '@sluice/config'
import { loadConfig } from '@sluice/config'
import { type Report, type Running, runParts, type Start, stopOnSignals } from '@sluice/core'
import { type Deps, openDeps } from './deps.ts'
import { httpApp } from './http/app.ts'
import { type Area, withAreas } from './http/area.ts'
import { healthRoutes } from './http/health.ts'
import { listenHttp } from './http/listen.ts'
import { logRoutes } from './http/log-level.ts'
import { metricsRoutes } from './http/metrics.ts'
import type { Route } from './http/route.ts'

/** A listener besides HTTP. */
export interface Door {
  /** Names its URL to whoever started the process. */
  readonly name: string
  /** Serves until the signal aborts. */
  open(signal: AbortSignal): Promise<Running & { readonly url: string }>
}

/** What takes over HTTP connections that ask for another protocol, at one path. */
export interface Upgrade {
  readonly path: string
  accept(request: IncomingMessage, socket: Duplex, head: Buffer): void
}

export interface Service {
  readonly name: string
  /** What it answers over HTTP, under full paths. */
  readonly routes: readonly Route[]
  /** What runs without being asked: passes, pumps, pushes. */
  readonly loops: readonly Start[]
  /** What it serves whole, whatever the method. */
  readonly areas?: readonly Area[]
  readonly doors?: readonly Door[]
  readonly upgrades?: readonly Upgrade[]
}

export type MakeService = (deps: Deps, config: Config) => Service

/**
 * The whole of a process: settings from the environment, stop on SIGTERM and SIGINT. Returns when
 * it has stopped in order; throws when it failed, or did not drain in time.
 *
 * A parent that started it with an IPC channel is told `{ type: 'ready', http: url }`, and when that
 * parent dies, however it dies, this process stops too.
 */
export async function runProcess(make: readonly MakeService[]): Promise<void> {
  const stop = stopOnSignals()
  process.once('disconnect', () => stop.abort(new Error('the parent process ended')))
  process.channel?.unref() // listening must not keep a process that has stopped
  await runServices(loadConfig(process.env), make, {
    stop,
    started: ({ http, doors }) => process.send?.({ type: 'ready', http, ...doors }),
  })
}

/** A broker in this process, for tests and for programs that embed one. */
export interface Broker {
  /** Where its HTTP API is. */
  readonly http: string
  /** Where its other doors are, by name. */
  readonly doors: Readonly<Record<string, string>>
  readonly deps: Deps
  /** Stops it in order. Rejects when a part failed, or did not drain in time. */
  close(): Promise<void>
}

/** Starts services and returns once they serve. `report` hears of every unexpected error. */
export async function startBroker(
  config: Config,
  make: readonly MakeService[],
  report: Report,
): Promise<Broker> {
  const stop = new AbortController()
  const { promise: serving, resolve: started } = Promise.withResolvers<Omit<Broker, 'close'>>()
  const stopped = runServices(config, make, {
    stop,
    report,
    started,
  })
  const early = stopped.then(() => {
    throw new Error('stopped before it served')
  })
  const close = () => {
    stop.abort()
    return stopped
  }
  return { ...(await Promise.race([serving, early])), close }
}

async function runServices(
  config: Config,
  make: readonly MakeService[],
  options: {
    readonly stop: AbortController
    readonly report?: Report
    readonly started?: (broker: Omit<Broker, 'close'>) => void
  },
): Promise<void> {
  const { stop, report, started } = options
  const deps = await openDeps(config, { stopping: stop.signal, ...(report && { report }) })
  try {
    const services = make.map((makeService) => makeService(deps, config))
    let http = ''
    const urls: Record<string, string> = {}
    const served = app(services, deps)
    const count = countConnections(deps)
    const upgrades = services.flatMap(({ upgrades = [] }) => upgrades)
    const listeners = httpPorts(config, deps).map(
      ({ port, tls }): Start =>
        async (signal) => {
          const options = { ...listenerOf(config), port, tls, connections: count(), upgrades }
          const { url, closed } = await listenHttp(served, options, signal)
          http ||= url
          if (tls) urls['https'] = url
          return { closed }
        },
    )
    const doors = services.flatMap(({ doors = [] }) => doors)
    const opening = doors.map(
      ({ name, open }): Start =>
        async (signal) => {
          const { url, closed } = await open(signal)
          urls[name] = url
          return { closed }
        },
    )
    // Loops first, listeners last: nothing is let in before there is someone to serve it.
    await runParts(stop, [...services.flatMap(({ loops }) => loops), ...opening, ...listeners], {
      drainMsMax: config.drainMs,
      started() {
        for (const { name } of services) deps.log.info({ service: name, http, ...urls }, 'serving')
        started?.({ http, doors: urls, deps })
      },
    })
    deps.log.info('stopped')
  } finally {
    await deps.close() // last: what drains still settles through Redis
  }
}

function app(services: readonly Service[], deps: Deps) {
  const { topology, store, encryption, metrics, credentials, tls, audit, report, stopping } = deps
  const certified = (socket: Socket) => tls?.certified(socket)
  const health = healthRoutes({
    roundTrip: () => topology.refresh(),
    broken: () => store.broken(),
    impaired: () => encryption.broken(),
    stopping,
  })
  const operating = [...health, ...metricsRoutes(deps), ...logRoutes(deps)]
  const answered = (route: string, status: number, seconds: number) =>
    metrics.httpRequest(route, status, seconds)
  const routes = [...services.flatMap(({ routes }) => routes), ...operating]
  return withAreas(
    httpApp({ routes, credentials, certified, audit, report, stopping, answered }),
    services.flatMap(({ areas = [] }) => areas),
    { answered, report, stopping },
  )
}

/** Counts the connections of all listeners; each tells its own. */
function countConnections({ metrics }: Deps): () => (open: number) => void {
  const opened = metrics.count('connectionsOpened', { door: 'http' })
  let all = 0
  metrics.gauge('connections', { door: 'http' }, () => all)
  return () => {
    let own = 0
    return (open) => {
      if (open > own) opened.value++
      all += open - own
      own = open
    }
  }
}

function httpPorts({ httpPort, httpsPort, tlsOnly }: Config, { tls }: Deps) {
  const plain = tlsOnly ? [] : [{ port: httpPort, tls: undefined }]
  return tls ? [...plain, { port: httpsPort, tls }] : plain
}

function listenerOf({ httpHost: host, httpConnectionsMax: connectionsMax }: Config) {
  return { host, connectionsMax }
}
