import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Health } from './health.ts'
import type { Attempt } from './subscription.ts'

const BASE = { timeMs: 0, durationMs: 1, answer: '' } as const
const GOOD: Attempt = { ...BASE, status: 200, verdict: 'ack', pressure: 'none' }
const NONE: Attempt = { ...BASE, error: 'refused', verdict: 'retry', pressure: 'down' }
const BROKEN: Attempt = { ...BASE, status: 500, verdict: 'retry', pressure: 'none' }
const REFUSED: Attempt = { ...BASE, status: 429, verdict: 'retry', pressure: 'overload' }
const BAD: Attempt = { ...BASE, status: 400, verdict: 'dead-letter', pressure: 'none' }

/** What the endpoint is after each, with a limit of three in a row. */
function after(...attempts: (readonly [Attempt, message: string])[]): string[] {
  const health = new Health()
  return attempts.map(([attempt, message], n) => health.ended(attempt, message, n, 3))
}

test('three in a row that did not get through: it is down, whichever message it was', () => {
  assert.deepEqual(after([NONE, 'a'], [NONE, 'a'], [NONE, 'a']), ['fine', 'fine', 'down'])
})

test('any answer that settles a message ends the row', () => {
  for (const good of [GOOD, BAD]) {
    const seen = after([NONE, 'a'], [NONE, 'b'], [good, 'c'], [NONE, 'd'], [NONE, 'e'])
    assert.ok(seen.every((is) => is === 'fine'))
  }
})

test('one message that always fails says nothing of the endpoint; three that do, much', () => {
  const same = after([BROKEN, 'a'], [BROKEN, 'a'], [BROKEN, 'a'], [BROKEN, 'b'], [BROKEN, 'b'])
  assert.ok(same.every((is) => is === 'fine'))
  assert.equal(after([BROKEN, 'a'], [BROKEN, 'b'], [BROKEN, 'c'])[2], 'down')
})

test('only refusals: it is busy; one that says until when is left alone by that', () => {
  assert.equal(after([REFUSED, 'a'], [REFUSED, 'b'], [REFUSED, 'c'])[2], 'busy')
  assert.equal(after([REFUSED, 'a'], [NONE, 'b'], [REFUSED, 'c'])[2], 'down')
  const told = { ...REFUSED, retryAfterMs: 1_000 }
  assert.equal(after([told, 'a'], [told, 'b'], [told, 'c'])[2], 'fine')
})

test('a failure counts where it is the message’s own, not where it is the endpoint’s', () => {
  const health = new Health()
  assert.equal(health.counts(BROKEN, 'a', 10), true)
  assert.equal(health.counts(REFUSED, 'a', 10), false)
  assert.equal(health.counts(NONE, 'a', 10), false)
  assert.equal(health.counts(NONE, 'a', 20), false, 'nothing went well meanwhile')
  health.ended(GOOD, 'b', 30, 3)
  assert.equal(health.counts(NONE, 'c', 40), false, 'the first time')
  assert.equal(health.counts(NONE, 'a', 40), true)
  assert.equal(health.counts(NONE, 'a', 50), false)
  assert.equal(health.counts(REFUSED, 'a', 60), false)
})

test('it remembers failures of a bounded number of messages', () => {
  const health = new Health()
  health.counts(NONE, 'old', 1)
  for (let n = 0; n < 1_000; n++) health.counts(NONE, `${n}`, 2)
  health.ended(GOOD, 'b', 3, 3)
  assert.equal(health.counts(NONE, 'old', 4), false)
  assert.equal(health.counts(NONE, '999', 4), true)
})
