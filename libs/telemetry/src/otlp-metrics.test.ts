import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { json } from 'node:stream/consumers'
import { test } from 'node:test'
import { Metrics } from './metrics.ts'
import { exportMetrics } from './otlp-metrics.ts'

// biome-ignore lint/suspicious/noExplicitAny: OTLP's JSON, read where it is asserted on
type Json = any

test('all kinds are exported with their figures; what is infinite is left out', async (t) => {
  const exported: Json[] = []
  const server = createServer(async (req, res) => {
    const { resourceMetrics } = (await json(req)) as Json
    exported.push(...resourceMetrics[0].scopeMetrics.flatMap(({ metrics }: Json) => metrics))
    res.end('{}')
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  const metrics = new Metrics()
  t.after(() => metrics.close())
  metrics.count('published', { door: 'http', outcome: 'stored' }).value += 3
  metrics.histogram('queueTime', { vhost: '/', queue: 'q' }).observe(0.2)
  metrics.gauge('memoryHigh', {}, () => Number.POSITIVE_INFINITY)
  const { port } = server.address() as AddressInfo
  const target = { endpoint: `http://127.0.0.1:${port}/`, headers: {}, everyMs: 60_000 }
  const names = { serviceName: 'sluice', serviceVersion: '1', instance: 'd1' }
  const end = await exportMetrics(metrics, { ...target, ...names })
  await end()
  const of = (name: string) => exported.find((metric) => metric.name === name)
  assert.equal(of('sluice_messages_published_total').sum.dataPoints[0].asDouble, 3)
  const [point] = of('sluice_message_queue_time_seconds').histogram.dataPoints
  assert.deepEqual([point.count, point.sum, point.bucketCounts.indexOf(1)], [1, 0.2, 5])
  assert.ok(of('sluice_process_heap_bytes').gauge.dataPoints[0].asDouble > 0)
  assert.equal(of('sluice_memory_high'), undefined)
})
