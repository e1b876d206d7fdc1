/**
 * T = k x N: how long N messages take to be stored, and how much of Redis's memory they take.
 *
 * Method: N messages of 256 bytes in batches of 1 000 over four connections into an empty queue,
 * each confirmed; the median of the rounds. Memory is what Redis's data grew by. A second series
 * has bodies of other sizes.
 */
import { median } from '../bench/bench.ts'
import { type Fit, fitLine, fitToBreak, type Line, type Point } from './fit.ts'
import { dropQueue, type Evidence, fill, freshQueue, type Rig } from './rig.ts'

export const BODY_BYTES = 256
const QUEUE = 'capacity-storage'

export interface Storage {
  /** Messages and ms. */
  readonly times: readonly Point[]
  readonly timeFit: Fit
  readonly evidence: readonly Evidence[]
  /** Messages and bytes. */
  readonly bytes: readonly Point[]
  readonly bytesFit: Fit
  /** Bytes of a body, and bytes of memory each such message takes. */
  readonly bodies: readonly Point[]
  readonly bodyLine: Line
}

export async function measureStorage(rig: Rig): Promise<Storage> {
  const counts = rig.short
    ? [1_000, 2_000, 4_000, 8_000]
    : [1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000]
  const rounds = rig.short ? 2 : 3
  rig.say('storage: warming up')
  for (let left = 3; left > 0; left--) await store(rig, rig.short ? 4_000 : 50_000, BODY_BYTES)
  const times: Point[] = []
  const bytes: Point[] = []
  const evidence: Evidence[] = []
  for (const x of counts) {
    rig.say(`storage: ${x} messages`)
    const results: Stored[] = []
    for (let left = rounds; left > 0; left--) results.push(await store(rig, x, BODY_BYTES))
    times.push({ x, y: median(results.map(({ ms }) => ms)) })
    bytes.push({ x, y: median(results.map((result) => result.bytes)) })
    evidence.push(results.at(-1)!.evidence)
  }
  const bodies: Point[] = []
  const count = rig.short ? 2_000 : 20_000
  for (const x of [64, 256, 1_024, 4_096]) {
    rig.say(`storage: bodies of ${x} bytes`)
    bodies.push({ x, y: (await store(rig, count, x)).bytes / count })
  }
  await dropQueue(rig, QUEUE)
  return {
    ...{ times, evidence, bytes, bodies },
    timeFit: fitToBreak(times),
    bytesFit: fitToBreak(bytes),
    bodyLine: fitLine(bodies),
  }
}

interface Stored {
  readonly ms: number
  readonly bytes: number
  readonly evidence: Evidence
}

/** Stores so many in an empty queue. */
export async function store(rig: Rig, messages: number, bodyBytes: number): Promise<Stored> {
  await freshQueue(rig, QUEUE)
  const before = await rig.dataBytes()
  const stop = await rig.watch()
  const fromMs = performance.now()
  await fill(rig, QUEUE, messages, bodyBytes)
  const ms = performance.now() - fromMs
  const evidence = await stop()
  return { ms, bytes: (await rig.dataBytes()) - before, evidence }
}
