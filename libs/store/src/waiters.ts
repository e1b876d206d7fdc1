/**
 * Who in this process waits for something in a queue, and whom a hint wakes.
 *
 * A hint is for one. It goes to a listener that has use for it, else to the caller that waits
 * longest. One that comes while a caller is on its way to Redis may be of a message that the caller
 * just missed: it is kept until that caller is back, which then looks again.
 */
import { limits } from '@sluice/core'

export class Waiters {
  /** Oldest first. */
  readonly #waiting: (() => void)[] = []
  readonly #listeners = new Set<() => boolean>()
  readonly #passOn: () => void
  #asking = 0
  #hinted = false
  #look: NodeJS.Timeout | undefined

  /** @param passOn gives a hint to another process: nobody here has use for it. */
  constructor(passOn: () => void) {
    this.#passOn = passOn
  }

  get count(): number {
    return this.#waiting.length
  }

  /** Hears of hints until the function it returns is called; answers whether it had use for one. */
  listen(listener: () => boolean): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  /** A hint that something arrived. */
  wake(): void {
    for (const listener of this.#listeners) {
      if (listener()) return
    }
    const [waiter] = this.#waiting
    if (waiter) waiter()
    else if (this.#asking > 0) this.#hinted = true
    else this.#passOn()
  }

  /** Runs a caller that looks at the queue, and waits in between. */
  async during<T>(caller: () => Promise<T>): Promise<T> {
    this.#asking++
    try {
      return await caller()
    } finally {
      this.#asking--
      if (this.#asking === 0 && this.takeHint()) this.#passOn()
    }
  }

  /** Whether a hint came meanwhile; whoever asks must look again. */
  takeHint(): boolean {
    const hinted = this.#hinted
    this.#hinted = false
    return hinted
  }

  /** Until a hint, a look by itself, `ms` or the signal, whichever comes first. */
  wait(ms: number, signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', done)
        const at = this.#waiting.indexOf(done)
        if (at >= 0) this.#waiting.splice(at, 1)
        if (this.#waiting.length === 0) {
          clearInterval(this.#look)
          this.#look = undefined
        }
        resolve()
      }
      const timer = setTimeout(done, ms)
      // A hint may be lost: one waiter a second looks for all of them.
      this.#look ??= setInterval(() => this.#waiting[0]?.(), limits.IDLE_LOOK_MS)
      signal?.addEventListener('abort', done, { once: true })
      this.#waiting.push(done)
    })
  }
}
