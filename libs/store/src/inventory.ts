/**
 * Everything a queue has in Redis, read piece by piece and judged by nobody: for audits.
 *
 * The reads are many and nothing holds the queue still meanwhile, so the result is true only of a
 * moment when nobody publishes, takes, settles or sweeps. All messages are in memory at once.
 */
import { limits } from '@sluice/core'
import type { Redis } from 'ioredis'
import {
  BATCH_HEADER_SIZE,
  batchCount,
  decodeBatch,
  decodeValue,
  type MessageRecord,
  SIZE_BYTES,
  VALUE_HEADER_SIZE,
} from './record.ts'

/** Where a message of the side store may be; one sorted set each (lua/prelude.lua). */
export const SIDE_PLACES = ['ready', 'parked', 'due', 'held', 'dead'] as const
type SidePlace = (typeof SIDE_PLACES)[number]

export interface FoundMessage {
  /** 24 hex digits, sorts by position (lua/prelude.lua). */
  readonly ref: string
  readonly record: MessageRecord
  /** Of the record alone. */
  readonly bytes: number
}

/** A batch in a log. */
interface FoundEntry {
  readonly level: number
  readonly id: string
  /** lost: delivered to somebody, yet nobody holds it. */
  readonly state: 'unread' | 'pending' | 'lost'
  /** The slot it is pending for; '' = nobody. */
  readonly holder: string
  /** Records it was stored with. */
  readonly count: number
  /** Its messages that neither were settled nor left it. */
  readonly messages: readonly FoundMessage[]
}

export interface Inventory {
  readonly meta: ReadonlyMap<string, string>
  readonly entries: readonly FoundEntry[]
  /** Logs there are, by level. */
  readonly logs: readonly number[]
  /** 'level:id' of entries that are pending for somebody without being in the log. */
  readonly ghosts: readonly string[]
  readonly side: ReadonlyMap<string, FoundMessage>
  /** Ref -> score; parked ones score 0. */
  readonly places: Readonly<Record<SidePlace, ReadonlyMap<string, number>>>
  /** Ref -> the ordering key it is parked under. */
  readonly parkedKeys: ReadonlyMap<string, string>
  /** Ordering key -> ref of its head. */
  readonly heads: ReadonlyMap<string, string>
  /** Ref -> text (lua/prelude.lua, tally). */
  readonly tallies: ReadonlyMap<string, string>
  /** Entry id (level 0) or 'level:id' -> bitmap. */
  readonly partial: ReadonlyMap<string, Buffer>
}

const PAGE = 256
const GROUP = 'delivery'

/** Reads the queue whose keys start with `base`. Throws what Redis throws. */
export async function readInventory(redis: Redis, base: string): Promise<Inventory> {
  const [partial, meta, heads, tallies, values, parkedKeys, ready, due, held, dead, logs] =
    await Promise.all([
      readHash(redis, `${base}partial`),
      readHash(redis, `${base}meta`),
      readHash(redis, `${base}heads`),
      readHash(redis, `${base}tally`),
      readHash(redis, `${base}side`),
      readParked(redis, base),
      readScores(redis, `${base}ready`),
      readScores(redis, `${base}due`),
      readScores(redis, `${base}held`),
      readScores(redis, `${base}dead`),
      existingLogs(redis, base),
    ])
  const read = await Promise.all(logs.map((level) => readLog(redis, base, level, partial)))
  const side = [...values].map(([ref, value]): [string, FoundMessage] => [
    ref,
    { ref, record: decodeValue(value), bytes: value.length - VALUE_HEADER_SIZE },
  ])
  const parked = new Map([...parkedKeys.keys()].map((ref) => [ref, 0]))
  return {
    meta: texts(meta),
    entries: read.flatMap(({ entries }) => entries),
    logs,
    ghosts: read.flatMap(({ ghosts }) => ghosts),
    side: new Map(side),
    places: { ready, parked, due, held, dead },
    parkedKeys,
    heads: texts(heads),
    tallies: texts(tallies),
    partial,
  }
}

/** The ref of a batch's record (lua/prelude.lua, refOf). */
export function refOf(level: number, id: string, index: number): string {
  const [ms, sequence] = id.split('-')
  const hex = (value: number, digits: number) => value.toString(16).padStart(digits, '0')
  return hex(9 - level, 1) + hex(Number(ms), 12) + hex(Number(sequence), 8) + hex(index, 3)
}

