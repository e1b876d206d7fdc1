/** CloudEvents by AMQP: in by either mode, out as the AMQP binding says, and once. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import amqplib, { type ConfirmChannel } from 'amqplib'
import { PASSWORD, type TestBroker, withBroker } from '../support/broker.ts'

const EVENT = { specversion: '1.0', id: 'e-1', source: '/shop', type: 'q' }

async function withChannel(
  t: TestContext,
): Promise<{ broker: TestBroker; channel: ConfirmChannel }> {
  const broker = await withBroker(t)
  const { hostname, port } = new URL(broker.doors['amqp']!)
  const connection = await amqplib.connect({
    hostname,
    port: Number(port),
    username: 'admin',
    password: PASSWORD,
    vhost: broker.vhost,
  })
  const channel = await connection.createConfirmChannel()
  t.after(() => connection.close().catch(() => {})) // the broker may have closed it
  const window = { 'x-dedup-window': 60_000 }
  await broker.request('PUT', '/queues/q', { body: { arguments: window } })
  return { broker, channel }
}

const prefixed = (separator: string) =>
  Object.fromEntries(
    Object.entries(EVENT).map(([name, value]) => [`cloudEvents${separator}${name}`, value]),
  )

async function leased(broker: TestBroker): Promise<unknown[]> {
  const path = '/queues/q/leases?events=batched'
  return (await broker.request('POST', path, { body: { max: 10, waitMs: 10_000 } })).json
}

test('an event is the same by either prefix and in structured mode, and is stored once', async (t) => {
  const { broker, channel } = await withChannel(t)
  const data = Buffer.from('{"total":1}')
  const options = { contentType: 'application/json' }
  channel.sendToQueue('q', data, { ...options, headers: prefixed(':') })
  channel.sendToQueue('q', data, { ...options, headers: prefixed('_') })
  channel.sendToQueue('q', Buffer.from(JSON.stringify({ ...EVENT, data: { total: 1 } })), {
    contentType: 'application/cloudevents+json; charset=utf-8',
  })
  await channel.waitForConfirms()
  const { json } = await broker.request('POST', '/queues/q/messages', {
    headers: { 'Content-Type': 'application/cloudevents+json' },
    body: JSON.stringify(EVENT),
  })
  assert.equal(json.duplicate, true)
  const events = (await leased(broker)) as Record<string, unknown>[]
  assert.equal(events.length, 1)
  const { sluicetoken: _, sluicedeliverycount: __, ...event } = events[0]!
  const wanted = { ...EVENT, datacontenttype: 'application/json', data: { total: 1 } }
  assert.deepEqual(event, wanted)
})

test('an event in structured mode comes out as the event that it is', async (t) => {
  const { broker, channel } = await withChannel(t)
  const whole = { ...EVENT, datacontenttype: 'text/plain', data: 'x' }
  const contentType = 'application/cloudevents+json'
  channel.sendToQueue('q', Buffer.from(JSON.stringify(whole)), { contentType })
  channel.sendToQueue('q', Buffer.from('{ no event'), { contentType })
  await channel.waitForConfirms()
  const [first, second] = (await leased(broker)) as Record<string, unknown>[]
  assert.deepEqual([first?.['id'], first?.['data']], ['e-1', 'x'])
  assert.deepEqual([second?.['type'], second?.['datacontenttype']], ['sluice.message', contentType])
})

test('an event published by HTTP reaches an AMQP consumer in the binding of AMQP', async (t) => {
  const { broker, channel } = await withChannel(t)
  await broker.request('POST', '/queues/q/messages', {
    headers: { 'Content-Type': 'application/cloudevents+json' },
    body: JSON.stringify({ ...EVENT, retries: 3, data: [1] }),
  })
  const message = await channel.get('q', { noAck: true })
  assert.ok(message !== false)
  const { headers, contentType } = message.properties
  assert.deepEqual({ ...headers }, { ...prefixed(':'), 'cloudEvents:retries': 3 })
  assert.deepEqual([contentType, message.content.toString()], ['application/json', '[1]'])
})
