/** Settling and what comes back, over a real broker: behaviours 70 and 72 to 74 of docs/amqp.md. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type ClientMethod, decodeProperties, encodeMethod } from '@sluice/amqp'
import { waitFor } from '@sluice/testkit'
import { type AmqpBroker, declareQueue, withAmqp } from '../support/amqp-broker.ts'
import {
  ack,
  cancel,
  confirming,
  consuming,
  deliveries,
  get,
  nack,
  qos,
  reject,
  settled,
  store,
  withNumbers,
} from './methods.ts'

/** Ready and unacked messages of a queue, once they are as expected. */
async function counts(broker: AmqpBroker, queue: string, ready: number, unacked: number) {
  await waitFor(
    async () => {
      const { json } = await broker.request('GET', `/queues/${queue}`)
      return json.messages.ready === ready && json.messages.unacked === unacked
    },
    { what: `${ready} ready and ${unacked} unacked in ${queue}` },
  )
}

test('no. 70: tags count from 1 on each channel, shared by deliver and get-ok', async (t) => {
  const broker = await withAmqp(t)
  const peer = await withNumbers(broker, 4)
  peer.method(1, get('q'))
  assert.equal((await peer.message('basic.get-ok', 1)).method.deliveryTag, 1)
  await peer.openChannel(2)
  peer.method(2, get('q'))
  assert.equal((await peer.message('basic.get-ok', 2)).method.deliveryTag, 1)
  await consuming(peer, 'q')
  assert.equal((await peer.message('basic.deliver', 1)).method.deliveryTag, 2)
  assert.equal((await peer.message('basic.deliver', 1)).method.deliveryTag, 3)
})

test('no. 70: a tag that is unknown, settled or another channel’s is 406', async (t) => {
  const broker = await withAmqp(t)
  const peer = await withNumbers(broker, 2)
  const refused = (tag: number, id: string) =>
    `channel PRECONDITION_FAILED - unknown delivery tag ${tag} (406, method 60.${id})`
  assert.equal(await peer.refused(ack(1)), refused(1, '80'))
  assert.equal(await peer.refused(ack(0)), refused(0, '80'))
  assert.equal(await peer.refused(nack(7, true)), refused(7, '120'))
  assert.equal(await peer.refused(reject(7, true)), refused(7, '90'))
  await peer.openChannel(2)
  peer.method(2, get('q'))
  await peer.message('basic.get-ok', 2)
  assert.equal(await peer.refused(ack(1)), refused(1, '80'), 'of the other channel')
  peer.method(1, get('q'))
  await peer.message('basic.get-ok', 1)
  peer.method(1, ack(1))
  assert.equal(await peer.refused(ack(1)), refused(1, '80'), 'settled before')
})

test('no. 70: multiple settles all up to the tag, 0 everything, and a stale tag is 406', async (t) => {
  const broker = await withAmqp(t)
  const peer = await withNumbers(broker, 7)
  await consuming(peer, 'q')
  await deliveries(peer, 7)
  peer.method(1, ack(2))
  peer.method(1, ack(4, true))
  await settled(peer)
  await counts(broker, 'q', 0, 3)
  peer.method(1, ack(0, true))
  peer.method(1, ack(0, true))
  await settled(peer)
  await counts(broker, 'q', 0, 0)
  assert.match(await peer.refused(ack(4, true)), /unknown delivery tag 4/)
})

test('no. 72: a requeued message comes back first, flagged, with the count of its failures', async (t) => {
  const broker = await withAmqp(t)
  const peer = await withNumbers(broker, 3)
  await peer.call(1, qos(1), 'basic.qos-ok')
  await consuming(peer, 'q')
  const first = await peer.message('basic.deliver', 1)
  assert.equal(decodeProperties(first.properties).headers, undefined)
  peer.method(1, nack(1, true))
  const again = await peer.message('basic.deliver', 1)
  assert.deepEqual([again.body.toString(), again.method.redelivered], ['1', true])
  assert.equal(Number(decodeProperties(again.properties).headers?.['x-delivery-count']), 1)
  peer.method(1, reject(2, true))
  const third = await peer.message('basic.deliver', 1)
  assert.equal(Number(decodeProperties(third.properties).headers?.['x-delivery-count']), 2)
  peer.method(1, ack(3))
  assert.deepEqual(await deliveries(peer, 1), ['2'])
})

