/** The WebSocket door beyond what every door promises: who may enter, bounds, and its ends. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type TestContext, test } from 'node:test'
import { limits } from '@sluice/core'
import { waitFor } from '@sluice/testkit'
import { AUTHORIZATION, type TestBroker, withBroker } from '../support/broker.ts'
import { type Frame, WsPeer, type WsPeerOptions } from '../support/ws-peer.ts'

interface Scene {
  readonly broker: TestBroker
  /** Another connection in the test's vhost, closed at its end. */
  peer(options?: WsPeerOptions): Promise<WsPeer>
  publish(...bodies: readonly string[]): Promise<void>
  counts(): Promise<Record<string, number>>
}

async function withQueue(
  t: TestContext,
  options: Parameters<typeof withBroker>[1] & { arguments?: object } = {},
): Promise<Scene> {
  const peers: WsPeer[] = []
  t.after(() => Promise.all(peers.map((peer) => peer.close()))) // before the broker stops
  const broker = await withBroker(t, options)
  await broker.request('PUT', '/queues/q', { body: { arguments: options.arguments ?? {} } })
  return {
    broker,
    async peer(more) {
      const peer = await WsPeer.open(broker.http, { vhost: broker.vhost, ...more })
      peers.push(peer)
      return peer
    },
    async publish(...bodies) {
      for (const body of bodies) {
        const headers = { 'Content-Type': 'text/plain' }
        await broker.request('POST', '/queues/q/messages', { headers, body })
      }
    },
    counts: async () => (await broker.request('GET', '/queues/q')).json.messages,
  }
}

const consume = (more: object = {}): Frame => ({
  type: 'consume',
  consumer: 'c',
  queue: 'q',
  ...more,
})

test('nobody enters without a credential, and a browser sends its own in the open frame', async (t) => {
  const { broker, peer } = await withQueue(t)
  const { http, vhost } = broker
  const closeCode = async (frames: readonly (Frame | string)[], options: WsPeerOptions = {}) => {
    const stranger = new WsPeer(http, options)
    await once(stranger.socket, 'open')
    for (const frame of frames) stranger.send(frame)
    return (await stranger.ended()).code
  }
  const open = (authorization?: string) => ({ type: 'open', vhost, authorization })
  assert.equal(await closeCode([open()]), 4401)
  assert.equal(await closeCode([open('Bearer wrong')]), 4401)
  assert.equal(await closeCode([consume()]), 4401)
  assert.equal(await closeCode([{ ...open(AUTHORIZATION), vhost: 'none' }]), 4403)
  assert.equal(await closeCode(['x'.repeat(limits.WEBSOCKET_OPEN_BYTES_MAX + 1)]), 1009)
  assert.equal(await closeCode([], { protocol: 'other' }).catch(() => 'refused'), 'refused')
  // Another site's page makes a browser send a remembered credential: it does not count.
  const headers = { Authorization: AUTHORIZATION, Origin: 'https://evil.example' }
  assert.equal(await closeCode([open()], { headers }), 4401)

  const own = { headers: { Authorization: AUTHORIZATION, Origin: http } }
  const page = new WsPeer(http, own)
  await once(page.socket, 'open')
  page.send(open())
  await page.next('opened')
  await page.close()
  await (await peer()).ask({ type: 'ping' }, 'pong')
})

test('a frame that does not fit is refused with its id, and the connection goes on', async (t) => {
  const { peer } = await withQueue(t)
  const client = await peer()
  for (const [frame, code] of [
    [consume({ credit: 100_000 }), 'invalid_request'],
    [consume({ credit: -1 }), 'invalid_request'],
    [consume({ nonsense: 1 }), 'invalid_request'],
    [consume({ queue: 'none' }), 'queue_not_found'],
    [{ type: 'cancel', consumer: 'none' }, 'not_found'],
    [{ type: 'nonsense' }, 'invalid_request'],
    [{ type: 'publish', exchange: 'none', body: 'x' }, 'exchange_not_found'],
    [{ type: 'publish', routingKey: 'q' }, 'invalid_request'],
    [{ type: 'publish', routingKey: 'q', body: 'x', mandatory: 'yes' }, 'invalid_request'],
    [{ type: 'publish', routingKey: 'none', body: 'x', mandatory: true }, 'unroutable'],
    [{ type: 'publish', routingKey: 'q', bodyBase64: '*' }, 'invalid_request'],
    [{ type: 'publish', routingKey: 'q', event: { id: '1' } }, 'invalid_request'],
    [{ type: 'open' }, 'invalid_request'],
  ] as const) {
    const { problem } = await client.ask(frame as Frame, 'error')
    assert.equal(problem.title, code, JSON.stringify(frame))
  }
  client.send({ type: 'settle', deliveries: [7], outcome: 'ack' })
  assert.equal((await client.next('error')).problem.title, 'message_not_found')
  await client.ask(consume(), 'consuming')
  assert.equal((await client.ask(consume(), 'error')).problem.title, 'in_use')
  client.send('no JSON')
  assert.equal((await client.ended()).code, 4400)
})

