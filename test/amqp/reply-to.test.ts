/** Direct replies, over a real broker and over two: behaviours 63 and 75 of docs/amqp.md. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decodeProperties } from '@sluice/amqp'
import { privateRedis, waitFor } from '@sluice/testkit'
import { type AmqpClient, declareQueue, withAmqp } from '../support/amqp-broker.ts'
import { cancel, confirming, consume, consuming } from './methods.ts'

const REPLY_TO = 'amq.rabbitmq.reply-to'

/** Sends a request to `server`, which consumes `q`; the address to answer at. */
async function ask(asker: AmqpClient, server: AmqpClient): Promise<string> {
  asker.publish(1, '', 'q', 'question', { properties: { replyTo: REPLY_TO, correlationId: '7' } })
  const { properties } = await server.message('basic.deliver', 1)
  return decodeProperties(properties).replyTo ?? ''
}

async function answers(asker: AmqpClient, server: AmqpClient): Promise<void> {
  await server.queue('q')
  await consuming(server, 'q', { noAck: true })
  await consuming(asker, REPLY_TO, { tag: 'replies', noAck: true })
  const address = await ask(asker, server)
  assert.match(address, /^amq\.rabbitmq\.reply-to\..+/)
  await server.call(1, declareQueue(address, { passive: true }), 'queue.declare-ok')
  server.publish(1, '', address, 'answer', { properties: { correlationId: '7' } })
  const { method, body, properties } = await asker.message('basic.deliver', 1)
  assert.deepEqual([method.consumerTag, body.toString()], ['replies', 'answer'])
  assert.equal(decodeProperties(properties).correlationId, '7')
}

test('no. 63: a request for direct replies needs a consumer of them', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  const publish = () => peer.publish(1, '', 'q', 'x', { properties: { replyTo: REPLY_TO } })
  assert.equal(
    await peer.refusal(publish),
    'channel PRECONDITION_FAILED - fast reply consumer does not exist (406, method 60.40)',
  )
  await consuming(peer, REPLY_TO, { tag: 'c', noAck: true })
  await peer.call(1, cancel('c'), 'basic.cancel-ok')
  assert.match(await peer.refusal(publish), /fast reply consumer does not exist/)
})

test('no. 63: the answer reaches the channel that asked', async (t) => {
  const { client } = await withAmqp(t)
  await answers(await client(), await client())
})

test('no. 63, 75: the answer finds a channel of another process', async (t) => {
  const [here, there] = [await withAmqp(t), await withAmqp(t)]
  await answers(await here.client(), await there.client({ vhost: here.vhost }))
})

test('no. 75: the answer finds a process that goes by a new name', async (t) => {
  const { url } = await privateRedis(t, { aof: false })
  const [here, there] = [await withAmqp(t, { redisUrl: url }), await withAmqp(t, { redisUrl: url })]
  t.after(() => void here.reported.splice(0)) // it was taken for dead, and says so
  const { slot, redis } = here.deps.store
  const before = slot.name
  await redis.del(`sluice:{slots}:alive:${before}`)
  await waitFor(() => slot.name !== before, { what: 'a new name' })
  await answers(await here.client(), await there.client({ vhost: here.vhost }))
})

test('no. 75: a consumer of replies takes no acks, is one a channel, and is never bound', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  const refused = (code: string, text: string, id: string) =>
    `channel ${code} - ${text} (${code === 'ACCESS_REFUSED' ? 403 : 406}, method ${id})`
  assert.equal(
    await peer.refused(consume(REPLY_TO)),
    refused('PRECONDITION_FAILED', 'reply consumer cannot acknowledge', '60.20'),
  )
  await consuming(peer, REPLY_TO, { tag: 'one', noAck: true })
  assert.equal(
    await peer.refused(consume(REPLY_TO, { tag: 'two', noAck: true })),
    refused('PRECONDITION_FAILED', 'reply consumer already set', '60.20'),
  )
  const binding = { queue: REPLY_TO, exchange: 'amq.direct', routingKey: '', arguments: {} }
  const text = 'cannot bind or unbind to a volatile (direct reply-to) queue'
  assert.equal(
    await peer.refused({ name: 'queue.bind', noWait: false, ...binding }),
    refused('ACCESS_REFUSED', text, '50.20'),
  )
  assert.equal(
    await peer.refused({ name: 'queue.unbind', ...binding }),
    refused('ACCESS_REFUSED', text, '50.50'),
  )
})

test('no. 75: an answer nobody waits for is dropped, or returned where it is mandatory', async (t) => {
  const { client } = await withAmqp(t)
  const [asker, server] = [await client(), await client()]
  await server.queue('q')
  await consuming(server, 'q', { noAck: true })
  await consuming(asker, REPLY_TO, { noAck: true })
  const address = await ask(asker, server)
  await asker.close()
  await confirming(server)
  // Closing is noticed a moment later; then there is nobody at the address.
  for (let returned = false, tries = 0; !returned; tries++) {
    assert(tries < 1_000)
    server.publish(1, '', address, 'late', { mandatory: true })
    const frame = await server.next()
    assert(frame.kind === 'method')
    returned = frame.method.name === 'basic.return'
    if (!returned) assert.equal(frame.method.name, 'basic.ack')
    else {
      await server.next()
      await server.next()
      await server.expect('basic.ack', 1)
    }
  }
  server.publish(1, '', address, 'late')
  await server.expect('basic.ack', 1)
})