test('no. 72: a message that always fails becomes a dead letter', async (t) => {
  const broker = await withAmqp(t)
  const args = {
    'x-delivery-limit': 3,
    'x-dead-letter-exchange': '',
    'x-dead-letter-routing-key': 'dead',
  }
  const peer = await broker.client()
  await peer.queue('dead')
  await peer.queue('q', { arguments: args })
  await confirming(peer)
  await store(peer, 'q', ['poison'])
  await consuming(peer, 'q')
  for (let tag = 1; tag <= 4; tag++) {
    const { method } = await peer.message('basic.deliver', 1)
    assert.equal(method.redelivered, tag > 1)
    peer.method(1, nack(tag, true))
  }
  const dead = await broker.client()
  await consuming(dead, 'dead', { noAck: true })
  const { body, properties } = await dead.message('basic.deliver', 1)
  assert.equal(body.toString(), 'poison')
  assert.equal(decodeProperties(properties).headers?.['x-last-death-reason'], 'delivery_limit')
})

test('no. 72: several at once go back in their order, or to the dead letters', async (t) => {
  const broker = await withAmqp(t)
  const args = { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'dead' }
  const peer = await withNumbers(broker, 6, args)
  await peer.queue('dead')
  await consuming(peer, 'q', { tag: 'c' })
  await deliveries(peer, 6)
  await peer.call(1, cancel('c'), 'basic.cancel-ok')
  peer.method(1, nack(3, true, true))
  peer.method(1, nack(5, false, true))
  peer.method(1, nack(6, true))
  await consuming(peer, 'dead', { tag: 'dead', noAck: true })
  assert.deepEqual((await deliveries(peer, 2)).sort(), ['4', '5'])
  await counts(broker, 'q', 4, 0)
  await consuming(peer, 'q')
  assert.deepEqual(await deliveries(peer, 4), ['1!', '2!', '3!', '6!'])
})

test('no. 72: what is asked right behind a requeue finds it in the queue', async (t) => {
  const broker = await withAmqp(t)
  const peer = await withNumbers(broker, 3)
  const inOne = (...methods: ClientMethod[]) =>
    peer.send(Buffer.concat(methods.map((method) => encodeMethod(1, method))))
  const bodies: string[] = []
  inOne(get('q'), get('q'), get('q'))
  for (let round = 1; round <= 6; round++) {
    let last = 0
    for (const _ of [1, 2, 3]) {
      const { body, method } = await peer.message('basic.get-ok', 1)
      bodies.push(body.toString())
      last = method.deliveryTag
    }
    const again = [get('q'), get('q'), get('q')]
    inOne(nack(last, true, true), ...(round < 6 ? again : []))
  }
  assert.equal(bodies.join(''), '123'.repeat(6))
  const passive = declareQueue('q', { passive: true })
  assert.equal((await peer.call(1, passive, 'queue.declare-ok')).messageCount, 3)
})

test('no. 72: what is redelivered keeps the width of its integers', async (t) => {
  const broker = await withAmqp(t)
  const peer = await withNumbers(broker, 0)
  await store(peer, 'q', ['x'], { properties: { headers: { long: 7n, int: 7 } } })
  peer.method(1, get('q'))
  await peer.message('basic.get-ok', 1)
  peer.method(1, nack(1, true))
  peer.method(1, get('q'))
  const { properties } = await peer.message('basic.get-ok', 1)
  for (const typed of ['\x04longl', '\x03intI', '\x10x-delivery-countl']) {
    assert(properties.includes(Buffer.from(typed, 'latin1')), typed)
  }
})

test('no. 74: close-ok says that what was held is back in its queue', async (t) => {
  const broker = await withAmqp(t)
  const peer = await withNumbers(broker, 1)
  const close = { replyCode: 200, replyText: '', classId: 0, methodId: 0 }
  for (let round = 0; round < 3; round++) {
    await peer.openChannel(2)
    peer.method(2, get('q'))
    await peer.message('basic.get-ok', 2)
    await peer.call(2, { name: 'channel.close', ...close }, 'channel.close-ok')
    const other = await broker.client()
    other.method(1, get('q'))
    assert.equal((await other.message('basic.get-ok', 1)).method.redelivered, true)
    await other.call(0, { name: 'connection.close', ...close }, 'connection.close-ok')
  }
})

