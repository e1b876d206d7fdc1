/**
 * Dead letters, messages that were given up on: found, read, corrected, brought back, thrown away.
 * docs/dead-lettering.md says how messages come to be there.
 */
import { toBase64 } from './bytes.ts'
import { Message } from './delivery.ts'
import { asObject } from './errors.ts'
import type { CallOptions, Http } from './http.ts'
import { type Body, bytesOf, type MessageOptions } from './message.ts'
import { sleep } from './wait.ts'

/** Why a message died. */
export type DeathReason = 'rejected' | 'expired' | 'maxlen' | 'delivery_limit'

/** Which letters are meant: all that is given must hold. An empty filter means every one. */
export interface DeadLetterFilter {
  /** Why it died last. */
  readonly reason?: DeathReason
  /** The queue in which it died last. */
  readonly diedIn?: string
  /** It became a dead letter of this queue then or later. */
  readonly since?: Date
  /** It became a dead letter of this queue before. */
  readonly until?: Date
  /** It has this header: `name`, or `name=value`. */
  readonly header?: string
  /** Where it was first published. */
  readonly exchange?: string
  /** By which it was first published. */
  readonly routingKey?: string
  /** Its body has this text. */
  readonly text?: string
}

/** What a search looks for, and how. */
export interface SearchOptions extends DeadLetterFilter, CallOptions {
  /** Letters in a page, at most 500. Default 100. */
  readonly pageSize?: number
  /** The `next` of a page: goes on behind it. */
  readonly after?: string
}

/** What one bounded look found. */
export interface LetterPage {
  readonly letters: readonly Letter[]
  /** Messages looked at. */
  readonly scanned: number
  /** There may be more, even where no letter was found: pass it as `after`. */
  readonly next?: string
}

/** Why and where a letter died. */
export interface Death {
  /** Where it died last: where a redrive takes it. */
  readonly queue: string
  readonly reason?: string
  /** What its last consumer said. */
  readonly lastError?: string
  /** Who had it last. */
  readonly heldBy?: string
  /** Deliveries before it died. */
  readonly deliveryCount?: number
  /** What came of pushing it, newest first. */
  readonly attempts: readonly {
    readonly at: string
    readonly durationMs: number
    /** Of the answer; absent: there was none. */
    readonly status?: number
    readonly error?: string
    /** The first bytes of the answer. */
    readonly answer?: string
  }[]
  /** A line for each queue and reason, newest first. */
  readonly history: readonly {
    readonly queue: string
    readonly reason: string
    readonly count: number
    /** When it first died so: RFC 3339. */
    readonly at?: string
    readonly exchange: string
    readonly routingKeys: readonly string[]
  }[]
}

/** A dead letter as it lies there; looking at it changes nothing. */
export class Letter extends Message {
  readonly death: Death
  /** What is wrong with the stored message, e.g. that its key was shredded. */
  readonly note: string | undefined
  readonly #fields: unknown

  /** Made by `DeadLetters`. */
  constructor(fields: unknown) {
    super(fields, undefined)
    const { death, note } = asObject(fields)
    this.death = death as Death
    this.note = typeof note === 'string' ? note : undefined
    this.#fields = fields
  }

  /** As the broker's HTTP API has it, for `JSON.stringify`. */
  toJSON(): unknown {
    return this.#fields
  }
}

/** What is different in a copy of a letter. What is not given stays as it is. */
export interface LetterChanges extends Omit<MessageOptions, 'mandatory'>, CallOptions {
  /** Where it is published. Neither this nor `queue`: it goes to the queue where it died. */
  readonly exchange?: string
  /** The queue that it is put into. */
  readonly queue?: string
  readonly routingKey?: string
  /** Its media type stays the letter's, where that has one and `contentType` is not given. */
  readonly body?: Body
  /** Headers that the copy does not have. Those in `headers` are set, all others stay. */
  readonly removeHeaders?: readonly string[]
  /** Remove the letter once the copy is stored. Default false. */
  readonly remove?: boolean
}

/** What became of a copy. */
export interface CopyReceipt {
  /** The queues it is in. */
  readonly queues: readonly string[]
  /** This very copy had been stored before. */
  readonly duplicate: boolean
  /** Whether the letter itself is gone. */
  readonly removed: boolean
}

/** Where redriven letters go: where each died, as it was first published, or all to one queue. */
export type RedriveTarget = 'queue' | 'exchange' | { readonly queue: string }

