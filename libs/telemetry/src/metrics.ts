/**
 * What a process counts, and what it reads when somebody looks.
 *
 * Counts are plain numbers and histograms plain arrays: counting a message costs an addition. All
 * series are declared in metric-list.ts, and bounded.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { type Family, renderText, type Series } from './exposition.ts'
import { Histogram } from './histogram.ts'
import {
  type KeysOf,
  type Labels,
  METRICS,
  type Metric,
  type MetricKey,
  QUEUES_MEASURED_MAX,
} from './metric-list.ts'
import { QueueFigures, type QueueReading } from './queue-figures.ts'

/** A number that only grows. Hot paths keep it and add to it. */
export interface Count {
  value: number
}

/** Where the figures of queues come from. */
export interface QueueSource {
  /** The first so many by name; called when somebody looks. */
  read(most: number): Promise<readonly QueueReading[]>
  exists(vhost: string, queue: string): boolean
  /** How many there are. */
  count(): number
}

/** Interval of the timer whose lateness is measured. */
const EVENT_LOOP_RESOLUTION_MS = 20
/** A second reader within this time sees the same lateness, ms. */
const EVENT_LOOP_WINDOW_MS = 10_000

/** What series beyond the bound are summed up under. */
const OTHERS = { vhost: '', queue: '(others)' }

type Texts = Readonly<Record<string, string>>

interface Kept<T> {
  readonly labels: Texts
  readonly value: T
}

export class Metrics {
  /** Whether histograms by queue are kept. */
  readonly byQueue: boolean
  readonly #counts = new Map<MetricKey, Map<string, Kept<Count>>>()
  readonly #histograms = new Map<MetricKey, Map<string, Kept<Histogram>>>()
  readonly #gauges = new Map<MetricKey, Set<Kept<() => number | undefined>>>()
  readonly #eventLoop = monitorEventLoopDelay({ resolution: EVENT_LOOP_RESOLUTION_MS })
  #eventLoopRead = { atMs: Number.NEGATIVE_INFINITY, seconds: [0, 0, 0] }
  #queues: QueueSource | undefined
  readonly #figures = new QueueFigures()

