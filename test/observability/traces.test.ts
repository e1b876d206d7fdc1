/**
 * Traces, end to end: real clients on one side, an OTLP sink on the other. Everything that happens
 * to a message is one trace, whoever began it.
 */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { privateRedis, waitFor } from '@sluice/testkit'
import { type ConfirmChannel, type ConsumeMessage, connect } from 'amqplib'
import { AUTHORIZATION, PASSWORD, type TestBroker, withBroker } from '../support/broker.ts'
import { otlpSink, type SunkSpan } from '../support/otlp-sink.ts'
import { WsPeer } from '../support/ws-peer.ts'

const TRACE = '0af7651916cd43dd8448eb211c80319c'
const SPAN = 'b7ad6b7169203331'
const SAMPLED = `00-${TRACE}-${SPAN}-01`

async function setup(t: TestContext, env: Record<string, string> = {}) {
  const sink = await otlpSink()
  // Of their own: elsewhere another test's reaper might move this one's dead letter.
  const { url: redisUrl } = await privateRedis(t, { aof: false })
  const broker = await withBroker(t, {
    redisUrl,
    env: { OTEL_EXPORTER_OTLP_ENDPOINT: sink.url, SLUICE_TRACES_RATIO: '1', ...env },
  })
  t.after(() => sink.close())
  return { sink, broker }
}

async function openChannel(t: TestContext, broker: TestBroker): Promise<ConfirmChannel> {
  const { host } = new URL(broker.doors['amqp']!)
  const vhost = encodeURIComponent(broker.vhost)
  const connection = await connect(`amqp://admin:${encodeURIComponent(PASSWORD)}@${host}/${vhost}`)
  t.after(() => connection.close().catch(() => {}))
  return connection.createConfirmChannel()
}

/** Every span is of the first one's trace, and below it or one of the others. */
function assertConnected(spans: readonly SunkSpan[], root: string): void {
  const ids = new Set([root, ...spans.map(({ spanId }) => spanId)])
  for (const { name, traceId, parentSpanId } of spans) {
    assert.equal(traceId, spans[0]!.traceId, name)
    assert.ok(ids.has(parentSpanId), `${name} hangs below nothing that is known`)
  }
}

test('a plain AMQP client gets one trace, from publish to ack, and may join it', async (t) => {
  const { sink, broker } = await setup(t)
  const channel = await openChannel(t, broker)
  await channel.assertQueue('orders')
  const got = Promise.withResolvers<ConsumeMessage>()
  await channel.consume('orders', (message) => message && got.resolve(message))
  channel.sendToQueue('orders', Buffer.from('hello'), { headers: { mine: 1 }, type: 'greeting' })
  const message = await got.promise
  channel.ack(message)
  const [publish, deliver, ack] = (await sink.expect(
    'publish amq.default',
    'deliver orders',
    'ack orders',
  )) as [SunkSpan, SunkSpan, SunkSpan]
  assertConnected([publish, deliver, ack], '')
  assert.deepEqual([publish.parentSpanId, deliver.parentSpanId], ['', publish.spanId])
  assert.equal(ack.parentSpanId, deliver.spanId)
  const { headers, type } = message.properties
  assert.deepEqual(
    [headers, type],
    [{ mine: 1, traceparent: `00-${publish.traceId}-${publish.spanId}-01` }, 'greeting'],
  )
  assert.deepEqual([publish.kind, deliver.kind, ack.kind], [4, 5, 3])
  const { attributes } = deliver
  assert.equal(attributes['messaging.destination.name'], 'orders')
  assert.equal(attributes['messaging.operation.type'], 'process')
  assert.equal(attributes['sluice.vhost'], broker.vhost)
  assert.equal(attributes['sluice.delivery_count'], 1)
})

test('what a publisher says of its trace is kept as it is, baggage too', async (t) => {
  const { sink, broker } = await setup(t, { SLUICE_TRACES_RATIO: '0' })
  const channel = await openChannel(t, broker)
  await channel.assertQueue('q')
  const unsampled = `00-${TRACE.replace('0a', '0b')}-${SPAN}-00`
  const carried = { traceparent: SAMPLED, tracestate: 'a=1,b=2', baggage: 'user=7' }
  const sent = [carried, { ...carried, traceparent: unsampled }, { baggage: 'user=8' }, {}]
  const received: unknown[] = []
  for (const headers of sent) {
    channel.sendToQueue('q', Buffer.from('x'), { headers })
  }
  await channel.waitForConfirms()
  await channel.consume('q', (message) => {
    received.push(message?.properties.headers)
    channel.ack(message!)
  })
  await waitFor(() => received.length === 4, { what: 'all four' })
  assert.deepEqual(received, sent)
  const spans = await sink.expect('publish amq.default', 'deliver q', 'ack q')
  assertConnected(spans, SPAN)
  assert.equal(spans[0]!.parentSpanId, SPAN)
  await broker.close()
  assert.deepEqual(
    sink.spans.filter(({ traceId }) => traceId !== TRACE),
    [],
    'nobody else is sampled',
  )
})

