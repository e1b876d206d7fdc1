/**
 * t = k x M: how long a confirmation takes with M consumers, and what M consumers get done.
 *
 * Method: M consumers on connections of their own lease a message and acknowledge it, one at a
 * time. Twice: without work, where the broker is what everybody waits for and t is a line; and with
 * work, where the rate is a line in M until the broker is busy.
 */
import { median } from '../bench/bench.ts'
import { type Consumption, consumeFor } from './consumers.ts'
import { type Fit, fitToBreak, type Point } from './fit.ts'
import { dropQueue, type Evidence, fill, freshQueue, type Rig } from './rig.ts'
import { BODY_BYTES } from './storage.ts'

/** A consumer's work on a delivery in this measurement. */
export const WORK_MS = 10
const QUEUE = 'capacity-consumers'
/** More than a broker of one process hands out one by one. */
const PER_SECOND_MAX = 20_000

export interface Confirmation {
  /** Consumers, and ms from an acknowledgement to its answer. */
  readonly times: readonly Point[]
  readonly timeFit: Fit
  readonly timeEvidence: readonly Evidence[]
  /** Consumers that work, and deliveries a second. */
  readonly rates: readonly Point[]
  readonly rateFit: Fit
  readonly rateEvidence: readonly Evidence[]
  /** Of a consumer's cycle, what is not work, with one consumer. */
  readonly overheadMs: number
  /** Most deliveries a second that were seen with any number of consumers. */
  readonly perSecondMax: number
}

export async function measureConfirmation(rig: Rig): Promise<Confirmation> {
  const busy = rig.short ? [4, 8, 16, 32] : [2, 4, 8, 16, 32, 64, 128]
  const working = rig.short ? [1, 2, 4, 8] : [1, 2, 4, 8, 16, 32, 64, 128, 256]
  await round(rig, 8, 0) // warms up
  const idle = await typical(rig, busy, 0)
  const worked = await typical(rig, working, WORK_MS)
  await dropQueue(rig, QUEUE)
  const times = idle.map(({ consumers: x, confirmMs: y }) => ({ x, y }))
  const rates = worked.map(({ consumers: x, perSecond: y }) => ({ x, y }))
  const [alone] = worked as [Consumed]
  return {
    ...{ times, rates },
    timeFit: fitToBreak(times),
    timeEvidence: idle.map(({ evidence }) => evidence),
    rateFit: fitToBreak(rates, 'shares'),
    rateEvidence: worked.map(({ evidence }) => evidence),
    // A timer that fires late is part of the work that was asked for, from the model's view.
    overheadMs: alone.leaseMs + alone.workedMs - WORK_MS + alone.confirmMs,
    perSecondMax: Math.max(...[...idle, ...worked].map(({ perSecond }) => perSecond)),
  }
}

type Consumed = Consumption & { readonly consumers: number }

/**
 * For each number of consumers the round with the median rate. Round by round, since what else a
 * machine does comes and goes: so it hits all alike.
 */
async function typical(rig: Rig, counts: readonly number[], workMs: number): Promise<Consumed[]> {
  const rounds = rig.short ? 1 : 3
  const results = new Map<number, Consumption[]>(counts.map((count) => [count, []]))
  for (let at = 1; at <= rounds; at++) {
    for (const [count, list] of results) {
      const doing = workMs === 0 ? 'acknowledge at once' : `work for ${workMs} ms`
      rig.say(`consumers: ${count} that ${doing}, round ${at} of ${rounds}`)
      list.push(await round(rig, count, workMs))
    }
  }
  return [...results].map(([consumers, list]) => {
    const middle = median(list.map(({ perSecond }) => perSecond))
    return { ...list.find(({ perSecond }) => perSecond === middle)!, consumers }
  })
}

async function round(rig: Rig, consumers: number, workMs: number): Promise<Consumption> {
  const ms = rig.short ? 400 : 2_000
  const most = workMs === 0 ? PER_SECOND_MAX : (consumers * 1_000) / workMs
  await freshQueue(rig, QUEUE)
  const enough = Math.ceil((Math.min(most, PER_SECOND_MAX) * ms) / 1_000) + consumers
  await fill(rig, QUEUE, enough, BODY_BYTES)
  return await consumeFor(rig, QUEUE, { consumers, workMs: () => workMs }, ms)
}
