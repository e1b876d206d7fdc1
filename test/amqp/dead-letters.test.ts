/** Dead letters as AMQP consumers see them: behaviours 77 to 83 of docs/amqp.md. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decodeProperties, type FieldValue, type Properties, type Table } from '@sluice/amqp'
import { waitFor } from '@sluice/testkit'
import { type AmqpBroker, type AmqpClient, withAmqp } from '../support/amqp-broker.ts'
import {
  ack,
  confirming,
  consuming,
  deliveries,
  get,
  nack,
  reject,
  settled,
  store,
} from './methods.ts'

const TO_DEAD = { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'dead' }

async function setup(broker: AmqpBroker, args: Table = {}): Promise<AmqpClient> {
  const peer = await broker.client()
  await peer.queue('dead')
  await peer.queue('q', { arguments: { ...TO_DEAD, ...args } })
  await confirming(peer)
  return peer
}

/** Rejects the next message of a queue. */
async function rejectNext(peer: AmqpClient, queue: string): Promise<void> {
  peer.method(1, get(queue))
  const { method } = await peer.message('basic.get-ok', 1)
  peer.method(1, reject(method.deliveryTag, false))
}

interface Dead {
  readonly exchange: string
  readonly routingKey: string
  readonly body: string
  readonly properties: Properties
  readonly headers: Table
  /** x-death. */
  readonly deaths: readonly Table[]
}

/** The next message of the queue `dead`, which may take its time to get there. */
async function nextDead(peer: AmqpClient, queue = 'dead'): Promise<Dead> {
  return waitFor(
    async () => {
      peer.method(1, get(queue, true))
      const frame = await peer.next()
      assert(frame.kind === 'method')
      if (frame.method.name === 'basic.get-empty') return undefined
      assert(frame.method.name === 'basic.get-ok')
      const header = await peer.next()
      assert(header.kind === 'header')
      const body = header.size > 0 ? await peer.next() : undefined
      const properties = decodeProperties(header.properties)
      const headers = properties.headers ?? {}
      return {
        exchange: frame.method.exchange,
        routingKey: frame.method.routingKey,
        body: body?.kind === 'body' ? body.body.toString() : '',
        properties,
        headers,
        deaths: headers['x-death'] as Table[],
      }
    },
    { what: `a message in ${queue}` },
  )
}

test('no. 77: rejected, expired, maxlen and delivery_limit are the reasons', async (t) => {
  const broker = await withAmqp(t)
  const peer = await setup(broker, { 'x-max-length': 1, 'x-delivery-limit': 0 })
  const reason = async () => {
    const { headers, deaths } = await nextDead(peer)
    assert.equal(deaths[0]?.['reason'], headers['x-last-death-reason'])
    return headers['x-last-death-reason']
  }
  await store(peer, 'q', ['1'])
  await rejectNext(peer, 'q')
  assert.equal(await reason(), 'rejected')
  await store(peer, 'q', ['2'], { properties: { expiration: '20' } })
  assert.equal(await reason(), 'expired')
  await store(peer, 'q', ['3', '4'])
  assert.equal(await reason(), 'maxlen')
  peer.method(1, get('q'))
  const { method } = await peer.message('basic.get-ok', 1)
  peer.method(1, nack(method.deliveryTag, true))
  assert.equal(await reason(), 'delivery_limit')
})

