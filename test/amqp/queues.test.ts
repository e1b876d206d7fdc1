/**
 * Queues and their bindings, over a real broker: behaviours 40 to 54 of docs/amqp.md.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type ClientMethod, decodeProperties } from '@sluice/amqp'
import { waitFor } from '@sluice/testkit'
import { declareExchange, declareQueue, withAmqp } from '../support/amqp-broker.ts'

const bindQueue = (queue: string, exchange: string, routingKey = ''): ClientMethod => ({
  name: 'queue.bind',
  queue,
  exchange,
  routingKey,
  noWait: false,
  arguments: {},
})

const deleteQueue = (queue: string, options: { ifUnused?: boolean; ifEmpty?: boolean } = {}) =>
  ({
    name: 'queue.delete',
    queue,
    ifUnused: false,
    ifEmpty: false,
    noWait: false,
    ...options,
  }) as const

const consume = (queue: string, { noAck = false } = {}): ClientMethod => ({
  name: 'basic.consume',
  queue,
  consumerTag: 'c',
  noLocal: false,
  noAck,
  exclusive: false,
  noWait: false,
  arguments: {},
})

test('no. 40: declaring again tells the live numbers', async (t) => {
  const { client } = await withAmqp(t)
  const c = await client()
  await c.queue('q')
  await c.call(1, { name: 'confirm.select', noWait: false }, 'confirm.select-ok')
  for (let i = 1; i <= 3; i++) {
    c.publish(1, '', 'q', 'x')
    await c.expect('basic.ack')
  }
  const ok = await c.call(1, declareQueue('q', { passive: true }), 'queue.declare-ok')
  assert.deepEqual([ok.queue, ok.messageCount, ok.consumerCount], ['q', 3, 0])
})

test('no. 41: a queue without a name gets one; names that begin with amq. are reserved', async (t) => {
  const { client } = await withAmqp(t)
  const c = await client()
  const name = await c.queue('')
  assert.match(name, /^amq\.gen-[\w-]{20,}$/)
  assert.equal(await c.queue(name, { passive: true }), name)
  assert.match(
    await c.refused(declareQueue('amq.mine')),
    /ACCESS_REFUSED - queue name 'amq\.mine' contains reserved prefix 'amq\.\*'.*403, method 50\.10/,
  )
})

test('no. 42: an empty name stands for the queue declared last', async (t) => {
  const { client } = await withAmqp(t)
  const c = await client()
  assert.match(
    await c.refused({ name: 'basic.get', queue: '', noAck: true }),
    /NOT_FOUND - no previously declared queue \(404/,
  )
  await c.queue('q')
  await c.call(1, bindQueue('', 'amq.direct'), 'queue.bind-ok')
  c.publish(1, 'amq.direct', 'q', 'by its name')
  assert.equal(await c.get(''), 'by its name')
})

test('no. 43: a passive declare of a missing queue is 404', async (t) => {
  const { client, vhost } = await withAmqp(t)
  const c = await client()
  assert.equal(
    await c.refused(declareQueue('nope', { passive: true })),
    `channel NOT_FOUND - no queue 'nope' in vhost '${vhost}' (404, method 50.10)`,
  )
})

test('no. 44: a queue declared differently is 406 and says in what', async (t) => {
  const { client, vhost } = await withAmqp(t)
  const c = await client()
  await c.queue('q', { arguments: { 'x-max-length': 10 } })
  await c.queue('q', { arguments: { 'x-max-length': 10n, 'x-queue-type': 'classic' } })
  const differs: [Parameters<typeof declareQueue>[1], string][] = [
    [{ durable: false, arguments: { 'x-max-length': 10 } }, "inequivalent arg 'durable'"],
    [{ autoDelete: true, arguments: { 'x-max-length': 10 } }, "inequivalent arg 'auto_delete'"],
    [{}, "inequivalent arg 'x-max-length'"],
    [{ arguments: { 'x-max-length': 11 } }, "inequivalent arg 'x-max-length'"],
  ]
  for (const [options, text] of differs) {
    const answer = await c.refused(declareQueue('q', options))
    assert(
      answer.startsWith(`channel PRECONDITION_FAILED - ${text} for queue 'q' in vhost '${vhost}'`),
      answer,
    )
    assert(answer.endsWith('(406, method 50.10)'), answer)
  }
})

test("no. 44, 46: an exclusive queue is its connection's, and goes with it", async (t) => {
  const { client } = await withAmqp(t)
  const [owner, other] = [await client(), await client()]
  await owner.queue('q', { exclusive: true, durable: false })
  await owner.queue('q', { exclusive: true, durable: false })
  const locked =
    /^channel RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' .*\(405/
  const methods: ClientMethod[] = [
    declareQueue('q', { exclusive: true, durable: false }),
    declareQueue('q', { passive: true }),
    { name: 'basic.get', queue: 'q', noAck: true },
    { name: 'queue.purge', queue: 'q', noWait: false },
    deleteQueue('q'),
    bindQueue('q', 'amq.direct', 'k'),
    { ...bindQueue('q', 'amq.direct', 'k'), name: 'queue.unbind' } as ClientMethod,
  ]
  for (const method of methods) assert.match(await other.refused(method), locked, method.name)
  const bye = { replyCode: 200, replyText: '', classId: 0, methodId: 0 }
  await owner.call(0, { name: 'connection.close', ...bye }, 'connection.close-ok')
  assert.match(await other.refused(declareQueue('q', { passive: true })), /404/)
})

test('no. 47: arguments of queues are checked', async (t) => {
  const { client } = await withAmqp(t)
  const c = await client()
  const wrong: Record<string, string | number | boolean>[] = [
    { 'x-expires': 0 },
    { 'x-expires': 'soon' },
    { 'x-message-ttl': -1 },
    { 'x-message-ttl': 315_360_000_001 },
    { 'x-max-length': -1 },
    { 'x-max-length-bytes': true },
    { 'x-max-priority': 256 },
    { 'x-overflow': 'explode' },
    { 'x-dead-letter-exchange': 5 },
    { 'x-dead-letter-routing-key': 'k' },
    { 'x-single-active-consumer': 'yes' },
    { 'x-queue-type': 'nonesuch' },
  ]
  for (const args of wrong) {
    assert.match(
      await c.refused(declareQueue('q', { arguments: args })),
      /^channel PRECONDITION_FAILED - .*\(406, method 50\.10\)$/,
      JSON.stringify(args),
    )
  }
  await c.queue('q', { arguments: { 'x-foreign': 'anything' } })
})

test('no. 48: the dead letter exchange need not exist yet', async (t) => {
  const { client } = await withAmqp(t)
  const c = await client()
  await c.queue('q', { arguments: { 'x-dead-letter-exchange': 'later' } })
})

test('no. 49: deleting a queue: missing, in use, not empty, and how many went', async (t) => {
  const { client } = await withAmqp(t)
  const c = await client()
  assert.equal((await c.call(1, deleteQueue('nope'), 'queue.delete-ok')).messageCount, 0)
  await c.queue('q')
  c.publish(1, '', 'q', 'x')
  assert.match(
    await c.refused(deleteQueue('q', { ifEmpty: true })),
    /PRECONDITION_FAILED.*not empty.*406/,
  )
  assert.equal((await c.call(1, deleteQueue('q'), 'queue.delete-ok')).messageCount, 1)
  await c.queue('q')
  await c.call(1, consume('q'), 'basic.consume-ok')
  assert.match(
    await c.refused(deleteQueue('q', { ifUnused: true })),
    /PRECONDITION_FAILED.*in use.*406/,
  )
})

test('no. 50: purge removes what is ready, not what is unacked', async (t) => {
  const { client } = await withAmqp(t)
  const c = await client()
  await c.queue('q')
  for (const body of ['a', 'b', 'c']) c.publish(1, '', 'q', body)
  c.method(1, { name: 'basic.get', queue: 'q', noAck: false })
  await c.message('basic.get-ok')
  const purge = { name: 'queue.purge', queue: 'q', noWait: false } as const
  assert.equal((await c.call(1, purge, 'queue.purge-ok')).messageCount, 2)
  await c.call(1, { name: 'basic.recover', requeue: true }, 'basic.recover-ok')
  c.method(1, { name: 'basic.get', queue: 'q', noAck: true })
  const { method, body } = await c.message('basic.get-ok')
  assert.deepEqual([`${body}`, method.redelivered], ['a', true])
})

test('no. 51: bindings are idempotent, differ by their arguments, and unbind forgives', async (t) => {
  const { client } = await withAmqp(t)
  const c = await client()
  await c.queue('q')
  assert.match(await c.refused(bindQueue('nope', 'amq.direct')), /NOT_FOUND - no queue 'nope'.*404/)
  await c.bind('q', 'amq.direct', 'k')
  await c.bind('q', 'amq.direct', 'k')
  c.publish(1, 'amq.direct', 'k', 'once')
  assert.equal(await c.get('q'), 'once')
  assert.equal(await c.get('q'), undefined)
  const unbind = {
    name: 'queue.unbind',
    queue: 'q',
    exchange: 'amq.direct',
    routingKey: 'other',
    arguments: {},
  } as const
  await c.call(1, unbind, 'queue.unbind-ok')
})

test('no. 52: an auto-delete queue goes with its last consumer, never before one', async (t) => {
  const { client } = await withAmqp(t)
  const c = await client()
  await c.queue('q', { autoDelete: true })
  await c.queue('q', { passive: true })
  await c.call(1, consume('q'), 'basic.consume-ok')
  await c.call(1, { name: 'basic.cancel', consumerTag: 'c', noWait: false }, 'basic.cancel-ok')
  assert.match(await c.refused(declareQueue('q', { passive: true })), /404/)
})

test('no. 53: a queue nobody uses expires, and its messages are not dead-lettered', async (t) => {
  const { client, deps, vhost } = await withAmqp(t)
  const c = await client()
  await c.queue('dead')
  await c.bind('dead', 'amq.fanout', '')
  const args = { 'x-expires': 300, 'x-dead-letter-exchange': 'amq.fanout' }
  await c.queue('short-lived', { arguments: args })
  c.publish(1, '', 'short-lived', 'lost')
  await waitFor(() => deps.topology.table.queue(vhost, 'short-lived') === undefined, {
    timeoutMs: 15_000,
  })
  assert.equal(await c.get('dead'), undefined)
})

test('no. 54: declaring a reply queue finds one consumer, or nothing', async (t) => {
  const { client } = await withAmqp(t)
  const [asking, answering] = [await client(), await client()]
  await answering.queue('requests')
  await asking.call(1, consume('amq.rabbitmq.reply-to', { noAck: true }), 'basic.consume-ok')
  const properties = { replyTo: 'amq.rabbitmq.reply-to' }
  asking.publish(1, '', 'requests', 'ping', { properties })
  const requests = { name: 'basic.get', queue: 'requests', noAck: true } as const
  const request = await waitFor(async () => {
    answering.method(1, requests)
    const frame = await answering.next()
    if (frame.kind === 'method' && frame.method.name === 'basic.get-empty') return undefined
    const header = await answering.next()
    await answering.next()
    return header.kind === 'header' ? decodeProperties(header.properties) : undefined
  })
  const address = request.replyTo ?? ''
  assert.match(address, /^amq\.rabbitmq\.reply-to\./)
  const ok = await answering.call(1, declareQueue(address, { passive: true }), 'queue.declare-ok')
  assert.deepEqual([ok.queue, ok.messageCount, ok.consumerCount], [address, 0, 1])
  answering.publish(1, '', address, 'pong')
  assert.equal(`${(await asking.message('basic.deliver')).body}`, 'pong')
  assert.match(
    await answering.refused(declareQueue('amq.rabbitmq.reply-to.none.such')),
    /NOT_FOUND.*404/,
  )
})

test('noWait leaves the answer out', async (t) => {
  const { client } = await withAmqp(t)
  const c = await client()
  c.method(1, { ...declareQueue('q'), noWait: true } as ClientMethod)
  c.method(1, { ...declareExchange('e', 'fanout'), noWait: true } as ClientMethod)
  c.method(1, { ...bindQueue('q', 'e'), noWait: true } as ClientMethod)
  c.publish(1, 'e', '', 'x')
  assert.equal(await c.get('q'), 'x')
})

test('no. 41: a name by the server begins as x-name-prefix says', async (t) => {
  const { client } = await withAmqp(t)
  const c = await client()
  const named = (prefix: string) => ({ arguments: { 'x-name-prefix': prefix } })
  const name = await c.queue('', named('mine'))
  assert.match(name, /^mine-[\w-]{20,}$/)
  assert.equal(await c.queue(name), name, 'the prefix is no argument of the queue')
  assert.equal(
    await c.refused(declareQueue('', named('x'.repeat(65)))),
    `channel PRECONDITION_FAILED - Queue name prefix '${'x'.repeat(64)}' exceeds the 64-byte limit (406, method 50.10)`,
  )
  assert.match(await c.refused(declareQueue('', named('amq.mine'))), /ACCESS_REFUSED/)
})

test('no. 46: an exclusive queue is not durable, however it is declared', async (t) => {
  const { client } = await withAmqp(t)
  const c = await client()
  await c.queue('mine', { exclusive: true, durable: true })
  await c.queue('mine', { exclusive: true, durable: false })
})
