/** Exchanges and their bindings, over a real broker: behaviours 27 to 39 of docs/amqp.md. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { ClientMethod, Table } from '@sluice/amqp'
import { type AmqpClient, declareExchange, withAmqp } from '../support/amqp-broker.ts'

const DEFAULT_REFUSED = 'ACCESS_REFUSED - operation not permitted on the default exchange'

function bindQueue(queue: string, exchange: string, routingKey = '', args: Table = {}) {
  const fields = { queue, exchange, routingKey, noWait: false, arguments: args }
  return { name: 'queue.bind', ...fields } satisfies ClientMethod
}

function unbindQueue(queue: string, exchange: string, routingKey = '', args: Table = {}) {
  const fields = { queue, exchange, routingKey, arguments: args }
  return { name: 'queue.unbind', ...fields } satisfies ClientMethod
}

function bindExchange(destination: string, source: string, routingKey = '') {
  const fields = { destination, source, routingKey, noWait: false, arguments: {} }
  return { name: 'exchange.bind', ...fields } satisfies ClientMethod
}

function deleteExchange(exchange: string, ifUnused = false) {
  return { name: 'exchange.delete', exchange, ifUnused, noWait: false } satisfies ClientMethod
}

/** Publishes in confirm mode, and waits until it is stored. */
async function publish(
  client: AmqpClient,
  exchange: string,
  routingKey: string,
  body: string,
  headers?: Table,
): Promise<void> {
  client.publish(1, exchange, routingKey, body, headers ? { properties: { headers } } : {})
  await client.expect('basic.ack', 1)
}

async function confirming(client: AmqpClient): Promise<void> {
  await client.call(1, { name: 'confirm.select', noWait: false }, 'confirm.select-ok')
}

test('no. 27: a missing exchange is 404 to publish, bind and passive declare', async (t) => {
  const { client, vhost } = await withAmqp(t)
  const peer = await client()
  await peer.queue('q')
  const missing = `NOT_FOUND - no exchange 'nope' in vhost '${vhost}'`
  assert.equal(
    await peer.refusal(() => peer.publish(1, 'nope', 'key', 'body')),
    `channel ${missing} (404, method 60.40)`,
  )
  assert.equal(await peer.refused(bindQueue('q', 'nope')), `channel ${missing} (404, method 50.20)`)
  assert.equal(
    await peer.refused(declareExchange('nope', 'direct', { passive: true })),
    `channel ${missing} (404, method 40.10)`,
  )
})

test('no. 28: the predeclared exchanges are there', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  for (const name of ['direct', 'fanout', 'topic', 'headers', 'match', 'rabbitmq.trace']) {
    await peer.exchange(`amq.${name}`, '', { passive: true })
  }
  assert.match(
    await peer.refusal(() => peer.publish(1, 'amq.rabbitmq.trace', 'key', 'body')),
    /cannot publish to internal exchange 'amq.rabbitmq.trace'/,
  )
})

test('no. 29: the default exchange is 403 to declare, delete, bind and unbind', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  await peer.queue('q')
  await peer.exchange('e', 'fanout')
  const cases: [ClientMethod, string][] = [
    [declareExchange('', 'direct'), '40.10'],
    [declareExchange('', 'direct', { passive: true }), '40.10'],
    [deleteExchange(''), '40.20'],
    [bindQueue('q', '', 'key'), '50.20'],
    [unbindQueue('q', '', 'key'), '50.50'],
    [bindExchange('e', ''), '40.30'],
    [bindExchange('', 'e'), '40.30'],
  ]
  for (const [method, id] of cases) {
    const refused = await peer.refused(method)
    assert.equal(refused, `channel ${DEFAULT_REFUSED} (403, method ${id})`, method.name)
  }
})

test('no. 30: names that start with amq. are the broker’s', async (t) => {
  const { client, vhost } = await withAmqp(t)
  const peer = await client()
  assert.equal(
    await peer.refused(declareExchange('amq.mine', 'direct')),
    "channel ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*' (403, method 40.10)",
  )
  await peer.exchange('amq.direct', 'direct', { durable: true })
  await peer.exchange('amq.direct', 'fanout', { passive: true })
  for (const name of ['amq.direct', 'amq.nope']) {
    assert.equal(
      await peer.refused(deleteExchange(name)),
      `channel ACCESS_REFUSED - deletion of system exchange '${name}' in vhost '${vhost}' not allowed (403, method 40.20)`,
    )
  }
})

