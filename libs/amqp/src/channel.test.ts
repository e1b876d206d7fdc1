/**
 * Channels and contents over a real socket: order, what a wrong frame costs, what is bounded.
 * The numbers are those of the behaviours that docs/amqp.md lists.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { waitFor } from '@sluice/testkit'
import { closeChannel, closing, publishMethod, withDoor } from '../../../test/support/amqp-door.ts'
import { type AmqpPeer, rawFrame } from '../../../test/support/amqp-peer.ts'
import { AmqpError } from './amqp-error.ts'
import { encodeContent, encodeMethod } from './frame-writer.ts'

const MiB = 1024 * 1024
const NO_PROPERTIES = Buffer.from([0, 0])

/** A content header as it stands in its frame. */
function header(size: number | bigint, classId = 60, channel = 1): Buffer {
  const payload = Buffer.alloc(14)
  payload.writeUInt16BE(classId)
  payload.writeBigUInt64BE(BigInt(size), 4)
  return rawFrame(2, channel, payload)
}

async function connectionClose(client: AmqpPeer): Promise<string> {
  return closing(await client.expect('connection.close', 0))
}

test('no. 13: content out of order, or of another class, is 505', async (t) => {
  const { loggedIn } = await withDoor(t)
  const body = rawFrame(3, 1, Buffer.from('x'))
  const noHeader =
    'expected content header for class 60, got non content header frame instead (505, method 60.40)'
  const wrong: [string, Buffer[], string][] = [
    ['a method where a header is due', [publishMethod, publishMethod], noHeader],
    ['a body where a header is due', [publishMethod, body], noHeader],
    [
      'a header of another class',
      [publishMethod, header(1, 10)],
      'expected content header for class 60, got one for class 10 instead (505, method 60.40)',
    ],
    [
      'a header of nothing',
      [header(1)],
      'expected method frame, got non method frame instead (505, method 0.0)',
    ],
    [
      'a body of nothing',
      [body],
      'expected method frame, got non method frame instead (505, method 0.0)',
    ],
    [
      'a body after an empty one',
      [publishMethod, header(0), body],
      'expected method frame, got non method frame instead (505, method 0.0)',
    ],
    [
      'a method where a body is due',
      [publishMethod, header(1), publishMethod],
      'expected content body, got non content body frame instead (505, method 60.40)',
    ],
  ]
  for (const [what, frames, text] of wrong) {
    const client = await loggedIn()
    client.send(Buffer.concat(frames))
    assert.equal(await connectionClose(client), `UNEXPECTED_FRAME - ${text}`, what)
  }
})

