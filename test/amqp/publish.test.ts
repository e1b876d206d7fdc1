/** Publishing and confirms, over a real broker: behaviours 55 to 62 of docs/amqp.md, and 76. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decodeProperties, type FieldValue, type Properties } from '@sluice/amqp'
import { declareQueue, withAmqp } from '../support/amqp-broker.ts'
import { confirming, consuming, deleteQueue, deliveries, get, store } from './methods.ts'

test('no. 55: immediate=true is 540, which ends the connection', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  await peer.queue('q')
  const refusal = await peer.refusal(() => peer.publish(1, '', 'q', 'x', { immediate: true }))
  assert.equal(refusal, 'connection NOT_IMPLEMENTED - immediate=true (540, method 60.40)')
})

test('no. 56: a mandatory message that no queue takes is returned whole, then confirmed', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  await confirming(peer)
  const properties = { contentType: 'text/plain', headers: { a: 1 } }
  peer.publish(1, 'amq.direct', 'nobody', 'body', { mandatory: true, properties })
  const returned = await peer.message('basic.return', 1)
  assert.deepEqual(
    [returned.method.replyCode, returned.method.replyText, returned.method.exchange],
    [312, 'NO_ROUTE', 'amq.direct'],
  )
  assert.equal(returned.method.routingKey, 'nobody')
  assert.equal(returned.body.toString(), 'body')
  assert.deepEqual(decodeProperties(returned.properties), properties)
  assert.equal((await peer.expect('basic.ack', 1)).deliveryTag, 1)
  peer.publish(1, 'amq.direct', 'nobody', 'not mandatory')
  assert.equal((await peer.expect('basic.ack', 1)).deliveryTag, 2, 'nothing is returned')
})

test('no. 56: a missing exchange is 404 and returns nothing; internal comes before expiration', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  await peer.exchange('inner', 'fanout', { internal: true })
  const missing = () => peer.publish(1, 'nope', 'key', 'x', { mandatory: true })
  assert.match(await peer.refusal(missing), /^channel NOT_FOUND .* \(404, method 60.40\)$/)
  const internal = () =>
    peer.publish(1, 'inner', 'key', 'x', { properties: { expiration: 'never', userId: 'eve' } })
  assert.match(await peer.refusal(internal), /^channel ACCESS_REFUSED - cannot publish to internal/)
  const reply = { replyTo: 'amq.rabbitmq.reply-to', expiration: 'never' }
  assert.match(
    await peer.refusal(() => peer.publish(1, 'nope', 'key', 'x', { properties: reply })),
    /^channel NOT_FOUND/,
    'the exchange is looked for before properties are read',
  )
  assert.match(
    await peer.refusal(() => peer.publish(1, '', 'key', 'x', { properties: reply })),
    /fast reply consumer does not exist/,
    'then the address for replies, then the expiration',
  )
})

test('what is asked right behind a publish finds it in the queue, without confirms', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  await peer.queue('q')
  for (let round = 0; round < 50; round++) {
    peer.publish(1, 'amq.direct', 'nobody', 'x')
    for (const body of ['1', '2', '3']) peer.publish(1, '', 'q', body)
    assert.equal(await peer.get('q'), '1')
    const purge = { name: 'queue.purge', queue: 'q', noWait: false } as const
    assert.equal((await peer.call(1, purge, 'queue.purge-ok')).messageCount, 2)
  }
})

test('no. 57: confirms count from 1, cover each publish once and never one too many', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  await peer.queue('q')
  peer.publish(1, '', 'q', 'before confirm.select')
  await confirming(peer)
  const count = 200
  for (let i = 0; i < count; i++) peer.publish(1, i % 3 === 0 ? 'amq.fanout' : '', 'q', String(i))
  const confirmed = new Set<number>()
  let low = 0
  while (confirmed.size < count) {
    const { deliveryTag, multiple } = await peer.expect('basic.ack', 1)
    const from = multiple ? low + 1 : deliveryTag
    for (let tag = from; tag <= deliveryTag; tag++) confirmed.add(tag)
    while (confirmed.has(low + 1)) low++
  }
  assert.equal(low, count)
  assert.equal(confirmed.size, count)
})

test('no. 57: a queue that is full nacks, although another one keeps the message', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  await peer.queue('full', {
    arguments: { 'x-max-length': 1, 'x-overflow': 'reject-publish' },
  })
  await peer.queue('roomy')
  for (const queue of ['full', 'roomy']) await peer.bind(queue, 'amq.fanout', '')
  await confirming(peer)
  peer.publish(1, 'amq.fanout', '', 'one')
  await peer.expect('basic.ack', 1)
  peer.publish(1, 'amq.fanout', '', 'two')
  assert.equal((await peer.expect('basic.nack', 1)).deliveryTag, 2)
  assert.deepEqual([await peer.get('roomy'), await peer.get('roomy')], ['one', 'two'])
  assert.deepEqual([await peer.get('full'), await peer.get('full')], ['one', undefined])
})

test('no. 57: a message for a queue that was deleted meanwhile counts as confirmed', async (t) => {
  const { client } = await withAmqp(t)
  const [peer, other] = [await client(), await client()]
  await peer.queue('q')
  await confirming(peer)
  const answers: string[] = []
  for (let i = 0; i < 20; i++) peer.publish(1, '', 'q', String(i))
  other.method(1, deleteQueue('q'))
  for (let i = 0; i < 20; i++) peer.publish(1, '', 'q', String(i))
  for (let confirmed = 0; confirmed < 40; ) {
    const frame = await peer.next()
    assert(frame.kind === 'method')
    answers.push(frame.method.name)
    if (frame.method.name === 'basic.ack') confirmed = frame.method.deliveryTag
  }
  assert.deepEqual(new Set(answers), new Set(['basic.ack']))
})

test('no. 59: a message over the maximum is 406', async (t) => {
  const { client } = await withAmqp(t, { env: { SLUICE_MESSAGE_BYTES_MAX: '1000' } })
  const peer = await client()
  await peer.queue('q')
  await confirming(peer)
  await store(peer, 'q', ['x'.repeat(1_000)])
  assert.match(
    await peer.refusal(() => peer.publish(1, '', 'q', 'x'.repeat(1_001))),
    /^channel PRECONDITION_FAILED - message size 1001 is larger .* 1000 \(406, method 60.40\)$/,
  )
})

test('no. 60: an expiration is a decimal string of at most ten years', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  await peer.queue('q')
  for (const expiration of ['', '-1', '1.5', ' 1', 'soon', '315360000001']) {
    assert.match(
      await peer.refusal(() => peer.publish(1, '', 'q', 'x', { properties: { expiration } })),
      /^channel PRECONDITION_FAILED - invalid expiration '.*': .* \(406, method 60.40\)$/,
      expiration,
    )
  }
  await confirming(peer)
  await store(peer, 'q', ['kept'], { properties: { expiration: '315360000000' } })
  assert.equal(await peer.get('q'), 'kept')
})

test('no. 60: the shorter time to live counts, and 0 means now or never', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  await peer.queue('short', { arguments: { 'x-message-ttl': 0 } })
  await peer.queue('long', { arguments: { 'x-message-ttl': 60_000 } })
  await confirming(peer)
  await store(peer, 'short', ['queue'], { properties: { expiration: '60000' } })
  await store(peer, 'long', ['message'], { properties: { expiration: '0' } })
  for (const queue of ['short', 'long']) {
    const declared = await peer.call(1, declareQueue(queue, { passive: true }), 'queue.declare-ok')
    assert.equal(declared.messageCount, 0, 'at once')
    assert.equal(await peer.get(queue), undefined)
  }
  const consumer = await client()
  await consuming(consumer, 'short')
  await consuming(consumer, 'long')
  const bodies = Array.from({ length: 50 }, (_, n) => `${n}`)
  await store(peer, 'short', bodies)
  await store(peer, 'long', bodies, { properties: { expiration: '0' } })
  assert.deepEqual((await deliveries(consumer, 100)).sort(), [...bodies, ...bodies].sort())
})

test('no. 61: a user-id other than the user’s own is 406', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  await peer.queue('q')
  assert.equal(
    await peer.refusal(() => peer.publish(1, '', 'q', 'x', { properties: { userId: 'eve' } })),
    "channel PRECONDITION_FAILED - user_id property set to 'eve' but authenticated user was 'admin' (406, method 60.40)",
  )
  await confirming(peer)
  await store(peer, 'q', ['mine'], { properties: { userId: 'admin' } })
  assert.equal(await peer.get('q'), 'mine')
})

test('no. 62: permission to write is asked at each publish; the administrator has it', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  await confirming(peer)
  for (const exchange of ['', 'amq.topic', 'amq.fanout']) {
    peer.publish(1, exchange, 'any.key', 'x')
    await peer.expect('basic.ack', 1)
  }
})

test('no. 76: every type of a header table arrives as it was sent', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  await peer.queue('q')
  await confirming(peer)
  const headers: Record<string, FieldValue> = {
    text: 'grüße',
    bytes: Buffer.from([0, 255]),
    yes: true,
    void: null,
    byte: 7,
    int: 2 ** 31 - 1,
    long: 2n ** 62n,
    negative: -(2n ** 63n),
    double: 1.5,
    time: new Date(1_700_000_000_000),
    array: [1, 'two', [true]],
    table: { nested: { deeper: 'yes' } },
  }
  const properties: Properties = {
    contentType: 'application/json',
    contentEncoding: 'utf-8',
    headers,
    deliveryMode: 2,
    priority: 9,
    correlationId: 'c',
    replyTo: 'r',
    expiration: '60000',
    messageId: 'm',
    timestamp: 1_700_000_000,
    type: 't',
    userId: 'admin',
    appId: 'a',
    clusterId: 'cl',
  }
  await store(peer, 'q', ['x'], { properties })
  peer.method(1, get('q', true))
  const got = decodeProperties((await peer.message('basic.get-ok', 1)).properties)
  const plain = (value: Properties) =>
    JSON.stringify(value, (_, inner) => (typeof inner === 'bigint' ? `${inner}n` : inner))
  const sent = { ...properties, headers: { ...headers } }
  assert.equal(plain(got).replaceAll(/"(\d+)n"/g, '"$1n"'), plain(sent))
})
