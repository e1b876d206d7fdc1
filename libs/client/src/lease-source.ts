/** Deliveries by leases over HTTP, extended for as long as they are worked on. */
import type { RawDelivery, Sink, Source } from './consumer.ts'
import type { Settlement } from './delivery.ts'
import { asObject, SluiceError } from './errors.ts'
import type { Http } from './http.ts'
import { backoffMs, sleep } from './wait.ts'

/** How long a request waits at the broker: below the 60 s of the usual proxies. */
const WAIT_MS = 20_000
/** Messages in one lease, settlements in one request. */
const REQUEST_MAX = 1_000

interface Told {
  readonly token: string
  readonly settlement: Settlement | { readonly outcome: 'extend'; readonly leaseMs: number }
}

export class LeaseSource implements Source {
  readonly #http: Http
  readonly #queue: string
  readonly #leaseMs: number
  readonly #stopping = new AbortController()
  readonly #held = new Map<string, RawDelivery>()
  #told: Told[] = []
  #telling: Promise<void> | undefined
  #freed: (() => void) | undefined
  #loop: Promise<void> = Promise.resolve()
  #sink: Sink | undefined
  #timer: ReturnType<typeof setInterval> | undefined

  constructor(http: Http, queue: string, leaseMs = 30_000) {
    this.#http = http
    this.#queue = queue
    this.#leaseMs = leaseMs
  }

  start(sink: Sink, credit: number): void {
    this.#sink = sink
    this.#timer = setInterval(() => this.#extend(), this.#leaseMs / 3)
    this.#loop = this.#run(sink, credit).catch((error) => {
      if (!this.#stopping.signal.aborted) sink.failed(error)
    })
  }

  async stop(): Promise<void> {
    this.#stopping.abort(new SluiceError('closed', 'The consumer drains.'))
    this.#freed?.()
    await this.#loop
  }

  async close(): Promise<void> {
    while (this.#telling !== undefined) await this.#telling
    clearInterval(this.#timer)
  }

  async #run(sink: Sink, credit: number): Promise<void> {
    const { signal } = this.#stopping
    for (let failed = 0; !signal.aborted; ) {
      const max = Math.min(credit - this.#held.size, REQUEST_MAX)
      if (max <= 0) {
        await new Promise<void>((resolve) => {
          this.#freed = resolve
        })
        continue
      }
      try {
        await this.#lease(max)
        failed = 0
      } catch (error) {
        if (!(error instanceof SluiceError) || !error.retriable || signal.aborted) throw error
        sink.hint(error)
        failed++
        const { retry } = this.#http
        await sleep(Math.max(backoffMs(failed, retry), error.retryAfterMs), signal)
      }
    }
  }

  async #lease(max: number): Promise<void> {
    const path = this.#http.path('queues', this.#queue, 'leases')
    const body = { max, waitMs: WAIT_MS, leaseMs: this.#leaseMs }
    const { signal } = this.#stopping
    const { json } = await this.#http.once('POST', path, { body, signal, waitMs: WAIT_MS })
    const { messages } = asObject(json)
    for (const fields of Array.isArray(messages) ? messages : []) {
      const token = String(asObject(fields)['token'])
      const settle = (settlement: Settlement) => {
        this.#release(token)
        this.#tell({ token, settlement })
      }
      const raw = { fields, lost: new AbortController(), settle }
      this.#held.set(token, raw)
      this.#sink!.deliver(raw)
    }
  }

  #release(token: string): void {
    this.#held.delete(token)
    this.#freed?.()
    this.#freed = undefined
  }

  #extend(): void {
    for (const token of this.#held.keys()) {
      this.#tell({ token, settlement: { outcome: 'extend', leaseMs: this.#leaseMs } })
    }
  }

  /** What is told while a request is on its way goes together with the next. */
  #tell(told: Told): void {
    this.#told.push(told)
    this.#telling ??= this.#tellAll().finally(() => {
      this.#telling = undefined
    })
  }

  async #tellAll(): Promise<void> {
    await Promise.resolve() // what is settled in this turn goes together
    const path = this.#http.path('queues', this.#queue, 'settlements')
    while (this.#told.length > 0) {
      const some = this.#told.splice(0, REQUEST_MAX)
      const settlements = some.map(({ token, settlement }) => ({ token, ...settlement }))
      try {
        const { json } = await this.#http.request('POST', path, { body: { settlements } })
        const { outcomes } = asObject(json)
        for (const [index, { token }] of some.entries()) {
          if (Array.isArray(outcomes) && outcomes[index] === 'stale') this.#lost(token)
        }
      } catch (error) {
        this.#sink?.hint(error) // the leases lapse, and the messages come again
      }
    }
  }

  /** Somebody else may have it by now. */
  #lost(token: string): void {
    const raw = this.#held.get(token)
    if (!raw) return // settled before, by a try whose answer was lost
    this.#release(token)
    raw.lost.abort(new SluiceError('closed', 'The lease has lapsed.'))
  }
}
