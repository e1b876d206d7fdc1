/**
 * The audit log: who did what and who was refused, in one chain for the whole broker.
 *
 * Each entry is hashed together with the hash before it, so that none can be changed, taken out or
 * put in between without all behind it being made again; with a key (HMAC) nobody can do that who
 * has only Redis. Processes add to one chain by compare-and-set on its last entry (chain.lua).
 *
 * Never in the path of a message: `note` writes into memory, and what gathers there is stored a few
 * times a second. It is bounded. While Redis is away entries wait, and beyond the bound they are
 * counted and the count is noted; a process that is killed loses what it had not stored.
 */
import { createHash, createHmac } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { BrokerError, type Report } from '@sluice/core'
import type { Redis } from 'ioredis'
import { AUDIT_BASE } from './keys.ts'
import { unavailable } from './redis.ts'
import { script, word } from './script.ts'

/** What happened, in words without secrets. */
export interface AuditEvent {
  /** The principal; '' where nobody was proven. */
  readonly who: string
  /** The address it came from. */
  readonly from: string
  /** e.g. `PUT /v1/users/ann`, `queue.declare 'q' in vhost '/'`. */
  readonly what: string
  /** `done`, or why not. */
  readonly outcome: string
}

/** An entry as it is kept. */
export interface AuditEntry extends AuditEvent {
  readonly number: number
  /** When, ISO 8601, by Redis's clock. */
  readonly at: string
  /** How often the same happened within about a second. */
  readonly count: number
  readonly hash: string
}

export interface AuditOptions {
  /** Makes hashes that nobody without it can; undefined: anybody can. */
  readonly key: string | undefined
  /** Entries that stay; the oldest go first. */
  readonly keep: number
  readonly nowMs: () => number
  readonly report: Report
}

/** What a chain was found to be. */
export type Verdict =
  | {
      readonly kind: 'intact'
      readonly first: number
      readonly last: number
      readonly hash: string
    }
  | { readonly kind: 'broken'; readonly number: number; readonly why: string }

/** Between two writes, ms. */
const WRITE_EVERY_MS = 200
/** Entries in one write. */
const WRITE_MAX = 100
/** What waits in memory; some 300 bytes each. */
const WAITING_MAX = 5_000
/** Refusals of different kinds a second; the rest is summed up, or strangers could fill the log. */
const REFUSALS_A_SECOND_MAX = 5
/** Times a write starts again because other processes wrote first. */
const ATTEMPTS_MAX = 50
const TRIM_MAX = 200
const TEXT_LENGTH_MAX = 500
const PAGE = 500
const NO_HEAD: Head = { number: 0, hash: '' }

interface Waiting extends AuditEvent {
  count: number
  readonly at: string
}

interface Head {
  readonly number: number
  readonly hash: string
}

export const chain = script(
  'chain',
  ['number', 'hash', 'keep', 'trimMax', '...'],
  ([kind, number, hash]): Head & { kind: 'added' | 'conflict' } => {
    const outcome = word(kind)
    if (outcome === 'added') return { kind: outcome, number: Number(word(number)), hash: '' }
    if (outcome !== 'conflict') throw new Error(`chain.lua returned ${outcome}`)
    return { kind: outcome, number: Number(word(number)), hash: word(hash) }
  },
)

export class AuditLog {
  readonly #redis: Redis
  readonly #options: AuditOptions
  /** By what they say, so that the same is counted rather than repeated. */
  readonly #waiting = new Map<string, Waiting>()
  #lost = 0
  #refusals = 0
  #second = 0
  #head: Head = NO_HEAD
  #timer: NodeJS.Timeout | undefined
  #writing: Promise<void> = Promise.resolve()

  constructor(redis: Redis, options: AuditOptions) {
    this.#redis = redis
    this.#options = options
  }

