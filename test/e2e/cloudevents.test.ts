/** CloudEvents through the HTTP door, judged by the official SDK; and what AMQP makes of them. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decodeProperties } from '@sluice/amqp'
import { CloudEvent, HTTP } from 'cloudevents'
import { type TestBroker, withBroker } from '../support/broker.ts'

const EVENT = {
  id: 'e-1',
  source: 'https://shop.example/orders?a=b',
  type: 'com.example.order.created',
  subject: 'größe "42" 100%',
  time: '2026-11-22T10:00:00.000Z',
  datacontenttype: 'application/json',
  dataschema: 'https://shop.example/schema',
  region: 'eu',
  retries: 3,
  urgent: true,
  data: { total: 12.5, name: 'Ünal' },
}

const messages = '/queues/q/messages'

async function withQueue(t: Parameters<typeof withBroker>[0]): Promise<TestBroker> {
  const broker = await withBroker(t)
  await broker.request('PUT', '/queues/q', { body: {} })
  return broker
}

/** Leases one message as a CloudEvent, as the SDK reads the answer. */
async function leaseEvent(broker: TestBroker, mode: string) {
  const path = `/queues/q/leases?events=${mode}`
  const { headers, text, status } = await broker.request('POST', path, { body: { waitMs: 10_000 } })
  assert.equal(status, 200, text)
  const read = HTTP.toEvent({ headers: Object.fromEntries(headers), body: text })
  return (Array.isArray(read) ? read[0] : read) as CloudEvent<unknown>
}

function sent(event: CloudEvent<unknown>, mode: 'binary' | 'structured') {
  const { headers, body } = HTTP[mode](event)
  return { headers: headers as Record<string, string>, body: String(body) }
}

for (const into of ['binary', 'structured'] as const) {
  for (const out of ['binary', 'structured', 'batched'] as const) {
    test(`an event published in ${into} mode is the same event in ${out} mode`, async (t) => {
      const broker = await withQueue(t)
      const event = new CloudEvent(EVENT)
      const answer = await broker.request('POST', messages, sent(event, into))
      assert.equal(answer.status, 200, answer.text)
      const leased = JSON.parse(JSON.stringify(await leaseEvent(broker, out)))
      const { sluicetoken, sluicedeliverycount, ...read } = leased
      // The SDK leaves the percent-encoding of HTTP's binary mode (3.1.3.2) to its caller.
      if (out === 'binary') read.subject = decodeURIComponent(read.subject)
      assert.equal(Number(sluicedeliverycount), 1)
      // A header holds text: what the number and the boolean were is not known in binary mode.
      const texts = into === 'binary' || out === 'binary'
      const more = texts && { retries: '3', urgent: 'true' }
      const wanted = { ...EVENT, specversion: '1.0', ...more }
      for (const name of ['retries', 'urgent']) read[name] = texts ? String(read[name]) : read[name]
      assert.deepEqual(read, wanted)
      const settlements = [{ token: sluicetoken, outcome: 'ack' }]
      const settled = await broker.request('POST', '/queues/q/settlements', {
        body: { settlements },
      })
      assert.deepEqual(settled.json.outcomes, ['settled'])
    })
  }
}

test('source and id de-duplicate, whatever the mode, and another source is another event', async (t) => {
  const broker = await withQueue(t)
  const post = async (event: CloudEvent<unknown>, mode: 'binary' | 'structured') =>
    (await broker.request('POST', messages, sent(event, mode))).json.duplicate
  assert.equal(await post(new CloudEvent(EVENT), 'binary'), false)
  assert.equal(await post(new CloudEvent(EVENT), 'structured'), true)
  assert.equal(await post(new CloudEvent({ ...EVENT, source: 'urn:other' }), 'binary'), false)
  const batch = [EVENT, { ...EVENT, id: 'e-2' }].map((event) => new CloudEvent(event).toJSON())
  const answer = await broker.request('POST', '/exchanges/amq.default/batch?routingKey=q', {
    headers: { 'Content-Type': 'application/cloudevents-batch+json' },
    body: JSON.stringify(batch),
  })
  assert.deepEqual([answer.json.published, answer.json.duplicates], [2, 1], answer.text)
})

