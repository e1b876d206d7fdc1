/**
 * Every metric, declared once: docs/metrics.md renders from this list, and a label takes no value
 * that is not listed, so that the number of series is bounded.
 *
 * Names are Prometheus's: base units, `_total` on counters. Counters are plain numbers that are
 * read when somebody looks: counting a message costs an addition.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks'
import type { Histogram } from '@opentelemetry/api'
import { PrometheusExporter, PrometheusSerializer } from '@opentelemetry/exporter-prometheus'
import { MeterProvider } from '@opentelemetry/sdk-metrics'

const DOORS = ['http', 'amqp', 'websocket', 'broker'] as const
const OUTCOMES = [
  'stored',
  'duplicate',
  'unroutable',
  'full',
  'gone',
  'not-durable',
  'unavailable',
  'memory-high',
] as const
const SETTLEMENTS = [
  'settled',
  'retried',
  'released',
  'dead-lettered',
  'extended',
  'stale',
  'unavailable',
] as const
const REASONS = ['rejected', 'expired', 'maxlen', 'delivery_limit'] as const

interface Metric {
  readonly name: string
  readonly kind: 'counter' | 'gauge' | 'histogram'
  /** Label -> the values it takes; `any` where code bounds them otherwise. */
  readonly labels: Readonly<Record<string, readonly string[] | 'any'>>
  readonly doc: string
}

export const METRICS = {
  published: {
    name: 'sluice_messages_published_total',
    kind: 'counter',
    labels: { door: DOORS, outcome: OUTCOMES },
    doc: 'Publishes by what became of them. `stored` and `duplicate` were confirmed.',
  },
  publishedBytes: {
    name: 'sluice_messages_published_bytes_total',
    kind: 'counter',
    labels: { door: DOORS },
    doc: 'Bytes of the bodies taken in, whatever became of them.',
  },
  leased: {
    name: 'sluice_messages_leased_total',
    kind: 'counter',
    labels: { door: DOORS },
    doc: 'Deliveries handed to consumers, redeliveries included.',
  },
  settled: {
    name: 'sluice_messages_settled_total',
    kind: 'counter',
    labels: { door: DOORS, outcome: SETTLEMENTS },
    doc: 'Settlements by outcome. `stale` ones came too late and changed nothing.',
  },
  deadLettered: {
    name: 'sluice_messages_dead_lettered_total',
    kind: 'counter',
    labels: { reason: REASONS },
    doc: 'Messages moved to their dead letters by this process, by reason.',
  },
  reclaimed: {
    name: 'sluice_messages_reclaimed_total',
    kind: 'counter',
    labels: {},
    doc: 'Messages taken back from processes that died, by this process.',
  },
  ackTimeouts: {
    name: 'sluice_amqp_ack_timeouts_total',
    kind: 'counter',
    labels: {},
    doc: 'AMQP deliveries that were not settled in time and went back to their queue.',
  },
  toleratedRedeclares: {
    name: 'sluice_tolerated_redeclares_total',
    kind: 'counter',
    labels: {},
    doc: 'Declarations that differed from the queue or exchange that is there, in vhosts that tolerate it.',
  },
  httpRequests: {
    name: 'sluice_http_request_duration_seconds',
    kind: 'histogram',
    labels: { route: 'any', status: ['1xx', '2xx', '3xx', '4xx', '5xx'] },
    doc: 'HTTP requests from their headers to the end of the answer. `route` is method and path as declared; long polls are in it.',
  },
  eventLoopDelay: {
    name: 'sluice_event_loop_delay_seconds',
    kind: 'gauge',
    labels: { quantile: ['0.5', '0.99', '1'] },
    doc: 'How late timers ran since the last look; high values mean that this process lacks CPU.',
  },
  residentBytes: {
    name: 'sluice_process_resident_memory_bytes',
    kind: 'gauge',
    labels: {},
    doc: 'Memory of this process.',
  },
  queueMessages: {
    name: 'sluice_queue_messages',
    kind: 'gauge',
    labels: { vhost: 'any', queue: 'any', state: ['ready', 'unacked', 'delayed'] },
    doc: 'Messages by queue and state, for the first 200 queues by name.',
  },
} as const satisfies Record<string, Metric>

type Counter = {
  [K in keyof typeof METRICS]: (typeof METRICS)[K]['kind'] extends 'counter' ? K : never
}[keyof typeof METRICS]
type Labels<K extends Counter> = {
  readonly [L in keyof (typeof METRICS)[K]['labels']]: (typeof METRICS)[K]['labels'][L] extends readonly (infer V)[]
    ? V
    : string
}

/** A number that only grows. Hot paths keep it and add to it. */
export interface Count {
  value: number
}

export interface QueueGauge {
  readonly vhost: string
  readonly queue: string
  readonly ready: number
  readonly unacked: number
  readonly delayed: number
}

/** Queues that have series of their own; more would swamp whoever stores them. */
export const QUEUES_MEASURED_MAX = 200

/** Interval of the timer whose lateness is measured. */
const EVENT_LOOP_RESOLUTION_MS = 20

