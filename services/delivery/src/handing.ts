/** What consumers are handed: one delivery of one message, and how it may go back. */
import { type MessageRecord, refOf } from '@sluice/store'
import type { Span } from '@sluice/telemetry'
import type { Feed } from './feed.ts'

/** Somebody who takes deliveries. */
export interface Consumer {
  /** Higher is served first while it has credit. */
  readonly priority: number
  /** Deliveries count as settled once they are handed over. */
  readonly noAck: boolean
  /** How many more it may get now; asked before each delivery. */
  credit(): number
  /** Consumers of one pool get no more than its credit together. */
  readonly pool?: { credit(): number } | undefined
  /** Takes ahead of what it hands on, and says itself what that is (Feed.handed). */
  readonly ahead?: boolean
  deliver(delivery: Delivery): void
  /** The queue is gone; no further delivery comes. */
  cancelled(): void
}

/** A batch that the slot holds, as far as its messages are not settled one way or the other. */
export interface HeldBatch {
  readonly level: number
  readonly id: string
  readonly count: number
  /** In whose name it was taken. */
  readonly slot: string
  /** Messages neither settled nor given back. */
  left: number
  /** Some of it was to go back, and another slot's name cannot: it must not be settled. */
  stale: boolean
  /** Whether any was settled. Without, the last one given back has removed the batch itself. */
  settled: boolean
  /** Bits of the settled ones; made when one settles while others are left. */
  bitmap: Buffer | undefined
  /** When it became half settled, ms of the local clock; 0 = it is not, or all of it was told. */
  halfSince: number
}

/** None of it settled yet. */
export function heldBatch(level: number, id: string, count: number, slot: string): HeldBatch {
  return {
    level,
    id,
    count,
    slot,
    left: count,
    stale: false,
    settled: false,
    bitmap: undefined,
    halfSince: 0,
  }
}

/** One handing of a message to a consumer. Settle it once, through the feed that made it. */
export class Delivery {
  readonly feed: Feed
  readonly record: MessageRecord
  /** Deliveries so far, this one included. */
  readonly acquired: number
  readonly failed: number
  readonly batch: HeldBatch | undefined
  /** '' for a message in a batch. */
  readonly ref: string
  readonly index: number
  /** Which of the queue's deliveries it is. */
  readonly ordinal: number
  /** When a consumer got it, ms of the process's clock, cut to 32 bits; -1 = nobody has it. */
  handedMs = -1
  /** Of a delivery that is traced. */
  span: Span | undefined = undefined

  constructor(
    feed: Feed,
    record: MessageRecord,
    acquired: number,
    failed: number,
    batch: HeldBatch | undefined,
    ref: string,
    index: number,
    ordinal: number,
  ) {
    this.feed = feed
    this.record = record
    this.acquired = acquired
    this.failed = failed
    this.batch = batch
    this.ref = ref
    this.index = index
    this.ordinal = ordinal
  }

  /** Names the message within its queue. */
  get id(): string {
    return this.batch ? refOf(this.batch.level, this.batch.id, this.index) : this.ref
  }

  get redelivered(): boolean {
    return this.acquired > 1
  }
}

/** How a delivery goes back: at once, after a delay, or to the dead letters. */
export interface GiveBack {
  readonly action: 'ready' | 'unseen' | 'due' | 'dead'
  readonly delayMs: number
  /** From failureOf; '-' = not a failed delivery. */
  readonly failure: string
}

/** For a delivery that no consumer was shown: it goes back as it came. */
export const UNSEEN: GiveBack = { action: 'unseen', delayMs: 0, failure: '-' }
