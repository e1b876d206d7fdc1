/**
 * Consumers of a queue, each on a connection of its own: lease one message, work on it for a while,
 * settle it, begin again.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { type Connection, connectTo } from '../bench/http-load.ts'
import { type Evidence, type Rig, request } from './rig.ts'

/** How long a consumer waits for a message before it asks again. */
const WAIT_MS = 50
/** The share of the time that comes before the count: consumers that begin together queue up. */
const RAMP = 0.2

interface Work {
  readonly consumers: number
  /** How long to work on the next delivery, ms; 0 = not at all. */
  readonly workMs: () => number
  /** Whether the next delivery fails; it is then tried again at once. Never unless told. */
  readonly fails?: () => boolean
  /** Hears of a body when the work on it is done, before it is settled. */
  readonly done?: (body: string) => void
}

export interface Consumption {
  readonly deliveries: number
  /** Messages that were acknowledged, or given up. */
  readonly left: number
  readonly perSecond: number
  /** Means, ms: of a lease, of the work, of a settlement. */
  readonly leaseMs: number
  readonly workedMs: number
  readonly confirmMs: number
  readonly seconds: number
  readonly evidence: Evidence
}

/** Consumes for so long, from a queue that has more than enough, and counts past the ramp. */
export async function consumeFor(
  rig: Rig,
  queue: string,
  work: Work,
  ms: number,
): Promise<Consumption> {
  const crew = await gather(rig, queue, work)
  const ended = crew.start()
  await Promise.race([ended, sleep(RAMP * ms)])
  const seen = rig.watch()
  const before = crew.tally()
  const stop = await seen
  await Promise.race([ended, sleep((1 - RAMP) * ms)])
  const result = between(before, crew.tally(), await stop())
  crew.stop()
  await ended
  crew.close()
  return result
}

/** Consumes until so many messages have left the queue. */
export async function consumeAll(
  rig: Rig,
  queue: string,
  work: Work,
  messages: number,
): Promise<Consumption> {
  const crew = await gather(rig, queue, work, messages)
  const stop = await rig.watch()
  const before = crew.tally()
  await crew.start()
  const result = between(before, crew.tally(), await stop())
  crew.close()
  return result
}

interface Tally {
  readonly atMs: number
  deliveries: number
  left: number
  leaseMs: number
  workedMs: number
  confirmMs: number
}

function between(before: Tally, after: Tally, evidence: Evidence): Consumption {
  const deliveries = after.deliveries - before.deliveries
  const seconds = (after.atMs - before.atMs) / 1_000
  const each = (what: 'leaseMs' | 'workedMs' | 'confirmMs') =>
    (after[what] - before[what]) / Math.max(1, deliveries)
  return {
    deliveries,
    left: after.left - before.left,
    perSecond: deliveries / seconds,
    leaseMs: each('leaseMs'),
    workedMs: each('workedMs'),
    confirmMs: each('confirmMs'),
    seconds,
    evidence,
  }
}

async function gather(rig: Rig, queue: string, work: Work, messages = Number.POSITIVE_INFINITY) {
  const sockets = await Promise.all(
    Array.from({ length: work.consumers }, () => connectTo(rig.url)),
  )
  const now = { deliveries: 0, left: 0, leaseMs: 0, workedMs: 0, confirmMs: 0 }
  let stopping = false
  const lease = request(queue, 'leases', { max: 1, waitMs: WAIT_MS })
  const consume = async (socket: Connection) => {
    while (!stopping && now.left < messages) {
      const fromMs = performance.now()
      const { messages: got } = JSON.parse(await socket.ask(lease)) as Leased
      const message = got[0]
      if (message === undefined) continue
      const leasedMs = performance.now()
      const workMs = work.workMs()
      if (workMs > 0) await sleep(workMs)
      work.done?.(message.body)
      const workedMs = performance.now()
      const outcome =
        work.fails?.() === true ? { outcome: 'retry', delayMs: 0 } : { outcome: 'ack' }
      const settlements = [{ token: message.token, ...outcome }]
      const answer = await socket.ask(request(queue, 'settlements', { settlements }))
      const settled = (JSON.parse(answer) as { outcomes: string[] }).outcomes[0]
      if (settled === 'stale') throw new Error(`${queue}: stale`)
      now.deliveries++
      if (settled !== 'retried') now.left++
      now.leaseMs += leasedMs - fromMs
      now.workedMs += workedMs - leasedMs
      now.confirmMs += performance.now() - workedMs
    }
  }
  return {
    start: async () => void (await Promise.all(sockets.map(consume))),
    stop: () => {
      stopping = true
    },
    close: () => {
      for (const socket of sockets) socket.close()
    },
    tally: (): Tally => ({ ...now, atMs: performance.now() }),
  }
}

interface Leased {
  readonly messages: readonly { readonly token: string; readonly body: string }[]
}