/** Which letters are redriven, and how. */
export interface RedriveOptions extends CallOptions {
  /** Default: all that are there when it is asked for. */
  readonly filter?: DeadLetterFilter
  /** Default queue. */
  readonly to?: RedriveTarget
  /** Letters a second; 0 = as fast as it goes. Default 0. */
  readonly perSecond?: number
  /** Ends after that many; 0 = no limit. Default 0. */
  readonly limit?: number
  /** Counts, and moves nothing. */
  readonly dryRun?: boolean
}

/** How far a redrive is. */
export interface RedriveStatus {
  readonly id: string
  readonly state: 'waiting' | 'running' | 'paused' | 'done' | 'cancelled' | 'failed'
  readonly dryRun: boolean
  readonly to: RedriveTarget
  /** The rate it keeps; 0 = none. */
  readonly perSecond: number
  readonly limit: number
  /** Who asked for it. */
  readonly by: string
  /** Messages in the queue at its start. */
  readonly total?: number
  /** Messages looked at so far. */
  readonly scanned: number
  /** Exactly `redriven` and `skipped` together. */
  readonly matched: number
  /** Letters moved; in a dry run, those that would be. */
  readonly redriven: number
  /** Letters left where they are. */
  readonly skipped: number
  /** The skipped ones by cause, e.g. origin-gone, full, taken. */
  readonly causes: Readonly<Record<string, number>>
  /** How long it was worked on, ms. */
  readonly workedMs: number
  /** Redriven a second, of that time. */
  readonly rate: number
  readonly askedAt: string
  readonly estimatedEnd?: string
  readonly finishedAt?: string
  /** Why it failed. */
  readonly error?: string
}

/** How a redrive is watched. */
export interface RedriveWatchOptions extends CallOptions {
  /** How often it is looked at, ms. Default 500. */
  readonly everyMs?: number
}

const ENDED: ReadonlySet<RedriveStatus['state']> = new Set(['done', 'cancelled', 'failed'])

/**
 * The dead letters in a queue.
 *
 *     const letters = sluice.deadLetters()
 *     for await (const { id, death } of letters.search({ reason: 'rejected' })) console.log(id, death)
 *     const redrive = await letters.startRedrive({ filter: { text: 'Sir' }, perSecond: 500 })
 *     const { redriven, skipped } = await redrive.ended()
 */
export class DeadLetters {
  /** Where they lie. */
  readonly queue: string
  readonly #http: Http

  /** Made by `Sluice.deadLetters`. */
  constructor(http: Http, queue: string) {
    this.#http = http
    this.queue = queue
  }

  /** Every letter that matches, oldest first, read page by page as it is asked for. */
  async *search(options: SearchOptions = {}): AsyncGenerator<Letter, void, void> {
    let { after } = options
    do {
      const page = await this.searchPage({ ...options, ...(after !== undefined && { after }) })
      yield* page.letters
      after = page.next
    } while (after !== undefined)
  }

  /** One page of a search, for who keeps the place or tells how far it is. */
  async searchPage({
    signal,
    pageSize: limit = 100,
    after,
    ...filter
  }: SearchOptions = {}): Promise<LetterPage> {
    const query = { ...filterFields(filter), limit, after }
    const { json } = await this.#http.request('GET', this.#path(), { query, signal })
    const { messages, scanned, next } = json as Omit<LetterPage, 'letters'> & {
      messages: unknown[]
    }
    const letters = messages.map((fields) => new Letter(fields))
    return { letters, scanned, ...(next !== undefined && { next }) }
  }

  /** One letter. Throws `message_not_found`. */
  async get(id: string, { signal }: CallOptions = {}): Promise<Letter> {
    const { json } = await this.#http.request('GET', this.#path(id), { signal })
    return new Letter(json)
  }

