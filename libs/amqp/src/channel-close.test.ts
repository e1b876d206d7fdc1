/**
 * How channels end over a real socket: closes that cross, numbers used again, what waits.
 * The numbers are those of the behaviours that docs/amqp.md lists.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { waitFor } from '@sluice/testkit'
import { closeChannel, closing, publishMethod, withDoor } from '../../../test/support/amqp-door.ts'
import { AmqpError } from './amqp-error.ts'
import type { Channel } from './channel.ts'
import { encodeMethod } from './frame-writer.ts'

test('no. 22: after our channel.close everything but its answer is ignored', async (t) => {
  const script = {
    method: () => {
      throw new AmqpError(404, "no queue 'q' in vhost '/'")
    },
  }
  const { loggedIn, calls } = await withDoor(t, script)
  const client = await loggedIn()
  client.method(1, { name: 'queue.purge', queue: 'q', noWait: false })
  client.publish(1, '', 'q', 'too late')
  client.send(publishMethod)
  client.method(1, { name: 'queue.purge', queue: 'q', noWait: false })
  assert.equal(
    closing(await client.expect('channel.close', 1)),
    "NOT_FOUND - no queue 'q' in vhost '/' (404, method 50.30)",
  )
  client.method(1, { name: 'channel.close-ok' })
  await client.openChannel(1)
  const heard = calls.filter(({ channel }) => channel === 1).map(({ what }) => what)
  assert.deepEqual(heard, ['channel', 'queue.purge', 'channel closed', 'channel'])
})

test('no. 22: closes that cross are both answered, and the number is free', async (t) => {
  const script = {
    method: () => {
      throw new AmqpError(406, 'no')
    },
  }
  const { loggedIn } = await withDoor(t, script)
  const client = await loggedIn()
  client.method(1, { name: 'tx.select' })
  client.method(1, closeChannel)
  await client.expect('channel.close', 1)
  await client.expect('channel.close-ok', 1)
  await client.openChannel(1)
})

test('no. 22: an answer to our close that crossed their own is no error', async (t) => {
  const script = {
    method: () => {
      throw new AmqpError(406, 'no')
    },
  }
  const { loggedIn } = await withDoor(t, script)
  const client = await loggedIn()
  client.method(1, { name: 'tx.select' })
  client.method(1, closeChannel)
  await client.expect('channel.close', 1)
  client.method(1, { name: 'channel.close-ok' })
  await client.expect('channel.close-ok', 1)
  await client.openChannel(1)
})

test('what follows a publish on its channel waits for it, the close too', async (t) => {
  const publishes: (() => void)[] = []
  let underWay: Promise<void> | undefined
  const script = {
    publish: () => {
      underWay = new Promise((resolve) => publishes.push(resolve))
    },
    settled: () => underWay,
  }
  const { loggedIn, calls } = await withDoor(t, script)
  const client = await loggedIn()
  const heard = () => calls.map(({ what }) => what).slice(3)
  client.publish(1, '', 'q', 'x')
  client.method(1, { name: 'tx.select' })
  await client.openChannel(2) // others do not wait
  assert.deepEqual(heard(), ['publish', 'channel'])
  publishes[0]!()
  await waitFor(() => heard().at(-1) === 'tx.select')
  client.publish(1, '', 'q', 'x')
  client.method(1, closeChannel)
  await client.openChannel(3)
  assert.equal(heard().at(-1), 'channel')
  publishes[1]!()
  await client.expect('channel.close-ok', 1)
  assert.equal(heard().at(-1), 'channel closed')
  client.publish(2, '', 'q', 'x')
  const closed = client.call(
    0,
    { ...closeChannel, name: 'connection.close' },
    'connection.close-ok',
  )
  await waitFor(() => publishes.length === 3)
  assert.equal(heard().at(-1), 'publish')
  publishes[2]!()
  await closed
})

test('a publish that fails behind a method closes the channel, and the method is not heard', async (t) => {
  const underWay = Promise.withResolvers<void>()
  let fail = () => {}
  const script = {
    publish: (channel: Channel) => {
      fail = () => channel.fail(new AmqpError(404, 'no exchange'))
    },
    settled: () => underWay.promise,
  }
  const { loggedIn, calls } = await withDoor(t, script)
  const client = await loggedIn()
  client.publish(1, 'missing', 'q', 'x')
  client.method(1, { name: 'tx.select' })
  client.method(1, closeChannel)
  await client.openChannel(2)
  fail()
  underWay.resolve()
  assert.equal((await client.expect('channel.close', 1)).replyCode, 404)
  await client.expect('channel.close-ok', 1)
  assert(!calls.some(({ what }) => what === 'tx.select'))
})

test('no. 22: a client may reopen a channel in the same breath as it closes it', async (t) => {
  const { loggedIn } = await withDoor(t)
  const client = await loggedIn()
  client.method(1, closeChannel)
  await client.expect('channel.close-ok', 1)
  client.send(
    Buffer.concat([encodeMethod(1, { name: 'channel.open' }), encodeMethod(1, closeChannel)]),
  )
  await client.expect('channel.open-ok', 1)
  await client.expect('channel.close-ok', 1)
})

test('no. 22: a channel closed and opened again without waiting is open', async (t) => {
  const script = {
    channelClosed: () => new Promise<void>((resolve) => setImmediate(resolve)),
    method: async () => {
      await new Promise((resolve) => setImmediate(resolve))
      throw new AmqpError(404, 'no')
    },
  }
  const { loggedIn } = await withDoor(t, script)
  const client = await loggedIn()
  const open = encodeMethod(1, { name: 'channel.open' })
  client.send(Buffer.concat([encodeMethod(1, closeChannel), open]))
  await client.expect('channel.close-ok', 1)
  await client.expect('channel.open-ok', 1)
  const closeOk = encodeMethod(1, { name: 'channel.close-ok' })
  client.send(Buffer.concat([encodeMethod(1, { name: 'tx.select' }), closeOk, open]))
  await client.expect('channel.close', 1)
  await client.expect('channel.open-ok', 1)
  client.send(
    Buffer.concat([encodeMethod(1, closeChannel), encodeMethod(1, { name: 'tx.select' })]),
  )
  await client.expect('channel.close-ok', 1)
  assert.equal((await client.expect('connection.close')).replyCode, 504)
})

test('no. 23: late acks of a closed channel are dropped, of one never open are 504', async (t) => {
  const { loggedIn } = await withDoor(t)
  const client = await loggedIn()
  client.method(1, closeChannel)
  await client.expect('channel.close-ok', 1)
  client.method(1, { name: 'basic.ack', deliveryTag: 1, multiple: false })
  client.method(1, { name: 'basic.nack', deliveryTag: 2, multiple: false, requeue: true })
  client.method(1, { name: 'basic.reject', deliveryTag: 3, requeue: true })
  await client.openChannel(1)
  client.method(2, { name: 'basic.ack', deliveryTag: 1, multiple: false })
  assert.equal((await client.expect('connection.close')).replyCode, 504)
})
