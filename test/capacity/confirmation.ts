/**
 * t = k x M: how long a confirmation takes with M consumers, and what M consumers get done.
 *
 * Method: M consumers on connections of their own lease a message and acknowledge it, one at a
 * time. Twice: without work, where the broker is what everybody waits for and t is a line; and with
 * work, where the rate is a line in M until the broker is busy.
 */
import { median } from '../bench/bench.ts'
import { consumeFor } from './consumers.ts'
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
  const [times, full, timeEvidence]: [Point[], number[], Evidence[]] = [[], [], []]
  for (const x of busy) {
    rig.say(`consumers: ${x} that acknowledge at once`)
    const result = await typical(rig, x, 0)
    times.push({ x, y: result.confirmMs })
    full.push(result.perSecond)
    timeEvidence.push(result.evidence)
  }
  const [rates, rateEvidence]: [Point[], Evidence[]] = [[], []]
  let overheadMs = 0
  for (const x of working) {
    rig.say(`consumers: ${x} that work for ${WORK_MS} ms`)
    const result = await typical(rig, x, WORK_MS)
    rates.push({ x, y: result.perSecond })
    rateEvidence.push(result.evidence)
    // A timer that fires late is part of the work that was asked for, from the model's view.
    if (x === working[0]) overheadMs = result.leaseMs + result.workedMs - WORK_MS + result.confirmMs
  }
  await dropQueue(rig, QUEUE)
  return {
    ...{ times, timeEvidence, rates, rateEvidence, overheadMs },
    timeFit: fitToBreak(times),
    rateFit: fitToBreak(rates),
    perSecondMax: Math.max(...full, ...rates.map(({ y }) => y)),
  }
}

/** The one of the rounds with the median rate: what else a machine does comes and goes. */
async function typical(rig: Rig, consumers: number, workMs: number) {
  const rounds = []
  for (let left = rig.short ? 1 : 3; left > 0; left--) {
    rounds.push(await round(rig, consumers, workMs))
  }
  const middle = median(rounds.map(({ perSecond }) => perSecond))
  return rounds.find(({ perSecond }) => perSecond === middle)!
}

async function round(rig: Rig, consumers: number, workMs: number) {
  const ms = rig.short ? 400 : 2_000
  const most = workMs === 0 ? PER_SECOND_MAX : (consumers * 1_000) / workMs
  await freshQueue(rig, QUEUE)
  const enough = Math.ceil((Math.min(most, PER_SECOND_MAX) * ms) / 1_000) + consumers
  await fill(rig, QUEUE, enough, BODY_BYTES)
  return await consumeFor(rig, QUEUE, { consumers, workMs: () => workMs }, ms)
}
