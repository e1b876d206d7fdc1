/** Server-Sent Events: a queue's deliveries with credit, and an exchange's messages to everyone. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { waitFor } from '@sluice/testkit'
import { AUTHORIZATION, type TestBroker, withBroker } from '../support/broker.ts'

interface Event {
  readonly id: string
  readonly event: string
  // biome-ignore lint/suspicious/noExplicitAny: tests look into events of any shape
  readonly data: any
}

interface Reader {
  readonly events: Event[]
  readonly ended: Promise<void>
  until(count: number): Promise<Event[]>
  hangUp(): void
}

async function read(t: TestContext, broker: TestBroker, path: string, last = ''): Promise<Reader> {
  const gone = new AbortController()
  t.after(() => gone.abort())
  const url = `${broker.http}/v1/vhosts/${broker.vhost}${path}`
  const headers = { Authorization: AUTHORIZATION, ...(last !== '' && { 'Last-Event-ID': last }) }
  const response = await fetch(url, { headers, signal: gone.signal })
  assert.equal(response.status, 200)
  assert.equal(response.headers.get('content-type'), 'text/event-stream')
  const events: Event[] = []
  const consume = async () => {
    let text = ''
    for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
      text += chunk
      for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
        const fields = new Map(
          text
            .slice(0, end)
            .split('\n')
            .map((line) => line.split(/: ?(.*)/s, 2) as [string, string]),
        )
        text = text.slice(end + 2)
        const [id = '', event = ''] = [fields.get('id'), fields.get('event')]
        if (event !== '') events.push({ id, event, data: JSON.parse(fields.get('data')!) })
      }
    }
  }
  return {
    events,
    ended: consume().catch(() => {}),
    async until(count) {
      await waitFor(() => events.length >= count, { what: `${count} events` })
      return events
    },
    hangUp: () => gone.abort(),
  }
}

async function withQueue(t: TestContext): Promise<TestBroker> {
  const broker = await withBroker(t)
  await broker.request('PUT', '/queues/q', { body: {} })
  return broker
}

async function publish(broker: TestBroker, path: string, ...bodies: string[]): Promise<void> {
  for (const body of bodies) {
    const headers = { 'Content-Type': 'text/plain' }
    const { status, text } = await broker.request('POST', path, { headers, body })
    assert.equal(status, 200, text)
  }
}

async function settle(broker: TestBroker, token: string, outcome = 'ack'): Promise<string> {
  const body = { settlements: [{ token, outcome }] }
  return (await broker.request('POST', '/queues/q/settlements', { body })).json.outcomes[0]
}

const bodies = (events: readonly Event[]) => events.map(({ data }) => data.body)
const unacked = async (broker: TestBroker) =>
  (await broker.request('GET', '/queues/q')).json.messages.unacked

test('deliveries stream up to the credit, and settling one brings the next', async (t) => {
  const broker = await withQueue(t)
  await publish(broker, '/queues/q/messages', '1', '2', '3')
  const reader = await read(t, broker, '/queues/q/events?credit=2')
  const [one] = await reader.until(2)
  assert.equal(await unacked(broker), 2)
  assert.equal(await settle(broker, one!.data.token), 'settled')
  assert.deepEqual(bodies(await reader.until(3)), ['1', '2', '3'])
  assert.deepEqual([one?.data.deliveryCount, one?.data.redelivered], [1, false])
})

test('a delivery stays leased for as long as its reader is connected', async (t) => {
  const broker = await withQueue(t)
  await publish(broker, '/queues/q/messages', 'x')
  const reader = await read(t, broker, '/queues/q/events?leaseMs=1000')
  const [event] = await reader.until(1)
  const start = performance.now()
  await waitFor(() => performance.now() - start > 2_200)
  assert.equal(await settle(broker, event!.data.token), 'settled')
  assert.equal(reader.events.length, 1)
})

test('a reader that comes back keeps what it had received, and gets the rest again', async (t) => {
  const broker = await withQueue(t)
  await publish(broker, '/queues/q/messages', '1', '2', '3')
  const reader = await read(t, broker, '/queues/q/events')
  const [one, two] = await reader.until(3)
  reader.hangUp()
  await reader.ended
  const again = await read(t, broker, '/queues/q/events', two!.id)
  const [three] = await again.until(1)
  assert.deepEqual([three?.data.body, three?.data.redelivered], ['3', true])
  for (const { data } of [one!, two!, three!]) {
    assert.equal(await settle(broker, data.token), 'settled')
  }
  await waitFor(async () => (await unacked(broker)) === 0)
})

test('what a reader that went for good had is delivered to another', async (t) => {
  const broker = await withQueue(t)
  await publish(broker, '/queues/q/messages', 'x')
  const reader = await read(t, broker, '/queues/q/events?leaseMs=1000')
  await reader.until(1)
  reader.hangUp()
  const other = await read(t, broker, '/queues/q/events')
  const [event] = await other.until(1)
  assert.deepEqual([event?.data.body, event?.data.failedCount], ['x', 1])
})

test('a stream ends with the reason when its queue is deleted, or the process stops', async (t) => {
  const broker = await withQueue(t)
  const reader = await read(t, broker, '/queues/q/events')
  await broker.request('DELETE', '/queues/q')
  const [end] = await reader.until(1)
  assert.deepEqual([end?.event, end?.data.title], ['end', 'queue_not_found'])
  await reader.ended
  await broker.request('PUT', '/queues/q', { body: {} })
  const last = await read(t, broker, '/queues/q/events')
  const all = await read(t, broker, '/exchanges/amq.fanout/events')
  await broker.close()
  await Promise.all([last.ended, all.ended])
})

test('every reader of an exchange sees every message that fits, and consumes none', async (t) => {
  const broker = await withQueue(t)
  const { http, vhost } = broker
  await broker.request('PUT', '/exchanges/events', { body: { type: 'topic' } })
  const binding = { source: 'events', destination: 'q', routingKey: '#' }
  await broker.request('PUT', '/bindings', { body: binding })
  const all = await read(t, broker, '/exchanges/events/events')
  const other = await read(t, broker, '/exchanges/events/events')
  const some = await read(t, broker, '/exchanges/events/events?bindingKey=a.*')
  const path = '/exchanges/events/messages?routingKey='
  await publish(broker, `${path}a.x`, '1', '2')
  await publish(broker, `${path}b.x`, '3')
  assert.deepEqual(bodies(await all.until(3)), ['1', '2', '3'])
  assert.deepEqual(bodies(await other.until(3)), ['1', '2', '3'])
  assert.deepEqual(bodies(await some.until(2)), ['1', '2'])
  assert.equal((await broker.request('GET', '/queues/q')).json.messages.ready, 3)
  const missing = await fetch(`${http}/v1/vhosts/${vhost}/exchanges/none/events`, {
    headers: { Authorization: AUTHORIZATION },
  })
  assert.equal(missing.status, 404)
})

test('a reader of an exchange goes on where it was, at any process', async (t) => {
  const broker = await withQueue(t)
  const elsewhere = { ...(await withBroker(t)), vhost: broker.vhost }
  const reader = await read(t, broker, '/exchanges/amq.fanout/events')
  const path = '/exchanges/amq.fanout/messages'
  await publish(broker, path, '1', '2', '3')
  const [, two] = await reader.until(3)
  reader.hangUp()
  await reader.ended
  await publish(broker, path, '4', '5')
  const again = await read(t, elsewhere, '/exchanges/amq.fanout/events', two!.id)
  assert.deepEqual(bodies(await again.until(3)), ['3', '4', '5'])
  await publish(broker, path, '6')
  assert.deepEqual(bodies(await again.until(4)).at(-1), '6')
  const stranger = await read(t, broker, '/exchanges/amq.direct/events?bindingKey=k', two!.id)
  await publish(broker, '/exchanges/amq.direct/messages?routingKey=k', 'own')
  assert.deepEqual(bodies(await stranger.until(1)), ['own'])
})

test('a stream shows events as CloudEvents', async (t) => {
  const broker = await withQueue(t)
  await publish(broker, '/queues/q/messages', 'plain')
  const reader = await read(t, broker, '/queues/q/events?format=event')
  const [{ data }] = (await reader.until(1)) as [Event]
  assert.deepEqual([data.specversion, data.subject, data.data], ['1.0', 'q', 'plain'])
  assert.equal(await settle(broker, data.sluicetoken), 'settled')
})