test('an HTTP request gives its trace to its message: retry, dead letter, redrive', async (t) => {
  const { sink, broker } = await setup(t, { SLUICE_TRACES_RATIO: '0' })
  await broker.request('PUT', '/queues/q', { body: {} })
  const published = await broker.request('POST', '/queues/q/messages', {
    body: 'x',
    headers: { traceparent: SAMPLED, tracestate: 'a=1', baggage: 'user=7' },
  })
  assert.equal(published.status, 200, published.text)
  const lease = async (headers: Record<string, string> = {}) => {
    const body = { max: 1, waitMs: 10_000 }
    const answer = await broker.request('POST', '/queues/q/leases', { body, headers })
    return answer.json.messages[0]
  }
  const settle = (token: string, outcome: string, rest: object = {}) =>
    broker.request('POST', '/queues/q/settlements', {
      body: { settlements: [{ token, outcome, ...rest }] },
    })
  const other = `00-${TRACE.replace('0a', '0c')}-${SPAN}-01`
  const first = await lease({ traceparent: other })
  assert.deepEqual(first.headers, { traceparent: SAMPLED, tracestate: 'a=1', baggage: 'user=7' })
  await settle(first.token, 'retry', { delayMs: 0 })
  await settle((await lease()).token, 'dead-letter')
  await sink.expect('move q')
  const letters = await waitForLetter(broker)
  const redriven = await broker.request('POST', '/queues/amq.dead-letters/redrive', {
    body: { id: letters[0].id },
    headers: { traceparent: other },
  })
  assert.equal(redriven.status, 200, redriven.text)
  await settle((await lease()).token, 'ack')
  const names = ['publish amq.default', 'deliver q', 'retry q', 'dead-letter q', 'move q']
  const spans = await sink.expect(...names, 'redrive amq.dead-letters', 'ack q')
  assertConnected(
    sink.spans.filter(({ traceId }) => traceId === TRACE),
    SPAN,
  )
  const redrive = spans[5]!
  assert.deepEqual(redrive.links, [{ traceId: TRACE.replace('0a', '0c'), spanId: SPAN }])
  const [receive] = await sink.expect('receive q')
  assert.equal(receive!.traceId, TRACE.replace('0a', '0c'))
  assert.deepEqual(receive!.links, [{ traceId: TRACE, spanId: SPAN }])
})

async function waitForLetter(broker: TestBroker) {
  const list = async () =>
    (await broker.request('GET', '/queues/amq.dead-letters/dead-letters')).json.messages
  await waitFor(async () => (await list()).length > 0, { what: 'the dead letter' })
  return list()
}

test('over WebSocket a message brings its trace, and a delivery is followed to its settlement', async (t) => {
  const { sink, broker } = await setup(t, { SLUICE_TRACES_RATIO: '0' })
  await broker.request('PUT', '/queues/q', { body: {} })
  const peer = await WsPeer.open(broker.http, { vhost: broker.vhost })
  const headers = { traceparent: SAMPLED, baggage: 'user=7' }
  peer.send({ type: 'consume', consumer: 'c', queue: 'q' })
  peer.send({ type: 'publish', id: 1, exchange: '', routingKey: 'q', body: 'x', headers })
  const delivered = await peer.next('deliver')
  assert.deepEqual(delivered['headers'], headers)
  peer.send({ type: 'settle', deliveries: [delivered['delivery']], outcome: 'ack' })
  const spans = await sink.expect('publish amq.default', 'deliver q', 'ack q')
  await peer.close()
  assertConnected(spans, SPAN)
})

test('over an event stream a delivery is followed to its settlement', async (t) => {
  const { sink, broker } = await setup(t, { SLUICE_TRACES_RATIO: '0' })
  await broker.request('PUT', '/queues/q', { body: {} })
  await broker.request('POST', '/queues/q/messages', { headers: { traceparent: SAMPLED } })
  const reading = new AbortController()
  const vhost = encodeURIComponent(broker.vhost)
  const stream = await fetch(`${broker.http}/v1/vhosts/${vhost}/queues/q/events`, {
    headers: { Authorization: AUTHORIZATION },
    signal: reading.signal,
  })
  let text = ''
  for await (const chunk of stream.body!) {
    text += Buffer.from(chunk).toString()
    if (/"token":"[^"]+".*\n\n/s.test(text)) break
  }
  const token = /"token":"([^"]+)"/.exec(text)![1]
  const body = { settlements: [{ token, outcome: 'ack' }] }
  await broker.request('POST', '/queues/q/settlements', { body })
  const spans = await sink.expect('publish amq.default', 'deliver q', 'ack q')
  reading.abort()
  assertConnected(spans, SPAN)
})

