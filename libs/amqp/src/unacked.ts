/**
 * Deliveries of one channel that the client has not settled, by delivery tag.
 *
 * Tags count from 1 and are given in order, so a ring indexed by tag holds the recent ones; what
 * stays unsettled for long moves to a map, that one forgotten delivery does not make the ring grow
 * with all that follow. Hot path: adding and settling in order touch one slot each.
 */
import { AmqpError, REPLY_CODES } from './amqp-error.ts'

const RING_SIZE_FIRST = 64
/** Tags between the oldest in the ring and the newest. */
const RING_SIZE_MAX = 64 * 1024

export class Unacked<T extends object> {
  #ring: (T | undefined)[] = new Array(RING_SIZE_FIRST).fill(undefined)
  /** Every tag of the ring is in [low, next). */
  #low = 1
  #next = 1
  /** Unsettled ones below low, oldest first. */
  readonly #old = new Map<number, T>()
  #size = 0

  /** Deliveries not settled yet. */
  get size(): number {
    return this.#size
  }

  /** Gives the next tag. Without an item the tag is used up at once: nobody may settle it. */
  add(item: T | undefined): number {
    const tag = this.#next
    if (tag - this.#low >= this.#ring.length) this.#makeRoom()
    this.#next++
    this.#ring[tag & (this.#ring.length - 1)] = item
    if (item !== undefined) this.#size++
    return tag
  }

  /**
   * Settles a delivery, or with `multiple` every one up to it (0: every one), oldest first. Throws
   * AmqpError 406 when the tag is not outstanding, and then settles none.
   */
  take(tag: number, multiple: boolean, each: (item: T, tag: number) => void): void {
    if (tag === 0 && multiple) {
      this.#takeUpTo(this.#next - 1, each)
      return
    }
    const item = this.#get(tag)
    if (item === undefined) {
      throw new AmqpError(REPLY_CODES.preconditionFailed, `unknown delivery tag ${tag}`)
    }
    if (multiple) {
      this.#takeUpTo(tag, each)
    } else {
      this.#remove(tag)
      each(item, tag)
    }
  }

  /** Settles every delivery up to a tag, whether or not that one is outstanding. */
  takeUpTo(tag: number, each: (item: T, tag: number) => void): void {
    this.#takeUpTo(Math.min(tag, this.#next - 1), each)
  }

  /** Settles deliveries, oldest first, as long as they are `due`: those that time out. */
  takeOldest(due: (item: T) => boolean, each: (item: T, tag: number) => void): void {
    let last = 0
    for (const [tag, item] of this.#old) {
      if (!due(item)) {
        this.#takeUpTo(last, each)
        return
      }
      last = tag
    }
    const mask = this.#ring.length - 1
    for (let tag = this.#low; tag < this.#next; tag++) {
      const item = this.#ring[tag & mask]
      if (item === undefined) continue
      if (!due(item)) break
      last = tag
    }
    this.#takeUpTo(last, each)
  }

  /** Makes deliveries that were settled outstanding again, each under its tag. */
  restore(taken: readonly (readonly [item: T, tag: number])[]): void {
    let below = false
    for (const [item, tag] of taken) {
      this.#size++
      if (tag >= this.#low) {
        this.#ring[tag & (this.#ring.length - 1)] = item
      } else {
        this.#old.set(tag, item)
        below = true
      }
    }
    if (!below) return
    const sorted = [...this.#old].sort(([a], [b]) => a - b)
    this.#old.clear()
    for (const [tag, item] of sorted) this.#old.set(tag, item)
  }

  #get(tag: number): T | undefined {
    if (tag < this.#low) return this.#old.get(tag)
    return tag < this.#next ? this.#ring[tag & (this.#ring.length - 1)] : undefined
  }

  #remove(tag: number): void {
    this.#size--
    if (tag < this.#low) {
      this.#old.delete(tag)
      return
    }
    this.#ring[tag & (this.#ring.length - 1)] = undefined
    if (tag === this.#low) this.#raiseLow()
  }

  #takeUpTo(last: number, each: (item: T, tag: number) => void): void {
    const taken: [T, number][] = []
    for (const [tag, item] of this.#old) {
      if (tag > last) break
      taken.push([item, tag])
    }
    const mask = this.#ring.length - 1
    for (let tag = this.#low; tag <= last; tag++) {
      const item = this.#ring[tag & mask]
      if (item !== undefined) taken.push([item, tag])
    }
    for (const [, tag] of taken) this.#remove(tag)
    for (const [item, tag] of taken) each(item, tag)
  }

  #raiseLow(): void {
    const mask = this.#ring.length - 1
    while (this.#low < this.#next && this.#ring[this.#low & mask] === undefined) this.#low++
  }

  #makeRoom(): void {
    this.#raiseLow()
    const ring = this.#ring
    if (this.#next - this.#low < ring.length) return
    if (ring.length < RING_SIZE_MAX) {
      const grown: (T | undefined)[] = new Array(ring.length * 2).fill(undefined)
      for (let tag = this.#low; tag < this.#next; tag++) {
        grown[tag & (grown.length - 1)] = ring[tag & (ring.length - 1)]
      }
      this.#ring = grown
      return
    }
    this.#old.set(this.#low, ring[this.#low & (ring.length - 1)]!)
    ring[this.#low & (ring.length - 1)] = undefined
    this.#raiseLow()
  }
}
