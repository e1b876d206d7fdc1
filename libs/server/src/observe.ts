/** What a process tells of itself: gauges of the store and the queues, and where it is sent. */
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Config } from '@sluice/config'
import type { Store } from '@sluice/store'
import {
  exportMetrics,
  type Logger,
  Metrics,
  openLog,
  openTracing,
  type QueueReading,
  Tracing,
} from '@sluice/telemetry'
import type { QueueEntry, Topology } from '@sluice/topology'
import type { Encryption } from './encryption.ts'
import { followLogLevel } from './log-level.ts'

/** For a last export: a collector that is away does not hold up a process that stops. */
const CLOSE_MS_MAX = 2_000
const WATCH_MS = 1_000
/** Queues read at once: a look must not fill the connection that settlements go through. */
const QUEUES_AT_ONCE = 20

/** The log and the metrics of a process, and what a store tells them. */
export function openTelemetry({ logLevel, queueHistograms }: Config) {
  const metrics = new Metrics({ byQueue: queueHistograms })
  const dropped = metrics.count('logLinesDropped', {})
  const log = openLog({ level: logLevel, dropped: () => dropped.value++ })
  const roundTrips = metrics.histogram('redisRoundTrip', {})
  const batches = metrics.histogram('batchMessages', {})
  const heard = {
    roundTrip: (seconds: number) => roundTrips.observe(seconds),
    batch: (messages: number) => batches.observe(messages),
    unreadable: (vhost: string, queue: string, reason: 'shredded' | 'forged') => {
      metrics.count('unreadable', { vhost, queue, reason }).value++
      if (reason === 'forged') log.warn({ vhost, queue }, 'a message is not what was stored')
    },
  }
  return { log, metrics, heard }
}

interface Observed {
  readonly log: Logger
  readonly metrics: Metrics
  readonly store: Store
  readonly topology: Topology
  readonly encryption: Encryption
}

/** Begins to tell; `close` sends what is left, bounded. */
export async function observe(
  config: Config,
  { log, metrics, store, topology, encryption }: Observed,
): Promise<Exports> {
  measure(metrics, store, topology)
  metrics.gauge('dataKeysLocked', {}, () => encryption.locked)
  metrics.gauge('wrappingKeyAway', {}, () => (encryption.lacksWrapping ? 1 : 0))
  const unfollow = followLogLevel(log, topology, () => Date.now() + store.state.clockAheadMs)
  const unwatch = watchStore(store, encryption, log)
  const { tracing, close } = await openExports(config, metrics, store.slot.name, log)
  return {
    tracing,
    async close() {
      unfollow()
      unwatch()
      await close()
      metrics.close()
    },
  }
}

/** Says where the figures of Redis and of the queues come from. */
function measure(metrics: Metrics, store: Store, topology: Topology): void {
  metrics.gauge('redisUp', {}, () => (store.reachable ? 1 : 0))
  metrics.gauge('redisUsedBytes', {}, () => store.state.usedMemory)
  metrics.gauge('redisMaxBytes', {}, () => store.state.maxMemory)
  metrics.gauge('memoryHigh', {}, () => (store.memoryHigh ? 1 : 0))
  metrics.gauge('promisesBroken', {}, () => store.broken().length)
  metrics.measureQueues({
    read: (most) => readQueues(topology, most),
    exists: (vhost, queue) => topology.table.queue(vhost, queue) !== undefined,
    count: () => {
      const { table } = topology
      return table.vhosts().reduce((sum, vhost) => sum + table.queues(vhost).length, 0)
    },
  })
}

/** The first queues by name, a few at a time. Rejects when Redis is away. */
async function readQueues({ table }: Topology, most: number): Promise<QueueReading[]> {
  const first = firstQueues(
    table.vhosts().map((vhost) => table.queues(vhost)),
    most,
  )
  const readings: QueueReading[] = []
  for (let at = 0; at < first.length; at += QUEUES_AT_ONCE) {
    readings.push(...(await Promise.all(first.slice(at, at + QUEUES_AT_ONCE).map(readQueue))))
  }
  return readings
}

function firstQueues(lists: readonly (readonly QueueEntry[])[], most: number): QueueEntry[] {
  const first: QueueEntry[] = []
  for (const list of lists) {
    first.push(...list.slice(0, most - first.length))
    if (first.length >= most) break
  }
  return first
}

async function readQueue({ vhost, definition, store }: QueueEntry): Promise<QueueReading> {
  const [stats, oldestMs] = await Promise.all([store.stats(), store.oldestMs()])
  return { ...stats, vhost, queue: definition.name, oldestMs }
}

/** Looks each second; a line when Redis goes or comes, and when a promise breaks or holds again. */
function watchStore(store: Store, encryption: Encryption, log: Logger): () => void {
  let reachable = true
  let broken: readonly string[] = []
  const look = () => {
    if (store.reachable !== reachable) {
      reachable = store.reachable
      if (reachable) log.info('Redis answers again')
      else log.error('Redis does not answer: publishes wait, everything else is refused')
    }
    const before = broken
    broken = reachable ? [...store.broken(), ...encryption.broken()] : before
    for (const promise of broken.filter((one) => !before.includes(one))) {
      log.error({ promise }, 'a promise cannot be kept')
    }
    for (const promise of before.filter((one) => !broken.includes(one))) {
      log.info({ promise }, 'a promise is kept again')
    }
  }
  const timer = setInterval(look, WATCH_MS)
  timer.unref()
  return () => clearInterval(timer)
}

interface Exports {
  readonly tracing: Tracing
  /** Sends what is left, bounded. */
  close(): Promise<void>
}

/** Starts sending traces and metrics where settings say so; else loads nothing. */
async function openExports(
  config: Config,
  metrics: Metrics,
  instance: string,
  log: Logger,
): Promise<Exports> {
  const { otlpEndpoint: endpoint, otlpMetricsMs: everyMs } = config
  if (endpoint === undefined) return { tracing: Tracing.OFF, close: async () => {} }
  const target = {
    endpoint,
    headers: parseHeaders(config.otlpHeaders),
    serviceName: config.serviceName,
    serviceVersion: version(),
    instance,
    report: (error: unknown) => log.warn({ err: error }, 'an export by OTLP failed'),
  }
  const tracing = config.traces
    ? await openTracing({ ...target, ratio: config.tracesRatio })
    : Tracing.OFF
  const endMetrics = everyMs > 0 ? await exportMetrics(metrics, { ...target, everyMs }) : undefined
  return {
    tracing,
    close: async () => {
      const ended = Promise.all([tracing.close(), endMetrics?.().catch(target.report)])
      const late = new AbortController()
      await Promise.race([ended, sleep(CLOSE_MS_MAX, undefined, { signal: late.signal })])
      late.abort()
    },
  }
}

function parseHeaders(text: string | undefined): Record<string, string> {
  const pairs = (text ?? '').split(',').filter((pair) => pair !== '')
  return Object.fromEntries(
    pairs.map((pair) => {
      const at = pair.indexOf('=')
      return [pair.slice(0, at).trim(), decodeURIComponent(pair.slice(at + 1).trim())]
    }),
  )
}

/** Of this broker. */
export function version(): string {
  const file = new URL('../package.json', import.meta.url)
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version
}
