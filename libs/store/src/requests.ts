/**
 * Requests that ingests accepted: what became of each, and the backend's answer where it is kept.
 *
 * A request is known by its id alone. Its keys expire, and share a hash tag with those of others
 * that are accepted at the same time: so one call keeps the records of all. Any process may accept,
 * note, read and wait. A waiter hears of the end by the channel on which its slot hears of queues,
 * and looks by itself too: hints may be lost.
 */
import { randomBytes, randomUUID } from 'node:crypto'
import { limits } from '@sluice/core'
import type { Redis } from 'ioredis'
import { type DataKey, sealedBy } from './data-key.ts'
import type { KeyRing } from './key-ring.ts'
import { REQUEST_GROUP_LENGTH, requestBase, requestGroupBase } from './keys.ts'
import { unavailable } from './redis.ts'
import { script, word } from './script.ts'

/** failed: an attempt failed, and there will be another. dead: there will be none. */
export type RequestState = 'waiting' | 'failed' | 'delivered' | 'dead'

/** The backend's answer; its body is cut where more came than is kept. */
export interface KeptAnswer {
  /** 0: there was none; `error` says why. */
  readonly status: number
  readonly headers: readonly (readonly [name: string, value: string])[]
  readonly body: Buffer
  readonly truncated: boolean
  /** When it came, ms since 1970. */
  readonly atMs: number
  readonly error?: string
}

/** What is kept of a request from the start. */
export interface RequestRecord {
  readonly vhost: string
  readonly ingest: string
  /** Its ingest is open: who knows the id may read it. */
  readonly open: boolean
  /** When it was accepted, ms since 1970; 0 = not known. */
  readonly atMs: number
  /** Tells requests apart that come with one Idempotency-Key; '' = without. */
  readonly print: string
}

export interface FoundRequest {
  readonly state: RequestState
  readonly record: RequestRecord
  readonly answer: KeptAnswer | undefined
}

const LETTERS = { waiting: 'w', failed: 'f', delivered: 'd', dead: 'x' } as const satisfies Record<
  RequestState,
  string
>
const STATES: ReadonlyMap<string, RequestState> = new Map(
  Object.entries(LETTERS).map(([state, letter]) => [letter, state as RequestState]),
)

export const accept = script('accept', ['keepMs', '...'], ([kind]) => word(kind))

export const note = script('note', ['state', 'answer', 'keepMs', 'record'], ([kind]) => {
  const outcome = word(kind)
  if (outcome === 'noted' || outcome === 'kept') return outcome
  throw new Error(`note.lua returned ${outcome}`)
})

/** Ids that share a hash slot. Fewer, and a cluster's nodes share the work more evenly. */
const GROUP_SIZE = 256

/** Records that go out together, of one group. */
interface Gathered {
  readonly base: string
  readonly args: (string | number)[]
  readonly sent: Promise<unknown>
}

/** All methods but `accept` throw store_unavailable when Redis does not answer. */
export class Requests {
  readonly #writes: Redis
  readonly #work: Redis
  readonly #keys: KeyRing
  readonly #slot: () => string
  readonly #waiting = new Map<string, Set<() => void>>()
  #group = ''
  #groupLeft = 0
  #gathered: Gathered | undefined

  constructor(writes: Redis, work: Redis, keys: KeyRing, slot: () => string) {
    this.#writes = writes
    this.#work = work
    this.#keys = keys
    this.#slot = slot
  }

  /** An id that nobody can guess. */
  newId(): string {
    if (this.#groupLeft-- === 0) {
      this.#group = randomBytes(REQUEST_GROUP_LENGTH / 2).toString('hex')
      this.#groupLeft = GROUP_SIZE - 1
    }
    return this.#group + randomUUID()
  }