  constructor({ byQueue = true }: { readonly byQueue?: boolean } = {}) {
    this.byQueue = byQueue
    this.#eventLoop.enable()
    this.gauge('residentBytes', {}, () => process.memoryUsage.rss())
    this.gauge('heapBytes', {}, () => process.memoryUsage().heapUsed)
    METRICS.eventLoopDelay.labels.percentile.forEach((percentile, index) => {
      this.gauge('eventLoopDelay', { percentile }, () => this.#eventLoopSeconds()[index])
    })
  }

  /** The one count of these labels. */
  count<K extends KeysOf<'counter'>>(key: K, labels: Labels<K>): Count {
    return this.#series(this.#counts, key, labels as Texts, () => ({ value: 0 }))
  }

  /** The one histogram of these labels. */
  histogram<K extends KeysOf<'histogram'>>(key: K, labels: Labels<K>): Histogram {
    const make = () => new Histogram(METRICS[key].bounds)
    return this.#series(this.#histograms, key, labels as Texts, make)
  }

  /** A value asked for when somebody looks; left out while undefined. Returns what ends it. */
  gauge<K extends KeysOf<'gauge'>>(
    key: K,
    labels: Labels<K>,
    read: () => number | undefined,
  ): () => void {
    const gauge = { labels: labels as Texts, value: read }
    const gauges = this.#gauges.get(key) ?? new Set()
    this.#gauges.set(key, gauges.add(gauge))
    return () => void gauges.delete(gauge)
  }

  /** The sum of a metric's counts, of those with these labels. */
  total(key: KeysOf<'counter'>, labels: Texts = {}): number {
    let sum = 0
    for (const kept of this.#counts.get(key)?.values() ?? []) {
      const matches = Object.entries(labels).every(([label, value]) => kept.labels[label] === value)
      if (matches) sum += kept.value.value
    }
    return sum
  }

  /** The sum of a gauge over its labels. */
  read(key: KeysOf<'gauge'>): number {
    let sum = 0
    for (const { value } of this.#gauges.get(key) ?? []) sum += value() ?? 0
    return sum
  }

  httpRequest(route: string, status: number, seconds: number): void {
    const group = STATUS_CLASSES[Math.floor(status / 100)] ?? '5xx'
    this.histogram('httpRequests', { route, status: group }).observe(seconds)
  }

  /** Says where the figures of queues come from. */
  measureQueues(source: QueueSource): void {
    this.#queues = source
    this.gauge('queues', {}, () => source.count())
  }

  /** What every metric is at the moment; those of queues are left out when they cannot be read. */
  async families(): Promise<Family[]> {
    this.#prune()
    const read = await this.readQueues(QUEUES_MEASURED_MAX)
    const ofQueues = this.#figures.series(read)
    return Object.entries<Metric>(METRICS).map(([key, { name, kind, doc }]) => ({
      name,
      kind,
      doc,
      series: [...this.#own(key as MetricKey), ...(ofQueues.get(key as MetricKey) ?? [])],
    }))
  }

  /** The first so many queues; none when they cannot be read. */
  async readQueues(most: number): Promise<readonly QueueReading[]> {
    try {
      const read = (await this.#queues?.read(most)) ?? []
      return read.slice(0, most)
    } catch {
      return [] // Redis is away, which other metrics tell
    }
  }

  /** All metrics in Prometheus's text format. */
  async text(): Promise<string> {
    return renderText(await this.families())
  }

  close(): void {
    this.#eventLoop.disable()
  }

  #own(key: MetricKey): Series[] {
    const series: Series[] = []
    for (const { labels, value } of this.#counts.get(key)?.values() ?? []) {
      series.push({ labels, value: value.value })
    }
    for (const { labels, value } of this.#histograms.get(key)?.values() ?? []) {
      series.push({ labels, value })
    }
    for (const { labels, value } of this.#gauges.get(key) ?? []) {
      const now = value()
      if (now !== undefined) series.push({ labels, value: now })
    }
    return series
  }

  #series<T>(
    all: Map<MetricKey, Map<string, Kept<T>>>,
    key: MetricKey,
    given: Texts,
    make: () => T,
  ): T {
    let series = all.get(key)
    if (series === undefined) {
      series = new Map()
      all.set(key, series)
    }
    let labels = given
    let known = series.get(idOf(labels))
    if (known === undefined && series.size >= seriesMax(METRICS[key])) {
      labels = { ...given, ...('queue' in given && OTHERS) }
      known = series.get(idOf(labels))
    }
    if (known === undefined) {
      known = { labels: { ...labels }, value: make() }
      series.set(idOf(labels), known)
    }
    return known.value
  }

  /** Lets go of series whose queue was deleted. */
  #prune(): void {
    const source = this.#queues
    if (source === undefined) return
    for (const all of [this.#counts, this.#histograms]) {
      for (const series of all.values()) {
        for (const [id, { labels }] of series) {
          const { vhost, queue } = labels
          if (vhost === undefined || queue === undefined || queue === OTHERS.queue) continue
          if (!source.exists(vhost, queue)) series.delete(id)
        }
      }
    }
  }

  #eventLoopSeconds(): readonly number[] {
    const now = performance.now()
    if (now - this.#eventLoopRead.atMs < EVENT_LOOP_WINDOW_MS) return this.#eventLoopRead.seconds
    const seconds = METRICS.eventLoopDelay.labels.percentile.map((percentile) => {
      const ns = this.#eventLoop.percentile(Number(percentile))
      // A timer in time counts its whole interval.
      return Math.max(ns - EVENT_LOOP_RESOLUTION_MS * 1e6, 0) / 1e9
    })
    this.#eventLoop.reset()
    this.#eventLoopRead = { atMs: now, seconds }
    return seconds
  }
}

const STATUS_CLASSES = ['5xx', '1xx', '2xx', '3xx', '4xx', '5xx'] as const

const idOf = (labels: Texts): string => JSON.stringify(labels, Object.keys(labels).sort())

/** Most series of a metric before queues share one. */
function seriesMax({ labels }: Metric): number {
  if (!('queue' in labels)) return Number.POSITIVE_INFINITY
  const values = Object.values(labels).map((known) => (known === 'any' ? 1 : known.length))
  return QUEUES_MEASURED_MAX * values.reduce((product, count) => product * count, 1)
}