test('an event of CloudEvents brings its trace as an extension, and takes it along', async (t) => {
  const { sink, broker } = await setup(t, { SLUICE_TRACES_RATIO: '0' })
  await broker.request('PUT', '/queues/q', { body: {} })
  const event = { specversion: '1.0', id: '1', source: '/s', type: 'q', traceparent: SAMPLED }
  const { status, text } = await broker.request('POST', '/exchanges/amq.default/messages', {
    body: JSON.stringify(event),
    headers: { 'Content-Type': 'application/cloudevents+json' },
  })
  assert.equal(status, 200, text)
  const leased = await broker.request('POST', '/queues/q/leases?events=structured', {
    body: { max: 1, waitMs: 10_000 },
  })
  assert.equal(leased.json.traceparent, SAMPLED)
  const spans = await sink.expect('publish amq.default', 'deliver q')
  assertConnected(spans, SPAN)
})

test('queues and policies say what share is traced; the largest of a route counts', async (t) => {
  const { sink, broker } = await setup(t, { SLUICE_TRACES_RATIO: '0' })
  const put = async (path: string, body: object) => {
    const { status, text } = await broker.request('PUT', path, { body })
    assert.ok(status < 300, text)
  }
  await put('/queues/always', { arguments: { 'x-trace-ratio': 1 } })
  await put('/queues/never', {})
  await put('/queues/by-policy', {})
  await put('/policies/traced', {
    pattern: '^by-',
    applyTo: 'queues',
    definition: { 'trace-ratio': 1 },
  })
  const policed = () =>
    broker.deps.topology.table.queue(broker.vhost, 'by-policy')?.settings.traceRatio === 1
  await waitFor(policed, { what: 'the policy' })
  for (const queue of ['never', 'by-policy', 'always', 'never']) {
    await broker.request('POST', `/queues/${queue}/messages`, { body: 'x' })
    await broker.request('POST', `/queues/${queue}/leases`, { body: { max: 1 } })
  }
  await broker.close()
  const delivered = sink.spans.map(({ name }) => name).filter((name) => name.startsWith('deliver'))
  assert.deepEqual(delivered, ['deliver by-policy', 'deliver always'])
})

test('off, nothing is loaded, sent or added; a context passes all the same', async (t) => {
  const { sink, broker } = await setup(t, { SLUICE_TRACES: 'false' })
  assert.equal(broker.deps.tracing.on, false)
  await broker.request('PUT', '/queues/q', { body: {} })
  await broker.request('POST', '/queues/q/messages', { headers: { traceparent: SAMPLED } })
  await broker.request('POST', '/queues/q/messages', {})
  const { json } = await broker.request('POST', '/queues/q/leases', { body: { max: 2 } })
  const headers = json.messages.map((message: { headers: object }) => message.headers)
  assert.deepEqual(headers, [{ traceparent: SAMPLED }, {}])
  await broker.close()
  assert.deepEqual(sink.spans, [])
})

test('neither body, header, routing key nor credential gets into a span; metrics go too', async (t) => {
  const { sink, broker } = await setup(t, {
    SLUICE_OTLP_METRICS_MS: '1000',
    OTEL_EXPORTER_OTLP_HEADERS: 'x-key=k%2C1',
  })
  await broker.request('PUT', '/exchanges/x', { body: { type: 'topic' } })
  await broker.request('PUT', '/queues/q', { body: {} })
  const binding = { source: 'x', destination: 'q', routingKey: '#' }
  await broker.request('PUT', '/bindings', { body: binding })
  await broker.request('POST', '/exchanges/x/messages?routingKey=secret.key', {
    body: 'secret body',
    headers: { 'Sluice-Header-Mine': 'secret header' },
  })
  const { json } = await broker.request('POST', '/queues/q/leases', { body: { max: 1 } })
  assert.equal(json.messages.length, 1)
  await sink.expect('publish x', 'deliver q')
  await waitFor(() => sink.metrics.has('sluice_queue_messages'), { what: 'the metrics' })
  assert.ok(sink.metrics.has('sluice_message_queue_time_seconds'))
  assert.equal(sink.headers()['x-key'], 'k,1')
  assert.doesNotMatch(sink.bodies.join(''), new RegExp(`secret|${PASSWORD}`))
})

test('a sink that is away costs spans and a warning, never a message', async (t) => {
  const broker = await withBroker(t, {
    env: { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:9', SLUICE_TRACES_RATIO: '1' },
  })
  await broker.request('PUT', '/queues/q', { body: {} })
  const { status } = await broker.request('POST', '/queues/q/messages', { body: 'x' })
  assert.equal(status, 200)
  const { json } = await broker.request('POST', '/queues/q/leases', { body: { max: 1 } })
  assert.equal(json.messages.length, 1)
  await broker.close()
})
