/**
 * The invariant of a queue: every message in exactly one place, counters equal to what counting
 * gives, everything that was published accounted for, ordering keys open exactly once.
 *
 * For tests, and for operators who doubt a queue. It reads the whole queue and believes that
 * nothing moves meanwhile: what it says of a queue at work may be wrong.
 */
import type { Redis } from 'ioredis'
import { type FoundMessage, type Inventory, readInventory, SIDE_PLACES } from './inventory.ts'

/** What an audit must know of the queue; a QueueStore has it. */
export interface Audited {
  readonly base: string
  readonly epoch: number
  readonly settings: { readonly levels: number; readonly ordered: boolean }
}

/**
 * A sentence for each violation; none when all is well.
 * Throws what Redis throws, and when a stored message has a format this version cannot read.
 */
export async function audit(store: { redis: Redis }, queue: Audited): Promise<string[]> {
  return judge(await readInventory(store.redis, queue.base), queue)
}

/** The judgement alone, for who has read the queue already. */
export function judge(found: Inventory, queue: Audited): string[] {
  return [
    ...judgeLogs(found, queue),
    ...judgePartial(found),
    ...judgePlaces(found, queue),
    ...judgeTallies(found),
    ...judgeKeys(found, queue),
    ...judgeCounters(found),
    ...judgeAgenda(found),
  ]
}

function judgeLogs({ meta, logs, entries, ghosts }: Inventory, queue: Audited): string[] {
  const wrong: string[] = []
  if (meta.get('epoch') !== String(queue.epoch) || meta.has('gone')) {
    wrong.push(`the queue has epoch ${meta.get('epoch')}, not a living ${queue.epoch}`)
  }
  for (const level of logs) {
    if (level >= queue.settings.levels) wrong.push(`there is a log of level ${level}`)
  }
  if (logs.length < queue.settings.levels) wrong.push(`there are logs of levels ${logs} only`)
  for (const ghost of ghosts) wrong.push(`entry ${ghost} is pending and not in the log`)
  for (const { level, id, state, holder, messages } of entries) {
    const name = `entry ${level}:${id}`
    if (state === 'lost') wrong.push(`${name} was delivered and nobody holds it`)
    if (state === 'pending' && !/^d\d+$/.test(holder)) wrong.push(`${name} is held by '${holder}'`)
    if (messages.length === 0) wrong.push(`${name} holds no message any more`)
  }
  return wrong
}

function judgePartial({ partial, entries }: Inventory): string[] {
  const wrong: string[] = []
  const counts = new Map(
    entries.map(({ level, id, count }) => [level === 0 ? id : `${level}:${id}`, count]),
  )
  for (const [field, bitmap] of partial) {
    const count = counts.get(field)
    if (count === undefined) wrong.push(`partial has ${field}, which is not in the log`)
    else if (bitmap.length !== Math.ceil(count / 8)) {
      wrong.push(`partial has ${bitmap.length} bytes for the ${count} records of ${field}`)
    } else if (count % 8 !== 0 && bitmap.at(-1)! >> (count % 8) !== 0) {
      wrong.push(`partial marks more than the ${count} records of ${field}`)
    }
  }
  return wrong
}

/** Each message of the side store is in exactly one sorted set, and in no batch. */
function judgePlaces({ meta, side, places, entries }: Inventory, { settings }: Audited): string[] {
  const wrong: string[] = []
  const hasTurns = meta.has('drain') // a waiting room was used
  for (const place of SIDE_PLACES) {
    for (const [ref, score] of places[place]) {
      if (!side.has(ref)) wrong.push(`${ref} is ${place} and not in the side store`)
      if (place === 'ready' && score !== 0 && !hasTurns)
        wrong.push(`${ref} is ready with score ${score}`)
    }
  }
  for (const ref of side.keys()) {
    const found = SIDE_PLACES.filter((place) => places[place].has(ref))
    if (found.length !== 1) wrong.push(`${ref} is in [${found}], not in one place`)
    if (!/^[0-9a-f]{24}$/.test(ref)) wrong.push(`${ref} is no ref`)
    else if (9 - Number.parseInt(ref[0]!, 16) >= settings.levels) {
      wrong.push(`${ref} is of a level the queue does not have`)
    }
  }
  for (const { level, id, messages } of entries) {
    for (const { ref } of messages) {
      if (side.has(ref)) wrong.push(`${ref} is in the side store and in entry ${level}:${id}`)
    }
  }
  return wrong
}

const TALLY = /^(\d+) (\d+) (\S*) ([^\n]*)\n/

