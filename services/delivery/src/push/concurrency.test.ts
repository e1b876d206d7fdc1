/** The limit against an endpoint that is a formula: latency by how many requests are under way. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Concurrency } from './concurrency.ts'

/** Sends as many as allowed for `rounds`, each as long as `latencyMs` says; the limit at the end. */
function drive(
  concurrency: Concurrency,
  rounds: number,
  latencyMs: (underWay: number) => number,
  clock: { ms: number },
): number {
  for (let round = 0; round < rounds; round++) {
    const underWay = concurrency.limit
    const tookMs = latencyMs(underWay)
    clock.ms += tookMs
    for (let n = 0; n < underWay; n++) concurrency.answered(clock.ms, tookMs, underWay)
  }
  return concurrency.limit
}

/** Has 40 workers of 20 ms each; what is beyond waits. */
const forty = (underWay: number) => 20 * Math.max(1, underWay / 40)

test('it grows to the most allowed while latency holds', () => {
  assert.equal(
    drive(new Concurrency(100, true), 1_000, () => 20, { ms: 0 }),
    100,
  )
})

test('it stays near what the endpoint can do, without a request being refused', () => {
  const limit = drive(new Concurrency(1_000, true), 2_000, forty, { ms: 0 })
  assert.ok(limit >= 30 && limit <= 160, `${limit}`)
})

test('an endpoint that became slower for good is not starved', () => {
  const clock = { ms: 0 }
  const concurrency = new Concurrency(100, true)
  drive(concurrency, 2_000, () => 10, clock)
  const during = drive(concurrency, 20, () => 80, clock)
  assert.ok(during < 100, `${during}`)
  const after = drive(concurrency, 5_000, () => 80, clock)
  assert.equal(after, 100)
})

test('refusals shrink it once for all that were under way together, down to one', () => {
  const concurrency = new Concurrency(100, true)
  for (let n = 0; n < 20; n++) concurrency.refused(1_000, 900)
  assert.equal(concurrency.limit, 14)
  concurrency.refused(1_100, 1_050)
  assert.equal(concurrency.limit, 9)
  for (let n = 0; n < 20; n++) concurrency.refused(2_000 + n, 2_000 + n)
  assert.equal(concurrency.limit, 1)
})

test('it does not grow while nobody uses it, nor follow noise below a few milliseconds', () => {
  const concurrency = new Concurrency(100, true)
  for (let n = 0; n < 1_000; n++) concurrency.answered(n * 10, 20, 1)
  assert.equal(concurrency.limit, 20)
  const busy = new Concurrency(100, true)
  let ms = 0
  const noise = () => {
    ms = (ms + 1) % 5
    return ms + 0.1
  }
  assert.equal(drive(busy, 10_000, noise, { ms: 0 }), 100)
})

test('fixed, it is what it is told', () => {
  const fixed = new Concurrency(7, false)
  fixed.refused(10, 0)
  assert.equal(drive(fixed, 10, forty, { ms: 0 }), 7)
})
