/**
 * What of one queue is sealed, and with which key; and what becomes of what cannot be opened.
 *
 * A record whose key was shredded, or that is not what was stored, never will be read: it comes out
 * marked so, and whoever takes it ends it. One whose key exists and cannot be had at the moment is
 * nobody's yet: opening throws encryption_unavailable, and it goes back as it was.
 */
import type { Message } from '@sluice/core'
import { type DataKey, openText, type Pseudonym, sealText, textSealedBy } from './data-key.ts'
import { type Keyless, noKey } from './key-ring.ts'
import type { QueueContext } from './queue-context.ts'
import { type Encodings, encodeSealed, type MessageRecord, openRecord, placeOf } from './record.ts'
import { renamedClient } from './room-client.ts'
import type { Taken, TakenMessage, Tally } from './scripts.ts'
import type { QueueSettings } from './settings.ts'

interface Queue {
  readonly vhost: string
  readonly name: string
  readonly settings: QueueSettings
}

type Context = Pick<
  QueueContext,
  'backlog' | 'keys' | 'refusal' | 'report' | 'timeouts' | 'unreadable'
>

/** Who published: whether it waits for as long as Redis is away. */
interface Waits {
  readonly patient?: boolean
}

/** In front of an error or an attempt that is sealed (scripts.ts, failureOf); in base64. */
const SEALED_TEXT = '\x1f'
const ATTEMPT = '\x1e'

/** What a slot took. */
export interface SlotTaken extends Taken {
  /** In whose name it is held. */
  readonly slot: string
  /** Whether some of it never will be read. */
  readonly unreadable: boolean
}

export class Sealing {
  readonly #context: Context
  readonly #queue: Queue
  readonly #place: Buffer
  readonly #vhostPlace: Buffer

  constructor(context: Context, queue: Queue) {
    this.#context = context
    this.#queue = queue
    this.#place = placeOf(queue.vhost, queue.name)
    this.#vhostPlace = placeOf(queue.vhost, '')
  }

  /**
   * Hands over the key that seals a message here, or why there is none: at once, unless the first
   * one is being made. What another queue's key sealed stays with the keys of that queue, if this
   * one has none.
   */
  withKey(message: Message, reply: Waits, use: (key: DataKey | Keyless) => void): void {
    const key = this.#keyFor(message.sealedBy)
    const refused = key instanceof Promise ? this.#context.refusal(0) : undefined
    if (refused !== undefined) use(refused)
    else if (key instanceof Promise) this.#whenMade(key, message, reply, use)
    else use(key ?? 'no-key')
  }

