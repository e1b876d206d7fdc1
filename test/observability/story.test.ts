/**
 * The whole way of a message in one trace: from a Python producer over AMQP to a webhook, its
 * failed first attempt and its retry; and the same of a request that an ingest took in.
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { type TestContext, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { privateRedis, waitFor } from '@sluice/testkit'
import { PASSWORD, type TestBroker, withBroker } from '../support/broker.ts'
import { type OtlpSink, otlpSink, type SunkSpan } from '../support/otlp-sink.ts'

const PYTHON = '/usr/bin/python3'
const PRODUCER = fileURLToPath(new URL('producer.py', import.meta.url))
const TRACE = '0af7651916cd43dd8448eb211c80319c'
const SPAN = 'b7ad6b7169203331'

/** An endpoint that fails the first request and takes the second. */
async function webhook(t: TestContext) {
  const requests: IncomingHttpHeaders[] = []
  const server = createServer((req, res) => {
    requests.push(req.headers)
    req.resume()
    res.writeHead(requests.length === 1 ? 500 : 204).end()
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  return { requests, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook` }
}

async function setup(t: TestContext, ratio: string) {
  const sink = await otlpSink()
  // Of their own: elsewhere another test's pump might push this one's message.
  const { url: redisUrl } = await privateRedis(t, { aof: false })
  const broker = await withBroker(t, {
    redisUrl,
    env: {
      OTEL_EXPORTER_OTLP_ENDPOINT: sink.url,
      SLUICE_TRACES_RATIO: ratio,
      SLUICE_PUSH_ALLOW: '127.0.0.1',
    },
  })
  t.after(() => sink.close())
  const hook = await webhook(t)
  const put = async (path: string, body: object) => {
    const { status, text } = await broker.request('PUT', path, { body })
    assert.ok(status < 300, text)
  }
  await put('/queues/orders', { arguments: { 'x-retry': { base: 50 } } })
  await put('/subscriptions/hook', { queue: 'orders', endpoint: { url: hook.url } })
  return { sink, broker, hook, put }
}

/** False where there is no Python with pika. */
async function produce(
  broker: TestBroker,
  headers: Record<string, string> | null,
): Promise<boolean> {
  const { host } = new URL(broker.doors['amqp']!)
  const vhost = encodeURIComponent(broker.vhost)
  const url = `amqp://admin:${encodeURIComponent(PASSWORD)}@${host}/${vhost}`
  const args = [PRODUCER, url, 'orders', JSON.stringify(headers)]
  if (!existsSync(PYTHON)) return false
  const child = spawn(PYTHON, args, { stdio: ['ignore', 'inherit', 'pipe'], timeout: 30_000 })
  const [said, [code]] = await Promise.all([text(child.stderr), once(child, 'exit')])
  if (said.includes("No module named 'pika'")) return false
  assert.equal(code, 0, said)
  return true
}

/** All spans of a trace; each hangs below another of them, or below `root`. */
function connected(sink: OtlpSink, traceId: string, root: string): SunkSpan[] {
  const spans = sink.spans.filter((span) => span.traceId === traceId)
  const ids = new Set([root, ...spans.map(({ spanId }) => spanId)])
  for (const { name, parentSpanId } of spans) assert.ok(ids.has(parentSpanId), name)
  return spans.sort((a, b) => Number(a.startNs - b.startNs))
}

const NAMES = ['publish', 'deliver', 'retry', 'deliver', 'ack']

async function follow(sink: OtlpSink, traceId: string, root: string): Promise<SunkSpan[]> {
  const done = () => sink.spans.some((span) => span.traceId === traceId && /^ack/.test(span.name))
  await waitFor(done, { what: 'the acknowledgement' })
  const spans = connected(sink, traceId, root)
  assert.deepEqual(
    spans.map(({ name }) => name.split(' ')[0]),
    NAMES,
  )
  return spans
}

test('from a Python producer through AMQP to a webhook and its retry, one trace', async (t) => {
  const { sink, broker, hook } = await setup(t, '0')
  const headers = { traceparent: `00-${TRACE}-${SPAN}-01`, tracestate: 'a=1', baggage: 'user=7' }
  if (!(await produce(broker, headers))) return t.skip('no Python with pika')
  const [publish, first, retry, second] = await follow(sink, TRACE, SPAN)
  assert.equal(publish!.parentSpanId, SPAN)
  assert.deepEqual([first!.failed, second!.failed], [true, false])
  assert.equal(retry!.parentSpanId, first!.spanId)
  assert.deepEqual(
    [first, second].map((span) => Number(span!.attributes['sluice.delivery_count'])),
    [1, 2],
  )
  assert.deepEqual(
    hook.requests.map(({ traceparent, tracestate, baggage }) => [traceparent, tracestate, baggage]),
    [first, second].map((span) => [`00-${TRACE}-${span!.spanId}-01`, 'a=1', 'user=7']),
    'each attempt is a span of its own to the webhook',
  )
})

test('a Python producer without instrumentation is followed as far', async (t) => {
  const { sink, broker, hook } = await setup(t, '1')
  if (!(await produce(broker, null))) return t.skip('no Python with pika')
  const [publish] = await sink.expect('publish amq.default')
  const spans = await follow(sink, publish!.traceId, '')
  const attempts = spans.filter(({ name }) => name === 'deliver orders')
  assert.deepEqual(
    hook.requests.map(({ traceparent }) => traceparent),
    attempts.map(({ traceId, spanId }) => `00-${traceId}-${spanId}-01`),
  )
})

test('a request that an ingest took in brings its trace to the backend', async (t) => {
  const { sink, broker, hook, put } = await setup(t, '0')
  await put('/subscriptions/hook', { queue: 'orders', endpoint: { url: hook.url }, replay: true })
  const name = `trace-${broker.vhost}`
  await put(`/ingests/${name}`, { queue: 'orders', open: true })
  const accepted = await fetch(`${broker.http}/ingest/${name}/pay`, {
    method: 'POST',
    body: 'x',
    headers: { traceparent: `00-${TRACE}-${SPAN}-01` },
  })
  assert.equal(accepted.status, 202, await accepted.text())
  const [, first, , second] = await follow(sink, TRACE, SPAN)
  assert.deepEqual(
    hook.requests.map(({ traceparent }) => traceparent),
    [first, second].map((span) => `00-${TRACE}-${span!.spanId}-01`),
  )
})