test('no. 78: x-death tells each queue and reason once, newest first, with its first time', async (t) => {
  const broker = await withAmqp(t)
  const peer = await setup(broker)
  await peer.queue('second', { arguments: TO_DEAD })
  await peer.exchange('x', 'direct')
  await peer.bind('q', 'x', 'key')
  const headers = { CC: ['cc'], BCC: ['bcc'] }
  peer.publish(1, 'x', 'key', 'body', { properties: { headers, expiration: '50' } })
  await peer.expect('basic.ack', 1)
  const first = await nextDead(peer)
  const { time, ...entry } = first.deaths[0]!
  assert.deepEqual(entry, {
    count: entry['count'],
    reason: 'expired',
    queue: 'q',
    exchange: 'x',
    'routing-keys': ['key', 'cc'],
    'original-expiration': '50',
  })
  assert.equal(Number(entry['count']), 1)
  assert(time instanceof Date && Math.abs(time.getTime() - Date.now()) < 60_000)

  const again = async (queue: string, dead: Dead) => {
    peer.publish(1, '', queue, dead.body, { properties: { headers: dead.headers } })
    await peer.expect('basic.ack', 1)
    await rejectNext(peer, queue)
    return nextDead(peer)
  }
  const second = await again('second', first)
  const third = await again('second', second)
  const summary = third.deaths.map((death) => [
    death['queue'],
    death['reason'],
    Number(death['count']),
  ])
  assert.deepEqual(summary, [
    ['second', 'rejected', 2],
    ['q', 'expired', 1],
  ])
  assert.deepEqual(third.deaths[1]?.['time'], time)
  assert.deepEqual(third.deaths[0]?.['time'], second.deaths[0]?.['time'], 'of the first death')
})

test('no. 79: the first death is written once, the last one each time', async (t) => {
  const broker = await withAmqp(t)
  const peer = await setup(broker)
  await peer.queue('second', { arguments: TO_DEAD })
  await peer.exchange('x', 'fanout')
  await peer.bind('second', 'x', '')
  await store(peer, 'q', ['body'], { properties: { expiration: '0' } })
  const first = await nextDead(peer)
  peer.publish(1, 'x', '', 'body', { properties: { headers: first.headers } })
  await peer.expect('basic.ack', 1)
  await rejectNext(peer, 'second')
  const { headers } = await nextDead(peer)
  const told = (which: string) =>
    ['queue', 'reason', 'exchange'].map((name) => headers[`x-${which}-death-${name}`])
  assert.deepEqual(told('first'), ['q', 'expired', ''])
  assert.deepEqual(told('last'), ['second', 'rejected', 'x'])
})

test('no. 80: exchange and key are the dead letter’s own; BCC, CC and expiration go', async (t) => {
  const broker = await withAmqp(t)
  const peer = await setup(broker)
  await peer.exchange('dlx', 'fanout')
  await peer.bind('dead', 'dlx', '')
  await peer.queue('keeps', { arguments: { 'x-dead-letter-exchange': 'dlx' } })
  const properties = { headers: { CC: ['cc'], kept: 'yes' }, expiration: '60000', messageId: 'm' }
  await store(peer, 'keeps', ['1'], { properties })
  await rejectNext(peer, 'keeps')
  const kept = await nextDead(peer)
  assert.deepEqual([kept.exchange, kept.routingKey], ['dlx', 'keeps'])
  assert.deepEqual(kept.headers['CC'], ['cc'])
  assert.deepEqual([kept.properties.expiration, kept.properties.messageId], [undefined, 'm'])
  await store(peer, 'q', ['2'], { properties })
  await rejectNext(peer, 'q')
  const keyed = await nextDead(peer)
  assert.deepEqual([keyed.exchange, keyed.routingKey], ['', 'dead'])
  assert.deepEqual([keyed.headers['CC'], keyed.headers['kept']], [undefined, 'yes'])
})

test('no. 81: a circle that no consumer turns ends, one with a rejection goes on', async (t) => {
  const broker = await withAmqp(t)
  const peer = await broker.client()
  await confirming(peer)
  const toSelf = { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'circle' }
  await peer.queue('circle', { arguments: { ...toSelf, 'x-message-ttl': 10 } })
  await store(peer, 'circle', ['lost'])
  const dropped = async () => {
    const { json } = await broker.request('GET', '/queues/circle')
    return json.totals.dropped + json.totals.deadLettered > 0 && json.messages.ready === 0
  }
  await waitFor(dropped, { what: 'the circle to end' })
  await peer.queue('rejected', {
    arguments: { ...toSelf, 'x-dead-letter-routing-key': 'rejected' },
  })
  await store(peer, 'rejected', ['kept'])
  for (let round = 1; round <= 3; round++) {
    await consuming(peer, 'rejected', { tag: `c${round}` })
    const { method, properties } = await peer.message('basic.deliver', 1)
    const deaths = (decodeProperties(properties).headers?.['x-death'] ?? []) as Table[]
    assert.equal(Number(deaths[0]?.['count'] ?? 0), round - 1)
    peer.method(1, { name: 'basic.cancel', consumerTag: `c${round}`, noWait: false })
    await peer.expect('basic.cancel-ok', 1)
    peer.method(1, reject(method.deliveryTag, false))
  }
})