test('no more than the credit is out unsettled, and credit is changed while it runs', async (t) => {
  const { peer, publish, counts } = await withQueue(t)
  await publish('1', '2', '3', '4', '5')
  const client = await peer()
  await client.ask(consume({ credit: 2 }), 'consuming')
  const [one, two] = [await client.next('deliver'), await client.next('deliver')]
  await client.ask({ type: 'ping' }, 'pong')
  assert.equal((await counts())['unacked'], 2)
  assert.deepEqual([one.body, two.body], ['1', '2'])
  client.send({ type: 'settle', deliveries: [one.delivery], outcome: 'ack' })
  assert.equal((await client.next('deliver')).body, '3')
  client.send({ type: 'credit', consumer: 'c', credit: 10 })
  assert.equal((await client.next('deliver')).body, '4')
  assert.equal((await client.next('deliver')).body, '5')
})

test('what was not settled when the socket closed is delivered again, as failed', async (t) => {
  const { peer, publish } = await withQueue(t)
  await publish('x')
  const first = await peer()
  await first.ask(consume(), 'consuming')
  await first.next('deliver')
  first.socket.terminate()
  const second = await peer()
  await second.ask(consume(), 'consuming')
  const again = await second.next('deliver')
  assert.deepEqual([again.redelivered, again.failedCount], [true, 1])
})

test('a delivery that is neither settled nor extended in time goes back', async (t) => {
  const env = { SLUICE_AMQP_ACK_TIMEOUT_MS: '1000' }
  const { peer, publish } = await withQueue(t, { env })
  await publish('slow', 'extended')
  const client = await peer()
  await client.ask(consume({ credit: 2 }), 'consuming')
  const [slow, extended] = [await client.next('deliver'), await client.next('deliver')]
  const extend = { type: 'settle', deliveries: [extended.delivery], outcome: 'extend' }
  const extending = setInterval(() => client.send(extend), 200)
  t.after(() => clearInterval(extending))
  const again = await client.next('deliver')
  assert.deepEqual([again.body, again.failedCount], [slow.body, 1])
  clearInterval(extending)
  client.send({ type: 'settle', deliveries: [slow.delivery], outcome: 'ack' })
  assert.equal((await client.next('error')).problem.title, 'message_not_found')
})

test('a client that does not read gets no more than fits, and others get the rest', async (t) => {
  const { broker, peer, publish, counts } = await withQueue(t)
  const slow = await peer()
  await slow.ask(consume({ credit: 1_000 }), 'consuming')
  slow.socket.pause()
  const body = 'x'.repeat(100_000)
  await publish(...Array.from({ length: 100 }, () => body))
  // The kernel's buffers take some; then the rest waits in the queue.
  const { ready = 0 } = await counts()
  assert.ok(ready > 20, `${ready} of 100 are still ready`)
  const other = await peer()
  await other.ask(consume({ credit: 1_000 }), 'consuming')
  await waitFor(() => other.frames.length >= ready, { what: 'the rest' })
  slow.socket.resume()
  await waitFor(() => slow.frames.length + other.frames.length === 100, { what: 'all' })
  assert.deepEqual(broker.reported, [])
})

test('a stopping process delivers no more, takes last settlements, and sends clients on', async (t) => {
  const { broker, peer, publish } = await withQueue(t)
  const other = await withBroker(t)
  await publish('1', '2')
  const client = await peer()
  await client.ask(consume({ credit: 2 }), 'consuming')
  const [one] = [await client.next('deliver'), await client.next('deliver')]
  const closing = broker.close()
  await client.next('draining')
  client.send({ type: 'settle', deliveries: [one.delivery], outcome: 'ack' })
  const { problem } = await client.ask(consume({ consumer: 'd' }), 'error')
  assert.equal(problem.title, 'draining')
  assert.equal((await client.ended()).code, 1012)
  await closing
  const elsewhere = await WsPeer.open(other.http, { vhost: broker.vhost })
  await elsewhere.ask(consume(), 'consuming')
  const again = await elsewhere.next('deliver')
  assert.deepEqual([again.body, again.redelivered, again.failedCount], ['2', true, 0])
  elsewhere.send({ type: 'settle', deliveries: [again.delivery], outcome: 'ack' })
  await elsewhere.close()
})

