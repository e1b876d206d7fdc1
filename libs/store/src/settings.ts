/** What a queue does, as its arguments and the policy that applies to it say. */
import type { Durability, RetryPolicy } from '@sluice/core'
import { RETRY_DEFAULT } from '@sluice/core'

export interface QueueSettings {
  /** Most ready messages, -1 = no limit. */
  readonly maxLength: number
  /** Most bytes of ready messages, -1 = no limit. */
  readonly maxBytes: number
  readonly overflow: 'drop-head' | 'reject-publish' | 'reject-publish-dlx'
  /** How long a de-duplication id is remembered at least, ms. */
  readonly dedupWindowMs: number
  /** Whether a message id counts as de-duplication id: the queue was given a window. */
  readonly deduplicates: boolean
  /** Time to live of every message, ms, -1 = none. */
  readonly ttlMs: number
  /** Priority levels, 1..10. */
  readonly levels: number
  /** Whether messages with the same ordering key are delivered strictly one after the other. */
  readonly ordered: boolean
  /** Failed deliveries a message may have; one more makes it a dead letter. -1 = no limit. */
  readonly deliveryLimit: number
  /**
   * Where the dead go. exchange: to the queue's dead letter exchange. queue: to the vhost's
   * `amq.dead-letters` when rejected or past the delivery limit, while expired and overflowing ones
   * are dropped. none: nowhere.
   */
  readonly deadLetters: 'exchange' | 'queue' | 'none'
  readonly retry: RetryPolicy
  /** Unused for this long, the queue is deleted; ms, -1 = never. */
  readonly expiresMs: number
  /** The least durability of any message of this queue. */
  readonly durability: Durability
  /** Share of publishes without a trace of their own that start one, 0..1; -1 = as the server. */
  readonly traceRatio: number
  /** Whose data key seals what is stored here: the vhost's, or one of the queue's own. */
  readonly encryption: 'none' | 'vhost' | 'queue'
}

export const QUEUE_SETTINGS_DEFAULT: QueueSettings = {
  maxLength: -1,
  maxBytes: -1,
  overflow: 'drop-head',
  dedupWindowMs: 600_000,
  deduplicates: false,
  ttlMs: -1,
  levels: 1,
  ordered: false,
  deliveryLimit: 20,
  deadLetters: 'queue',
  retry: RETRY_DEFAULT,
  expiresMs: -1,
  durability: 'memory',
  traceRatio: -1,
  encryption: 'none',
}