test('no. 81: without its dead letter exchange a message is dropped', async (t) => {
  const broker = await withAmqp(t)
  const peer = await broker.client()
  await peer.queue('q', { arguments: { 'x-dead-letter-exchange': 'nowhere' } })
  await confirming(peer)
  await store(peer, 'q', ['lost'])
  await rejectNext(peer, 'q')
  const gone = async () => {
    const { json } = await broker.request('GET', '/queues/q')
    const { ready, unacked, dead } = json.messages
    return ready + unacked + dead === 0
  }
  await waitFor(gone, { what: 'the message to be gone' })
})

test('no. 82: an x-death that a client published is gone on from, as RabbitMQ 3 does', async (t) => {
  const broker = await withAmqp(t)
  const peer = await setup(broker)
  const death: Record<string, FieldValue> = {
    count: 41n,
    reason: 'rejected',
    queue: 'q',
    time: new Date(1_600_000_000_000),
    exchange: '',
    'routing-keys': ['q'],
  }
  await store(peer, 'q', ['body'], { properties: { headers: { 'x-death': [death] } } })
  await rejectNext(peer, 'q')
  const { deaths } = await nextDead(peer)
  assert.equal(deaths.length, 1)
  assert.equal(Number(deaths[0]?.['count']), 42)
})

test('no. 83: length limits count ready messages, and a dead letter is never lost on its way', async (t) => {
  const broker = await withAmqp(t)
  const args = { 'x-dead-letter-strategy': 'at-least-once', 'x-max-length': 2 }
  const peer = await setup(broker, args)
  await store(peer, 'q', ['1', '2'])
  await consuming(peer, 'q', { tag: 'c' })
  assert.deepEqual(await deliveries(peer, 2), ['1', '2'])
  peer.method(1, { name: 'basic.cancel', consumerTag: 'c', noWait: false })
  await peer.expect('basic.cancel-ok', 1)
  await store(peer, 'q', ['3', '4'])
  assert.equal(await peer.get('dead'), undefined, 'two are unacked and two are ready')
  await store(peer, 'q', ['5'])
  const { body, headers } = await nextDead(peer)
  assert.deepEqual([body, headers['x-last-death-reason']], ['3', 'maxlen'])
  peer.method(1, ack(2, true))
  await settled(peer)
})

test('no. 46, 77: what was rejected last arrives, though its queue goes with the connection', async (t) => {
  const broker = await withAmqp(t)
  const observer = await setup(broker)
  const bodies = Array.from({ length: 20 }, (_, n) => `${n}`.padStart(2, '0'))
  const leaving = await broker.client()
  await leaving.queue('mine', { exclusive: true, arguments: TO_DEAD })
  await consuming(leaving, 'mine')
  await confirming(leaving)
  for (const body of bodies) leaving.publish(1, '', 'mine', body)
  for (let left = bodies.length; left > 0; ) {
    const frame = await leaving.next() // confirms come in between
    if (frame.kind === 'body') left--
  }
  leaving.method(1, nack(0, false, true))
  await leaving.close()
  await waitFor(() => !broker.deps.topology.table.queue(broker.vhost, 'mine'), { what: 'its end' })
  const dead: string[] = []
  while (dead.length < bodies.length) dead.push((await nextDead(observer)).body)
  assert.deepEqual(dead.sort(), bodies)
})