test('no. 13: a body longer than announced, or announced past 512 MiB, is 501', async (t) => {
  const { loggedIn } = await withDoor(t)
  const long = await loggedIn()
  long.send(Buffer.concat([publishMethod, header(1), rawFrame(3, 1, Buffer.from('xy'))]))
  assert.equal(
    await connectionClose(long),
    'FRAME_ERROR - content body frame exceeds remaining content size (501, method 60.40)',
  )
  for (const size of [512 * MiB + 1, 2n ** 64n - 1n]) {
    const huge = await loggedIn()
    huge.send(Buffer.concat([publishMethod, header(size)]))
    assert.match(
      await connectionClose(huge),
      /^FRAME_ERROR - content body size \d+ exceeds maximum allowed size 536870912 \(501/,
    )
  }
})

test('no. 13: an empty body has no frame, and any split of a body is the same message', async (t) => {
  const bodies: string[] = []
  const script = {
    publish: (_channel: unknown, _key: string, body: Buffer, properties: Buffer) => {
      assert.equal(properties.toString('hex'), '0000')
      bodies.push(body.toString())
    },
  }
  const { loggedIn } = await withDoor(t, script)
  const client = await loggedIn()
  client.send(Buffer.concat([publishMethod, header(0)]))
  const text = 'abcdefghij'
  for (let cut = 0; cut <= text.length; cut++) {
    const parts = [text.slice(0, cut), text.slice(cut)].map((part) =>
      rawFrame(3, 1, Buffer.from(part)),
    )
    client.send(Buffer.concat([publishMethod, header(text.length), ...parts]))
    if (cut === text.length) break // the empty part at the end would be one too many
  }
  const last = await client.expect('connection.close')
  assert.equal(last.replyCode, 505)
  assert.deepEqual(bodies, ['', ...Array(text.length + 1).fill(text)])
})

test('a body of many frames arrives whole, with its properties', async (t) => {
  const sent = Buffer.alloc(3 * MiB, 'some body')
  const got: Buffer[] = []
  const script = {
    publish: (_channel: unknown, _key: string, body: Buffer, properties: Buffer) => {
      got.push(Buffer.from(properties), body)
    },
  }
  const { loggedIn } = await withDoor(t, script)
  const client = await loggedIn({ frameMax: 4096 })
  client.publish(1, '', 'q', sent, { properties: { contentType: 'text/plain' } })
  await client.call(1, { name: 'channel.flow', active: true }, 'channel.flow-ok')
  assert.equal(got[0]!.toString('hex'), '80000a746578742f706c61696e')
  assert(got[1]!.equals(sent))
})

test('no. 59: a message over the maximum is 406 at its end, and is not kept', async (t) => {
  const { loggedIn, calls } = await withDoor(t, {}, { messageBytesMax: 1_000 })
  const client = await loggedIn()
  client.publish(1, '', 'q', Buffer.alloc(1_000))
  client.send(Buffer.concat([publishMethod, header(1_001), rawFrame(3, 1, Buffer.alloc(1_000))]))
  await client.openChannel(2) // nothing is said before its end
  client.send(rawFrame(3, 1, Buffer.alloc(1)))
  assert.equal(
    closing(await client.expect('channel.close', 1)),
    'PRECONDITION_FAILED - message size 1001 is larger than configured max size 1000 (406, method 60.40)',
  )
  client.method(1, { name: 'channel.close-ok' })
  await client.openChannel(1)
  assert.equal(calls.filter(({ what }) => what === 'publish').length, 1)
})

test('half-sent messages of one connection are bounded together', async (t) => {
  const { loggedIn } = await withDoor(t, {}, { messageBytesMax: MiB })
  const client = await loggedIn()
  for (let channel = 2; channel <= 9; channel++) await client.openChannel(channel)
  for (let channel = 2; channel <= 9; channel++) {
    const method = Buffer.from(publishMethod)
    method.writeUInt16BE(channel, 1)
    client.send(Buffer.concat([method, header(MiB, 60, channel)]))
    for (let i = 0; i < 7; i++) client.send(rawFrame(3, channel, Buffer.alloc(131_000)))
  }
  assert.match(await connectionClose(client), /^RESOURCE_ERROR - .*506/)
})

test('no. 20: a method before channel.open, and a second channel.open, are 504', async (t) => {
  const { loggedIn } = await withDoor(t)
  const early = await loggedIn()
  early.method(2, { name: 'basic.get', queue: 'q', noAck: true })
  assert.equal(
    await connectionClose(early),
    "CHANNEL_ERROR - expected 'channel.open' (504, method 60.70)",
  )
  const twice = await loggedIn()
  twice.method(1, { name: 'channel.open' })
  assert.equal(
    await connectionClose(twice),
    "CHANNEL_ERROR - second 'channel.open' seen (504, method 20.10)",
  )
})

test('no. 21: more open channels than channel-max is 530; numbers are free', async (t) => {
  const { loggedIn } = await withDoor(t)
  const client = await loggedIn({ channelMax: 2 })
  await client.openChannel(65_535)
  client.method(1, closeChannel)
  await client.expect('channel.close-ok', 1)
  await client.openChannel(7)
  client.method(8, { name: 'channel.open' })
  assert.equal(
    await connectionClose(client),
    'NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2) (530, method 20.10)',
  )
})

test('no. 24: channel.flow is confirmed when active, else 540', async (t) => {
  const { loggedIn } = await withDoor(t)
  const client = await loggedIn()
  const { active } = await client.call(1, { name: 'channel.flow', active: true }, 'channel.flow-ok')
  assert.equal(active, true)
  client.method(1, { name: 'channel.flow', active: false })
  assert.equal(await connectionClose(client), 'NOT_IMPLEMENTED - active=false (540, method 20.20)')
})

test('no. 25: access.request gives ticket 1', async (t) => {
  const { loggedIn } = await withDoor(t)
  const client = await loggedIn()
  const { ticket } = await client.call(1, { name: 'access.request' }, 'access.request-ok')
  assert.equal(ticket, 1)
})

test('no. 26: a method that does not exist, or that only servers send, is 503', async (t) => {
  const { loggedIn } = await withDoor(t)
  const wrong: [number, string][] = [
    [60 * 65_536 + 99, 'COMMAND_INVALID - unknown method (60,99) (503, method 60.99)'],
    [999 * 65_536 + 1, 'COMMAND_INVALID - unknown method (999,1) (503, method 999.1)'],
    [50 * 65_536 + 11, 'COMMAND_INVALID - unimplemented method (50,11) (503, method 50.11)'],
  ]
  for (const [id, text] of wrong) {
    const client = await loggedIn()
    const payload = Buffer.alloc(4)
    payload.writeUInt32BE(id)
    client.send(rawFrame(1, 1, payload))
    assert.equal(await connectionClose(client), text)
  }
})

test('no. 76: a short string that is not UTF-8, or arguments that do not fit, are 501', async (t) => {
  const { loggedIn } = await withDoor(t)
  const wrong = [
    '003c0028 0000 01ff 00 00', // basic.publish, exchange not UTF-8
    '003c0028 0000 00 05', // routing key cut short
    '003c0028 0000 00 00 00 00', // a byte too many
    '0032000a 0000 0171 00 00000005 00', // queue.declare, table cut short
    '0032000a 0000 0171 00 00000003 016b3f', // an unknown field type
    '003c0050 00', // basic.ack cut short
    '003c0050 000000000000000001 00 00',
  ]
  for (const text of wrong) {
    const client = await loggedIn()
    client.send(rawFrame(1, 1, Buffer.from(text.replace(/ /g, ''), 'hex')))
    assert.match(await connectionClose(client), /^FRAME_ERROR - .*\(501, method (60|50)/, text)
  }
})

test('a method answered later holds back what follows on its channel, and no other', async (t) => {
  const heard: string[] = []
  const answers: (() => void)[] = []
  const script = {
    method: async (channel: { id: number }, method: { name: string }) => {
      heard.push(`${channel.id} ${method.name}`)
      await new Promise<void>((resolve) => answers.push(resolve))
      heard.push(`${channel.id} ${method.name} done`)
    },
    publish: (channel: { id: number }, key: string) => {
      heard.push(`${channel.id} publish ${key}`)
    },
    ack: (channel: { id: number }, tag: number) => {
      heard.push(`${channel.id} ack ${tag}`)
    },
  }
  const { loggedIn } = await withDoor(t, script)
  const client = await loggedIn()
  await client.openChannel(2)
  client.method(1, { name: 'tx.select' })
  client.publish(1, '', 'a', 'x'.repeat(200_000))
  client.method(1, { name: 'basic.ack', deliveryTag: 7, multiple: false })
  client.method(1, { name: 'tx.commit' })
  client.publish(1, '', 'b', '')
  client.publish(2, '', 'c', 'y')
  await waitFor(() => heard.includes('2 publish c'))
  assert.deepEqual(heard, ['1 tx.select', '2 publish c'])
  answers[0]!()
  await waitFor(() => answers.length === 2)
  answers[1]!()
  await waitFor(() => heard.includes('1 publish b'))
  assert.deepEqual(heard.slice(2), [
    '1 tx.select done',
    '1 publish a',
    '1 ack 7',
    '1 tx.commit',
    '1 tx.commit done',
    '1 publish b',
  ])
})

test('a method that fails later closes the channel with its own ids', async (t) => {
  const script = {
    method: async (_channel: unknown, { name }: { name: string }) => {
      await new Promise((resolve) => setImmediate(resolve))
      if (name === 'queue.purge') throw new AmqpError(404, 'no queue')
    },
  }
  const { loggedIn, calls } = await withDoor(t, script)
  const client = await loggedIn()
  client.method(1, { name: 'queue.purge', queue: 'q', noWait: false })
  client.publish(1, '', 'q', 'dropped')
  assert.equal(
    closing(await client.expect('channel.close', 1)),
    'NOT_FOUND - no queue (404, method 50.30)',
  )
  client.method(1, { name: 'channel.close-ok' })
  await client.openChannel(1)
  assert(!calls.some(({ what }) => what === 'publish'))
})

test('what a handler throws at a publish or an ack names that method', async (t) => {
  const no = (): never => {
    throw new AmqpError(406, 'no')
  }
  const { loggedIn } = await withDoor(t, { publish: no, ack: no })
  const client = await loggedIn()
  client.publish(1, '', 'q', 'x')
  assert.match(closing(await client.expect('channel.close', 1)), /method 60\.40/)
  client.method(1, { name: 'channel.close-ok' })
  await client.openChannel(1)
  client.method(1, { name: 'basic.ack', deliveryTag: 1, multiple: false })
  assert.match(closing(await client.expect('channel.close', 1)), /method 60\.80/)
})

test('frames that wait are bounded: the connection is not read while too many do', async (t) => {
  let answer = () => {}
  let published = 0
  const script = {
    method: () =>
      new Promise<void>((resolve) => {
        answer = resolve
      }),
    publish: () => {
      published++
    },
  }
  const { loggedIn, connections } = await withDoor(t, script)
  const client = await loggedIn()
  client.method(1, { name: 'tx.select' })
  const one = Buffer.concat([
    publishMethod,
    encodeContent(1, NO_PROPERTIES, Buffer.alloc(4_000), 131_072),
  ])
  const count = 8_000 // 32 MB: more than sockets buffer
  for (let i = 0; i < count / 100; i++) client.send(Buffer.concat(Array(100).fill(one)))
  await waitFor(() => client.socket.writableLength > 0)
  await new Promise((resolve) => setTimeout(resolve, 200))
  assert(client.socket.writableLength > 8 * MiB, 'the client is held back')
  assert.equal(connections[0]!.running, true)
  answer()
  await waitFor(() => published === count)
})

test('answers that are not read are bounded: the connection is not read meanwhile', async (t) => {
  const { loggedIn, connections } = await withDoor(t, {
    method: (channel) => {
      channel.getOk(1, false, '', 'q', 0, NO_PROPERTIES, Buffer.alloc(MiB))
    },
  })
  const client = await loggedIn()
  client.socket.pause()
  const get = encodeMethod(1, { name: 'basic.get', queue: 'q', noAck: true })
  client.send(Buffer.concat(Array(1_000).fill(get)))
  await waitFor(() => !connections[0]!.writable)
  await new Promise((resolve) => setTimeout(resolve, 100))
  assert(connections[0]!.output.pending < 11 * MiB, `${connections[0]!.output.pending} bytes wait`)
  client.socket.resume()
  for (let i = 0; i < 1_000; i++) await client.message('basic.get-ok', 1)
})

test('no. 56: a return made before the confirm of its turn arrives before it', async (t) => {
  const { loggedIn } = await withDoor(t, {
    publish: (channel, routingKey, body, properties) => {
      channel.confirms.settle(channel.confirms.add(), true)
      channel.returned('', routingKey, properties, body)
    },
  })
  const client = await loggedIn()
  client.publish(1, '', 'nobody', 'x')
  const { method, body } = await client.message('basic.return', 1)
  assert.deepEqual([method.replyCode, method.replyText, `${body}`], [312, 'NO_ROUTE', 'x'])
  const { deliveryTag } = await client.expect('basic.ack', 1)
  assert.equal(deliveryTag, 1)
})

test('a publish that differs from the last one in its names is not taken for it', async (t) => {
  const { loggedIn, calls } = await withDoor(t)
  const client = await loggedIn()
  const seen: [string, string, boolean][] = [
    ['a', 'bc', false],
    ['ab', 'c', false],
    ['ab', 'c', false],
    ['ab', 'd', false],
    ['ab', 'd', true],
  ]
  for (const [exchange, key, mandatory] of seen) {
    client.publish(1, exchange, key, '', { mandatory })
  }
  await client.call(1, { name: 'channel.flow', active: true }, 'channel.flow-ok')
  const heard = calls.filter(({ what }) => what === 'publish').map(({ args }) => args.slice(0, 3))
  assert.deepEqual(heard, seen)
})

test('a reply text is cut to what a short string holds', async (t) => {
  const script = {
    method: () => {
      throw new AmqpError(404, 'ä'.repeat(300))
    },
  }
  const { loggedIn } = await withDoor(t, script)
  const client = await loggedIn()
  client.method(1, { name: 'tx.select' })
  const { replyText } = await client.expect('channel.close', 1)
  assert(Buffer.byteLength(replyText) <= 255)
  assert.match(replyText, /^NOT_FOUND - ä+.?\.\.\.$/u)
})