test('an event is routed by its type, unless the request says otherwise', async (t) => {
  const broker = await withQueue(t)
  await broker.request('PUT', '/exchanges/events', { body: { type: 'topic' } })
  const binding = { source: 'events', destination: 'q', routingKey: 'com.example.#' }
  await broker.request('PUT', '/bindings', { body: binding })
  const post = async (query: string) => {
    const path = `/exchanges/events/messages${query}`
    return (await broker.request('POST', path, sent(new CloudEvent(EVENT), 'structured'))).json
  }
  assert.deepEqual((await post('')).queues, ['q'])
  assert.deepEqual((await post('?routingKey=other')).queues, [])
})

test('binary data stays as it was, and so does text', async (t) => {
  const broker = await withQueue(t)
  const bytes = new Uint8Array([0, 255, 1])
  for (const [datacontenttype, data] of [
    ['application/octet-stream', bytes],
    ['text/plain', 'grüße'],
    ['application/xml', '<a/>'],
  ] as const) {
    const event = new CloudEvent({ ...EVENT, id: datacontenttype, datacontenttype, data })
    const answer = await broker.request('POST', messages, sent(event, 'structured'))
    assert.equal(answer.status, 200, answer.text)
    const read = await leaseEvent(broker, 'structured')
    if (data === bytes) assert.equal(read.data_base64, Buffer.from(bytes).toString('base64'))
    else assert.equal(read.data, data)
  }
})

test('a message that is no event is described as one', async (t) => {
  const broker = await withQueue(t)
  const headers = { 'Content-Type': 'text/plain', 'Sluice-Type': 'greeting' }
  await broker.request('POST', messages, { headers, body: 'hello' })
  const event = await leaseEvent(broker, 'structured')
  assert.deepEqual(
    [event.type, event.subject, event.data, event.datacontenttype],
    ['greeting', 'q', 'hello', 'text/plain'],
  )
  assert.ok(event.source.endsWith('/queues/q') && event.validate())
})

test('an AMQP consumer finds the attributes where the AMQP binding says', async (t) => {
  const broker = await withQueue(t)
  await broker.request('POST', messages, sent(new CloudEvent(EVENT), 'structured'))
  const entry = broker.deps.topology.table.queue(broker.vhost, 'q')!
  const { messages: found } = await entry.store.peek('ready', '', 1)
  const { properties, body } = found[0]!.record
  const { headers, contentType } = decodeProperties(properties)
  assert.equal(contentType, 'application/json')
  assert.equal(headers?.['cloudEvents:id'], 'e-1')
  assert.equal(headers?.['cloudEvents:specversion'], '1.0')
  assert.deepEqual(JSON.parse(body.toString()), EVENT.data)
})

test('what is no event is refused, and says what is wrong', async (t) => {
  const broker = await withQueue(t)
  const whole = { specversion: '1.0', id: '1', source: 's', type: 't' }
  for (const [body, why] of [
    [{ ...whole, specversion: '0.3' }, /specversion/],
    [{ ...whole, id: '' }, /id/],
    [{ ...whole, source: 7 }, /source/],
    [{ ...whole, Upper: 'x' }, /Upper/],
    [{ ...whole, nested: {} }, /nested/],
    [{ ...whole, time: 'yesterday' }, /time/],
    [{ ...whole, data: 1, data_base64: 'AA==' }, /data_base64/],
    [{ ...whole, data_base64: '*' }, /data_base64/],
    [{ ...whole, datacontenttype: 'text/plain', data: { a: 1 } }, /data/],
    [[whole], /object/],
  ] as const) {
    const { status, json } = await broker.request('POST', messages, {
      headers: { 'Content-Type': 'application/cloudevents+json' },
      body: JSON.stringify(body),
    })
    assert.deepEqual([status, json.title], [400, 'invalid_request'], JSON.stringify(body))
    assert.match(json.detail, why)
  }
  const avro = { 'Content-Type': 'application/cloudevents+avro' }
  assert.equal((await broker.request('POST', messages, { headers: avro, body: 'x' })).status, 415)
  const two = await broker.request('POST', '/queues/q/leases?events=binary', { body: { max: 2 } })
  assert.equal(two.json.title, 'invalid_request')
  const none = await broker.request('POST', '/queues/q/leases?events=binary', { body: {} })
  assert.equal(none.status, 204)
})
