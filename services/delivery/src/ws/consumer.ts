/** One consumer of one WebSocket: its credit, and how a message is shown to it. */
import { eventJson } from '@sluice/server'
import type { QueueEntry } from '@sluice/topology'
import type { Feed } from '../feed.ts'
import type { Feeds } from '../feeds.ts'
import type { Delivery, Consumer as FeedConsumer } from '../handing.ts'
import { storedEvent, storedJson } from '../message-json.ts'
import type { Registration } from '../registration.ts'
import type { BrokerFrame, ConsumeFrame } from './frames.ts'
import type { WsSession } from './session.ts'

export class WsConsumer implements FeedConsumer {
  readonly name: string
  readonly priority: number
  readonly noAck: boolean
  readonly entry: QueueEntry
  readonly #session: WsSession
  readonly #frame: ConsumeFrame
  /** Most unsettled deliveries. */
  limit: number
  /** Deliveries it has and has not settled. */
  outstanding = 0
  /** Set once it has its place in the queue. */
  registration: Registration | undefined
  /** Where it gets its messages from, while it is active. */
  #feed: Feed | undefined

  constructor(session: WsSession, entry: QueueEntry, frame: ConsumeFrame) {
    this.#session = session
    this.#frame = frame
    this.entry = entry
    this.name = frame.consumer
    this.priority = frame.priority
    this.noAck = frame.autoAck
    this.limit = frame.credit
  }

  /** A feed that nobody uses ends: it is looked up when it is used. */
  attach(feeds: Feeds): void {
    this.#feed = feeds.of(this.entry.store)
    this.#feed.attach(this)
  }

  /** What it holds stays with it until it is settled. */
  detach(): void {
    this.#feed?.detach(this)
    this.#feed = undefined
  }

  look(): void {
    this.#feed?.look()
  }

  credit(): number {
    return this.#session.congested ? 0 : this.limit - this.outstanding
  }

  deliver(delivery: Delivery): void {
    this.#session.deliver(this, delivery)
  }

  cancelled(): void {
    this.#feed = undefined // it has let go of this one
    this.#session.cancelled(this)
  }

  /** A delivery as it is sent. */
  shown(number: number, delivery: Delivery): BrokerFrame {
    const { record, acquired, failed, redelivered, id } = delivery
    const { vhost, definition } = this.entry
    const facts = { deliveryCount: acquired, failedCount: failed, redelivered }
    const head = { type: 'deliver', consumer: this.name, delivery: number, ...facts } as const
    if (this.#frame.format === 'message') {
      return { ...head, id, ...storedJson(record, this.#frame.encoding) }
    }
    const event = storedEvent({ vhost, queue: definition.name }, id, record)
    return { ...head, event: eventJson(event) }
  }
}