function judgeTallies({ tallies, side, places }: Inventory): string[] {
  const wrong: string[] = []
  for (const [ref, text] of tallies) {
    const [, acquired, failed, reason] = TALLY.exec(text) ?? []
    if (acquired === undefined) wrong.push(`the tally of ${ref} reads '${text}'`)
    else if (Number(failed) > Number(acquired))
      wrong.push(`${ref} failed more often than it was out`)
    if (!side.has(ref)) wrong.push(`${ref} has a tally and is not in the side store`)
    if ((reason !== '') !== places.dead.has(ref))
      wrong.push(`${ref} lives with a reason to be dead`)
  }
  for (const ref of places.held.keys()) {
    if (!tallies.has(ref)) wrong.push(`${ref} is held and has no tally`)
  }
  for (const ref of places.dead.keys()) {
    if (!tallies.has(ref)) wrong.push(`${ref} is dead and has no tally`)
  }
  return wrong
}

/**
 * A key with ready or parked messages has one head: the one of them that is ready, or one that is
 * held or due. Held or due without being head is what was picked, or published with a delay.
 */
function judgeKeys({ heads, parkedKeys, places, side }: Inventory, queue: Audited): string[] {
  if (!queue.settings.ordered) {
    return heads.size + parkedKeys.size === 0 ? [] : ['a queue without order has ordering keys']
  }
  const wrong: string[] = []
  for (const [key, ref] of heads) {
    const message = side.get(ref)
    if (!message) wrong.push(`the head of key '${key}' is ${ref}, which is not in the side store`)
    else if (keyOf(message) !== key) wrong.push(`the head of key '${key}' is of another key`)
    if (places.parked.has(ref)) wrong.push(`the head of key '${key}' is parked`)
    if (places.dead.has(ref)) wrong.push(`the head of key '${key}' is dead`)
  }
  for (const [ref, key] of parkedKeys) {
    if (!heads.has(key)) wrong.push(`${ref} is parked behind key '${key}', which has no head`)
    const message = side.get(ref)
    if (message && keyOf(message) !== key) wrong.push(`${ref} is parked behind another key`)
  }
  for (const ref of places.ready.keys()) {
    const message = side.get(ref)
    const key = message ? keyOf(message) : ''
    if (key !== '' && heads.get(key) !== ref) {
      wrong.push(`${ref} of key '${key}' is ready and not its head`)
    }
  }
  return wrong
}

/** As Redis has it, byte for byte: what `heads` and `parked` are read as. */
function keyOf({ record }: FoundMessage): string {
  return Buffer.from(record.orderingKey).toString('latin1')
}

function judgeCounters(found: Inventory): string[] {
  const { meta, places, side, entries } = found
  const counter = (name: string) => Number(meta.get(name) ?? 0)
  const inLog = (state: string) =>
    entries.filter((entry) => entry.state === state).flatMap(({ messages }) => messages)
  const waiting = [
    ...inLog('unread'),
    ...[...places.ready.keys(), ...places.parked.keys()].flatMap((ref) => side.get(ref) ?? []),
  ]
  const counted = {
    ready: waiting.length,
    bytes: waiting.reduce((sum, { bytes }) => sum + bytes, 0),
    unacked: inLog('pending').length + places.held.size,
    delayed: places.due.size,
    dead: places.dead.size,
  }
  const wrong = Object.entries(counted)
    .filter(([name, value]) => counter(name) !== value)
    .map(([name, value]) => `${name} is ${counter(name)}, counting gives ${value}`)

  const left = ['acked', 'dropped', 'deadLettered', 'purged'] as const
  const here = ['ready', 'unacked', 'delayed', 'dead'] as const
  const accounted = [...left, ...here].reduce((sum, name) => sum + counter(name), 0)
  if (counter('published') !== accounted) {
    const parts = [...left, ...here].map((name) => `${name} ${counter(name)}`)
    wrong.push(`published ${counter('published')} is not the sum of ${parts.join(', ')}`)
  }
  return wrong
}

/** Whoever waits for the next time something happens here must not be told a later one. */
function judgeAgenda({ meta, places }: Inventory): string[] {
  const deadlines = [...places.due.values(), ...places.held.values()].filter((at) => at > 0)
  if (deadlines.length === 0) return []
  const soonest = deadlines.reduce((a, b) => Math.min(a, b))
  const known = meta.get('next')
  return known !== undefined && Number(known) <= soonest
    ? []
    : [`the agenda says ${known}, while something happens at ${soonest}`]
}
