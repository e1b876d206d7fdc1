/** The channels of one connection, by number, and what is left of those that were closed. */
import { AmqpError, REPLY_CODES } from './amqp-error.ts'
import { type Channel, readMethod, readMethodId, strangeFrame } from './channel.ts'
import { FRAME } from './frame-reader.ts'
import { METHOD_IDS } from './spec.ts'

/** What may still come for a channel that is gone: acknowledgements, and answers to our close. */
const LATE: ReadonlySet<number> = new Set([
  METHOD_IDS['basic.ack'],
  METHOD_IDS['basic.nack'],
  METHOD_IDS['basic.reject'],
  METHOD_IDS['channel.close-ok'],
])

export class Channels {
  readonly #open = new Map<number, Channel>()
  /** The one found last: the next frame is usually for it too. */
  #last: Channel | undefined
  /** Numbers that were in use and are free again, as bits. */
  #used: Uint8Array | undefined
  /** Handlers of closed channels that are not done. */
  readonly #ends = new Set<Promise<void>>()

  get(id: number): Channel | undefined {
    if (this.#last?.id !== id) this.#last = this.#open.get(id)
    return this.#last
  }

  add(channel: Channel): void {
    this.#open.set(channel.id, channel)
  }

  /**
   * Whether a frame for a channel that is not open is its channel.open; false for one to ignore,
   * which crossed a close. Throws AmqpError for any other.
   */
  opens(type: number, id: number, payload: Buffer, channelMax: number): boolean {
    if (type === FRAME.header || type === FRAME.body) {
      throw new AmqpError(
        REPLY_CODES.unexpectedFrame,
        'expected method frame, got non method frame instead',
      )
    }
    if (type !== FRAME.method) throw strangeFrame(type, payload)
    const methodId = readMethodId(payload)
    if (methodId !== METHOD_IDS['channel.open']) {
      if (this.#wasOpen(id) && LATE.has(methodId)) return false
      throw new AmqpError(REPLY_CODES.channelError, "expected 'channel.open'", methodId)
    }
    readMethod(methodId, payload)
    const { size } = this.#open
    if (channelMax !== 0 && size >= channelMax) {
      throw new AmqpError(
        REPLY_CODES.notAllowed,
        `number of channels opened (${size}) has reached the negotiated channel_max (${channelMax})`,
        methodId,
      )
    }
    return true
  }

  /** Whether a channel of this number was open before. */
  #wasOpen(id: number): boolean {
    return this.#used !== undefined && (this.#used[id >> 3]! & (1 << (id & 7))) !== 0
  }

  /** The number is free again; the channel's handler may still be at `end`. */
  forget(channel: Channel, end: Promise<void> | undefined): void {
    if (end !== undefined) {
      const ended = end
        .catch(() => {}) // reported where it was begun
        .then(() => {
          this.#ends.delete(ended)
        })
      this.#ends.add(ended)
    }
    const { id } = channel
    if (this.#open.get(id) !== channel) return
    this.#open.delete(id)
    this.#used ??= new Uint8Array(65_536 / 8)
    this.#used[id >> 3]! |= 1 << (id & 7)
    this.#last = undefined
  }

  /** Resolves when no channel has a method under way, or a frame that waits for one. */
  async idle(): Promise<void> {
    await Promise.all([...this.#open.values()].map((channel) => channel.idle()))
  }

  /** Ends every channel; resolves with what handlers threw when all are done. */
  async drop(): Promise<unknown[]> {
    const ends = await Promise.allSettled([...this.#open.values()].map((channel) => channel.drop()))
    this.#open.clear()
    this.#last = undefined
    await Promise.all(this.#ends)
    return ends.flatMap((end) => (end.status === 'rejected' ? [end.reason] : []))
  }
}