test('no. 73: recover requeues all of the channel, and without requeue it is 540', async (t) => {
  const broker = await withAmqp(t)
  const peer = await withNumbers(broker, 3)
  await peer.call(1, qos(3), 'basic.qos-ok')
  await consuming(peer, 'q')
  assert.deepEqual(await deliveries(peer, 3), ['1', '2', '3'])
  await peer.call(1, { name: 'basic.recover', requeue: true }, 'basic.recover-ok')
  assert.deepEqual(await deliveries(peer, 3), ['1!', '2!', '3!'])
  peer.method(1, { name: 'basic.recover-async', requeue: true })
  const again = await peer.message('basic.deliver', 1)
  assert.deepEqual([again.method.deliveryTag, again.body.toString()], [7, '1'])
  assert.equal(
    await (await broker.client()).refused({ name: 'basic.recover', requeue: false }),
    'connection NOT_IMPLEMENTED - requeue=false (540, method 60.110)',
  )
})

test('no. 74: what a channel or a connection held comes back in order, flagged', async (t) => {
  const broker = await withAmqp(t)
  const peer = await withNumbers(broker, 6)
  await peer.openChannel(2)
  await peer.call(2, qos(3), 'basic.qos-ok')
  await consuming(peer, 'q', { channel: 2 })
  assert.deepEqual(await deliveries(peer, 3), ['1', '2', '3'])
  const close = { name: 'channel.close', replyCode: 200, replyText: '', classId: 0, methodId: 0 }
  await peer.call(2, close as never, 'channel.close-ok')
  const other = await broker.client()
  await consuming(other, 'q')
  assert.deepEqual(await deliveries(other, 6), ['1!', '2!', '3!', '4', '5', '6'])
  await other.close()
  await consuming(peer, 'q')
  assert.deepEqual(await deliveries(peer, 6), ['1!', '2!', '3!', '4!', '5!', '6!'])
})

test('no. 68: a delivery that is not settled in time goes back alone; its late ack is ignored', async (t) => {
  const broker = await withAmqp(t, { env: { SLUICE_AMQP_ACK_TIMEOUT_MS: '200' } })
  const peer = await withNumbers(broker, 2)
  await peer.call(1, qos(2), 'basic.qos-ok')
  await consuming(peer, 'q')
  assert.deepEqual(await deliveries(peer, 2), ['1', '2'])
  peer.method(1, ack(2))
  const again = await peer.message('basic.deliver', 1)
  assert.deepEqual(
    [again.body.toString(), again.method.deliveryTag, again.method.redelivered],
    ['1', 3, true],
  )
  assert.equal(Number(decodeProperties(again.properties).headers?.['x-delivery-count']), 1)
  peer.method(1, ack(1))
  peer.method(1, ack(3))
  await settled(peer)
  await counts(broker, 'q', 0, 0)
  const { text } = await broker.request('GET', '/metrics')
  assert.match(text, /sluice_amqp_ack_timeouts_total 1/)
})

test('a message leased over HTTP and left to lapse comes over AMQP, flagged and counted', async (t) => {
  const broker = await withAmqp(t)
  const peer = await withNumbers(broker, 2)
  const lease = { max: 1, waitMs: 0, leaseMs: 1_000, consumer: 'forgetful' }
  const leased = await broker.request('POST', '/queues/q/leases', { body: lease })
  assert.equal(leased.json.messages.length, 1, leased.text)
  await consuming(peer, 'q')
  assert.deepEqual(await deliveries(peer, 1), ['2'])
  const lapsed = await peer.message('basic.deliver', 1)
  assert.deepEqual([lapsed.body.toString(), lapsed.method.redelivered], ['1', true])
  assert.equal(Number(decodeProperties(lapsed.properties).headers?.['x-delivery-count']), 1)
  peer.method(1, nack(2, true))
  await peer.message('basic.deliver', 1)
  peer.method(1, ack(0, true))
  await settled(peer)
  await counts(broker, 'q', 0, 0)
})