  /**
   * Keeps a record, unless there is one, together with what else is accepted in this tick. Sent on
   * the connection of appends, and waits for Redis as they do. Rejects with what Redis rejects.
   */
  accept(id: string, record: RequestRecord): Promise<unknown> {
    const base = requestGroupBase(id)
    let gathered = this.#gathered
    if (gathered?.base !== base) {
      const args: (string | number)[] = [limits.REQUEST_WAITING_MS_MAX]
      const sent = Promise.resolve().then(() => {
        if (this.#gathered?.args === args) this.#gathered = undefined
        return accept(this.#writes, base, args)
      })
      gathered = this.#gathered = { base, args, sent }
    }
    gathered.args.push(id, `w${JSON.stringify(record)}`)
    return gathered.sent
  }

  /** @param keepMs how long it can be asked for. */
  async note(
    id: string,
    state: RequestState,
    options: {
      readonly keepMs: number
      /** undefined: the last one stays. */
      readonly answer?: KeptAnswer
      /** Seals the answer. */
      readonly key?: DataKey | undefined
      /** In case it is gone. */
      readonly record: Pick<RequestRecord, 'vhost' | 'ingest' | 'open'>
    },
  ): Promise<'noted' | 'kept'> {
    const { keepMs, answer, key, record } = options
    const text = JSON.stringify({ ...record, atMs: 0, print: '' } satisfies RequestRecord)
    const last = state === 'delivered' || state === 'dead'
    try {
      return await note(this.#work, requestBase(id), [
        LETTERS[state],
        answer === undefined ? '' : sealAnswer(id, encodeAnswer(answer), key),
        last ? keepMs : Math.max(keepMs, limits.REQUEST_WAITING_MS_MAX),
        text,
      ])
    } catch (error) {
      throw unavailable(error)
    }
  }

  async find(id: string): Promise<FoundRequest | undefined> {
    const base = requestBase(id)
    try {
      return this.#decode(id, await this.#work.mgetBuffer(`${base}record`, `${base}answer`))
    } catch (error) {
      throw unavailable(error)
    }
  }

  /** Waits until it is delivered or dead, up to `waitMs`; answers what it is by then. */
  async wait(id: string, waitMs: number, signal: AbortSignal): Promise<FoundRequest | undefined> {
    const until = performance.now() + waitMs
    for (;;) {
      const hint = this.#hint(id)
      try {
        const found = await this.#join(id, waitMs)
        if (found === undefined || isOver(found.state)) return found
        const leftMs = until - performance.now()
        if (leftMs <= 0 || signal.aborted) return found
        await hint.within(Math.min(leftMs, limits.IDLE_LOOK_MS), signal)
      } finally {
        hint.end()
      }
    }
  }

  /** A hint that a request is over. */
  wake(base: string): void {
    for (const woken of this.#waiting.get(base) ?? []) woken()
  }

  /** First among the waiters, then a look: so no end is missed between the two. */
  async #join(id: string, waitMs: number): Promise<FoundRequest | undefined> {
    const base = requestBase(id)
    try {
      const [, , found] = await Promise.all([
        this.#work.sadd(`${base}waiters`, this.#slot()),
        this.#work.pexpire(`${base}waiters`, Math.ceil(waitMs) + limits.SLOT_TTL_MS),
        this.#work.mgetBuffer(`${base}record`, `${base}answer`),
      ])
      return this.#decode(id, found)
    } catch (error) {
      throw unavailable(error)
    }
  }

  #decode(id: string, [found, answer]: readonly (Buffer | null)[]): FoundRequest | undefined {
    if (!found) return undefined
    const state = STATES.get(found.toString('latin1', 0, 1))
    if (state === undefined) throw new Error('a stored request has a state unknown to this version')
    const record = JSON.parse(found.toString('utf8', 1)) as RequestRecord
    const bytes = answer ? this.#open(id, answer, record.vhost) : undefined
    return { state, record, answer: bytes && decodeAnswer(bytes) }
  }

  /** undefined: the key of a sealed one is not to be had. */
  #open(id: string, answer: Buffer, vhost: string): Buffer | undefined {
    if (answer.readUInt32BE(0) !== SEALED) return answer
    const sealed = answer.subarray(4)
    const key = this.#keys.get(sealedBy(sealed))
    return key?.vhost === vhost ? key.open([Buffer.from(id)], sealed) : undefined
  }

  #hint(id: string) {
    const base = requestBase(id)
    const { promise, resolve } = Promise.withResolvers<void>()
    const waiting = this.#waiting.get(base) ?? new Set()
    this.#waiting.set(base, waiting.add(resolve))
    return {
      async within(ms: number, signal: AbortSignal): Promise<void> {
        const timer = setTimeout(resolve, ms)
        const abort = () => resolve()
        signal.addEventListener('abort', abort, { once: true })
        await promise
        clearTimeout(timer)
        signal.removeEventListener('abort', abort)
      },
      end: () => {
        waiting.delete(resolve)
        if (waiting.size === 0) this.#waiting.delete(base)
      },
    }
  }
}

/** Whether nothing more will become of it by itself. */
export const isOver = (state: RequestState): boolean => state === 'delivered' || state === 'dead'

/** Where the size of the JSON would be: what follows is sealed. */
const SEALED = 0xffffffff

function sealAnswer(id: string, answer: Buffer, key: DataKey | undefined): Buffer {
  if (key === undefined) return answer
  const mark = Buffer.alloc(4)
  mark.writeUInt32BE(SEALED)
  return Buffer.concat([mark, ...key.seal([Buffer.from(id)], answer)])
}

/** Size of the JSON in front (u32, big endian), the JSON, the body. */
function encodeAnswer({ body, ...rest }: KeptAnswer): Buffer {
  const text = Buffer.from(JSON.stringify(rest))
  const size = Buffer.allocUnsafe(4)
  size.writeUInt32BE(text.length)
  return Buffer.concat([size, text, body])
}

function decodeAnswer(bytes: Buffer): KeptAnswer {
  const end = 4 + bytes.readUInt32BE(0)
  const rest = JSON.parse(bytes.toString('utf8', 4, end)) as Omit<KeptAnswer, 'body'>
  return { ...rest, body: bytes.subarray(end) }
}