/** Boundaries of the duration histogram in seconds: from a publish to a long poll. */
const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30]

export class Metrics {
  readonly #counts = new Map<
    Counter,
    Map<string, { labels: Record<string, string>; count: Count }>
  >()
  readonly #reader = new PrometheusExporter({ preventServerStart: true })
  readonly #serializer = new PrometheusSerializer('', false, undefined, true, true)
  readonly #provider = new MeterProvider({ readers: [this.#reader] })
  readonly #meter = this.#provider.getMeter('sluice')
  readonly #eventLoop = monitorEventLoopDelay({ resolution: EVENT_LOOP_RESOLUTION_MS })
  readonly #httpRequests: Histogram
  #queues: () => Promise<readonly QueueGauge[]> = async () => []

  constructor() {
    this.#httpRequests = this.#meter.createHistogram(METRICS.httpRequests.name, {
      description: METRICS.httpRequests.doc,
      advice: { explicitBucketBoundaries: SECONDS },
    })
    for (const [key, metric] of Object.entries<Metric>(METRICS)) {
      if (metric.kind === 'counter') this.#observeCounts(key as Counter, metric)
    }
    this.#observeProcess()
    this.#gauge('queueMessages').addCallback(async (result) => {
      const queues = await this.#queues()
      for (const { vhost, queue, ...states } of queues.slice(0, QUEUES_MEASURED_MAX)) {
        for (const state of ['ready', 'unacked', 'delayed'] as const) {
          result.observe(states[state], { vhost, queue, state })
        }
      }
    })
    this.#eventLoop.enable()
  }

  /** The one count of these labels. */
  count<K extends Counter>(key: K, labels: Labels<K>): Count {
    const series = this.#counts.get(key)!
    const id = JSON.stringify(labels, Object.keys(labels).sort())
    let entry = series.get(id)
    if (entry === undefined) {
      entry = { labels: { ...labels } as Record<string, string>, count: { value: 0 } }
      series.set(id, entry)
    }
    return entry.count
  }

  httpRequest(route: string, status: number, seconds: number): void {
    this.#httpRequests.record(seconds, {
      route,
      status: STATUS_CLASSES[Math.floor(status / 100)] ?? '5xx',
    })
  }

  /** Says where the queue gauges come from. `read` is called when somebody looks. */
  measureQueues(read: () => Promise<readonly QueueGauge[]>): void {
    this.#queues = read
  }

  /** All metrics in Prometheus's text format. A gauge that cannot be read is left out. */
  async text(): Promise<string> {
    const { resourceMetrics } = await this.#reader.collect()
    return this.#serializer.serialize(resourceMetrics)
  }

  async close(): Promise<void> {
    this.#eventLoop.disable()
    await this.#provider.shutdown()
  }

  #gauge(key: keyof typeof METRICS) {
    const { name, doc } = METRICS[key]
    return this.#meter.createObservableGauge(name, { description: doc })
  }

  #observeCounts(key: Counter, { name, doc }: Metric): void {
    const series = new Map<string, { labels: Record<string, string>; count: Count }>()
    this.#counts.set(key, series)
    const counter = this.#meter.createObservableCounter(name, { description: doc })
    counter.addCallback((result) => {
      for (const { labels, count } of series.values()) result.observe(count.value, labels)
    })
  }

  #observeProcess(): void {
    this.#gauge('eventLoopDelay').addCallback((result) => {
      for (const quantile of METRICS.eventLoopDelay.labels.quantile) {
        const ns = this.#eventLoop.percentile(Number(quantile) * 100)
        // A timer in time counts its whole interval.
        const delayNs = ns - EVENT_LOOP_RESOLUTION_MS * 1e6
        result.observe(Math.max(delayNs, 0) / 1e9, { quantile })
      }
      this.#eventLoop.reset()
    })
    this.#gauge('residentBytes').addCallback((result) => result.observe(process.memoryUsage.rss()))
  }
}

const STATUS_CLASSES = ['5xx', '1xx', '2xx', '3xx', '4xx', '5xx']

/** The text of docs/metrics.md. */
export function renderMetrics(): string {
  const rows = Object.values<Metric>(METRICS).map(({ name, kind, labels, doc }) => {
    const names = Object.entries(labels).map(([label, values]) =>
      values === 'any' ? `\`${label}\`` : `\`${label}\`: ${values.join(', ')}`,
    )
    return `| \`${name}\` | ${kind} | ${names.join('; ')} | ${doc} |`
  })
  return [
    '# Metrics',
    '',
    '`GET /metrics` answers in Prometheus’s text format and needs the admin credential, as a Bearer token',
    'or as Basic. Each process counts what it did itself; sum over processes. Queue gauges come from Redis',
    'and are the same whoever is asked: take their maximum.',
    '',
    'Try it: `curl -u admin:$(cat .data/admin-password) http://127.0.0.1:8080/metrics`.',
    '',
    '| Name | Kind | Labels | Meaning |',
    '| --- | --- | --- | --- |',
    ...rows,
    '',
    'Generated from `libs/telemetry/src/metrics.ts` by `npm run generate`.',
    '',
  ].join('\n')
}
