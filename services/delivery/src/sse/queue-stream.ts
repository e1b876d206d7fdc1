/**
 * The messages of a queue as an event stream. Deliveries are leases, extended for as long as the
 * reader is connected, and settled by HTTP, by whoever has the token. At most `credit` are out.
 *
 * When the connection breaks, the process remembers the stream for the length of a lease. A reader
 * that comes back with its Last-Event-ID keeps what it had received; what came after is released
 * and delivered again. At another process, or later, that happens when the leases lapse.
 */
import { randomUUID } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { BrokerError, limits, type Report } from '@sluice/core'
import type { LeasedMessage, QueueStore } from '@sluice/store'
import type { EventStream } from './event-stream.ts'

const LEASE_MESSAGES_MAX = 100
const LEASE_WAIT_MS = 10_000
/** How soon, and how rarely, it is looked whether a reader without credit has settled something. */
const LOOK_MS_MIN = 50
const LOOK_MS_MAX = 1_000

interface QueueStreamOptions {
  readonly store: QueueStore
  readonly credit: number
  readonly leaseMs: number
  readonly consumer: string
  readonly shown: (message: LeasedMessage) => unknown
  readonly report: Report
}

interface Kept {
  readonly base: string
  readonly consumer: string
  /** Deliveries so far. */
  number: number
  /** Unsettled ones: number to token. */
  readonly held: Map<number, string>
  /** Ends the connection that still has it, if any. */
  stop: () => void
  timer: NodeJS.Timeout | undefined
}

/** Streams that are connected, and as many that are remembered; past it the oldest are not. */
const STREAMS_MAX = 2 * limits.EVENT_STREAMS_MAX

const LAST_EVENT_ID = /^([0-9a-f-]{36})\.(\d{1,15})$/

export class QueueStreams {
  readonly #streams = new Map<string, Kept>()

  /**
   * Serves a reader until the signal aborts or the queue is gone.
   * @param lastEventId what the reader says that it received last; '' = it is new.
   */
  async serve(
    options: QueueStreamOptions,
    stream: EventStream,
    lastEventId: string,
    signal: AbortSignal,
  ): Promise<void> {
    const stopped = new AbortController()
    const both = AbortSignal.any([signal, stopped.signal])
    const { id, kept } = await this.#resume(options, lastEventId)
    kept.stop = () => stopped.abort()
    stream.open()
    const extending = setInterval(() => {
      extend(options, kept).catch((error) => ignoreRefusals(error, options.report))
    }, options.leaseMs / 3)
    try {
      await run(options, { id, kept, stream, signal: both })
    } finally {
      clearInterval(extending)
      if (!stopped.signal.aborted) this.#keep(id, kept, options.leaseMs)
    }
  }

  async #resume(
    { store, consumer }: QueueStreamOptions,
    lastEventId: string,
  ): Promise<{ id: string; kept: Kept }> {
    const [, id = '', last = ''] = LAST_EVENT_ID.exec(lastEventId) ?? []
    const kept = this.#streams.get(id)
    if (kept === undefined || kept.base !== store.base || kept.consumer !== consumer) {
      const fresh = randomUUID()
      const held = new Map<number, string>()
      const { base } = store
      const made = { base, consumer, number: 0, held, stop: () => {}, timer: undefined }
      this.#streams.set(fresh, made)
      return { id: fresh, kept: made }
    }
    clearTimeout(kept.timer)
    kept.timer = undefined
    kept.stop()
    const lost = [...kept.held].filter(([number]) => number > Number(last))
    for (const [number] of lost) kept.held.delete(number)
    await store.settle(lost.map(([, token]) => ({ token, outcome: 'release' })))
    return { id, kept }
  }

  #keep(id: string, kept: Kept, leaseMs: number): void {
    kept.stop = () => {}
    kept.timer = setTimeout(() => this.#streams.delete(id), leaseMs)
    kept.timer.unref()
    this.#streams.delete(id)
    this.#streams.set(id, kept) // behind those that were kept before
    if (this.#streams.size <= STREAMS_MAX) return
    for (const [oldest, { timer }] of this.#streams) {
      if (timer === undefined) continue
      clearTimeout(timer)
      this.#streams.delete(oldest)
      return
    }
  }
}

interface Running {
  readonly id: string
  readonly kept: Kept
  readonly stream: EventStream
  readonly signal: AbortSignal
}

async function run(
  options: QueueStreamOptions,
  { id, kept, stream, signal }: Running,
): Promise<void> {
  const { store, credit, leaseMs, consumer, shown } = options
  while (!signal.aborted) {
    const free = Math.min(credit - kept.held.size, LEASE_MESSAGES_MAX)
    if (free <= 0) {
      await credited(options, kept, signal)
      continue
    }
    const asked = { max: free, leaseMs, waitMs: LEASE_WAIT_MS, consumer, signal }
    for (const message of await store.lease(asked)) {
      kept.held.set(++kept.number, message.token)
      const event = { id: `${id}.${kept.number}`, event: 'message', data: shown(message) }
      if (!signal.aborted) await stream.send(event)
    }
  }
}

/** Waits until something was settled. */
async function credited(
  options: QueueStreamOptions,
  kept: Kept,
  signal: AbortSignal,
): Promise<void> {
  const before = kept.held.size
  for (let ms = LOOK_MS_MIN; kept.held.size === before; ms = Math.min(2 * ms, LOOK_MS_MAX)) {
    await sleep(ms, undefined, { signal }).catch(() => {})
    if (signal.aborted) return
    await extend(options, kept)
  }
}

/** Extends what is unsettled, and forgets what turns out to be settled. */
async function extend({ store, leaseMs }: QueueStreamOptions, { held }: Kept): Promise<void> {
  const asked = [...held]
  const outcomes = await store.settle(
    asked.map(([, token]) => ({ token, outcome: 'extend', leaseMs })),
  )
  for (const [index, [number]] of asked.entries()) {
    if (outcomes[index] === 'stale') held.delete(number)
  }
}

function ignoreRefusals(error: unknown, report: Report): void {
  if (!(error instanceof BrokerError)) report(error) // Redis is away: the next time, then
}
