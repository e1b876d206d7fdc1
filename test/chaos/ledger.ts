/**
 * All that publishers and consumers know of each message, kept outside the broker: what the
 * checkers compare its deeds with. Times are ms of the test's monotonic clock.
 */

/** One message as its publisher knows it. */
export interface Sent {
  readonly id: string
  readonly publisher: string
  /** Counts the publisher's messages. */
  readonly sequence: number
  readonly key: string
  readonly priority: number
  readonly delayMs: number
  /** It has an idempotency key, and was sent until there was a definite answer. */
  readonly keyed: boolean
  readonly sentAt: number
  confirmedAt: number | undefined
}

export interface Delivery {
  /** The broker's id of the message, and of this delivery; AMQP tells neither: ''. */
  readonly ref: string
  readonly token: string
  /** Deliveries so far, this one included, where the door tells. */
  readonly count: number | undefined
  readonly failed: number
  readonly redelivered: boolean
  /** When the lease was asked for, or its connection began; and when it arrived. */
  readonly askedAt: number
  readonly cameAt: number
}

/** One message in one queue. */
export interface Copy {
  readonly sent: Sent
  readonly queue: string
  readonly deliveries: Delivery[]
  /** When an acknowledgement or rejection was first sent. */
  endedAt: number | undefined
  /** When the broker said, to a request that was sent once, that it is settled; and how often. */
  settledAt: number | undefined
  settled: number
  /** An acknowledgement got no answer, or only to its repetition: it may have been the one. */
  maybeSettled: boolean
  /** The same for rejections. */
  rejectedAt: number | undefined
  maybeRejected: boolean
  /** Its appearances among the dead, by reason. */
  readonly dead: string[]
}

export class Ledger {
  /** By queue, then by message id, in the order of sending. */
  readonly copies = new Map<string, Map<string, Copy>>()
  /** What no check at the end could still see: told at once, bounded. */
  readonly wrong: string[] = []
  published = 0
  confirmed = 0
  unanswered = 0
  /** Messages in all queues, as the broker counted them last: throttles the publishers. */
  backlog = 0

  sent(message: Sent, queues: readonly string[]): void {
    this.published++
    for (const queue of queues) {
      let copies = this.copies.get(queue)
      if (copies === undefined) {
        copies = new Map()
        this.copies.set(queue, copies)
      }
      copies.set(message.id, {
        sent: message,
        queue,
        deliveries: [],
        endedAt: undefined,
        settledAt: undefined,
        settled: 0,
        maybeSettled: false,
        rejectedAt: undefined,
        maybeRejected: false,
        dead: [],
      })
    }
  }

  confirm(message: Sent): void {
    message.confirmedAt = performance.now()
    this.confirmed++
  }

  find(queue: string, id: string): Copy | undefined {
    const copy = this.copies.get(queue)?.get(id)
    if (!copy) this.complain(`${queue} gave a message ${id} that nobody sent there`)
    return copy
  }

  complain(what: string): void {
    if (this.wrong.length < 50) this.wrong.push(what)
  }

  *all(): Generator<Copy, void> {
    for (const copies of this.copies.values()) yield* copies.values()
  }
}
