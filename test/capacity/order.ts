/**
 * S = k x Q: what is left of the order in which messages were published, with Q queues.
 *
 * Method: messages of eight keys, numbered; workers that take a random time for each (exponential,
 * so that any may overtake any). A message's inversions are the younger ones that were done before
 * it. In four arrangements with Q workers each: Q queues with the messages dealt in turn, Q queues
 * with a key always in the same one, one queue, and one queue with an ordering key.
 */
import { random } from '@sluice/testkit'
import { consumeAll } from './consumers.ts'
import { type Fit, fitToBreak, type Point } from './fit.ts'
import { dropQueue, freshQueue, type Outgoing, publish, type Rig } from './rig.ts'

const ARRANGEMENTS = ['queues in turn', 'queues by key', 'one queue', 'ordering key'] as const
export type Arrangement = (typeof ARRANGEMENTS)[number]

export interface Disorder {
  readonly arrangement: Arrangement
  /** Queues, each with a worker; or workers of the one queue. */
  readonly queues: number
  /** Inversions a message, among all of them and among those of its key. */
  readonly overall: number
  readonly withinKey: number
  /** Share of messages that no younger one overtook. */
  readonly inOrder: number
}

export interface Order {
  readonly points: readonly Disorder[]
  /** Inversions of a message against the other queues, Q - 1, dealt in turn. */
  readonly queuesFit: Fit
  /** The same against the other workers of one queue. */
  readonly workersFit: Fit
}

const QUEUE = 'capacity-order'
const KEYS = 8
const WORK_MS = 5
/** Of a work time: a straggler beyond would hold up the measurement and say nothing more. */
const WORK_MS_MAX = 40
const SEED = 11

export async function measureOrder(rig: Rig): Promise<Order> {
  const counts = rig.short ? [1, 2, 3, 4] : [1, 2, 3, 4, 6, 8, 12, 16]
  const points: Disorder[] = []
  for (const queues of counts) {
    for (const arrangement of ARRANGEMENTS) {
      rig.say(`order: ${arrangement}, ${queues}`)
      // Queues drift apart by chance, a single time tells little.
      const rounds = arrangement === 'queues in turn' && !rig.short ? 3 : 1
      const results: Disorder[] = []
      for (let round = 0; round < rounds; round++) {
        results.push(await arrange(rig, arrangement, queues, SEED + round))
      }
      points.push({ arrangement, queues, ...meanOf(results) })
    }
  }
  return {
    points,
    queuesFit: fitToBreak(overallOf(points, 'queues in turn')),
    workersFit: fitToBreak(overallOf(points, 'one queue')),
  }
}

/** Inversions a message against Q - 1. */
export function overallOf(points: readonly Disorder[], of: Arrangement): Point[] {
  return points
    .filter(({ arrangement }) => arrangement === of)
    .map(({ queues, overall }) => ({ x: queues - 1, y: overall }))
}

function meanOf(results: readonly Disorder[]) {
  const mean = (of: (result: Disorder) => number) =>
    results.reduce((total, result) => total + of(result), 0) / results.length
  return {
    overall: mean(({ overall }) => overall),
    withinKey: mean(({ withinKey }) => withinKey),
    inOrder: mean(({ inOrder }) => inOrder),
  }
}

async function arrange(
  rig: Rig,
  arrangement: Arrangement,
  queues: number,
  seed: number,
): Promise<Disorder> {
  const messages = (rig.short ? 40 : 250) * queues
  const several = arrangement.startsWith('queues')
  const names = Array.from({ length: several ? queues : 1 }, (_, at) => `${QUEUE}-${at}`)
  const ordered = arrangement === 'ordering key'
  for (const name of names) await freshQueue(rig, name, ordered ? { 'x-ordering-key': true } : {})
  const keyOf = (at: number) => (at * 5 + Math.floor(at / KEYS)) % KEYS // each as often, no pattern
  const queueOf = (at: number) =>
    names[(arrangement === 'queues by key' ? keyOf(at) : at) % names.length]!
  const outgoing = Array.from({ length: messages }, (_, at): Outgoing => {
    const orderingKey = ordered ? { orderingKey: `key-${keyOf(at)}` } : {}
    return { body: String(at), routingKey: queueOf(at), ...orderingKey }
  })
  await publish(rig, outgoing)
  const done: number[] = []
  const chance = random(seed)
  const work = {
    consumers: queues / names.length,
    workMs: () => Math.min(WORK_MS_MAX, -WORK_MS * Math.log(1 - chance.next())),
    done: (body: string) => void done.push(Number(body)),
  }
  const isIn = (name: string) => outgoing.filter(({ routingKey }) => routingKey === name).length
  const consuming = names.map((name) => consumeAll(rig, name, work, isIn(name)))
  await Promise.all(consuming)
  for (const name of names) await dropQueue(rig, name)
  const { inversions, inOrder } = overtaken(done)
  const perKey = Array.from({ length: KEYS }, (_, key) => {
    return overtaken(done.filter((at) => keyOf(at) === key)).inversions
  })
  const withinKey = perKey.reduce((total, count) => total + count, 0) / messages
  return { arrangement, queues, overall: inversions / messages, withinKey, inOrder }
}

/** Pairs of which the younger was done first; and the share of messages that none overtook. */
export function overtaken(done: readonly number[]): { inversions: number; inOrder: number } {
  let inversions = 0
  let inOrder = 0
  const before: number[] = [] // ascending
  for (const at of done) {
    let low = 0
    for (let high = before.length; low < high; ) {
      const middle = (low + high) >> 1
      if (before[middle]! < at) low = middle + 1
      else high = middle
    }
    inversions += before.length - low
    if (low === before.length) inOrder++
    before.splice(low, 0, at)
  }
  return { inversions, inOrder: done.length === 0 ? 1 : inOrder / done.length }
}
