/** The feeds of this process, one a queue that is consumed here. */
import type { Report, Start } from '@sluice/core'
import type { QueueStore } from '@sluice/store'
import { Feed } from './feed.ts'
import { Observer, type Watched } from './observer.ts'

/** How long settlements may take to reach Redis when the process stops, ms. */
const SETTLE_MS_MAX = 5_000

export class Feeds {
  readonly #report: Report
  readonly #watched: Watched | undefined
  readonly #feeds = new Map<QueueStore, Feed>()

  /** @param watched where deliveries are told of; nowhere unless given. */
  constructor(report: Report, watched?: Watched) {
    this.#report = report
    this.#watched = watched
  }

  /** The feed of a queue; it ends by itself when nobody uses it any more. */
  of(store: QueueStore): Feed {
    let feed = this.#feeds.get(store)
    if (!feed) {
      const observer = new Observer(store, this.#watched)
      feed = new Feed(store, this.#report, () => this.#feeds.delete(store), observer)
      this.#feeds.set(store, feed)
    }
    return feed
  }

  /** Doors that hand messages out, as one part: once all have stopped, the feeds do. */
  behind(doors: readonly Start[]): Start {
    return async (signal) => {
      const running = await Promise.all(doors.map((start) => start(signal)))
      const stopped = Promise.all(running.map(({ closed }) => closed))
      return { closed: stopped.then(() => this.close(SETTLE_MS_MAX)) }
    }
  }

  /** Waits until Redis knows of every settlement, at most `ms`; then stops all feeds. */
  async close(ms: number): Promise<void> {
    const settled = Promise.all([...this.#feeds.values()].map((feed) => feed.settled()))
    let timer: NodeJS.Timeout | undefined
    await Promise.race([
      settled,
      new Promise((resolve) => {
        timer = setTimeout(resolve, ms)
      }),
    ])
    clearTimeout(timer)
    for (const feed of this.#feeds.values()) feed.close()
  }
}
