/**
 * What HTTP leases tell: how long messages waited, and the spans of those that are traced.
 *
 * Any process may settle a lease, so a delivery is a moment here and not a time; its context is
 * remembered by token, a bounded number of them. Where another process settles, the settlement's
 * span belongs to the trace of its request.
 */
import type { Deps } from '@sluice/server'
import type { LeasedMessage, LeaseSettlement, SettleOutcome } from '@sluice/store'
import {
  contextOf,
  endSpan,
  type Operation,
  readTraceContext,
  type TraceContext,
} from '@sluice/telemetry'
import { carriedContext } from '@sluice/topology'

/** Deliveries remembered until they are settled; the oldest is forgotten first. */
const TOKENS_MAX = 10_000

interface Place {
  readonly vhost: string
  readonly queue: string
}
type Headers = Readonly<Record<string, string | string[] | undefined>>

export class LeaseSpans {
  readonly #deps: Pick<Deps, 'metrics' | 'tracing' | 'store'>
  readonly #delivered = new Map<string, TraceContext>()

  constructor(deps: Pick<Deps, 'metrics' | 'tracing' | 'store'>) {
    this.#deps = deps
  }

  leased({ vhost, queue }: Place, messages: readonly LeasedMessage[], headers: Headers): void {
    const { metrics, tracing, store } = this.#deps
    if (messages.length === 0) return
    const now = Date.now() + store.state.clockAheadMs
    if (metrics.byQueue) {
      const waited = metrics.histogram('queueTime', { vhost, queue })
      for (const { record } of messages) waited.observe(Math.max(0, now - record.timeMs) / 1_000)
    }
    if (!tracing.on) return
    const contexts = messages.map(({ record }) => carriedContext(record.properties))
    const receive = tracing.start('receive', vhost, queue, readTraceContext(headers), {
      attributes: { 'messaging.batch.message_count': messages.length },
      links: contexts,
    })
    if (receive) endSpan(receive)
    messages.forEach(({ token, record, deliveryCount }, index) => {
      const span = tracing.start('deliver', vhost, queue, contexts[index], {
        attributes: {
          'messaging.message.body.size': record.body.length,
          'sluice.delivery_count': deliveryCount,
          'sluice.queue_ms': Math.max(0, now - record.timeMs),
        },
        ...(receive && { links: [contextOf(receive)] }),
      })
      if (span === undefined) return
      this.#remember(token, contextOf(span))
      endSpan(span)
    })
  }

  settled(
    { vhost, queue }: Place,
    settlements: readonly LeaseSettlement[],
    outcomes: readonly SettleOutcome[],
    headers: Headers,
  ): void {
    const { tracing } = this.#deps
    if (!tracing.on) return
    const request = readTraceContext(headers)
    settlements.forEach(({ token, outcome }, index) => {
      const delivered = this.#delivered.get(token)
      if (delivered === undefined && request === undefined) return
      if (outcome !== 'extend') this.#delivered.delete(token)
      const parent = delivered ?? request
      const span = tracing.start(outcome satisfies Operation, vhost, queue, parent, {
        links: delivered === undefined ? [] : [request],
      })
      const stale = outcomes[index] === 'stale'
      if (span) endSpan(span, stale ? 'stale' : undefined)
    })
  }

  #remember(token: string, context: TraceContext): void {
    this.#delivered.set(token, context)
    if (this.#delivered.size <= TOKENS_MAX) return
    for (const oldest of this.#delivered.keys()) {
      this.#delivered.delete(oldest)
      return
    }
  }
}
