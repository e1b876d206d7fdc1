/** Transactions of a channel, over a real broker: behaviour 58 of docs/amqp.md. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { ClientMethod } from '@sluice/amqp'
import { type AmqpClient, withAmqp } from '../support/amqp-broker.ts'
import { ack, confirming, consuming, deliveries, get, qos, settled, store } from './methods.ts'

const tx = (what: 'select' | 'commit' | 'rollback'): ClientMethod => ({ name: `tx.${what}` })

async function transactional(peer: AmqpClient): Promise<void> {
  await peer.call(1, tx('select'), 'tx.select-ok')
}

test('no. 58: confirms and transactions exclude each other, and neither is 406 without select', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  const refused = (text: string, id: string) =>
    `channel PRECONDITION_FAILED - ${text} (406, method ${id})`
  const none = 'channel is not transactional'
  assert.equal(await peer.refused(tx('commit')), refused(none, '90.20'))
  assert.equal(await peer.refused(tx('rollback')), refused(none, '90.30'))
  await transactional(peer)
  await transactional(peer)
  assert.equal(
    await peer.refused({ name: 'confirm.select', noWait: false }),
    refused('cannot switch from tx to confirm mode', '85.10'),
  )
  await confirming(peer)
  assert.equal(
    await peer.refused(tx('select')),
    refused('cannot switch from confirm to tx mode', '90.10'),
  )
})

test('no. 58: publishes and acks take effect at commit, and not after rollback', async (t) => {
  const { client } = await withAmqp(t)
  const [peer, other] = [await client(), await client()]
  await peer.queue('q')
  await confirming(other)
  await transactional(peer)
  peer.publish(1, '', 'q', '1')
  peer.publish(1, '', 'q', '2')
  await settled(peer)
  assert.equal(await other.get('q'), undefined)
  await peer.call(1, tx('commit'), 'tx.commit-ok')
  assert.equal(await other.get('q'), '1')

  peer.publish(1, '', 'q', 'rolled back')
  await peer.call(1, tx('rollback'), 'tx.rollback-ok')
  peer.method(1, get('q'))
  const { method, body } = await peer.message('basic.get-ok', 1)
  assert.deepEqual([body.toString(), method.messageCount], ['2', 0])
  peer.method(1, ack(method.deliveryTag))
  await peer.call(1, tx('rollback'), 'tx.rollback-ok')
  assert.equal(await other.get('q'), undefined, 'a rollback requeues nothing')
  peer.method(1, ack(method.deliveryTag)) // it is outstanding again
  await peer.call(1, tx('commit'), 'tx.commit-ok')
  assert.match(await peer.refused(ack(method.deliveryTag)), /unknown delivery tag 1/)
  assert.equal(await other.get('q'), undefined)
})

test('no. 58: what waits for commit counts as unsettled, and a tag is acked once', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  await peer.queue('q')
  const publisher = await client()
  await confirming(publisher)
  await store(publisher, 'q', ['1', '2'])
  await transactional(peer)
  await peer.call(1, qos(1), 'basic.qos-ok')
  await consuming(peer, 'q')
  assert.deepEqual(await deliveries(peer, 1), ['1'])
  peer.method(1, ack(1))
  await peer.call(1, { name: 'tx.select' }, 'tx.select-ok')
  assert.equal(peer.unread.length, 0)
  peer.method(1, tx('commit'))
  const frames = [await peer.next(), await peer.next()]
  const names = frames.map((frame) => (frame.kind === 'method' ? frame.method.name : frame.kind))
  assert(names.includes('tx.commit-ok'))
  assert(names.some((name) => name === 'basic.deliver' || name === 'header'))
})

test('no. 58: a commit that a full queue refuses is 406, and acknowledges nothing', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  await peer.queue('full', { arguments: { 'x-max-length': 1, 'x-overflow': 'reject-publish' } })
  await peer.queue('q')
  const other = await client()
  await confirming(other)
  await store(other, 'q', ['kept'])
  await store(other, 'full', ['one'])
  await transactional(peer)
  peer.method(1, get('q'))
  const { method } = await peer.message('basic.get-ok', 1)
  peer.method(1, ack(method.deliveryTag))
  peer.publish(1, '', 'full', 'two')
  assert.equal(
    await peer.refused(tx('commit')),
    'channel PRECONDITION_FAILED - partial tx completion (406, method 90.20)',
  )
  assert.equal(await other.get('q'), 'kept')
})

test('no. 58: a message of a transaction that no queue takes is returned before commit-ok', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  await transactional(peer)
  peer.publish(1, '', 'nobody', 'x', { mandatory: true })
  peer.method(1, tx('commit'))
  assert.equal((await peer.message('basic.return', 1)).body.toString(), 'x')
  await peer.expect('tx.commit-ok', 1)
})
