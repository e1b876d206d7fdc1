/** Every atomic transition of a queue. The Lua beside each name says what it guarantees. */
import { BrokerError, limits } from '@sluice/core'
import { decodeBatch, decodeValue, type MessageRecord } from './record.ts'
import { script, word } from './script.ts'

/** The queue has no keys yet, or was deleted. */
export type Absent = { readonly kind: 'missing' | 'gone' }

function absent(kind: string, name: string): Absent {
  if (kind === 'missing' || kind === 'gone') return { kind }
  throw new Error(`${name}.lua returned ${kind}`)
}

/** The outcome of a slot's call. Throws store_unavailable for one that came late (prelude). */
function inTime(kind: unknown): string {
  const outcome = word(kind)
  if (outcome !== 'late') return outcome
  throw new BrokerError('store_unavailable', 'Redis was away for a moment; try again.')
}

type CreateOutcome =
  | { readonly kind: 'created' | 'exists' | 'gone' }
  | { readonly kind: 'mended'; readonly lost: number }

export const create = script('create', ['options', 'epoch'], ([kind, lost]): CreateOutcome => {
  const outcome = word(kind)
  if (outcome === 'mended') return { kind: outcome, lost: Number(lost) }
  if (outcome === 'created' || outcome === 'exists' || outcome === 'gone') return { kind: outcome }
  throw new Error(`create.lua returned ${outcome}`)
})

export type DropOutcome =
  | { readonly kind: 'dropped' | 'not-empty'; readonly messages: number }
  | { readonly kind: 'gone' | 'in-use' }

/** Age in ms of the oldest ready message. */
export const oldest = script('oldest', ['options'], ([ageMs]) => Number(ageMs))

export const drop = script(
  'drop',
  ['epoch', 'ifEmpty', 'unusedMs', 'ifUnused', 'tombstone'],
  ([kind, messages]): DropOutcome => {
    const outcome = word(kind)
    if (outcome === 'gone' || outcome === 'in-use') return { kind: outcome }
    if (outcome === 'dropped' || outcome === 'not-empty') {
      return { kind: outcome, messages: Number(messages) }
    }
    throw new Error(`drop.lua returned ${outcome}`)
  },
)

/** A letter a message; undefined when all were stored. */
export type AppendOutcome =
  | Absent
  | { readonly kind: 'stored'; readonly letters?: Buffer; readonly halfMs?: number }
  | { readonly kind: 'late' }

export const append = script(
  'append',
  [
    'options',
    'epoch',
    'writer',
    'sequence',
    'count',
    'records',
    'soonestTtl',
    'queueTtl',
    'limits',
    'dedupWindow',
    'extras',
    'room',
  ],
  ([kind, letters, half]): AppendOutcome => {
    const outcome = word(kind)
    if (outcome === 'stored' || outcome === 'late') return { kind: outcome }
    if (outcome === 'mixed') {
      return { kind: 'stored', letters: letters as Buffer, halfMs: Number(half ?? -1) }
    }
    return absent(outcome, 'append')
  },
)

/** A whole batch, pending for the slot that took it. */
export interface TakenBatch {
  readonly level: number
  readonly id: string
  readonly records: readonly MessageRecord[]
  /** How many of the single messages taken with it come before it. */
  readonly after: number
}

/** A message held on its own. */
export interface TakenMessage {
  readonly ref: string
  /** Deliveries so far, this one included. */
  readonly acquired: number
  readonly failed: number
  readonly record: MessageRecord
}

export interface Taken {
  readonly kind: 'ok'
  /** Until the next delayed message is due, ms; -1 = none in sight. */
  readonly wakeMs: number
  /** Deliveries of the queue so far, these included. */
  readonly handed: number
  /** The slot hears of what arrives next. */
  readonly joined: boolean
  /** Some of it is. */
  readonly sealed: boolean
  readonly batches: readonly TakenBatch[]
  readonly messages: readonly TakenMessage[]
}

