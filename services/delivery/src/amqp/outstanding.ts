/**
 * What one channel was sent and has not settled: by delivery tag, with a limit of time.
 *
 * A delivery that is not settled within the acknowledgement timeout goes back by itself, counted as
 * failed; the channel lives on, and a late settlement of that tag is ignored. RabbitMQ closes the
 * channel instead, and with it everything else that the client works on (68).
 *
 * Hot path: a delivery costs one Held object and a slot of the ring; time is looked at by a timer
 * of the channel, which stamps deliveries with its count.
 */
import { AmqpError, REPLY_CODES, Unacked } from '@sluice/amqp'
import type { Feed } from '../feed.ts'
import type { Delivery, GiveBack } from '../handing.ts'
import type { AmqpConsumer } from './consumer.ts'

/** What a delivery tag stands for. */
export interface Held {
  readonly delivery: Delivery
  /** undefined for basic.get. */
  readonly consumer: AmqpConsumer | undefined
  /** The timer's count when it was sent. */
  readonly stamp: number
}

/** How a delivery ends. */
export type Outcome = 'ack' | GiveBack

/** Counts as a failed delivery, as in RabbitMQ's quorum queues: poison ends (72). */
export const REQUEUED: GiveBack = { action: 'ready', delayMs: 0, failure: '+' }
export const REJECTED: GiveBack = { action: 'dead', delayMs: 0, failure: '+' }

/** A delivery goes back after its timeout and before a fourth of it more. */
const LOOKS = 4
/** Tags that a late settlement may still name; older ones are unknown again. */
const TIMED_OUT_MAX = 1_000

export class Outstanding {
  readonly #timeoutMs: number
  readonly #timedOut: () => void
  readonly #unacked = new Unacked<Held>()
  readonly #late = new Set<number>()
  /** Where something went back to since it was last seen to that. */
  readonly #gaveBack = new Set<Feed>()
  #stamp = 0
  #timer: NodeJS.Timeout | undefined
  /** Deliveries to consumers that no settlement has taken effect for: what prefetch counts. */
  consumed = 0

  /** @param timedOut called for each delivery that goes back by itself. */
  constructor(timeoutMs: number, timedOut: () => void) {
    this.#timeoutMs = timeoutMs
    this.#timedOut = timedOut
  }

  /** The next tag, for what is settled by being sent. */
  next(): number {
    return this.#unacked.add(undefined)
  }

  add(delivery: Delivery, consumer: AmqpConsumer | undefined): number {
    if (consumer) {
      consumer.outstanding++
      this.consumed++
    }
    if (this.#timer === undefined && this.#timeoutMs > 0) {
      this.#timer = setInterval(() => this.#look(), Math.ceil(this.#timeoutMs / LOOKS))
      this.#timer.unref()
    }
    return this.#unacked.add({ delivery, consumer, stamp: this.#stamp })
  }

  /** Takes what a settlement names, oldest first. Throws AmqpError 406 for an unknown tag (70). */
  take(tag: number, multiple: boolean, each: (held: Held, tag: number) => void): void {
    if (tag === 0 && !multiple) {
      throw new AmqpError(REPLY_CODES.preconditionFailed, 'unknown delivery tag 0')
    }
    if (!this.#late.has(tag)) this.#unacked.take(tag, multiple, each)
    else if (multiple) this.#unacked.takeUpTo(tag, each)
  }

  /** Makes them outstanding again. */
  restore(taken: readonly (readonly [held: Held, tag: number])[]): void {
    this.#unacked.restore(taken)
  }

  /** Ends a delivery that was taken. */
  end({ delivery, consumer }: Held, how: Outcome): void {
    if (consumer) {
      consumer.outstanding--
      this.consumed--
    }
    const { feed } = delivery
    if (how === 'ack') {
      feed.ack(delivery)
    } else {
      feed.giveBack(delivery, how)
      this.#gaveBack.add(feed)
    }
  }

  /** Sends what went back on its way at once; resolves when it is in its queue. */
  async flush(): Promise<void> {
    const feeds = [...this.#gaveBack]
    this.#gaveBack.clear()
    await Promise.all(feeds.map((feed) => feed.flush()))
  }

  /** Everything goes back, in order: each finds its old position (73, 74). */
  giveBack(): void {
    this.#unacked.take(0, true, (held) => this.end(held, REQUEUED))
  }

  /** Resolves when everything is back in its queue. */
  close(): Promise<void> {
    this.giveBack()
    clearInterval(this.#timer)
    return this.flush()
  }

  #look(): void {
    this.#stamp++
    this.#unacked.takeOldest(
      ({ stamp }) => this.#stamp - stamp > LOOKS,
      (held, tag) => {
        this.#late.add(tag)
        this.end(held, REQUEUED)
        this.#timedOut()
      },
    )
    for (const tag of this.#late) {
      if (this.#late.size <= TIMED_OUT_MAX) break
      this.#late.delete(tag)
    }
    if (this.#unacked.size > 0) return
    clearInterval(this.#timer)
    this.#timer = undefined
  }
}
