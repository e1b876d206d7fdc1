/**
 * Traffic-peak shaving, end to end: a burst that a weak backend could not take, while it goes away
 * and the processes that push end and start in turn. Short in `npm test`; at full length, with
 * processes that are killed, as `npm run e2e -- push`.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { privateRedis, waitFor } from '@sluice/testkit'
import { deploy } from '../support/deployment.ts'
import { drill } from '../support/push-drill.ts'
import { startWeakBackend } from '../support/weak-backend.ts'

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
  assert.ok(seen.processesEnded >= (SHORT ? 1 : 2))
  // Until it is noticed that the backend is back, and while the rate grows again.
  const noticedMs = 5_000
  const most = (size.messages / shape.perSecond) * 1_100 + size.awayMs + (SHORT ? noticedMs : 0)
  assert.ok(seen.acceptedMs <= most, `${seen.acceptedMs} ms, at most ${most}`)
})

test('paused through one process, all stop within a second; resumed, all go on', async (t) => {
  const env = { SLUICE_PUSH_ALLOW: '127.0.0.1' }
  const deployment = await deploy(t, ['router reaper', 'delivery', 'delivery'], { env })
  const backend = await startWeakBackend(t)
  const vhost = await deployment.vhost()
  await vhost.queue('orders')
  const endpoint = { url: backend.url }
  const shape = { perSecond: 50 }
  const body = { queue: 'orders', endpoint, shape }
  const put = await vhost.delivery('PUT', '/subscriptions/backend', { body })
  assert.equal(put.status, 201, put.text)
  const messages = 150
  const batch = Array.from({ length: messages }, (_, n) => ({ body: String(n) }))
  const path = '/exchanges/amq.default/batch?routingKey=orders'
  assert.equal((await vhost.router('POST', path, { body: batch })).status, 200)
  const count = async () => (await backend.arrivals()).length
  await waitFor(async () => (await count()) > 0, { what: 'the first' })
  const post = (what: string) =>
    deployment.elsewhere(vhost).delivery('POST', `/subscriptions/backend/${what}`)
  assert.ok((await post('pause')).status < 300)
  await sleep(1_000)
  const seen = await count()
  assert.ok(seen < messages, `${seen} of ${messages}: too late`)
  await sleep(500)
  assert.equal(await count(), seen)
  const { unacked } = await vhost.counts('orders')
  assert.equal(unacked, 0, 'nothing is held')
  assert.ok((await post('resume')).status < 300)
  await waitFor(async () => (await count()) === messages, {
    what: 'the rest',
    timeoutMs: 30_000,
  })
})
