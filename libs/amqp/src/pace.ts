/** Whether a connection is read, and why not. */
import type { Duplex } from 'node:stream'
import { limits } from '@sluice/core'
import type { FrameReader } from './frame-reader.ts'

/** Why nothing is read: bits, since there may be several reasons. */
export const PAUSE = {
  /** A step on channel 0 is under way. */
  step: 1,
  /** Too much waits behind methods under way, or on its way to be stored. */
  waiting: 2,
  /** The client does not read our answers. */
  unread: 4,
  /** It published during an alarm. */
  alarm: 8,
} as const

export class Pace {
  readonly #socket: Duplex
  readonly #reader: FrameReader
  readonly #readOn: () => boolean
  #reasons = 0
  #waitingBytes = 0

  /** @param readOn takes the frames that wait in the reader; false = the connection is lost. */
  constructor(socket: Duplex, reader: FrameReader, readOn: () => boolean) {
    this.#socket = socket
    this.#reader = reader
    this.#readOn = readOn
  }

  get paused(): boolean {
    return this.#reasons !== 0
  }

  has(reason: number): boolean {
    return (this.#reasons & reason) !== 0
  }

  /** What shows that the client lives, as it grows; NaN while it cannot: nobody reads from it. */
  heard(received: number, taken: number): number {
    if (this.has(PAUSE.unread)) return taken // it is not read until it reads
    return this.paused ? Number.NaN : received
  }

  pause(reason: number): void {
    if (this.#reasons === 0) {
      this.#reader.pause()
      this.#socket.pause()
    }
    this.#reasons |= reason
  }

  resume(reason: number): void {
    if (!this.has(reason)) return
    this.#reasons &= ~reason
    if (this.#reasons === 0 && this.#readOn() && !this.paused) this.#socket.resume()
  }

  /** More (or fewer) bytes wait. */
  waiting(bytes: number): void {
    this.#waitingBytes += bytes
    if (this.#waitingBytes > limits.AMQP_WAITING_BYTES_MAX) this.pause(PAUSE.waiting)
    else if (bytes < 0 && this.#waitingBytes <= limits.AMQP_WAITING_BYTES_MAX / 2) {
      this.resume(PAUSE.waiting)
    }
  }
}
