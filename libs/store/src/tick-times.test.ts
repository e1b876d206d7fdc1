import assert from 'node:assert/strict'
import { test } from 'node:test'
import { nextTick, type TickTimes } from './tick-times.ts'

function runs(times: TickTimes, after: string, count: number): string[] {
  const found: string[] = []
  for (let last = Date.parse(after); found.length < count; ) {
    const next = nextTick(times, last)
    if (next === undefined) break
    found.push(new Date(next).toISOString())
    last = next
  }
  return found
}

test('a moment comes once', () => {
  const atMs = Date.parse('2026-05-01T10:00:00Z')
  assert.deepEqual(runs({ atMs }, '2026-05-01T09:59:59Z', 3), ['2026-05-01T10:00:00.000Z'])
  assert.deepEqual(runs({ atMs }, '2026-05-01T10:00:00Z', 3), [])
})

test('an interval is counted from 1970, whenever one looks', () => {
  const hour = { everyMs: 3_600_000 }
  for (const after of ['2026-05-01T09:00:00Z', '2026-05-01T09:59:59.999Z']) {
    assert.deepEqual(runs(hour, after, 2), ['2026-05-01T10:00:00.000Z', '2026-05-01T11:00:00.000Z'])
  }
})

test('cron follows the clock of its time zone, over its changes', () => {
  const berlin = { cron: '30 8 * * 1-5', timeZone: 'Europe/Berlin' }
  // Friday before the last Sunday of March 2026, when summer time begins.
  assert.deepEqual(runs(berlin, '2026-03-27T00:00:00Z', 2), [
    '2026-03-27T07:30:00.000Z',
    '2026-03-30T06:30:00.000Z',
  ])
  assert.deepEqual(runs({ cron: '*/15 * * * * *' }, '2026-01-01T00:00:01Z', 2), [
    '2026-01-01T00:00:15.000Z',
    '2026-01-01T00:00:30.000Z',
  ])
})

test('what never comes due has no next run', () => {
  for (const cron of ['', 'nonsense', '61 * * * *', '0 0 30 2 *']) {
    assert.equal(nextTick({ cron }, Date.now()), undefined, cron)
  }
  assert.equal(nextTick({}, 0), undefined)
})
