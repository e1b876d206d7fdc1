/** Consuming, over a real broker: behaviours 45 and 64 to 71 of docs/amqp.md. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { withAmqp } from '../support/amqp-broker.ts'
import {
  ack,
  cancel,
  confirming,
  consume,
  consuming,
  deleteQueue,
  deliveries,
  get,
  numbers,
  qos,
  settled,
  store,
  withNumbers,
} from './methods.ts'

test('no. 45: prefetch holds for consumers that come after it, each for itself', async (t) => {
  const broker = await withAmqp(t)
  const peer = await withNumbers(broker, 6)
  await peer.call(1, qos(2), 'basic.qos-ok')
  await consuming(peer, 'q', { tag: 'two' })
  assert.deepEqual(await deliveries(peer, 2), ['1', '2'])
  await peer.call(1, qos(3), 'basic.qos-ok')
  await settled(peer)
  assert.equal(peer.unread.length, 0, 'a running consumer keeps its limit')
  await consuming(peer, 'q', { tag: 'three' })
  assert.deepEqual(await deliveries(peer, 3), ['3', '4', '5'])
  peer.method(1, ack(1))
  assert.deepEqual(await deliveries(peer, 1), ['6'])
})

test('no. 45: a global prefetch is shared by the channel’s consumers, and changes at once', async (t) => {
  const broker = await withAmqp(t)
  const peer = await withNumbers(broker, 8)
  await peer.queue('other')
  await store(peer, 'other', ['a', 'b'])
  await peer.call(1, qos(2, true), 'basic.qos-ok')
  await consuming(peer, 'q', { tag: 'one' })
  assert.deepEqual(await deliveries(peer, 2), ['1', '2'])
  await consuming(peer, 'q', { tag: 'again' })
  await consuming(peer, 'other', { tag: 'other' })
  await peer.call(1, get('other', true), 'basic.get-ok')
  await peer.next()
  await peer.next()
  assert.equal(peer.unread.length, 0)
  await peer.call(1, qos(3, true), 'basic.qos-ok')
  const [third] = await deliveries(peer, 1)
  peer.method(1, ack(1))
  const [fourth] = await deliveries(peer, 1)
  assert.notEqual(third, fourth)
  await peer.call(1, qos(0, true), 'basic.qos-ok')
  const rest = await deliveries(peer, 5)
  assert.deepEqual([third, fourth, ...rest].sort(), ['3', '4', '5', '6', '7', '8', 'b'])
})

test('no. 45: a consumer without acks waits while the channel’s limit is reached', async (t) => {
  const broker = await withAmqp(t)
  const peer = await withNumbers(broker, 1)
  await peer.queue('other')
  await store(peer, 'other', ['a', 'b'])
  await peer.call(1, qos(1, true), 'basic.qos-ok')
  await consuming(peer, 'q')
  assert.deepEqual(await deliveries(peer, 1), ['1'])
  await consuming(peer, 'other', { noAck: true })
  await settled(peer, 1)
  assert.equal(peer.unread.length, 0)
  peer.method(1, ack(1))
  assert.deepEqual(await deliveries(peer, 2), ['a', 'b'])
})

test('no. 45: what settles in one queue makes room for another, and nothing is hoarded', async (t) => {
  const broker = await withAmqp(t)
  const peer = await withNumbers(broker, 5)
  await peer.queue('other')
  await store(peer, 'other', ['a'])
  await peer.call(1, qos(1, true), 'basic.qos-ok')
  await consuming(peer, 'q', { tag: 'one' })
  assert.deepEqual(await deliveries(peer, 1), ['1'])
  await consuming(peer, 'q', { tag: 'two' })
  await consuming(peer, 'q', { tag: 'three' })
  await peer.call(1, cancel('one'), 'basic.cancel-ok')
  await consuming(peer, 'other', { tag: 'other' })
  const shown = async () => (await broker.request('GET', '/queues/q')).json.messages
  peer.method(1, ack(1))
  const [second] = await deliveries(peer, 1)
  const { ready, unacked } = await shown()
  assert.equal(ready + unacked, 4)
  assert(unacked <= 1, 'what the channel has no room for is left to others')
  const rest: string[] = []
  for (let tag = 2; tag <= 5; tag++) {
    peer.method(1, ack(tag))
    rest.push(...(await deliveries(peer, 1)))
  }
  assert.deepEqual([second, ...rest].sort(), ['2', '3', '4', '5', 'a'])
})

test('no. 45: both limits hold at once, and a prefetch of bytes is 540', async (t) => {
  const broker = await withAmqp(t)
  const peer = await withNumbers(broker, 4)
  await peer.call(1, qos(1), 'basic.qos-ok')
  await peer.call(1, qos(3, true), 'basic.qos-ok')
  await consuming(peer, 'q', { tag: 'a' })
  assert.deepEqual(await deliveries(peer, 1), ['1'])
  await peer.call(1, qos(3, true), 'basic.qos-ok')
  assert.equal(peer.unread.length, 0, 'its own limit is 1')
  assert.equal(
    await peer.refused(qos(0, false, 1)),
    'connection NOT_IMPLEMENTED - prefetch_size!=0 (1) (540, method 60.10)',
  )
})

test('no. 64: an empty consumer tag gets one; a tag in use is 530, to the connection', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  await peer.queue('q')
  assert.match(await consuming(peer, 'q'), /^amq\.ctag-[\w-]{22}$/)
  await consuming(peer, 'q', { tag: 'mine' })
  await peer.openChannel(2)
  await consuming(peer, 'q', { tag: 'mine', channel: 2 })
  assert.equal(
    await peer.refused(consume('q', { tag: 'mine' })),
    "connection NOT_ALLOWED - attempt to reuse consumer tag 'mine' (530, method 60.20)",
  )
})

test('no. 65: an exclusive consumer is alone, or does not come', async (t) => {
  const { client, vhost } = await withAmqp(t)
  const [first, second] = [await client(), await client()]
  await first.queue('q')
  const inUse = `channel ACCESS_REFUSED - queue 'q' in vhost '${vhost}' in exclusive use (403, method 60.20)`
  await consuming(first, 'q', { tag: 'shared' })
  assert.equal(await second.refused(consume('q', { exclusive: true })), inUse)
  await first.call(1, cancel('shared'), 'basic.cancel-ok')
  await consuming(first, 'q', { tag: 'alone', exclusive: true })
  assert.equal(await second.refused(consume('q')), inUse)
  assert.equal(await first.refused(consume('q')), inUse)
  await consuming(second, 'q') // its channel was closed by that, and its consumer with it

  await first.queue('single', { arguments: { 'x-single-active-consumer': true } })
  assert.match(
    await first.refused(consume('single', { exclusive: true })),
    /^channel ACCESS_REFUSED .* \(403, method 60.20\)$/,
  )
})

test('no. 66: no_local is ignored; another connection’s exclusive queue is 405', async (t) => {
  const { client, vhost } = await withAmqp(t)
  const [owner, other] = [await client(), await client()]
  await owner.queue('mine', { exclusive: true })
  const noLocal = { ...consume('mine', { noAck: true }), noLocal: true } as const
  await owner.call(1, noLocal as never, 'basic.consume-ok')
  owner.publish(1, '', 'mine', 'from myself')
  assert.deepEqual(await deliveries(owner, 1), ['from myself'])
  const locked =
    `channel RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'mine' in vhost ` +
    `'${vhost}'. It could be originally declared on another connection or the exclusive property ` +
    'value does not match that of the original declaration. (405, method '
  assert.equal(
    (await other.refused(consume('mine'))).slice(0, 200),
    `${locked}60.20)`.slice(0, 200),
  )
  assert.match(await other.refused(get('mine')), /^channel RESOURCE_LOCKED .*60\.70\)$/)
})

test('no. 67: cancel of an unknown tag is fine; what was delivered stays with the channel', async (t) => {
  const broker = await withAmqp(t)
  const peer = await withNumbers(broker, 2)
  await peer.call(1, cancel('unknown'), 'basic.cancel-ok')
  await peer.call(1, qos(1), 'basic.qos-ok')
  await consuming(peer, 'q', { tag: 'c' })
  assert.deepEqual(await deliveries(peer, 1), ['1'])
  await peer.call(1, cancel('c'), 'basic.cancel-ok')
  assert.equal(await peer.get('q'), '2')
  assert.equal(await peer.get('q'), undefined, 'the first one is still held')
  peer.method(1, ack(1))
  await settled(peer)
})

test('no. 68: whoever can hear it is told that its queue is gone, busy or not', async (t) => {
  const { client } = await withAmqp(t)
  const capabilities = { consumer_cancel_notify: true }
  const [told, untold] = [await client({ clientProperties: { capabilities } }), await client()]
  const deleter = await client()
  await confirming(deleter)
  await deleter.queue('q')
  await told.call(1, qos(1), 'basic.qos-ok')
  await consuming(told, 'q', { tag: 'told' })
  await store(deleter, 'q', ['held'])
  assert.deepEqual(await deliveries(told, 1), ['held'])
  await untold.call(1, qos(1), 'basic.qos-ok')
  await consuming(untold, 'q', { tag: 'untold' })
  await store(deleter, 'q', ['held too'])
  assert.deepEqual(await deliveries(untold, 1), ['held too'])
  await deleter.call(1, deleteQueue('q'), 'queue.delete-ok')
  const notice = await told.expect('basic.cancel', 1)
  assert.deepEqual([notice.consumerTag, notice.noWait], ['told', true])
  told.method(1, { name: 'basic.cancel-ok', consumerTag: 'told' })
  told.method(1, ack(1))
  await settled(told)
  await settled(untold)
  await deleter.queue('q')
  await consuming(untold, 'q', { tag: 'untold' }) // the tag is free again
})

test('no. 69: the higher priority is served while it has credit, on whatever channel', async (t) => {
  const broker = await withAmqp(t)
  const peer = await withNumbers(broker, 0)
  const low = await broker.client()
  await consuming(low, 'q', { tag: 'low' })
  const high = await broker.client()
  await high.call(1, qos(2), 'basic.qos-ok')
  await consuming(high, 'q', { tag: 'high', arguments: { 'x-priority': 5 } })
  await store(peer, 'q', numbers(1, 4))
  assert.deepEqual(await deliveries(high, 2), ['1', '2'])
  assert.deepEqual(await deliveries(low, 2), ['3', '4'])
  assert.match(
    await low.refused(consume('q', { arguments: { 'x-priority': 'high' } })),
    /^channel PRECONDITION_FAILED - invalid arg 'x-priority'.* \(406, method 60.20\)$/,
  )
})

test('no. 69: of a single active consumer’s rivals one takes over when it leaves', async (t) => {
  const { client } = await withAmqp(t)
  const [first, second, third] = [await client(), await client(), await client()]
  await first.queue('q', { arguments: { 'x-single-active-consumer': true } })
  await first.call(1, qos(1), 'basic.qos-ok')
  for (const peer of [first, second, third]) await consuming(peer, 'q', { tag: 'c' })
  const publisher = await client()
  await confirming(publisher)
  await store(publisher, 'q', ['1', '2'])
  assert.deepEqual(await deliveries(first, 1), ['1'])
  assert.equal(second.unread.length, 0, 'although the first one has no credit')
  await first.close()
  assert.deepEqual(await deliveries(second, 2), ['1!', '2'])
  await second.call(1, cancel('c'), 'basic.cancel-ok')
  second.method(1, ack(0, true))
  await store(publisher, 'q', ['3'])
  assert.deepEqual(await deliveries(third, 1), ['3'])
})

test('no. 71: get-ok tells what is left, get-empty that there is nothing', async (t) => {
  const broker = await withAmqp(t)
  const peer = await withNumbers(broker, 3)
  for (const [body, left] of [
    ['1', 2],
    ['2', 1],
    ['3', 0],
  ] as const) {
    peer.method(1, get('q'))
    const got = await peer.message('basic.get-ok', 1)
    assert.deepEqual([got.body.toString(), got.method.messageCount], [body, left])
    assert.equal(got.method.deliveryTag, Number(body))
  }
  await peer.call(1, get('q'), 'basic.get-empty')
  peer.method(1, ack(2, true))
  peer.method(1, ack(3))
  await settled(peer)
})

test('no. 71: gets that race a delete end in get-ok, get-empty or 404', async (t) => {
  const { client } = await withAmqp(t)
  const [peer, deleter] = [await client(), await client()]
  for (let round = 0; round < 10; round++) {
    await deleter.queue('q')
    for (let i = 0; i < 5; i++) deleter.publish(1, '', 'q', 'x')
    for (let i = 0; i < 10; i++) peer.method(1, get('q', true))
    await deleter.call(1, deleteQueue('q'), 'queue.delete-ok')
    let answers = 0
    for (let closed = false; answers < 10 && !closed; ) {
      const frame = await peer.next()
      if (frame.kind !== 'method') continue
      answers++
      closed = frame.method.name === 'channel.close'
      if (frame.method.name === 'channel.close') assert.equal(frame.method.replyCode, 404)
      else assert.match(frame.method.name, /^basic\.get-(ok|empty)$/)
    }
    while (peer.unread.length > 0) await peer.next()
    if (answers < 10) {
      peer.method(1, { name: 'channel.close-ok' })
      await peer.openChannel(1)
    }
  }
})

test('where a queue keeps the order of keys the routing key is one, unless a header names another', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  await confirming(peer)
  await peer.queue('keys', { arguments: { 'x-ordering-key': true } })
  const headers = { 'x-ordering-key': 'other' }
  await store(peer, 'keys', ['1', '2'])
  await store(peer, 'keys', ['3', '4'], { properties: { headers } })
  await consuming(peer, 'keys')
  assert.deepEqual(await deliveries(peer, 2), ['1', '3'])
  await settled(peer)
  assert.equal(peer.unread.length, 0, 'one of each key at a time')
  peer.method(1, ack(2))
  assert.deepEqual(await deliveries(peer, 1), ['4'])
})

test('consumers without acks, and get, on queues with priorities and with ordering keys', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  await confirming(peer)
  await peer.queue('levels', { arguments: { 'x-max-priority': 5 } })
  await peer.queue('keys', { arguments: { 'x-ordering-key': true } })
  for (const [body, priority] of [
    ['low', 0],
    ['high', 5],
    ['middle', 3],
  ] as const) {
    await store(peer, 'levels', [body], { properties: { priority } })
  }
  assert.equal(await peer.get('levels'), 'high')
  await consuming(peer, 'levels', { noAck: true })
  assert.deepEqual(await deliveries(peer, 2), ['middle', 'low'])

  await store(peer, 'keys', ['1', '2', '3'])
  assert.equal(await peer.get('keys'), '1')
  await consuming(peer, 'keys', { noAck: true })
  assert.deepEqual(await deliveries(peer, 2), ['2', '3'])
  // By another client: to this one the delivery may come before the confirm.
  const publisher = await client()
  await confirming(publisher)
  await store(publisher, 'keys', ['4'])
  assert.deepEqual(await deliveries(peer, 1), ['4'])
})