const logOf = (base: string, level: number) => (level === 0 ? `${base}log` : `${base}log:${level}`)

async function existingLogs(redis: Redis, base: string): Promise<number[]> {
  const levels = Array.from({ length: limits.PRIORITY_LEVELS_MAX }, (_, level) => level)
  const exist = await Promise.all(levels.map((level) => redis.exists(logOf(base, level))))
  return levels.filter((level) => exist[level] === 1)
}

async function readLog(
  redis: Redis,
  base: string,
  level: number,
  partial: ReadonlyMap<string, Buffer>,
): Promise<{ entries: FoundEntry[]; ghosts: string[] }> {
  const log = logOf(base, level)
  const [holders, last] = await Promise.all([readPending(redis, log), lastDelivered(redis, log)])
  const delivered = refOf(level, last, 0)
  const entries: FoundEntry[] = []
  let start = '-'
  for (;;) {
    const page = await redis.xrangeBuffer(log, start, '+', 'COUNT', PAGE)
    for (const [bytes, fields] of page) {
      const id = bytes.toString()
      const blob = fields[1]!
      const holder = holders.get(id)
      holders.delete(id)
      entries.push({
        level,
        id,
        state:
          holder !== undefined ? 'pending' : refOf(level, id, 0) > delivered ? 'unread' : 'lost',
        holder: holder ?? '',
        count: batchCount(blob),
        messages: remaining(level, id, blob, partial.get(level === 0 ? id : `${level}:${id}`)),
      })
    }
    if (page.length < PAGE) break
    start = `(${page.at(-1)![0].toString()}`
  }
  return { entries, ghosts: [...holders.keys()].map((id) => `${level}:${id}`) }
}

function remaining(level: number, id: string, blob: Buffer, bitmap?: Buffer): FoundMessage[] {
  const messages: FoundMessage[] = []
  let at = BATCH_HEADER_SIZE
  for (const [index, record] of decodeBatch(blob).entries()) {
    const bytes = blob.readUInt32BE(at)
    at += SIZE_BYTES + bytes
    const gone = ((bitmap?.[index >> 3] ?? 0) & (1 << (index & 7))) !== 0
    if (!gone) messages.push({ ref: refOf(level, id, index), record, bytes })
  }
  return messages
}

async function readPending(redis: Redis, log: string): Promise<Map<string, string>> {
  const holders = new Map<string, string>()
  let start = '-'
  for (;;) {
    const page = (await redis.xpending(log, GROUP, start, '+', PAGE)) as [string, string][]
    for (const [id, holder] of page) holders.set(id, holder)
    if (page.length < PAGE) return holders
    start = `(${page.at(-1)![0]}`
  }
}

async function lastDelivered(redis: Redis, log: string): Promise<string> {
  const [group] = (await redis.xinfo('GROUPS', log)) as string[][]
  if (!group) throw new Error(`${log} has no group`)
  return group[group.indexOf('last-delivered-id') + 1]!
}

async function readHash(redis: Redis, key: string): Promise<Map<string, Buffer>> {
  const found = new Map<string, Buffer>()
  let cursor = '0'
  do {
    const [next, flat] = await redis.hscanBuffer(key, cursor, 'COUNT', PAGE)
    for (let at = 0; at < flat.length; at += 2) {
      found.set(flat[at]!.toString('latin1'), flat[at + 1]!)
    }
    cursor = next.toString()
  } while (cursor !== '0')
  return found
}

function texts(hash: ReadonlyMap<string, Buffer>): Map<string, string> {
  return new Map([...hash].map(([field, value]) => [field, value.toString('latin1')]))
}

async function readScores(redis: Redis, key: string): Promise<Map<string, number>> {
  const flat = await redis.zrange(key, '0', '-1', 'WITHSCORES')
  const scores = new Map<string, number>()
  for (let at = 0; at < flat.length; at += 2) scores.set(flat[at]!, Number(flat[at + 1]))
  return scores
}

const REF_SIZE = 24

/** A member is the key's length in a byte, the key, the ref. */
async function readParked(redis: Redis, base: string): Promise<Map<string, string>> {
  const parked = new Map<string, string>()
  for (const member of await redis.zrangeBuffer(`${base}parked`, '0', '-1')) {
    const split = member.length - REF_SIZE
    parked.set(member.toString('latin1', split), member.toString('latin1', 1, split))
  }
  return parked
}