  /** Never throws, and costs its caller no time. */
  note(event: AuditEvent): void {
    const refused = event.outcome !== 'done'
    const kept = refused && this.#tooMany() ? SUMMED : event
    const what = kept.what.slice(0, TEXT_LENGTH_MAX)
    const key = JSON.stringify([kept.who, kept.from, what, kept.outcome])
    const same = this.#waiting.get(key)
    if (same) same.count++
    else if (this.#waiting.size >= WAITING_MAX) this.#lost++
    else {
      if (refused) this.#refusals++
      const at = new Date(this.#options.nowMs()).toISOString()
      this.#waiting.set(key, { at, ...kept, what, count: 1 })
    }
    this.#later()
  }

  /** Whether refusals of this second are to be summed up. */
  #tooMany(): boolean {
    const second = Math.floor(performance.now() / 1_000)
    if (second !== this.#second) {
      this.#second = second
      this.#refusals = 0
    }
    return this.#refusals >= REFUSALS_A_SECOND_MAX
  }

  #later(): void {
    this.#timer ??= setTimeout(() => {
      this.flush().catch(this.#options.report)
    }, WRITE_EVERY_MS).unref()
  }

  /** Stores what waits; what cannot be stored waits on. */
  flush(): Promise<void> {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#writing = this.#writing.then(() => this.#write())
    return this.#writing
  }

  async #write(): Promise<void> {
    if (this.#lost > 0 && this.#waiting.size < WAITING_MAX) {
      const at = new Date(this.#options.nowMs()).toISOString()
      this.#waiting.set('lost', { at, ...LOST, count: this.#lost })
      this.#lost = 0
    }
    while (this.#waiting.size > 0) {
      const some = [...this.#waiting].slice(0, WRITE_MAX)
      for (const [key] of some) this.#waiting.delete(key)
      try {
        await this.#append(some.map(([, { count, ...rest }]) => JSON.stringify({ ...rest, count })))
      } catch (error) {
        this.#restore(some)
        this.#later()
        if (!(error instanceof BrokerError)) throw error
        return // Redis is away
      }
    }
  }

  #restore(some: readonly (readonly [string, Waiting])[]): void {
    for (const [key, entry] of some) {
      const same = this.#waiting.get(key)
      if (same) same.count += entry.count
      else this.#waiting.set(key, entry)
    }
  }

  async #append(entries: readonly string[]): Promise<void> {
    const { keep } = this.#options
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt++) {
      let { number, hash } = this.#head
      const added: string[] = []
      for (const entry of entries) {
        hash = this.#hash(hash, ++number, entry)
        added.push(entry, hash)
      }
      const args = [this.#head.number, this.#head.hash, keep, TRIM_MAX, ...added]
      const outcome = await this.#ask(chain(this.#redis, AUDIT_BASE, args))
      this.#head = outcome.kind === 'added' ? { number, hash } : outcome
      if (outcome.kind === 'added') return
      await sleep(Math.random() * Math.min(attempt, 20))
    }
    throw new BrokerError('store_unavailable', 'The audit log changes too fast.')
  }

  #hash(before: string, number: number, entry: string): string {
    const { key } = this.#options
    const hash = key === undefined ? createHash('sha256') : createHmac('sha256', key)
    return hash.update(`${before}\n${number}\n${entry}`).digest('base64url')
  }

  /** Entries behind a number, in order: one page of at most `limit`. */
  async read(after: number, limit: number = PAGE): Promise<AuditEntry[]> {
    const key = `${AUDIT_BASE}log`
    const found = await this.#ask(this.#redis.xrange(key, `(${after}-0`, '+', 'COUNT', limit))
    return found.map(([id, fields]) => {
      const entry = JSON.parse(fields[1]!) as Omit<AuditEntry, 'number' | 'hash'>
      return { number: Number.parseInt(id, 10), ...entry, hash: fields[3]! }
    })
  }

  /**
   * Walks the chain from its anchor to its head.
   *
   * @param known an entry that somebody noted elsewhere: it must be in the chain, or be trimmed.
   */
  async verify(known?: Head): Promise<Verdict> {
    const head = await this.#ask(this.#redis.hgetall(`${AUDIT_BASE}head`))
    const anchor = Number(head['anchorNumber'] ?? 0)
    let [number, hash] = [anchor, head['anchorHash'] ?? '']
    const until = Number(head['number'] ?? 0)
    const broken = (at: number, why: string): Verdict => ({ kind: 'broken', number: at, why })
    while (number < until) {
      const key = `${AUDIT_BASE}log`
      const page = await this.#ask(this.#redis.xrange(key, `(${number}-0`, '+', 'COUNT', PAGE))
      if (page.length === 0) return broken(number + 1, 'it is missing')
      for (const [id, fields] of page) {
        if (Number.parseInt(id, 10) > until) break // added since
        if (id !== `${number + 1}-0`) return broken(number + 1, 'it is missing')
        hash = this.#hash(hash, ++number, fields[1]!)
        if (hash !== fields[3]) return broken(number, 'its hash is not that of what it says')
        if (known?.number === number && known.hash !== hash) {
          return broken(number, 'it is not the one that was noted')
        }
      }
    }
    if (hash !== (head['hash'] ?? '')) return broken(until, 'the head is of another chain')
    if (known && known.number > until) return broken(known.number, 'it is missing at the end')
    return { kind: 'intact', first: anchor + 1, last: until, hash }
  }

  /** Stores what waits, if Redis is there. */
  async close(): Promise<void> {
    await this.flush()
    clearTimeout(this.#timer)
  }

  async #ask<T>(reply: Promise<T>): Promise<T> {
    try {
      return await reply
    } catch (error) {
      throw unavailable(error)
    }
  }
}

const SUMMED: AuditEvent = { who: '', from: '', what: 'other requests', outcome: 'refused' }
const LOST: AuditEvent = { who: '', from: '', what: 'entries', outcome: 'lost, too many waited' }
