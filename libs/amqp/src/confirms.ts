/**
 * Publisher confirms of one channel: each publish has a number from 1, and is answered once.
 *
 * Answers of one event-loop turn leave together, lowest number first. Those that close the gap to
 * the numbers already answered are folded into `multiple`; one above a publish that is still under
 * way is sent by itself, so a slow queue holds nobody else back.
 */
import type { FrameWriter } from './frame-writer.ts'
import type { Output, TurnEnd } from './output.ts'

const RING_SIZE_FIRST = 64
/** States of a publish. */
const WAITING = 0
const STORED = 1
const REFUSED = 2
const ANSWERED = 3

export class Confirms implements TurnEnd {
  readonly #channel: { readonly id: number; readonly open: boolean }
  readonly #writer: FrameWriter
  readonly #output: Output
  #ring = new Uint8Array(RING_SIZE_FIRST)
  /** Everything below is answered; what is known of the others is in the ring. */
  #low = 1
  #next = 1
  /** Numbers settled this turn. */
  #settled: number[] = []

  constructor(
    channel: { readonly id: number; readonly open: boolean },
    writer: FrameWriter,
    output: Output,
  ) {
    this.#channel = channel
    this.#writer = writer
    this.#output = output
  }

  /** Publishes that are not answered yet. An upper bound: some above the lowest may be. */
  get outstanding(): number {
    return this.#next - this.#low
  }

  /** The number of the next publish. */
  add(): number {
    if (this.outstanding >= this.#ring.length) this.#grow()
    return this.#next++
  }

  /** A publish ended: basic.ack when it is stored, else basic.nack, at the end of this turn. */
  settle(number: number, stored: boolean): void {
    const slot = number & (this.#ring.length - 1)
    if (number < this.#low || number >= this.#next || this.#ring[slot] !== WAITING) return
    this.#ring[slot] = stored ? STORED : REFUSED
    if (this.#settled.push(number) === 1) this.#output.atTurnEnd(this)
  }

  turnEnds(): void {
    const settled = this.#settled
    this.#settled = []
    if (!this.#channel.open) return
    this.#answerFromLow()
    settled.sort((a, b) => a - b)
    const mask = this.#ring.length - 1
    for (const number of settled) {
      const state = this.#ring[number & mask]
      if (number < this.#low || state === ANSWERED) continue
      this.#send(state === STORED, number, false)
      this.#ring[number & mask] = ANSWERED
    }
  }

  /** Answers what has no gap below it, a run of equal answers as one. */
  #answerFromLow(): void {
    const mask = this.#ring.length - 1
    let run = WAITING
    let runLast = 0
    let runSize = 0
    while (this.#low < this.#next) {
      const slot = this.#low & mask
      const state = this.#ring[slot]!
      if (state === WAITING) break
      this.#ring[slot] = WAITING // for the number that uses this slot next
      if (state !== ANSWERED) {
        if (state !== run && runSize > 0) {
          this.#send(run === STORED, runLast, runSize > 1)
          runSize = 0
        }
        run = state
        runLast = this.#low
        runSize++
      }
      this.#low++
    }
    if (runSize > 0) this.#send(run === STORED, runLast, runSize > 1)
  }

  #send(stored: boolean, number: number, multiple: boolean): void {
    if (stored) this.#writer.ack(this.#channel.id, number, multiple)
    else this.#writer.nack(this.#channel.id, number, multiple)
  }

  #grow(): void {
    const grown = new Uint8Array(this.#ring.length * 2)
    for (let number = this.#low; number < this.#next; number++) {
      grown[number & (grown.length - 1)] = this.#ring[number & (this.#ring.length - 1)]!
    }
    this.#ring = grown
  }
}
