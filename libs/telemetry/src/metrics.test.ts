import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { METRICS, Metrics, QUEUES_MEASURED_MAX, renderMetrics } from './metrics.ts'

function open(t: TestContext): Metrics {
  const metrics = new Metrics()
  t.after(() => metrics.close())
  return metrics
}

test('counts appear under their labels, and the same labels are the same count', async (t) => {
  const metrics = open(t)
  metrics.count('published', { door: 'http', outcome: 'stored' }).value += 3
  metrics.count('published', { outcome: 'stored', door: 'http' }).value += 1
  const text = await metrics.text()
  assert.match(text, /^sluice_messages_published_total\{door="http",outcome="stored"\} 4$/m)
  assert.match(text, /^# TYPE sluice_messages_published_total counter$/m)
})

test('requests are timed by route and class of status', async (t) => {
  const metrics = open(t)
  metrics.httpRequest('/v1/x/:y', 204, 0.003)
  metrics.httpRequest('/v1/x/:y', 200, 0.2)
  const text = await metrics.text()
  assert.match(
    text,
    /^sluice_http_request_duration_seconds_count\{route="\/v1\/x\/:y",status="2xx"\} 2$/m,
  )
  assert.match(text, /seconds_bucket\{route="\/v1\/x\/:y",status="2xx",le="0.005"\} 1$/m)
})

test('queue gauges are read when somebody looks, and bounded', async (t) => {
  const metrics = open(t)
  metrics.measureQueues(async () =>
    Array.from({ length: QUEUES_MEASURED_MAX + 50 }, (_, i) => ({
      vhost: '/',
      queue: `q${i}`,
      ready: i,
      unacked: 0,
      delayed: 0,
    })),
  )
  const text = await metrics.text()
  assert.match(text, /^sluice_queue_messages\{vhost="\/",queue="q7",state="ready"\} 7$/m)
  assert.equal(text.match(/state="ready"/g)?.length, QUEUES_MEASURED_MAX)
})

test('a queue gauge that cannot be read leaves the rest standing', async (t) => {
  const metrics = open(t)
  metrics.measureQueues(() => Promise.reject(new Error('Redis is away')))
  assert.match(await metrics.text(), /sluice_event_loop_delay_seconds\{quantile="0.99"\}/)
})

test('the page names every metric', () => {
  for (const { name } of Object.values(METRICS)) assert.ok(renderMetrics().includes(`\`${name}\``))
})
