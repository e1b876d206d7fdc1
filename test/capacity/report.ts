/** What a run found: the measurements, the lines through them, and where those end and why. */
import { cpus } from 'node:os'
import type { Check } from './check.ts'
import type { Confirmation } from './confirmation.ts'
import { type Fit, fitLine, type Line, type Point } from './fit.ts'
import type { Coefficients } from './model.ts'
import type { Order } from './order.ts'
import type { Redelivery } from './redelivery.ts'
import type { Evidence, Fsync } from './rig.ts'
import type { Storage } from './storage.ts'

export interface Report {
  readonly measuredAt: string
  readonly machine: string
  /** Of a few seconds: rough. */
  readonly short: boolean
  readonly fsync: Fsync
  readonly storage: Storage
  readonly confirmation: Confirmation
  readonly redelivery: Redelivery
  readonly order: Order
  readonly coefficients: Coefficients
  readonly check: Check
  readonly findings: readonly Finding[]
}

/** One line, as people read it. */
export interface Finding {
  readonly name: string
  readonly formula: string
  /** Of the coefficient. */
  readonly unit: string
  readonly line: Line
  /** Where it ends and why; '' = not within what was measured. */
  readonly ends: string
}

export type Measured = Pick<Report, 'storage' | 'confirmation' | 'redelivery' | 'order'>

export function machine(): string {
  const all = cpus()
  return `${all.length} x ${all[0]?.model.trim() ?? 'unknown'}, Node ${process.versions.node}`
}

export function coefficientsOf({ storage, confirmation }: Measured): Coefficients {
  return {
    storeMsEach: storage.timeFit.slope,
    storeBaseMs: Math.max(0, storage.timeFit.intercept),
    bytesEach: storage.bodyLine.intercept,
    bytesPerBodyByte: storage.bodyLine.slope,
    overheadMs: confirmation.overheadMs,
    deliveriesPerSecondMax: confirmation.perSecondMax,
  }
}

export function findingsOf({ storage, confirmation, redelivery, order }: Measured): Finding[] {
  const { times, rates, timeEvidence, rateEvidence } = confirmation
  const both = (fit: Fit, points: readonly Point[], evidence: readonly Evidence[]) =>
    ending(fit, () => usedUp(evidence[points.findIndex(({ x }) => x === fit.breakAt?.x)]!))
  return [
    {
      ...{ name: 'storage time', formula: 'T = k x N', unit: 'ms a message' },
      line: storage.timeFit,
      ends: both(storage.timeFit, storage.times, storage.evidence) || full(storage),
    },
    {
      ...{ name: 'memory', formula: 'bytes = k x N', unit: 'bytes a message of 256' },
      line: storage.bytesFit,
      ends:
        ending(storage.bytesFit, () => 'batches of another size share their cost differently') ||
        full(storage),
    },
    {
      ...{ name: 'confirmation time', formula: 't = k x M', unit: 'ms a consumer' },
      line: confirmation.timeFit,
      ends: both(confirmation.timeFit, times, timeEvidence),
    },
    {
      ...{ name: 'rate', formula: 'rate = k x M', unit: 'deliveries/s a consumer' },
      line: confirmation.rateFit,
      ends: both(confirmation.rateFit, rates, rateEvidence),
    },
    {
      ...{ name: 'redeliveries', formula: 'R = k x P', unit: 'a message' },
      line: redelivery.fit,
      ends: ending(redelivery.fit, () => 'what comes again fails again: R = P + P² + ...'),
    },
    {
      ...{ name: 'deliveries', formula: 'D = k x (1 - P^L) / (1 - P)', unit: 'of the expected' },
      line: redelivery.expectedLine,
      ends: '',
    },
    {
      ...{ name: 'disorder of queues', formula: 'I = k x (Q - 1)', unit: 'inversions a message' },
      line: order.queuesFit,
      ends: ending(order.queuesFit, () => 'how far queues drift apart is chance, a random walk'),
    },
    {
      ...{ name: 'disorder of workers', formula: 'I = k x (M - 1)', unit: 'inversions a message' },
      line: order.workersFit,
      ends: ending(order.workersFit, () => 'overtaking no longer depends on the work alone'),
    },
    {
      ...{ name: 'order', formula: 'S = k x Q', unit: 'of messages in order' },
      line: fitLine(inOrder(order)),
      ends: 'before it begins: S falls as Q grows, and is 1 within a key',
    },
    {
      ...{ name: 'order', formula: 'S = k / Q', unit: 'of messages in order' },
      line: fitLine(inOrder(order).map(({ x, y }) => ({ x: 1 / x, y }))),
      ends: '',
    },
  ]
}

/** The share of messages that none overtook, against the number of queues dealt in turn. */
export function inOrder({ points }: Order): Point[] {
  return points
    .filter(({ arrangement }) => arrangement === 'queues in turn')
    .map(({ queues: x, inOrder: y }) => ({ x, y }))
}

/** No line that was measured ends before this. */
function full({ end: { bytes, expected, measured } }: Storage): string {
  return (
    `where Redis's memory does: with ${figure(bytes / 1e6)} MB left, said at ${figure(expected)} ` +
    `messages, refused at ${figure(measured)}`
  )
}

function ending({ breakAt }: Fit, why: () => string): string {
  if (breakAt === undefined) return ''
  const { x, y, expected } = breakAt
  return `at ${figure(x)}: ${figure(y)} where the line says ${figure(expected)}: ${why()}`
}

/** A core that has less than this left is used up. */
const USED_UP = 0.8

/** Who had no processor left, as far as it was seen. */
export function usedUp({ redis, broker, load, others, ...disk }: Evidence): string {
  const shares =
    `Redis ${figure(redis)}, the broker ${figure(broker)}, ` +
    `the load ${figure(load)}, others ${figure(others)} of ${cpus().length} cores`
  const reasons: string[] = []
  if (broker >= USED_UP) reasons.push("the broker's process has used its core up")
  if (redis >= USED_UP) reasons.push('Redis has used its core up')
  if (load >= USED_UP) reasons.push('the consumers, one process here, have used their core up')
  if (redis + broker + load + others >= USED_UP * cpus().length) {
    reasons.push('the machine has no core left')
  }
  if (disk.fsyncsDelayed > 0) reasons.push(`the disk put off ${disk.fsyncsDelayed} fsyncs`)
  if (disk.rewrites > 0) reasons.push('Redis rewrote its append-only file')
  if (reasons.length === 0) reasons.push('no processor was used up: all of them waited in turn')
  return `${reasons.join(' and ')} (${shares})`
}

/** Three digits that matter, with spaces between thousands. */
export function figure(value: number): string {
  if (!Number.isFinite(value)) return String(value)
  const rounded = Number(value.toPrecision(3))
  if (Math.abs(value) >= 1_000) {
    return String(Math.round(value >= 100_000 ? rounded : value)).replace(/\B(?=(\d{3})+$)/g, ' ')
  }
  return String(rounded)
}
