import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { parseHttpDate, retryAfterMs } from './answer.ts'

const NOW_MS = Date.UTC(2026, 10, 22, 12, 0, 0)

test('dates are read in each form that RFC 9110 has', () => {
  const ms = Date.UTC(1994, 10, 6, 8, 49, 37)
  for (const date of [
    'Sun, 06 Nov 1994 08:49:37 GMT',
    'Sunday, 06-Nov-94 08:49:37 GMT',
    'Sun Nov  6 08:49:37 1994',
  ]) {
    assert.equal(parseHttpDate(date, NOW_MS), ms, date)
  }
  const near = parseHttpDate('Sunday, 22-Nov-26 12:00:05 GMT', NOW_MS)
  assert.equal(near, NOW_MS + 5_000)
})

for (const [retryAfter, date, waitMs] of [
  [undefined, undefined, undefined],
  ['', undefined, undefined],
  ['soon', undefined, undefined],
  ['-1', undefined, undefined],
  ['1.5', undefined, undefined],
  ['0', undefined, 0],
  ['120', undefined, 120_000],
  [' 5 ', undefined, 5_000],
  ['9999999999', undefined, 86_400_000],
  ['99999999999', undefined, undefined],
  ['Sun, 22 Nov 2026 12:00:30 GMT', undefined, 30_000],
  ['Sun, 22 Nov 2026 11:00:00 GMT', undefined, 0],
  ['Fri, 31 Dec 9999 23:59:59 GMT', undefined, 86_400_000],
  ['Sun, 22 Nov 2026 12:00:30 GMT', 'Sun, 22 Nov 2026 12:00:10 GMT', 20_000],
  ['Sun, 22 Nov 2026 12:00:30 GMT', 'yesterday', 30_000],
  ['Sun, 99 Foo 2026 12:00:30 GMT', undefined, undefined],
] as const) {
  test(`Retry-After ${JSON.stringify(retryAfter)} with Date ${JSON.stringify(date)}`, () => {
    assert.equal(retryAfterMs(retryAfter, date, NOW_MS), waitMs)
  })
}

test('whatever it says, it is a wait within a day, or none', () => {
  const date = fc.date({ noInvalidDate: true }).map((date) => date.toUTCString())
  const text = fc.option(fc.oneof(fc.string(), fc.integer().map(String), date), { nil: undefined })
  fc.assert(
    fc.property(text, text, (retryAfter, date) => {
      const ms = retryAfterMs(retryAfter, date, NOW_MS)
      assert.ok(ms === undefined || (ms >= 0 && ms <= 86_400_000), String(ms))
    }),
    { numRuns: 1_000 },
  )
})
