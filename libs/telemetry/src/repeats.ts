/**
 * Keeps a line that repeats from drowning the others: of one message the first lines of each window
 * are written, the rest counted, and the count is written when the window ends.
 */

const WINDOW_MS = 10_000
/** Lines of one message in a window. */
const LINES_MAX = 10
/** Messages told apart; with more, the one met first ends its window early. */
const MESSAGES_MAX = 256

interface Window {
  lines: number
  readonly timer: NodeJS.Timeout
}

export class Repeats {
  readonly #windows = new Map<string, Window>()
  readonly #ended: (key: string, dropped: number) => void
  /** @param ended called when a window ends in which lines were left out. */
  constructor(ended: (key: string, dropped: number) => void) {
    this.#ended = ended
  }

  /** Whether a line is to be written. */
  admit(key: string): boolean {
    let window = this.#windows.get(key)
    if (window === undefined) {
      const oldest = this.#windows.keys().next()
      if (this.#windows.size >= MESSAGES_MAX && !oldest.done) this.#end(oldest.value)
      window = { lines: 0, timer: setTimeout(() => this.#end(key), WINDOW_MS).unref() }
      this.#windows.set(key, window)
    }
    return ++window.lines <= LINES_MAX
  }

  #end(key: string): void {
    const window = this.#windows.get(key)!
    clearTimeout(window.timer)
    this.#windows.delete(key)
    if (window.lines > LINES_MAX) this.#ended(key, window.lines - LINES_MAX)
  }
}