export const take = script(
  'take',
  ['options', 'epoch', 'slot', 'credit', 'leaseMs', 'holder', 'wait', 'bytesMax', 'round'],
  (reply): Taken | Absent => {
    const outcome = inTime(reply[0])
    if (outcome !== 'ok') return absent(outcome, 'take')
    const batches: TakenBatch[] = []
    const messages: TakenMessage[] = []
    let sealed = false
    let at = 5
    for (let left = Number(reply[4]); left > 0; left--, at += 4) {
      const records = decodeBatch(reply[at + 2] as Buffer)
      sealed ||= holdsSealed(records)
      const after = Number(reply[at + 3])
      batches.push({ level: Number(reply[at]), id: word(reply[at + 1]), records, after })
    }
    for (; at < reply.length; at += 4) {
      const record = decodeValue(reply[at + 3] as Buffer)
      sealed ||= record.sealed !== undefined
      messages.push({
        ref: word(reply[at]),
        acquired: Number(reply[at + 1]),
        failed: Number(reply[at + 2]),
        record,
      })
    }
    const [, wakeMs, handed, joined] = reply
    return {
      kind: 'ok',
      wakeMs: Number(wakeMs),
      handed: Number(handed),
      joined: joined === 1,
      sealed,
      batches,
      messages,
    }
  },
)

/** Asked while what was decoded is at hand: a look at each later costs 3 % of a delivery. */
function holdsSealed(records: readonly MessageRecord[]): boolean {
  for (let index = 0; index < records.length; index++) {
    if (records[index]!.sealed !== undefined) return true
  }
  return false
}

/** The letters of settle and return, one a batch or message in the order they were given. */
const letters = (reply: unknown[]): string => word(reply[1])

export const settle = script(
  'settle',
  ['options', 'slot', 'level', 'batches', 'partials', 'countAs', '...'],
  letters,
)

/** take.lua's `wait`. */
export const HINTS = { never: 0, empty: 1, drained: 3 } as const

export type Hint = keyof typeof HINTS

/** A message that the slot gives back (return.lua, six arguments). */
export interface HeldReturn {
  /** 'level:id' of its batch; '' when it is held on its own. */
  readonly place: string
  /** Its ref, or its index within the batch. */
  readonly ref: string | number
  /** 'unseen': as 'ready', and no consumer was shown it; `delayMs` says which delivery it was. */
  readonly action: 'ready' | 'unseen' | 'due' | 'dead'
  readonly delayMs: number
  /** From failureOf; '-' = not a failed delivery. */
  readonly failure: string
}

export const giveBack = script('return', ['options', 'slot', 'round', 'limits', '...'], (reply) => {
  inTime(reply[0])
  return letters(reply)
})

export const reclaim = script(
  'reclaim',
  ['options', 'slot', 'limit', 'dead', 'round', 'limits', '...'],
  ([kind, messages]) => ({ more: inTime(kind) === 'more', messages: Number(messages) }),
)

export interface Swept {
  readonly kind: 'ok'
  /** Until there is something to do, ms; -1 = nothing in sight. */
  readonly nextMs: number
  /** Dead letters on their way out. */
  readonly dead: number
  /** Since a consumer last asked, ms. */
  readonly unusedMs: number
}

export const sweep = script(
  'sweep',
  ['options', 'epoch', 'limit', 'limits'],
  (reply): Swept | Absent => {
    const outcome = word(reply[0])
    if (outcome !== 'ok') return absent(outcome, 'sweep')
    const [, nextMs, dead, unusedMs] = reply.map(Number)
    return { kind: 'ok', nextMs: nextMs!, dead: dead!, unusedMs: unusedMs! }
  },
)

/** What is known of a message's deliveries so far. */
export interface Tally {
  readonly ref: string
  readonly acquired: number
  readonly failed: number
  /** Why it died; '' while it lives. */
  readonly reason: string
  /** Who had it last; '' = nobody yet. */
  readonly holder: string
  /** The last error a consumer gave; '' = none. */
  readonly failure: string
  /** Attempts that were kept, newest first, each as it was given (return.lua). */
  readonly attempts: readonly string[]
  readonly record: MessageRecord
}

