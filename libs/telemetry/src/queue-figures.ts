/** What Redis counts of each queue, as series; and when each will be empty. */
import type { Series } from './exposition.ts'
import type { MetricKey } from './metric-list.ts'

/** One queue at one moment. Counters are since it was declared. */
export interface QueueReading {
  readonly vhost: string
  readonly queue: string
  readonly ready: number
  readonly unacked: number
  readonly delayed: number
  readonly bytes: number
  /** Of the oldest message that is ready, ms; 0 = none is. */
  readonly oldestMs: number
  readonly consumers: number
  readonly published: number
  readonly delivered: number
  readonly redelivered: number
  readonly acked: number
  readonly deadLettered: number
  readonly expired: number
  readonly dropped: number
  readonly purged: number
}

/** The drain estimate looks back at least this far, and twice that at most, ms. */
const WINDOW_MS = 15_000

interface Sample {
  readonly atMs: number
  readonly depth: number
}

type Samples = Map<string, { older: Sample; newer: Sample }>

export class QueueFigures {
  /** Two samples of each queue, WINDOW_MS apart at least. */
  #samples: Samples = new Map()
  readonly #now: () => number

  constructor(now: () => number = () => performance.now()) {
    this.#now = now
  }

  series(readings: readonly QueueReading[]): Map<MetricKey, Series[]> {
    const series = new Map<MetricKey, Series[]>()
    const add = (key: MetricKey, labels: Record<string, string>, value: number) => {
      const list = series.get(key)
      if (list === undefined) series.set(key, [{ labels, value }])
      else list.push({ labels, value })
    }
    const samples: Samples = new Map()
    for (const reading of readings) {
      const { vhost, queue, deadLettered } = reading
      const labels = { vhost, queue }
      for (const state of ['ready', 'unacked', 'delayed'] as const) {
        add('queueMessages', { ...labels, state }, reading[state])
      }
      add('queueBytes', labels, reading.bytes)
      add('queueOldest', labels, reading.oldestMs / 1_000)
      add('queueConsumers', labels, reading.consumers)
      add('queuePublished', labels, reading.published)
      add('queueDelivered', labels, reading.delivered)
      add('queueRedelivered', labels, reading.redelivered)
      for (const how of ['acked', 'expired', 'dropped', 'purged'] as const) {
        add('queueRemoved', { ...labels, how }, reading[how])
      }
      add('queueRemoved', { ...labels, how: 'dead-lettered' }, deadLettered)
      const drain = this.#drainSeconds(reading, samples)
      if (drain !== undefined) add('queueDrain', labels, drain)
    }
    this.#samples = samples
    return series
  }

  /** Undefined until there is something to compare with. */
  #drainSeconds(
    { vhost, queue, ready, unacked }: QueueReading,
    samples: Samples,
  ): number | undefined {
    const id = JSON.stringify([vhost, queue])
    const now = { atMs: this.#now(), depth: ready + unacked }
    const known = this.#samples.get(id)
    if (known === undefined) {
      samples.set(id, { older: now, newer: now })
      return now.depth === 0 ? 0 : undefined
    }
    const rotates = now.atMs - known.newer.atMs >= WINDOW_MS
    const before = rotates ? known.newer : known.older
    samples.set(id, rotates ? { older: before, newer: now } : known)
    if (now.depth === 0) return 0
    const ms = now.atMs - before.atMs
    if (ms < 1_000) return undefined
    const perMs = (before.depth - now.depth) / ms
    return perMs > 0 ? now.depth / perMs / 1_000 : Number.POSITIVE_INFINITY
  }
}