test('no. 31: declaring an exchange again with other properties is 406', async (t) => {
  const { client, vhost } = await withAmqp(t)
  const peer = await client()
  const other = { 'alternate-exchange': 'other', 'x-mine': 1 }
  await peer.exchange('e', 'direct', { durable: true, arguments: { ...other, 'x-mine': 2 } })
  await peer.exchange('e', 'direct', { durable: true, arguments: other })
  const cases: [ClientMethod, string, string, string][] = [
    [declareExchange('e', 'topic', { arguments: other }), 'type', "'topic'", "'direct'"],
    [
      declareExchange('e', 'direct', { durable: false, arguments: other }),
      'durable',
      "'false'",
      "'true'",
    ],
    [
      declareExchange('e', 'direct', { autoDelete: true, arguments: other }),
      'auto_delete',
      "'true'",
      "'false'",
    ],
    [
      declareExchange('e', 'direct', { internal: true, arguments: other }),
      'internal',
      "'true'",
      "'false'",
    ],
    [
      declareExchange('e', 'direct'),
      'alternate-exchange',
      'none',
      "the value 'other' of type 'longstr'",
    ],
  ]
  for (const [method, argument, received, current] of cases) {
    assert.equal(
      await peer.refused(method),
      `channel PRECONDITION_FAILED - inequivalent arg '${argument}' for exchange 'e' in vhost ` +
        `'${vhost}': received ${received} but current is ${current} (406, method 40.10)`,
    )
  }
})

test('no. 32: an unknown exchange type is 406', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  assert.equal(
    await peer.refused(declareExchange('e', 'strange')),
    "channel PRECONDITION_FAILED - unknown exchange type 'strange' (406, method 40.10)",
  )
})

test('no. 33: publishing to an internal exchange is 403; through another one it works', async (t) => {
  const { client, vhost } = await withAmqp(t)
  const peer = await client()
  await peer.exchange('inner', 'fanout', { internal: true })
  await peer.exchange('outer', 'fanout')
  await peer.queue('q')
  await peer.bind('q', 'inner', '')
  await peer.call(1, bindExchange('inner', 'outer'), 'exchange.bind-ok')
  assert.equal(
    await peer.refusal(() => peer.publish(1, 'inner', '', 'body')),
    `channel ACCESS_REFUSED - cannot publish to internal exchange 'inner' in vhost '${vhost}' (403, method 60.40)`,
  )
  await confirming(peer)
  await publish(peer, 'outer', '', 'through')
  assert.equal(await peer.get('q'), 'through')
})

test('no. 34: deleting an exchange in use with if-unused is 406, a missing one is no error', async (t) => {
  const { client, vhost } = await withAmqp(t)
  const peer = await client()
  await peer.exchange('e', 'fanout')
  await peer.queue('q')
  await peer.bind('q', 'e', '')
  assert.equal(
    await peer.refused(deleteExchange('e', true)),
    `channel PRECONDITION_FAILED - exchange 'e' in vhost '${vhost}' in use (406, method 40.20)`,
  )
  await peer.call(1, deleteExchange('e'), 'exchange.delete-ok')
  await peer.call(1, deleteExchange('e', true), 'exchange.delete-ok')
})

test('no. 35: what nothing matches goes to the alternate exchange, by argument or policy', async (t) => {
  const { client, request } = await withAmqp(t)
  const peer = await client()
  assert.match(
    await peer.refused(declareExchange('e', 'direct', { arguments: { 'alternate-exchange': 7 } })),
    /^channel PRECONDITION_FAILED .*alternate-exchange.* \(406, method 40.10\)$/,
  )
  await peer.exchange('rest', 'fanout')
  await peer.exchange('e', 'direct', { arguments: { 'alternate-exchange': 'rest' } })
  await confirming(peer)
  peer.publish(1, 'e', 'key', 'nobody', { mandatory: true })
  const { body } = await peer.message('basic.return', 1)
  assert.equal(body.toString(), 'nobody', 'the alternate exchange routes nowhere: unroutable')
  await peer.expect('basic.ack', 1)
  await peer.queue('q')
  await peer.bind('q', 'rest', '')
  await publish(peer, 'e', 'key', 'by argument')
  assert.equal(await peer.get('q'), 'by argument')

  await peer.exchange('policed', 'direct')
  const definition = { 'alternate-exchange': 'rest' }
  await request('PUT', '/policies/ae', {
    body: { pattern: '^policed$', applyTo: 'exchanges', definition },
  })
  await publish(peer, 'policed', 'key', 'by policy')
  assert.equal(await peer.get('q'), 'by policy')
})

