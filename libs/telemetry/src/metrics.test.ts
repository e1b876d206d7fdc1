import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { METRICS, QUEUES_MEASURED_MAX, renderMetrics } from './metric-list.ts'
import { Metrics } from './metrics.ts'
import { QueueFigures, type QueueReading } from './queue-figures.ts'

function open(t: TestContext): Metrics {
  const metrics = new Metrics()
  t.after(() => metrics.close())
  return metrics
}

const reading = (queue: string, figures: Partial<QueueReading> = {}): QueueReading => ({
  ...{ vhost: '/', queue, ready: 0, unacked: 0, delayed: 0, bytes: 0, oldestMs: 0, consumers: 0 },
  ...{ published: 0, delivered: 0, redelivered: 0, acked: 0, deadLettered: 0, expired: 0 },
  ...{ dropped: 0, purged: 0, ...figures },
})

const source = (read: () => Promise<readonly QueueReading[]>, names = ['q']) => ({
  read,
  exists: (_vhost: string, queue: string) => names.includes(queue),
  count: () => names.length,
})

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
  const series = '{route="/v1/x/:y",status="2xx"'
  assert.ok(text.includes(`sluice_http_request_duration_seconds_count${series}} 2\n`), text)
  assert.ok(text.includes(`seconds_bucket${series},le="0.005"} 1\n`))
  assert.ok(text.includes(`seconds_bucket${series},le="0.25"} 2\n`))
  assert.ok(text.includes(`seconds_bucket${series},le="+Inf"} 2\n`))
})

test('queues are read when somebody looks, and bounded', async (t) => {
  const metrics = open(t)
  const queues = Array.from({ length: QUEUES_MEASURED_MAX + 50 }, (_, i) =>
    reading(`q${i}`, { ready: i }),
  )
  metrics.measureQueues(source(async () => queues))
  const text = await metrics.text()
  assert.match(text, /^sluice_queue_messages\{vhost="\/",queue="q7",state="ready"\} 7$/m)
  assert.equal(text.match(/state="ready"/g)?.length, QUEUES_MEASURED_MAX)
})

test('queues that cannot be read leave the rest standing', async (t) => {
  const metrics = open(t)
  metrics.measureQueues(source(() => Promise.reject(new Error('Redis is away'))))
  assert.match(await metrics.text(), /sluice_event_loop_delay_seconds\{percentile="99"\}/)
})

test('histograms by queue are bounded: what comes after shares one, deleted queues leave', async (t) => {
  const metrics = open(t)
  const names = Array.from({ length: QUEUES_MEASURED_MAX + 2 }, (_, i) => `q${i}`)
  metrics.measureQueues(source(async () => [], names))
  for (const queue of names) {
    metrics.histogram('queueTime', { vhost: '/', queue }).observe(0.2)
  }
  const count = /^sluice_message_queue_time_seconds_count\{.*\} (\d+)$/gm
  const first = await metrics.text()
  assert.equal(first.match(count)?.length, QUEUES_MEASURED_MAX + 1)
  assert.match(first, /_count\{vhost="",queue="\(others\)"\} 2$/m)
  names.splice(0, QUEUES_MEASURED_MAX)
  assert.equal((await metrics.text()).match(count)?.length, 1)
})

test('labels are escaped, whatever a queue is called', async (t) => {
  const metrics = open(t)
  const queue = 'a"b\\c\nd\ud800'
  metrics.measureQueues(source(async () => [reading(queue, { ready: 1 })]))
  assert.match(await metrics.text(), /queue="a\\"b\\\\c\\nd\ufffd",state="ready"\} 1$/m)
})

test('the drain estimate goes by the last half a minute, and knows when there is none', () => {
  let now = 0
  const figures = new QueueFigures(() => now)
  const drain = (ready: number, unacked = 0) => {
    const series = figures.series([reading('q', { ready, unacked })]).get('queueDrain')
    return series?.[0]?.value
  }
  assert.equal(drain(100), undefined, 'nothing to compare with')
  now = 10_000
  assert.equal(drain(80, 10), 90, '1 a second, 90 left')
  now = 20_000
  assert.equal(drain(120), Number.POSITIVE_INFINITY, 'it grows')
  now = 40_000
  assert.equal(drain(60), 20, 'compared with 20 s before')
  now = 80_000
  assert.equal(drain(60), Number.POSITIVE_INFINITY, 'it stands still')
  assert.equal(drain(0), 0)
})

test('the page names every metric', () => {
  for (const { name } of Object.values(METRICS)) assert.ok(renderMetrics().includes(`\`${name}\``))
})
