/** One response as text/event-stream (HTML, 9.2.5): events, and comments that keep it alive. */
import { once } from 'node:events'
import type { Response } from 'express'

/** Shorter than the 60 s after which the usual proxies cut a silent response. */
const COMMENT_MS = 15_000
/** How long a reader waits before it connects again. */
const RETRY_MS = 1_000

interface StreamEvent {
  readonly id: string
  readonly event: string
  readonly data: unknown
}

export class EventStream {
  readonly #res: Response
  readonly #signal: AbortSignal
  #timer: NodeJS.Timeout | undefined

  /** @param signal aborts when nobody reads any more, and when the process stops. */
  constructor(res: Response, signal: AbortSignal) {
    this.#res = res
    this.#signal = signal
  }

  open(): void {
    this.#res.setHeader('Content-Type', 'text/event-stream')
    this.#res.setHeader('X-Accel-Buffering', 'no') // nginx would hold events back
    this.#res.write(`retry: ${RETRY_MS}\n\n`)
    this.#timer = setInterval(() => {
      if (!this.#res.writableNeedDrain) this.#res.write(':\n\n')
    }, COMMENT_MS)
  }

  /** Resolves once there is room for the next one; at once when nobody reads any more. */
  async send({ id, event, data }: StreamEvent): Promise<void> {
    const text = `id: ${id}\nevent: ${event}\ndata: ${JSON.stringify(data)}\n\n`
    if (this.#res.destroyed || this.#res.write(text)) return
    await once(this.#res, 'drain', { signal: this.#signal }).catch(() => {}) // it has ended
  }

  end(): void {
    clearInterval(this.#timer)
    this.#res.end()
  }
}
