/**
 * T = k x N: how long N messages take to be stored, and how much of Redis's memory they take.
 *
 * Method: N messages of 256 bytes in batches of 1 000 over four connections into an empty queue,
 * each confirmed; the median of the rounds. Memory is what Redis's data grew by. A second series
 * has bodies of other sizes. The end of both lines is where Redis has no memory left: said from the
 * coefficient, then filled with little until the broker refuses (it looks once a second).
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { median } from '../bench/bench.ts'
import { type Fit, fitLine, fitToBreak, type Line, type Point } from './fit.ts'
import { dropQueue, type Evidence, fill, freshQueue, queueCounts, type Rig } from './rig.ts'

export const BODY_BYTES = 256
const QUEUE = 'capacity-storage'
/** Share of its memory at which the broker refuses publishes (SLUICE_MEMORY_HIGH, unset). */
const MEMORY_HIGH = 0.85
/** The broker looks at Redis's memory once a second. */
const LOOK_MS = 1_100
const STEPS_MAX = 25

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
  /** With so much memory left, how many messages were expected to fit, and did. */
  readonly end: { readonly bytes: number; readonly expected: number; readonly measured: number }
}

export async function measureStorage(rig: Rig): Promise<Storage> {
  const counts = rig.short
    ? [1_000, 2_000, 4_000, 8_000]
    : [1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000]
  rig.say('storage: warming up')
  for (let left = 3; left > 0; left--) await store(rig, rig.short ? 4_000 : 50_000, BODY_BYTES)
  const results = new Map<number, Stored[]>(counts.map((count) => [count, []]))
  const rounds = rig.short ? 2 : 3
  for (let round = 1; round <= rounds; round++) {
    for (const [messages, list] of results) {
      rig.say(`storage: ${messages} messages, round ${round} of ${rounds}`)
      // What takes milliseconds is measured more often.
      const times = rig.short || messages > 50_000 ? 1 : 3
      for (let left = times; left > 0; left--) list.push(await store(rig, messages, BODY_BYTES))
    }
  }
  const middle = (of: 'ms' | 'bytes') =>
    [...results].map(([x, list]) => ({ x, y: median(list.map((result) => result[of])) }))
  const [times, bytes] = [middle('ms'), middle('bytes')]
  const evidence = [...results.values()].map((list) => list.at(-1)!.evidence)
  const bodies: Point[] = []
  const count = rig.short ? 2_000 : 20_000
  for (const x of [64, 256, 1_024, 4_096]) {
    rig.say(`storage: bodies of ${x} bytes`)
    bodies.push({ x, y: (await store(rig, count, x)).bytes / count })
  }
  const bytesFit = fitToBreak(bytes, 'shares')
  const end = await measureEnd(rig, bytesFit.slope)
  await dropQueue(rig, QUEUE)
  return {
    ...{ times, evidence, bytes, bodies, bytesFit, end },
    timeFit: fitToBreak(times, 'shares'),
    bodyLine: fitLine(bodies, 'shares'),
  }
}

/** Fills a Redis with so much left, slowly towards the end, until publishes are refused. */
async function measureEnd(rig: Rig, bytesEach: number): Promise<Storage['end']> {
  rig.say('storage: until the memory is full')
  await freshQueue(rig, QUEUE)
  await rig.dataBytes() // once what was deleted is gone
  const bytes = rig.short ? 8_000_000 : 64_000_000
  await rig.limitMemory(Math.round(((await rig.usedBytes()) + bytes) / MEMORY_HIGH))
  const expected = Math.round(bytes / bytesEach)
  const step = Math.round(expected / (rig.short ? 20 : 50))
  await fill(rig, QUEUE, Math.round((rig.short ? 0.96 : 0.9) * expected), BODY_BYTES)
  for (let steps = 0; steps < STEPS_MAX; steps++) {
    await sleep(LOOK_MS)
    const isRefused = await fill(rig, QUEUE, step, BODY_BYTES).then(
      () => false,
      (error: Error) => /memory_high/.test(error.message) || Promise.reject(error),
    )
    if (isRefused) break
  }
  const { totals } = await queueCounts(rig, QUEUE)
  await rig.limitMemory(0)
  await dropQueue(rig, QUEUE)
  await sleep(LOOK_MS)
  return { bytes, expected, measured: totals['published']! }
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
