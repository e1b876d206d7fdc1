/**
 * Traffic-peak shaving, end to end: a burst that a weak backend could not take, while it goes away
 * and the processes that push end and start in turn. Short in `npm test`; at full length, with
 * processes that are killed, as `npm run e2e -- push`.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { privateRedis } from '@sluice/testkit'
import { drill } from '../support/push-drill.ts'

const SHORT = process.env['SHORT'] === '1'

test('a burst drains at the rate of the backend, and nothing is lost or dead-lettered', async (t) => {
  const { url: redisUrl } = await privateRedis(t)
  const size = SHORT
    ? { messages: 1_000, burstMs: 300, awayAfterMs: 1_000, awayMs: 2_000, endEveryMs: 1_500 }
    : { messages: 20_000, burstMs: 2_000, awayAfterMs: 20_000, awayMs: 20_000, endEveryMs: 8_000 }
  const shape = { perSecond: 200, burst: 20 }
  const say = (text: string) => t.diagnostic(text)
  const seen = await drill(t, { ...size, ...shape, redisUrl, kill: !SHORT, say })
  t.diagnostic(JSON.stringify(seen))
  assert.equal(seen.accepted, seen.messages, 'lost')
  assert.equal(seen.deadLettered, 0)
  assert.ok(seen.aboveRate <= shape.burst, `${seen.aboveRate} above the rate`)
  assert.ok(seen.processesEnded >= 2)
  // Until it is noticed that the backend is back, and while the rate grows again.
  const noticedMs = 2_500
  const most = (size.messages / shape.perSecond) * 1_100 + size.awayMs + (SHORT ? noticedMs : 0)
  assert.ok(seen.acceptedMs <= most, `${seen.acceptedMs} ms, at most ${most}`)
})
