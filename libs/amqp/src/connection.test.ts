/**
 * Opening, keeping and closing a connection, byte by byte over a real socket. The numbers are those
 * of the behaviours that docs/amqp.md lists.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { waitFor } from '@sluice/testkit'
import { closing, withDoor } from '../../../test/support/amqp-door.ts'
import { rawFrame } from '../../../test/support/amqp-peer.ts'
import { AmqpError } from './amqp-error.ts'
import type { Credentials } from './sasl.ts'
import type { Table } from './values.ts'

const HEADER = Buffer.from('414d515000000901', 'hex')
const refuses = { authenticate: async () => false }

test('no. 1: a wrong protocol header is answered with ours, then the socket closes', async (t) => {
  const { peer, hints } = await withDoor(t)
  const wrong: [Buffer, string][] = [
    [Buffer.from('414d515003010000', 'hex'), 'a version of AMQP other than 0-9-1'],
    [Buffer.from('414d515001010800', 'hex'), 'a version of AMQP other than 0-9-1'],
    [Buffer.from('GET / HTTP/1.1\r\n\r\n'), 'an HTTP request on the AMQP port'],
    [Buffer.from('16030100f8010000', 'hex'), 'a TLS handshake on a port without TLS'],
    [Buffer.from('EHLO mail.example.com\r\n'), 'bytes that are not AMQP'],
  ]
  for (const [bytes, hint] of wrong) {
    const client = await peer()
    client.collectRaw()
    client.send(bytes)
    assert.equal((await client.hungUp()).toString('hex'), HEADER.toString('hex'))
    assert.equal(hints.pop(), hint)
  }
})

test('no. 1: the header of 0-9 is taken as 0-9-1, and may come in pieces', async (t) => {
  const { peer } = await withDoor(t)
  const client = await peer()
  client.socket.setNoDelay(true)
  for (const octet of Buffer.from('414d515001010009', 'hex')) {
    client.send(Buffer.from([octet]))
    await new Promise((resolve) => setImmediate(resolve))
  }
  await client.expect('connection.start', 0)
})

test('no. 2: start offers 0-9, en_US and the mechanisms', async (t) => {
  const { peer } = await withDoor(t, {}, { mechanisms: ['PLAIN', 'AMQPLAIN', 'EXTERNAL'] })
  const client = await peer()
  client.send(HEADER)
  const start = await client.expect('connection.start', 0)
  assert.deepEqual([start.versionMajor, start.versionMinor, start.locales], [0, 9, 'en_US'])
  assert.equal(start.mechanisms, 'PLAIN AMQPLAIN EXTERNAL')
})

test('no. 2: PLAIN, AMQPLAIN and EXTERNAL each end in one step', async (t) => {
  const { peer, calls } = await withDoor(t, {}, { mechanisms: ['PLAIN', 'AMQPLAIN', 'EXTERNAL'] })
  const amqplain = Buffer.from(
    '054c4f47494e530000000175 0850415353574f5244530000000170'.replace(' ', ''),
    'hex',
  )
  const said: [string, string | Buffer, Credentials][] = [
    ['PLAIN', '\0u\0p', { mechanism: 'PLAIN', user: 'u', password: 'p' }],
    ['PLAIN', '\0ü\0', { mechanism: 'PLAIN', user: 'ü', password: '' }],
    ['AMQPLAIN', amqplain, { mechanism: 'AMQPLAIN', user: 'u', password: 'p' }],
    ['EXTERNAL', '', { mechanism: 'EXTERNAL' }],
  ]
  for (const [mechanism, response, credentials] of said) {
    const client = await peer()
    client.send(HEADER)
    await client.expect('connection.start')
    client.startOk(mechanism, response)
    await client.expect('connection.tune')
    assert.deepEqual(calls.pop()?.args, [credentials])
  }
})

test('no. 3: every capability that clients look for is announced', async (t) => {
  const { peer } = await withDoor(t)
  const client = await peer()
  client.send(HEADER)
  const { serverProperties } = await client.expect('connection.start')
  const capabilities = serverProperties['capabilities'] as Table
  const names =
    'publisher_confirms exchange_exchange_bindings basic.nack consumer_cancel_notify connection.blocked consumer_priorities authentication_failure_close per_consumer_qos direct_reply_to'
  for (const name of names.split(' ')) assert.equal(capabilities[name], true, name)
})

test('no. 4: product and version are what the server was told to say', async (t) => {
  const serverProperties = { product: 'RabbitMQ', version: '3.12.0' }
  const { peer } = await withDoor(t, {}, { serverProperties })
  const client = await peer()
  client.send(HEADER)
  const start = await client.expect('connection.start')
  assert.equal(start.serverProperties['product'], 'RabbitMQ')
  assert.equal(start.serverProperties['version'], '3.12.0')
})

test('no. 5: a mechanism that is not offered is 503, a malformed response 502', async (t) => {
  const { peer, calls } = await withDoor(t)
  const wrong: [string, string, number][] = [
    ['CRAM-MD5', 'hunter2', 503],
    ['EXTERNAL', 'hunter2', 503],
    ['PLAIN', 'guest hunter2', 502],
    ['PLAIN', '\0guest', 502],
    ['PLAIN', 'other\0guest\0hunter2', 502],
    ['PLAIN', '\0guest\0hunter2\0', 502],
    ['AMQPLAIN', 'hunter2', 502],
    ['AMQPLAIN', '', 502],
  ]
  for (const [mechanism, response, code] of wrong) {
    const client = await peer()
    client.send(HEADER)
    await client.expect('connection.start')
    client.startOk(mechanism, response)
    const close = await client.expect('connection.close', 0)
    assert.equal(close.replyCode, code, `${mechanism} ${response}`)
    assert.deepEqual([close.classId, close.methodId], [10, 11])
    assert.doesNotMatch(close.replyText, /guest|hunter2/, 'no credential in the text')
    await client.hungUp()
  }
  assert(!calls.some(({ what }) => what === 'authenticate'))
})

test('no. 6: bad credentials end in silence, after a while', async (t) => {
  const { peer } = await withDoor(t, refuses, { failureDelayMs: 300 })
  const client = await peer()
  client.send(HEADER)
  await client.expect('connection.start')
  client.startOk('PLAIN', '\0guest\0wrong')
  const from = performance.now()
  await client.hungUp()
  assert(performance.now() - from > 250)
  assert.deepEqual(client.unread, [])
})

test('no. 6: a client that can hear it is told 403, in a text that helps nobody', async (t) => {
  const { peer } = await withDoor(t, refuses)
  const client = await peer()
  client.send(HEADER)
  await client.expect('connection.start')
  const capabilities = { authentication_failure_close: true }
  client.startOk('PLAIN', '\0guest\0wrong', { capabilities })
  assert.match(
    closing(await client.expect('connection.close', 0)),
    /^ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN\. .*403/,
  )
  await client.hungUp()
})

test('no. 7: tune offers what the server is set to', async (t) => {
  const { peer } = await withDoor(t)
  const client = await peer()
  client.send(HEADER)
  await client.expect('connection.start')
  client.startOk('PLAIN', '\0guest\0guest')
  const { frameMax, channelMax, heartbeat } = await client.expect('connection.tune')
  assert.deepEqual([frameMax, channelMax, heartbeat], [131_072, 2047, 60])
})

test('no. 7: a handshake that takes too long is cut off, at any step', async (t) => {
  const { peer } = await withDoor(t, {}, { handshakeMsMax: 150 })
  const silent = await peer()
  const slow = await peer()
  slow.send(HEADER.subarray(0, 3))
  const started = await peer()
  started.send(HEADER)
  const secured = await peer()
  secured.send(HEADER)
  secured.startOk('PLAIN', '\0guest\0guest')
  await Promise.all([silent, slow, started, secured].map((client) => client.hungUp()))
  const open = await peer()
  await open.login()
  await new Promise((resolve) => setTimeout(resolve, 200))
  await open.openChannel(1)
})

test('no. 8: what is tuned stays within what was offered, and frames may be of 4096', async (t) => {
  const { peer, loggedIn } = await withDoor(t)
  const wrong: [number, number, string][] = [
    [131_073, 1, 'negotiated frame_max = 131073 is higher than the maximum allowed value (131072)'],
    [0, 1, 'negotiated frame_max = 0 (no limit) is higher than the maximum allowed value (131072)'],
    [4095, 1, 'negotiated frame_max = 4095 is lower than the minimum allowed value (4096)'],
    [4096, 2048, 'negotiated channel_max = 2048 is higher than the maximum allowed value (2047)'],
    [
      4096,
      0,
      'negotiated channel_max = 0 (no limit) is higher than the maximum allowed value (2047)',
    ],
  ]
  for (const [frameMax, channelMax, text] of wrong) {
    const client = await peer()
    client.send(HEADER)
    await client.expect('connection.start')
    client.startOk('PLAIN', '\0guest\0guest')
    await client.expect('connection.tune')
    client.method(0, { name: 'connection.tune-ok', frameMax, channelMax, heartbeat: 0 })
    const close = await client.expect('connection.close', 0)
    assert.equal(closing(close), `NOT_ALLOWED - ${text} (530, method 10.30)`)
  }
  await loggedIn({ frameMax: 4096, channelMax: 1 })
})

test('no. 9: a vhost that is refused closes the connection with the reason given', async (t) => {
  const script = {
    open: async (vhost: string) => {
      throw new AmqpError(530, `vhost ${vhost} not found`)
    },
  }
  const { peer } = await withDoor(t, script)
  const client = await peer()
  await assert.rejects(client.login({ vhost: 'nowhere' }), /vhost nowhere not found/)
  await client.hungUp()
})

test('a client may send the whole handshake without waiting', async (t) => {
  const { peer, calls } = await withDoor(t)
  const client = await peer()
  client.send(HEADER)
  client.startOk('PLAIN', '\0guest\0guest')
  client.method(0, { name: 'connection.tune-ok', frameMax: 4096, channelMax: 10, heartbeat: 0 })
  client.method(0, { name: 'connection.open', virtualHost: 'v' })
  client.method(1, { name: 'channel.open' })
  client.publish(1, 'e', 'k', 'body')
  for (const name of ['connection.start', 'connection.tune', 'connection.open-ok'] as const) {
    await client.expect(name)
  }
  await client.expect('channel.open-ok', 1)
  await waitFor(() => calls.some(({ what }) => what === 'publish'))
})

test('no. 10: a method in the wrong state is 504', async (t) => {
  const { peer, loggedIn } = await withDoor(t)
  const early = await peer()
  early.send(HEADER)
  await early.expect('connection.start')
  early.method(0, { name: 'connection.open', virtualHost: '/' })
  assert.equal(
    closing(await early.expect('connection.close')),
    'CHANNEL_ERROR - unexpected method in connection state starting (504, method 10.40)',
  )
  const late = await loggedIn()
  late.startOk('PLAIN', '\0guest\0guest')
  assert.equal(
    closing(await late.expect('connection.close')),
    'CHANNEL_ERROR - unexpected method in connection state running (504, method 10.11)',
  )
})

test('no. 10: frames of a channel before the connection is open are 505', async (t) => {
  const { peer } = await withDoor(t)
  const client = await peer()
  client.send(HEADER)
  await client.expect('connection.start')
  client.method(1, { name: 'channel.open' })
  assert.equal((await client.expect('connection.close')).replyCode, 505)
})

test('no. 10: content on channel 0 is 505, an unknown type of frame 501', async (t) => {
  const { loggedIn } = await withDoor(t)
  const wrong: [number, number, Buffer, number][] = [
    [2, 0, Buffer.alloc(14), 505],
    [3, 0, Buffer.alloc(1), 505],
    [4, 0, Buffer.alloc(0), 501],
    [4, 1, Buffer.alloc(0), 501],
    [4, 9, Buffer.alloc(0), 501],
    [8, 0, Buffer.alloc(1), 501],
    [1, 0, Buffer.alloc(3), 501],
    [1, 1, Buffer.alloc(3), 501],
  ]
  for (const [type, channel, payload, code] of wrong) {
    const client = await loggedIn()
    client.send(rawFrame(type, channel, payload))
    const close = await client.expect('connection.close', 0)
    assert.equal(close.replyCode, code, `type ${type} on channel ${channel}`)
  }
})

test('no. 11: a frame too large, or without its end, is 501 and the socket is dropped', async (t) => {
  const { loggedIn } = await withDoor(t)
  const unended = rawFrame(1, 1, Buffer.alloc(10))
  unended[17] = 0
  for (const bytes of [rawFrame(3, 1, Buffer.alloc(4097)), unended]) {
    const client = await loggedIn({ frameMax: 4096 })
    client.send(bytes)
    client.method(2, { name: 'channel.open' })
    assert.equal((await client.expect('connection.close', 0)).replyCode, 501)
    await client.hungUp()
    assert.deepEqual(client.unread, [], 'nothing after it is read')
  }
})

test('no. 11: before tuning, frames are large enough for a long token, and no larger', async (t) => {
  const { peer, calls } = await withDoor(t)
  const said = async (password: string) => {
    const client = await peer()
    client.send(HEADER)
    await client.expect('connection.start')
    client.startOk('PLAIN', `\0u\0${password}`)
    return client
  }
  const token = 'x'.repeat(15_000)
  await (await said(token)).expect('connection.tune')
  assert.deepEqual(calls.pop()?.args, [{ mechanism: 'PLAIN', user: 'u', password: token }])
  const refused = await said('x'.repeat(17_000))
  assert.equal((await refused.expect('connection.close', 0)).replyCode, 501)
})

test('no. 12: a heartbeat on a channel is 505', async (t) => {
  const { loggedIn } = await withDoor(t)
  for (const channel of [1, 9]) {
    const client = await loggedIn()
    client.send(rawFrame(8, channel, Buffer.alloc(0)))
    assert.equal((await client.expect('connection.close', 0)).replyCode, 505)
  }
})

test('no. 15: close waits for what was sent before it, then for the handler', async (t) => {
  const order: string[] = []
  let declared = () => {}
  const script = {
    method: () =>
      new Promise<void>((resolve) => {
        declared = resolve
      }),
    publish: () => order.push('publish'),
    channelClosed: () => order.push('channel closed'),
    closed: async () => {
      await new Promise((resolve) => setImmediate(resolve))
      order.push('closed')
    },
  }
  const { loggedIn, calls } = await withDoor(t, {
    ...script,
    publish: () => {
      order.push('publish')
    },
    channelClosed: () => {
      order.push('channel closed')
    },
  })
  const client = await loggedIn()
  client.method(1, { name: 'queue.purge', queue: 'q', noWait: true })
  client.publish(1, '', 'q', 'last words')
  client.method(0, {
    name: 'connection.close',
    replyCode: 200,
    replyText: 'bye',
    classId: 0,
    methodId: 0,
  })
  client.method(1, { name: 'tx.select' })
  await waitFor(() => calls.some(({ what }) => what === 'queue.purge'))
  assert.deepEqual(client.unread, [])
  declared()
  await client.expect('connection.close-ok', 0)
  assert.deepEqual(order, ['publish', 'channel closed', 'closed'])
  await client.hungUp()
  assert(!calls.some(({ what }) => what === 'tx.select'), 'nothing after the close is heard')
  assert.equal(calls.filter(({ what }) => what === 'closed').length, 1)
})

test('no. 15: a client that never answers our close is cut off', async (t) => {
  const { loggedIn, connections } = await withDoor(t, {}, { closeMsMax: 100 })
  const client = await loggedIn()
  connections[0]!.close(new AmqpError(320, 'going down'))
  await client.expect('connection.close')
  await client.hungUp()
})

test('no. 16: our own close is 320 CONNECTION_FORCED, and ends when the client agrees', async (t) => {
  const { loggedIn, connections, calls } = await withDoor(t)
  const client = await loggedIn()
  connections[0]!.close(
    new AmqpError(320, "broker forced connection closure with reason 'shutdown'"),
  )
  assert.equal(
    closing(await client.expect('connection.close', 0)),
    "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown' (320, method 0.0)",
  )
  client.publish(1, '', 'q', 'ignored')
  client.method(0, { name: 'connection.close-ok' })
  await client.hungUp()
  await connections[0]!.closed
  const ends = calls.filter(({ what }) => what.endsWith('closed')).map(({ what }) => what)
  assert.deepEqual(ends, ['channel closed', 'closed'])
  assert(!calls.some(({ what }) => what === 'publish'))
})

test('no. 17: a new secret is taken over, or refused with 530', async (t) => {
  const script = {
    updateSecret: async (secret: string) => {
      if (secret !== 'good')
        throw new AmqpError(530, 'New secret was refused by one of the backends')
    },
  }
  const { loggedIn } = await withDoor(t, script)
  const client = await loggedIn()
  const update = (secret: string) =>
    client.method(0, {
      name: 'connection.update-secret',
      newSecret: Buffer.from(secret),
      reason: '',
    })
  update('good')
  await client.expect('connection.update-secret-ok', 0)
  update('hunter2')
  assert.equal(
    closing(await client.expect('connection.close', 0)),
    'NOT_ALLOWED - New secret was refused by one of the backends (530, method 10.70)',
  )
})

test('no. 18: publishing during an alarm stops the reading, and only then the client is told', async (t) => {
  const { loggedIn, connections, calls } = await withDoor(t)
  const client = await loggedIn({
    clientProperties: { capabilities: { 'connection.blocked': true } },
  })
  const published = () => calls.filter(({ what }) => what === 'publish').length
  connections[0]!.block('low on memory')
  client.method(1, { name: 'channel.flow', active: true })
  await client.expect('channel.flow-ok', 1)
  client.publish(1, '', 'q', 'one')
  assert.equal((await client.expect('connection.blocked', 0)).reason, 'low on memory')
  client.publish(1, '', 'q', 'two')
  client.method(1, { name: 'channel.flow', active: true })
  await new Promise((resolve) => setTimeout(resolve, 50))
  assert.equal(published(), 1)
  connections[0]!.unblock()
  await client.expect('connection.unblocked', 0)
  await client.expect('channel.flow-ok', 1)
  assert.equal(published(), 2)
})

test('no. 18: a client without the capability is stopped and not told', async (t) => {
  const { loggedIn, connections } = await withDoor(t)
  const client = await loggedIn()
  connections[0]!.block('low on memory')
  client.publish(1, '', 'q', 'one')
  client.method(1, { name: 'channel.flow', active: true })
  await new Promise((resolve) => setTimeout(resolve, 50))
  assert.deepEqual(client.unread, [])
  connections[0]!.unblock()
  await client.expect('channel.flow-ok', 1)
})

test('no. 14, 18: who is not read because of an alarm is not taken for dead', async (t) => {
  const { loggedIn, connections } = await withDoor(t)
  const client = await loggedIn({ heartbeat: 1 })
  connections[0]!.block('low on memory')
  client.publish(1, '', 'q', 'one')
  await new Promise((resolve) => setTimeout(resolve, 3_600))
  connections[0]!.unblock()
  await client.call(1, { name: 'channel.flow', active: true }, 'channel.flow-ok')
})

test('no. 19: a client may name its connection', async (t) => {
  const { loggedIn, connections } = await withDoor(t)
  await loggedIn({ clientProperties: { connection_name: 'billing-7' } })
  assert.equal(connections[0]!.clientName, 'billing-7')
})

test('an unexpected failure is 541 without detail, and reported', async (t) => {
  const script = {
    method: () => {
      throw new Error('password is hunter2')
    },
  }
  const { loggedIn, reported } = await withDoor(t, script)
  const client = await loggedIn()
  client.method(1, { name: 'tx.select' })
  assert.equal(
    closing(await client.expect('connection.close', 0)),
    'INTERNAL_ERROR - an unexpected failure; see the log (541, method 90.10)',
  )
  assert.equal(reported.length, 1)
})

test('a socket that goes away ends every channel and the connection, once', async (t) => {
  const { loggedIn, connections, calls } = await withDoor(t)
  const client = await loggedIn()
  await client.openChannel(2)
  client.socket.resetAndDestroy()
  await connections[0]!.closed
  const ends = calls.filter(({ what }) => what.endsWith('closed'))
  assert.deepEqual(
    ends.map(({ what, channel }) => `${what} ${channel}`),
    ['channel closed 1', 'channel closed 2', 'closed 0'],
  )
})
