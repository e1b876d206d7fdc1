/** What holds across processes: two brokers on one Redis, and one that dies. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { privateRedis, waitFor } from '@sluice/testkit'
import { type AmqpClient, declareQueue, withAmqp } from '../support/amqp-broker.ts'
import { AmqpPeer } from '../support/amqp-peer.ts'
import { PASSWORD } from '../support/broker.ts'
import { startProcess } from '../support/processes.ts'
import { ack, cancel, confirming, consume, consuming, deliveries, qos, store } from './methods.ts'

test('no. 65: an exclusive consumer keeps those of other processes away', async (t) => {
  const [here, there] = [await withAmqp(t), await withAmqp(t)]
  const [first, second] = [await here.client(), await there.client({ vhost: here.vhost })]
  await first.queue('q')
  await consuming(first, 'q', { tag: 'alone', exclusive: true })
  assert.match(
    await second.refused(consume('q')),
    /^channel ACCESS_REFUSED .* in exclusive use \(403/,
  )
  await first.call(1, cancel('alone'), 'basic.cancel-ok')
  await consuming(second, 'q', { exclusive: true })
  assert.match(await first.refused(consume('q')), /in exclusive use/)
})

test('no. 69: a single active consumer is one over all processes, and is followed at once', async (t) => {
  const [here, there] = [await withAmqp(t), await withAmqp(t)]
  const [first, second] = [await here.client(), await there.client({ vhost: here.vhost })]
  await first.queue('q', { arguments: { 'x-single-active-consumer': true } })
  await first.call(1, qos(1), 'basic.qos-ok')
  await consuming(first, 'q', { tag: 'c' })
  await consuming(second, 'q', { tag: 'c' })
  const publisher = await here.client()
  await confirming(publisher)
  await store(publisher, 'q', ['1', '2'])
  assert.deepEqual(await deliveries(first, 1), ['1'])
  await second.call(1, qos(0), 'basic.qos-ok')
  assert.equal(second.unread.length, 0, 'although the active one has no credit')
  await first.call(1, cancel('c'), 'basic.cancel-ok')
  assert.deepEqual(await deliveries(second, 1), ['2'])
  first.method(1, ack(1))
  await store(publisher, 'q', ['3'])
  assert.deepEqual(await deliveries(second, 1), ['3'])
})

test('no. 66, 68: exclusive queues and deletions are known to every process', async (t) => {
  const [here, there] = [await withAmqp(t), await withAmqp(t)]
  const capabilities = { consumer_cancel_notify: true }
  const first = await here.client()
  const second = await there.client({ vhost: here.vhost, clientProperties: { capabilities } })
  await first.queue('mine', { exclusive: true })
  assert.match(await second.refused(consume('mine')), /^channel RESOURCE_LOCKED/)
  await first.queue('shared')
  await consuming(second, 'shared', { tag: 'c' })
  const deletion = { ifUnused: false, ifEmpty: false, noWait: false }
  await first.call(1, { name: 'queue.delete', queue: 'shared', ...deletion }, 'queue.delete-ok')
  assert.equal((await second.expect('basic.cancel', 1)).consumerTag, 'c')
})

test('no. 46, 52, 74: of a process that died, queues that were its alone go, and what it held returns', async (t) => {
  const { url } = await privateRedis(t, { aof: false })
  const broker = await withAmqp(t, { redisUrl: url })
  const dying = await startProcess(t, {
    redisUrl: broker.redisUrl,
    services: ['delivery'],
    name: 'dying',
  })
  const port = Number(new URL(dying.doors['amqp']!).port)
  const peer = await AmqpPeer.connect(port)
  t.after(() => peer.close())
  await peer.login({ user: 'admin', password: PASSWORD, vhost: broker.vhost })
  await peer.openChannel(1)
  const declare = (name: string, options: object) =>
    peer.call(1, declareQueue(name, options), 'queue.declare-ok')
  await declare('exclusive', { exclusive: true })
  await declare('auto', { autoDelete: true })
  await declare('unconsumed', { autoDelete: true })
  await declare('held', {})
  await peer.call(1, consume('auto'), 'basic.consume-ok')
  await peer.call(1, consume('held', { tag: 'h' }), 'basic.consume-ok')
  const survivor = await broker.client()
  await confirming(survivor)
  await store(survivor, 'held', ['1', '2'])
  assert.deepEqual(await deliveries(peer as AmqpClient, 2), ['1', '2'])
  peer.method(1, ack(1))
  await peer.call(1, qos(0), 'basic.qos-ok')
  await dying.kill9()
  await waitFor(
    () => {
      const { table } = broker.deps.topology
      const there = (name: string) => table.queue(broker.vhost, name) !== undefined
      return !there('exclusive') && !there('auto')
    },
    { what: 'the queues of the dead to go', timeoutMs: 20_000 },
  )
  await survivor.queue('unconsumed', { passive: true, autoDelete: true })
  await consuming(survivor, 'held')
  const { body, method } = await survivor.message('basic.deliver', 1)
  // The first one was acknowledged a moment before the end: it may come again, and then it says so.
  assert(method.redelivered)
  if (body.toString() === '1') assert.deepEqual(await deliveries(survivor, 1), ['2!'])
})