test('consumers hear that their queue is gone; exclusive ones are alone; one at a time is active', async (t) => {
  const { broker, peer, publish } = await withQueue(t)
  const [first, second] = [await peer(), await peer()]
  await first.ask(consume({ exclusive: true }), 'consuming')
  assert.equal((await second.ask(consume(), 'error')).problem.title, 'in_use')
  await broker.request('DELETE', '/queues/q')
  const { problem } = await first.next('cancelled')
  assert.equal(problem.title, 'queue_not_found')

  const single = { arguments: { 'x-single-active-consumer': true } }
  await broker.request('PUT', '/queues/q', { body: single })
  await first.ask(consume(), 'consuming')
  await second.ask(consume(), 'consuming')
  await publish('1')
  await first.next('deliver')
  await first.close()
  assert.equal((await second.next('deliver')).body, '1')
})

test('many publishes are confirmed each by its id, and ids are stored once', async (t) => {
  const { peer, counts } = await withQueue(t)
  const client = await peer()
  const publish = (body: string, id: number, idempotencyKey?: string) =>
    client.send({ type: 'publish', id, routingKey: 'q', body, idempotencyKey })
  for (let id = 1; id <= 500; id++) publish(`${id}`, id)
  publish('last', 501, 'k')
  publish('last', 502, 'k')
  await waitFor(() => client.frames.length === 502, { what: 'confirms' })
  const byId = new Map(client.frames.map((frame) => [frame.id, frame]))
  assert.ok(client.frames.every(({ type }) => type === 'published'))
  assert.deepEqual([byId.get(501)?.duplicate, byId.get(502)?.duplicate], [false, true])
  assert.equal((await counts())['ready'], 501)
})

test('an event published here is an event here', async (t) => {
  const { peer } = await withQueue(t)
  const client = await peer()
  const event = { specversion: '1.0', id: '1', source: 'urn:s', type: 'q', data: { a: [1] } }
  await client.ask({ type: 'publish', event }, 'published')
  assert.equal((await client.ask({ type: 'publish', event }, 'published')).duplicate, true)
  await client.ask(consume({ format: 'event' }), 'consuming')
  const { event: read } = await client.next('deliver')
  assert.deepEqual(read, { ...event, datacontenttype: 'application/json' })
})

test('bodies of any bytes travel as base64', async (t) => {
  const { peer } = await withQueue(t)
  const client = await peer()
  const bodyBase64 = Buffer.from([0, 255, 128]).toString('base64')
  await client.ask({ type: 'publish', routingKey: 'q', bodyBase64 }, 'published')
  await client.ask(consume({ autoAck: true }), 'consuming')
  assert.equal((await client.next('deliver')).bodyBase64, bodyBase64)
})

test('a user does over it what it may, and what it may no longer do ends', async (t) => {
  const { broker, peer, publish } = await withQueue(t)
  const user = `ws-${broker.vhost}`
  const ask = async (method: string, path: string, body?: unknown) => {
    const { status, text } = await broker.request(method, path, { body })
    assert.ok(status < 300, `${method} ${path}: ${text}`)
  }
  const permit = (permission: object) =>
    ask('PUT', `/v1/users/${user}/permissions/${broker.vhost}`, permission)
  await ask('PUT', `/v1/users/${user}`, { password: 'long secret' })
  t.after(() => broker.request('DELETE', `/v1/users/${user}`).catch(() => {}))
  await permit({ configure: '', write: '^amq\\.topic$', read: '^q$' })
  const authorization = `Basic ${Buffer.from(`${user}:long secret`).toString('base64')}`
  const client = await peer({ authorization })

  await broker.request('PUT', '/queues/other', { body: {} })
  const forbidden = async (frame: Frame) =>
    assert.equal((await client.ask(frame, 'error')).problem.title, 'forbidden')
  await forbidden(consume({ queue: 'other' }))
  await forbidden({ type: 'publish', routingKey: 'q', body: 'x' })
  await forbidden({ type: 'publish', exchange: 'amq.fanout', body: 'x' })
  await client.ask({ type: 'publish', exchange: 'amq.topic', body: 'x' }, 'published')
  await client.ask(consume(), 'consuming')
  await publish('1')
  await client.next('deliver')

  await permit({ configure: '', write: '^amq\\.topic$', read: '' })
  const { problem } = await client.next('cancelled')
  assert.equal(problem.title, 'forbidden')
  await client.ask({ type: 'publish', exchange: 'amq.topic', body: 'x' }, 'published')
  await ask('DELETE', `/v1/users/${user}`)
  assert.equal((await client.ended()).code, 4401)
})
