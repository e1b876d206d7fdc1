/** What a queue needs of the store that opened it, and how it gets its appenders. */
import type { Report } from '@sluice/core'
import type { Redis } from 'ioredis'
import { Appender, type AppendTarget } from './appender.ts'
import type { KeyRing } from './key-ring.ts'
import type { Safety } from './safety.ts'
import type { Slot } from './slot.ts'

export interface QueueContext {
  readonly work: Redis
  readonly writes: Redis
  readonly slot: Slot
  readonly report: Report
  readonly schedule: (flush: () => void) => void
  readonly backlog: (bytes: number) => void
  /** Why nothing may be stored right now, or undefined. */
  readonly refusal: (
    safety: Safety,
  ) => 'memory-high' | 'disk-low' | 'not-durable' | 'unavailable' | undefined
  /** What the server promises for every message. */
  readonly safety: Safety
  /** A connection that waits for replicas (WAIT blocks what comes behind it). */
  readonly replicated: () => Redis
  /** Hears how many messages each append stores together. */
  readonly batch: ((messages: number) => void) | undefined
  readonly keys: KeyRing
  /** Hears of messages that never will be read. */
  readonly unreadable: (vhost: string, queue: string, why: 'shredded' | 'forged') => void
  readonly timeouts: { readonly appendMs: number; readonly replicaMs: number }
}

/** @param restore makes the queue's keys when they are missing; false when the queue is gone. */
export function openAppender<Q extends AppendTarget>(
  context: QueueContext,
  queue: Q,
  replicas: number,
  restore: () => Promise<boolean>,
): Appender<Q> {
  const { slot, schedule, backlog, report, timeouts, writes, replicated, batch } = context
  return new Appender<Q>({
    redis: replicas > 0 ? replicated() : writes,
    queue,
    slot: () => {
      slot.register(queue.base).catch(report)
      return slot.name
    },
    replicas,
    replicaWaitMs: timeouts.replicaMs,
    schedule,
    backlog,
    restore,
    report,
    timeoutMs: timeouts.appendMs,
    batch,
  })
}
