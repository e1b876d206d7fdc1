/**
 * Splits the chunks of a stream into lines.
 *
 * Hot path: a line that lies whole within a chunk is a view of it; a split one is copied once.
 * A line over the limit is announced as undefined, once, and skipped: what is kept is bounded.
 */

/** `line` without its end (LF or CRLF); undefined when it was too long. Numbers count from 1. */
type OnLine = (line: Buffer | undefined, number: number) => void

/** Pieces joined at once: a line that comes byte by byte must not cost 100 times its size. */
const PIECES_MAX = 1_024

const LF = 10
const CR = 13

export class LineSplitter {
  readonly #lineBytesMax: number
  readonly #onLine: OnLine
  #pieces: Buffer[] = []
  /** The line's start, where it came in many pieces. */
  #joined: Buffer[] = []
  #size = 0
  #skipping = false
  #number = 1

  constructor(lineBytesMax: number, onLine: OnLine) {
    this.#lineBytesMax = lineBytesMax
    this.#onLine = onLine
  }

  push(chunk: Buffer): void {
    let start = 0
    for (;;) {
      const end = chunk.indexOf(LF, start)
      if (end < 0) break
      this.#keep(chunk, start, end)
      this.#emit()
      start = end + 1
    }
    if (start < chunk.length) this.#keep(chunk, start, chunk.length)
  }

  /** The last line may lack its end. */
  end(): void {
    if (this.#size > 0 || this.#skipping) this.#emit()
  }

  #keep(chunk: Buffer, start: number, end: number): void {
    if (this.#skipping) return
    this.#size += end - start
    if (this.#size > this.#lineBytesMax) {
      this.#skipping = true
      this.#reset()
      return
    }
    if (this.#pieces.push(chunk.subarray(start, end)) < PIECES_MAX) return
    this.#joined.push(Buffer.concat(this.#pieces))
    this.#pieces = []
  }

  #reset(): void {
    this.#pieces = []
    if (this.#joined.length > 0) this.#joined = []
    this.#size = 0
  }

  #emit(): void {
    const number = this.#number++
    if (this.#skipping) {
      this.#skipping = false
      this.#onLine(undefined, number)
      return
    }
    const whole = this.#pieces.length === 1 && this.#joined.length === 0
    const line = whole ? this.#pieces[0]! : Buffer.concat([...this.#joined, ...this.#pieces])
    this.#reset()
    this.#onLine(line.at(-1) === CR ? line.subarray(0, -1) : line, number)
  }
}