  /**
   * Publishes a copy of a letter, with changes. Sent again, it is recognised while the queue
   * remembers ids (docs/deduplication.md). Throws `in_use` where it is to be removed and somebody
   * holds it.
   */
  async sendCopy(
    id: string,
    { signal, body, ...changes }: LetterChanges = {},
  ): Promise<CopyReceipt> {
    const bytes = bytesOf(body)
    const sent = { ...changes, ...(bytes ? { bodyBase64: toBase64(bytes) } : { body }) }
    const path = this.#path(id, 'copies')
    return (await this.#http.request('POST', path, { body: sent, signal })).json as CopyReceipt
  }

  /**
   * Throws a letter away. Resolves to whether it was there: false may be an earlier try of the same
   * call. Throws `in_use` where somebody holds it.
   */
  async discard(id: string, { signal }: CallOptions = {}): Promise<boolean> {
    const { json } = await this.#http.request('DELETE', this.#path(id), { signal })
    return (json as { removed: boolean }).removed
  }

  /**
   * Redrives one letter, at once. Resolves to the queue it went to, '' where that was its exchange.
   * Throws what kept it from going there.
   */
  async redriveOne(
    id: string,
    { signal, to }: CallOptions & { readonly to?: RedriveTarget } = {},
  ): Promise<string> {
    return ((await this.#redrive({ id, to }, signal)) as { queue: string }).queue
  }

  /**
   * Redrives all that match, as a job of the broker that goes on without this process. The same one
   * asked for again while it is under way is not doubled.
   */
  async startRedrive({ signal, filter, ...asked }: RedriveOptions = {}): Promise<Redrive> {
    const body = { ...asked, ...(filter && { filter: filterFields(filter) }) }
    return this.redrive(((await this.#redrive(body, signal)) as { id: string }).id)
  }

  /** A redrive of this queue that was started before. */
  redrive(id: string): Redrive {
    return new Redrive(this.#http, this.queue, id)
  }

  /** The redrives under way, and those of the last day, newest first. */
  async listRedrives({ signal }: CallOptions = {}): Promise<readonly RedriveStatus[]> {
    const path = this.#http.path('queues', this.queue, 'redrives')
    const { json } = await this.#http.request('GET', path, { signal })
    return (json as { redrives: RedriveStatus[] }).redrives
  }

  async #redrive(body: object, signal: AbortSignal | undefined): Promise<unknown> {
    const path = this.#http.path('queues', this.queue, 'redrive')
    return (await this.#http.request('POST', path, { body, signal })).json
  }

  #path(...segments: readonly string[]): string {
    return this.#http.path('queues', this.queue, 'dead-letters', ...segments)
  }
}

/** A redrive of many letters: a job of the broker. */
export class Redrive {
  readonly id: string
  readonly #http: Http
  readonly #path: string

  /** Made by `DeadLetters`. */
  constructor(http: Http, queue: string, id: string) {
    this.id = id
    this.#http = http
    this.#path = http.path('queues', queue, 'redrives', id)
  }

  /** How far it is. Throws `not_found` a day after its end. */
  async status({ signal }: CallOptions = {}): Promise<RedriveStatus> {
    return (await this.#http.request('GET', this.#path, { signal })).json as RedriveStatus
  }

  /** How far it is, again and again; the last one is of its end. */
  async *watch({
    everyMs = 500,
    signal,
  }: RedriveWatchOptions = {}): AsyncGenerator<RedriveStatus, void, void> {
    for (;;) {
      const status = await this.status({ signal })
      yield status
      if (ENDED.has(status.state)) return
      await sleep(everyMs, signal)
    }
  }

  /** Resolves once it has ended, whether done, cancelled or failed: its `state` says. */
  async ended(options: RedriveWatchOptions = {}): Promise<RedriveStatus> {
    let last: RedriveStatus | undefined
    for await (const status of this.watch(options)) last = status
    return last!
  }

  /** Has it wait, within a second. */
  pause(options: CallOptions = {}): Promise<RedriveStatus> {
    return this.#change({ paused: true }, options)
  }

  /** Has it go on, at another rate if one is given. Throws `in_use` once it has ended. */
  resume({
    perSecond,
    ...options
  }: CallOptions & { readonly perSecond?: number } = {}): Promise<RedriveStatus> {
    return this.#change({ paused: false, perSecond }, options)
  }

  /** Ends it where it is, within a second: what was moved stays moved. */
  cancel(options: CallOptions = {}): Promise<RedriveStatus> {
    return this.#change({ cancelled: true }, options)
  }

  /** Letters a second from now on; 0 = as fast as it goes. */
  setRate(perSecond: number, options: CallOptions = {}): Promise<RedriveStatus> {
    return this.#change({ perSecond }, options)
  }

  async #change(body: object, { signal }: CallOptions): Promise<RedriveStatus> {
    return (await this.#http.request('PUT', this.#path, { body, signal })).json as RedriveStatus
  }
}

function filterFields({ since, until, ...fields }: DeadLetterFilter): Record<string, string> {
  return {
    ...fields,
    ...(since && { since: since.toISOString() }),
    ...(until && { until: until.toISOString() }),
  }
}