  /** The message waits as one does that Redis has not answered for: counted, and not for ever. */
  #whenMade(
    key: Promise<DataKey | Keyless>,
    { body, properties }: Message,
    reply: Waits,
    use: (key: DataKey | Keyless) => void,
  ): void {
    const { backlog, timeouts, report } = this.#context
    const bytes = body.length + properties.length
    let told = false
    const tell = (key: DataKey | Keyless) => {
      if (told) return
      told = true
      clearInterval(late)
      backlog(-bytes)
      use(key)
    }
    const late = setInterval(() => reply.patient || tell('unavailable'), timeouts.appendMs)
    backlog(bytes)
    key.then(tell).catch(report)
  }

  #keyFor(by: number | undefined): DataKey | Promise<DataKey | Keyless> | undefined {
    const { vhost, name, settings } = this.#queue
    if (settings.encryption === 'vhost') return this.#context.keys.sealing(vhost, '')
    if (settings.encryption === 'queue') return this.#context.keys.sealing(vhost, name)
    const before = this.#context.keys.get(by ?? 0)
    return before && this.#context.keys.newest(before.vhost, before.queue)
  }

  /** The key with which something small is sealed beside a message; undefined: it is open. */
  get key(): DataKey | undefined {
    const key = this.#seals ? this.#keyFor(undefined) : undefined
    return key instanceof Promise ? undefined : key
  }

  /** A text as it is kept beside a message: a pseudonym where that is sealed, '' without a key. */
  kept(of: Pseudonym, text: string): string {
    if (!this.#seals || text === '') return text
    return this.key?.pseudonym(of, text) ?? ''
  }

  get #seals(): boolean {
    return this.#queue.settings.encryption !== 'none'
  }

  /** Where all queues of a vhost share a key they share the bytes. */
  encode(message: Message, key: DataKey, bytes: Encodings): Buffer {
    bytes.sealed ??= new Map()
    const shared = key.queue === ''
    const known = shared ? bytes.sealed.get(key) : undefined
    if (known !== undefined) return known
    const record = encodeSealed(message, key, shared ? this.#vhostPlace : this.#place)
    bytes.sealed.set(key, record)
    return record
  }

  /** Throws encryption_unavailable where there is no point in taking. */
  requireKey(): void {
    if (this.#seals && this.key === undefined && this.#context.keys.broken().length > 0)
      throw noKey()
  }

  async openTaken(taken: Taken): Promise<Omit<SlotTaken, 'slot'>> {
    const records = await this.#openAll(taken.batches.flatMap((batch) => batch.records))
    let at = 0
    const batches = taken.batches.map((batch) => {
      const from = at
      at += batch.records.length
      return { ...batch, records: records.slice(from, at) }
    })
    const messages = await this.openMessages(taken.messages)
    const unreadable =
      messages.some(isUnreadable) || records.some(({ unreadable }) => unreadable !== undefined)
    return { ...taken, batches, messages, unreadable }
  }

  async openMessages(messages: readonly TakenMessage[]): Promise<TakenMessage[]> {
    const records = await this.#openAll(messages.map(recordOf))
    return messages.map((message, i) => ({ ...message, record: records[i]! }))
  }

  /** Dead letters, with what is sealed of how they died. */
  async openTallies(tallies: readonly Tally[]): Promise<Tally[]> {
    return this.#withFailures(tallies, await this.#openAll(tallies.map(recordOf)))
  }

  /** For lists: one that cannot be opened is shown as such. */
  async showTallies<T extends Tally>(tallies: readonly T[]): Promise<T[]> {
    const records = tallies.map(recordOf)
    const missing = await this.#missing(records)
    const shown = records.map((record) =>
      missing.has(record.sealedBy ?? 0) ? { ...record, unreadable: 'locked' as const } : record,
    )
    return this.#withFailures(
      tallies,
      shown.map((record) => (record.unreadable ? record : this.#open(record))),
    )
  }

  #withFailures<T extends Tally>(tallies: readonly T[], records: readonly MessageRecord[]): T[] {
    return tallies.map((tally, i) => ({
      ...tally,
      record: records[i]!,
      failure: this.#openText(tally.failure),
      attempts: tally.attempts.map((text) => this.#openText(text)).filter((text) => text !== ''),
    }))
  }

  /** Throws encryption_unavailable for one whose key cannot be had at the moment. */
  async #openAll(records: readonly MessageRecord[]): Promise<MessageRecord[]> {
    if ((await this.#missing(records)).size > 0) throw noKey()
    return records.map((record) => {
      const opened = this.#open(record)
      const { unreadable } = opened
      if (unreadable === 'shredded' || unreadable === 'forged') {
        this.#context.unreadable(this.#queue.vhost, this.#queue.name, unreadable)
      }
      return opened
    })
  }

  /** The keys that exist and are not to be had at the moment. */
  async #missing(records: readonly MessageRecord[]): Promise<ReadonlySet<number>> {
    const { keys } = this.#context
    const missing = new Set<number>()
    for (const { sealed, sealedBy = 0 } of records) {
      if (sealed !== undefined && !keys.get(sealedBy)) missing.add(sealedBy)
    }
    return missing.size === 0 ? missing : keys.missing(this.#queue.vhost, missing)
  }

  #open(record: MessageRecord): MessageRecord {
    if (record.sealed === undefined) return record
    const key = this.#context.keys.get(record.sealedBy ?? 0)
    const ours = key?.vhost === this.#queue.vhost
    const place = key?.queue === '' ? this.#vhostPlace : this.#place
    return openRecord(record, ours ? key : undefined, place)
  }

  /** How a delivery failed (failureOf), as it is kept: an error may quote what failed. */
  failure(text: string): string {
    if (!this.#seals || text.length <= 1) return text
    const { key } = this
    const parts = text.slice(1).split(ATTEMPT)
    // Without a key nothing is kept of it.
    const kept = parts.map((part) => (part === '' || !key ? '' : this.#sealText(key, part)))
    return text[0] + kept.join(ATTEMPT)
  }

  #sealText(key: DataKey, text: string): string {
    return SEALED_TEXT + sealText(key, [this.#place, FAILURE], text)
  }

  #openText(text: string): string {
    if (!text.startsWith(SEALED_TEXT)) return text
    const sealed = text.slice(1)
    const key = this.#context.keys.get(textSealedBy(sealed))
    return openText(key, [this.#place, FAILURE], sealed) ?? ''
  }

  /** A room's client under its pseudonym (roomClient). */
  client(key: DataKey, client: Buffer): Buffer {
    return renamedClient(client, (name) => key.pseudonym('client', name))
  }
}

const FAILURE = Buffer.from('failure')

interface Recorded {
  readonly record: MessageRecord
}
const recordOf = ({ record }: Recorded) => record
export const isSealed = ({ record }: Recorded): boolean => record.sealed !== undefined

/** Shredded or forged: nobody will read it. */
export const isUnreadable = ({ record }: Recorded): boolean => record.unreadable !== undefined