/** Between an error and the attempts kept behind it. */
const ATTEMPT = '\x1e'

/**
 * How a delivery failed, as return.lua takes it.
 *
 * @param mark '+' counts as a failed delivery, '-' does not.
 * @param attempt kept with the message; '' = nothing to keep.
 */
export function failureOf(mark: '+' | '-', error: string, attempt = ''): string {
  const text = `${mark}${clip(error).replaceAll(ATTEMPT, ' ')}`
  return attempt === '' ? text : `${text}${ATTEMPT}${attempt.replaceAll(ATTEMPT, ' ')}`
}

function clip(text: string): string {
  return Buffer.byteLength(text) <= limits.REASON_BYTES_MAX
    ? text
    : Buffer.from(text).subarray(0, limits.REASON_BYTES_MAX).toString()
}

function tally(reply: unknown[], at: number, value: unknown): Tally {
  const [failure = '', ...attempts] = String(reply[at + 5]).split(ATTEMPT)
  return {
    ref: word(reply[at]),
    acquired: Number(reply[at + 1]),
    failed: Number(reply[at + 2]),
    reason: word(reply[at + 3]),
    holder: String(reply[at + 4]),
    failure,
    attempts,
    record: decodeValue(value as Buffer),
  }
}

export const claim = script('claim', ['limit', 'claimMs', 'bytesMax'], (reply): Tally[] => {
  const letters: Tally[] = []
  for (let at = 0; at < reply.length; at += 7) letters.push(tally(reply, at, reply[at + 6]))
  return letters
})

export const bury = script('bury', ['counter', '...'], ([buried]) => Number(buried))

/** What pick.lua handed out, by place; undefined for what was not to be had. */
export const pick = script('pick', ['options', 'leaseMs', 'holder', '...'], (reply) => {
  const picked: (Omit<TakenMessage, 'ref'> | undefined)[] = []
  for (let at = 0; at < reply.length; at += 3) {
    const [acquired, failed, value] = reply.slice(at, at + 3)
    const taken = { acquired: Number(acquired), failed: Number(failed) }
    picked.push(taken.acquired > 0 ? { ...taken, record: decodeValue(value as Buffer) } : undefined)
  }
  return picked
})

export interface Peeked extends Tally {
  /** Due time, deadline or claim, ms of Redis's clock; 0 = none. */
  readonly atMs: number
}

export const peek = script(
  'peek',
  ['options', 'state', 'after', 'limit', 'bytesMax'],
  (reply): { cursor: string; messages: Peeked[] } => {
    const messages: Peeked[] = []
    for (let at = 1; at < reply.length; at += 8) {
      messages.push({ ...tally(reply, at, reply[at + 7]), atMs: Number(reply[at + 6]) })
    }
    return { cursor: String(reply[0]), messages }
  },
)

export const purge = script('purge', ['options', 'limit', 'until'], ([kind, until, purged]) => ({
  more: word(kind) === 'more',
  until: word(until),
  purged: Number(purged),
}))

type Attached =
  | { readonly kind: 'ok'; readonly active: boolean; readonly consumers: number }
  | { readonly kind: 'exclusive' }
  | Absent

export const attach = script(
  'attach',
  ['epoch', 'slot', 'id', 'priority', 'exclusive', 'single', 'round'],
  ([kind, active, consumers]): Attached => {
    const outcome = inTime(kind)
    if (outcome === 'exclusive') return { kind: outcome }
    if (outcome !== 'ok') return absent(outcome, 'attach')
    return { kind: outcome, active: Number(active) === 1, consumers: Number(consumers) }
  },
)

export const detach = script('detach', ['id', 'slot', 'round'], ([, consumers]) =>
  Number(consumers),
)