test('no. 36: a headers exchange matches all or any, with or without x- headers', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  await peer.exchange('h', 'headers')
  const bindings: Record<string, Table> = {
    all: { a: 1, b: 'two' },
    any: { 'x-match': 'any', a: 1, b: 'two' },
    allX: { 'x-match': 'all-with-x', a: 1, 'x-own': 'yes' },
    anyX: { 'x-match': 'any-with-x', 'x-own': 'yes' },
    noX: { 'x-match': 'all', a: 1, 'x-own': 'ignored' },
    present: { a: null },
  }
  for (const [queue, args] of Object.entries(bindings)) {
    await peer.queue(queue)
    await peer.call(1, bindQueue(queue, 'h', '', args), 'queue.bind-ok')
  }
  await confirming(peer)
  const reached = async (headers: Table) => {
    await publish(peer, 'h', 'ignored', 'body', headers)
    const queues: string[] = []
    for (const queue of Object.keys(bindings)) {
      if ((await peer.get(queue)) !== undefined) queues.push(queue)
    }
    return queues.join(' ')
  }
  assert.equal(await reached({ a: 1, b: 'two' }), 'all any noX present')
  assert.equal(await reached({ a: 1, 'x-own': 'yes' }), 'any allX anyX noX present')
  assert.equal(await reached({ a: 2 }), 'present')
  assert.equal(await reached({ b: 'two' }), 'any')
})

test('no. 37: CC and BCC are further routing keys, and BCC is not delivered', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  for (const queue of ['to', 'cc', 'bcc']) await peer.queue(queue)
  await confirming(peer)
  const headers = { CC: ['cc', 'to'], BCC: ['bcc'], kept: 'yes' }
  await publish(peer, '', 'to', 'body', headers)
  for (const queue of ['to', 'cc', 'bcc']) {
    peer.method(1, { name: 'basic.get', queue, noAck: true })
    const { properties, method } = await peer.message('basic.get-ok', 1)
    assert.equal(method.routingKey, 'to')
    assert.equal(method.messageCount, 0, 'once a queue')
    const text = properties.toString('latin1')
    assert(text.includes('CC') && text.includes('kept') && !text.includes('BCC'))
  }
  for (const wrong of [{ CC: 'cc' }, { BCC: [1] }]) {
    assert.match(
      await peer.refusal(() => peer.publish(1, '', 'to', 'x', { properties: { headers: wrong } })),
      /^channel PRECONDITION_FAILED - .* \(406, method 60.40\)$/,
    )
  }
})

test('no. 37: every exchange on the way matches CC and BCC too', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  await peer.queue('end')
  await peer.exchange('first', 'direct')
  await peer.exchange('second', 'topic')
  const binding = { destination: 'second', source: 'first', routingKey: 'cc' }
  const bind = { name: 'exchange.bind', ...binding, noWait: false, arguments: {} } as const
  await peer.call(1, bind, 'exchange.bind-ok')
  await peer.bind('end', 'second', 'bcc')
  await confirming(peer)
  await publish(peer, 'first', 'neither', 'body', { CC: ['cc'], BCC: ['bcc'] })
  assert.equal(await peer.get('end'), 'body')
  await publish(peer, 'first', 'cc', 'not reached')
  assert.equal(await peer.get('end'), undefined)
})

test('no. 38: CR and LF are stripped from declared names', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  await peer.exchange('e\r\n', 'fanout')
  await peer.exchange('e', 'fanout', { passive: true })
  assert.equal(await peer.queue('q\r\n1'), 'q1')
  assert.equal(await peer.queue('q1', { passive: true }), 'q1')
})

test('no. 39: an auto-delete exchange goes with its last binding, never before it had one', async (t) => {
  const { client } = await withAmqp(t)
  const peer = await client()
  await peer.exchange('e', 'fanout', { autoDelete: true })
  await peer.queue('q')
  await peer.call(1, unbindQueue('q', 'e', 'never bound'), 'queue.unbind-ok')
  await peer.exchange('e', 'fanout', { passive: true })
  await peer.bind('q', 'e', 'a')
  await peer.bind('q', 'e', 'b')
  await peer.call(1, unbindQueue('q', 'e', 'a'), 'queue.unbind-ok')
  await peer.exchange('e', 'fanout', { passive: true })
  await peer.call(1, unbindQueue('q', 'e', 'b'), 'queue.unbind-ok')
  assert.match(
    await peer.refused(declareExchange('e', 'fanout', { passive: true })),
    /NOT_FOUND - no exchange 'e'/,
  )
})
