/** What the AMQP door of a process counts, looked up once. */
import { type Deps, type PublishCounts, publishCounts } from '@sluice/server'
import type { Count } from '@sluice/telemetry'
import type { Outcome } from './outstanding.ts'

export interface AmqpCounts {
  readonly publish: PublishCounts
  readonly leased: Count
  readonly redelivered: Count
  /** By how a delivery ended. */
  settled(how: Outcome): void
  readonly channels: { open: number; readonly opened: Count }
  readonly connectionsOpened: Count
}

/** @param connections how many are open. */
export function amqpCounts({ metrics }: Pick<Deps, 'metrics'>, connections: () => number) {
  const door = 'amqp'
  const acked = metrics.count('settled', { door, outcome: 'settled' })
  const requeued = metrics.count('settled', { door, outcome: 'retried' })
  const rejected = metrics.count('settled', { door, outcome: 'dead-lettered' })
  const counts: AmqpCounts = {
    publish: publishCounts({ metrics }, door),
    leased: metrics.count('leased', { door }),
    redelivered: metrics.count('redelivered', { door }),
    settled(how) {
      if (how === 'ack') acked.value++
      else if (how.action === 'dead') rejected.value++
      else requeued.value++
    },
    channels: { open: 0, opened: metrics.count('channelsOpened', {}) },
    connectionsOpened: metrics.count('connectionsOpened', { door }),
  }
  metrics.gauge('connections', { door }, connections)
  metrics.gauge('channels', {}, () => counts.channels.open)
  return counts
}
