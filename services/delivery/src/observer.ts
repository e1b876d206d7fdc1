/**
 * What a process tells of one queue's deliveries: how long messages waited, how long consumers
 * took, and the spans of those that are traced. Every door hands out through a feed, so each is
 * covered.
 *
 * Hot path: a measured delivery costs two readings of the clock; off, nothing.
 */
import type { Deps } from '@sluice/server'
import type { QueueStore } from '@sluice/store'
import {
  contextOf,
  endSpan,
  type Histogram,
  type Operation,
  type TraceContext,
  Tracing,
} from '@sluice/telemetry'
import { carriedContext } from '@sluice/topology'
import type { Delivery, GiveBack } from './handing.ts'

export type Watched = Pick<Deps, 'metrics' | 'tracing' | 'store'>

export class Observer {
  /** Whether anything is told; a feed asks before each call. */
  readonly on: boolean
  readonly #queue: QueueStore
  readonly #tracing: Tracing
  readonly #clockAheadMs: () => number
  readonly #queueTime: Histogram | undefined
  readonly #deliveryTime: Histogram | undefined

  constructor(queue: QueueStore, watched: Watched | undefined) {
    this.#queue = queue
    this.#tracing = watched?.tracing ?? Tracing.OFF
    this.#clockAheadMs = () => watched?.store.state.clockAheadMs ?? 0
    if (watched?.metrics.byQueue) {
      const labels = { vhost: queue.vhost, queue: queue.name }
      this.#queueTime = watched.metrics.histogram('queueTime', labels)
      this.#deliveryTime = watched.metrics.histogram('deliveryTime', labels)
    }
    this.on = this.#tracing.on || this.#queueTime !== undefined
  }

  /** Called before the consumer sees it. */
  handed(delivery: Delivery): void {
    const { record, acquired } = delivery
    const now = performance.now()
    const waitedMs = Math.max(
      0,
      performance.timeOrigin + now + this.#clockAheadMs() - record.timeMs,
    )
    delivery.handedMs = now | 0
    this.#queueTime?.observe(waitedMs / 1_000)
    const carried = this.#tracing.on ? carriedContext(record.properties) : undefined
    if (carried === undefined) return
    const { vhost, name } = this.#queue
    delivery.span = this.#tracing.start('deliver', vhost, name, carried, {
      attributes: {
        'messaging.message.body.size': record.body.length,
        'sluice.delivery_count': acquired,
        'sluice.queue_ms': Math.round(waitedMs),
      },
    })
  }

  /** Called when it is settled; nothing where nobody saw it. */
  ended(delivery: Delivery, how: 'ack' | GiveBack): void {
    if (delivery.handedMs < 0) return
    const ms = (performance.now() | 0) - delivery.handedMs
    delivery.handedMs = -1
    this.#deliveryTime?.observe(Math.max(0, ms) / 1_000)
    const { span } = delivery
    if (span === undefined) return
    delivery.span = undefined
    const operation = operationOf(how)
    const { vhost, name } = this.#queue
    const settled = this.#tracing.start(operation, vhost, name, span)
    if (settled)
      endSpan(settled, undefined, how === 'ack' ? {} : { 'sluice.delay_ms': how.delayMs })
    const failed = operation === 'retry' || operation === 'dead-letter'
    endSpan(span, failed ? operation : undefined, { 'sluice.outcome': operation })
  }
}

function operationOf(how: 'ack' | GiveBack): Operation {
  if (how === 'ack') return how
  if (how.action === 'dead') return 'dead-letter'
  return how.failure === '-' ? 'release' : 'retry'
}

/** The context of a delivery that is traced, for what happens in its course. */
export function traceOf({ span, record }: Delivery): TraceContext | undefined {
  return span && contextOf(span, carriedContext(record.properties))
}
