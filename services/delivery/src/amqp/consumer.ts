/** One consumer of one channel: its credit, and what it is sent. */
import type { Feed } from '../feed.ts'
import type { Delivery, Consumer as FeedConsumer } from '../handing.ts'
import type { ChannelSession } from './channel-session.ts'

/** Most deliveries on their way to a consumer without a prefetch; the socket slows it down too. */
const CREDIT_MAX = 512

export class AmqpConsumer implements FeedConsumer {
  readonly tag: string
  readonly priority: number
  readonly noAck: boolean
  /** Where it gets its messages from, while it is active. */
  feed: Feed | undefined
  readonly #channel: ChannelSession
  /** Most unacknowledged deliveries, 0 = no limit. */
  prefetch: number
  /** Deliveries it has and has not settled. */
  outstanding = 0

  constructor(
    channel: ChannelSession,
    options: { tag: string; priority: number; noAck: boolean; prefetch: number },
  ) {
    this.#channel = channel
    this.tag = options.tag
    this.priority = options.priority
    this.noAck = options.noAck
    this.prefetch = options.prefetch
  }

  credit(): number {
    const room = this.#channel.room()
    // 45: it waits while the channel's limit is reached, and does not count towards it.
    if (this.noAck) return this.#channel.credit() > 0 ? Math.min(room, CREDIT_MAX) : 0
    const own = this.prefetch === 0 ? CREDIT_MAX : this.prefetch - this.outstanding
    return Math.min(own, this.#channel.credit(), room)
  }

  /** The channel, while its consumers share a limit (45). */
  get pool(): ChannelSession | undefined {
    return this.noAck || !this.#channel.limited ? undefined : this.#channel
  }

  deliver(delivery: Delivery): void {
    this.#channel.deliver(this, delivery)
  }

  /** The queue was deleted. */
  cancelled(): void {
    this.#channel.cancelled(this)
  }
}
