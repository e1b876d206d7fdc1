/**
 * What no client library sends, or hides when it is answered: a raw client's questions, and a
 * broker's answers to the letter. Numbers are those of docs/amqp.md.
 */
import { once } from 'node:events'
import { type ClientMethod, FRAME, PROTOCOL_HEADER } from '@sluice/amqp'
import { rawFrame } from '../../support/amqp-peer.ts'
import type { Json } from '../client.ts'
import type { Program } from '../suites.ts'
import { type Raw, raw } from './transcript.ts'

type Name = (suffix: string) => string

/** Each on a connection of its own: what is sent, and what came back. */
function attempts(
  list: Readonly<Record<string, (client: Raw, name: Name) => unknown>>,
  login: Parameters<typeof raw>[1] = {},
): Program {
  return async (url, name) => {
    const attempt = async (act: (client: Raw, name: Name) => unknown) => {
      const client = await raw(url, login)
      await act(client, name)
      const heard = await client.heard()
      await client.peer.close()
      return heard
    }
    // At once, since each is listened to until nothing comes for a while.
    const heard = Object.entries(list).map(async ([what, act]) => [what, await attempt(act)])
    return Object.fromEntries(await Promise.all(heard))
  }
}

const declare = (queue: string, options: object = {}): ClientMethod => ({
  name: 'queue.declare',
  queue,
  passive: false,
  durable: false,
  exclusive: true,
  autoDelete: false,
  noWait: false,
  arguments: {},
  ...options,
})

const consume = (queue: string, options: object = {}): ClientMethod => ({
  name: 'basic.consume',
  queue,
  consumerTag: 'tag',
  noLocal: false,
  noAck: false,
  exclusive: false,
  noWait: false,
  arguments: {},
  ...options,
})

const get = (queue: string): ClientMethod => ({ name: 'basic.get', queue, noAck: false })
const qos = (prefetchCount: number, prefetchSize = 0): ClientMethod => ({
  name: 'basic.qos',
  prefetchCount,
  prefetchSize,
  global: false,
})
const ack = (deliveryTag: number, multiple = false): ClientMethod => ({
  name: 'basic.ack',
  deliveryTag,
  multiple,
})

/** 1 */
export const wrongHeaders: Program = async (url) => {
  const seen: Record<string, Json> = {}
  for (const version of [
    [0, 1, 0, 0],
    [1, 1, 0, 9],
    [1, 1, 8, 0],
    [1, 1, 9, 1],
    [2, 0, 0, 0],
  ]) {
    const { peer } = await raw(url, 'connected')
    const [first] = await Promise.all([
      once(peer.socket, 'data') as Promise<Buffer[]>,
      peer.send(Buffer.from([...Buffer.from('AMQP'), ...version])),
    ])
    const answer = first[0]!
    seen[version.join()] = answer[0] === FRAME.method ? 'connection.start' : [...answer].join()
    await peer.close()
  }
  return seen
}

/** 2, 3, 7 */
export const greeting: Program = async (url) => {
  const { peer } = await raw(url, 'connected')
  peer.send(PROTOCOL_HEADER)
  const start = await peer.expect('connection.start')
  const { username, password } = new URL(url)
  peer.startOk('PLAIN', `\0${username}\0${password}`)
  const tune = await peer.expect('connection.tune')
  await peer.close()
  return JSON.parse(
    JSON.stringify({
      version: [start.versionMajor, start.versionMinor],
      mechanisms: String(start.mechanisms),
      locales: String(start.locales),
      capabilities: start.serverProperties['capabilities'],
      tune,
    }),
  ) as Json
}

/** 8 */
export const tuning: Program = async (url) => {
  const seen: Record<string, Json> = {}
  const limits = {
    'frames of 4096': { frameMax: 4_096 },
    'frames of 4095': { frameMax: 4_095 },
    'larger frames': { frameMax: 131_073 },
    'frames without limit': { frameMax: 0 },
    'more channels': { channelMax: 2_048 },
    'channels without limit': { channelMax: 0 },
  }
  // At once, since RabbitMQ is silent for three seconds before it hangs up.
  await Promise.all(
    Object.entries(limits).map(async ([what, limit]) => {
      const { peer, heard } = await raw(url, 'connected')
      const { username, password } = new URL(url)
      peer.send(PROTOCOL_HEADER)
      await peer.expect('connection.start')
      peer.startOk('PLAIN', `\0${username}\0${password}`)
      const { frameMax, channelMax } = await peer.expect('connection.tune')
      peer.method(0, { name: 'connection.tune-ok', frameMax, channelMax, heartbeat: 0, ...limit })
      peer.method(0, { name: 'connection.open', virtualHost: '/' })
      seen[what] = await heard({ quietMs: 3_500 })
      await peer.close()
    }),
  )
  return seen
}

/** 10, 12, 20-22, 24-26 */
export const channelsAndMethods = attempts({
  'a method before channel.open': ({ peer }) => peer.method(2, declare('')),
  'channel.open twice': ({ peer }) => peer.method(1, { name: 'channel.open' }),
  'channel 0': ({ peer }) => peer.method(0, { name: 'channel.open' }),
  'a channel method on 0': ({ peer }) => peer.method(0, declare('')),
  'a connection method on 1': ({ peer }) =>
    peer.method(1, { name: 'connection.open', virtualHost: '/' }),
  'connection.open twice': ({ peer }) =>
    peer.method(0, { name: 'connection.open', virtualHost: '/' }),
  'an unknown method': ({ peer }) =>
    peer.send(rawFrame(FRAME.method, 1, Buffer.from([0, 60, 0, 99]))),
  'an unknown class': ({ peer }) =>
    peer.send(rawFrame(FRAME.method, 1, Buffer.from([0, 99, 0, 10]))),
  'a method cut short': ({ peer }) =>
    peer.send(rawFrame(FRAME.method, 1, Buffer.from([0, 50, 0, 10, 0, 0, 200]))),
  'a heartbeat on 1': ({ peer }) => peer.send(rawFrame(FRAME.heartbeat, 1, Buffer.alloc(0))),
  'channel.flow off': ({ peer }) => peer.method(1, { name: 'channel.flow', active: false }),
  'channel.flow on': ({ peer }) => peer.method(1, { name: 'channel.flow', active: true }),
  'after channel.close': ({ peer }) => {
    peer.method(1, {
      name: 'channel.close',
      replyCode: 200,
      replyText: '',
      classId: 0,
      methodId: 0,
    })
    peer.method(1, declare(''))
  },
  'open again at once': ({ peer }, name) => {
    peer.method(1, declare(name('missing'), { passive: true }))
    peer.method(1, { name: 'channel.close-ok' })
    peer.method(1, { name: 'channel.open' })
  },
})

/** 11, 13 */
export const contents = attempts({
  'a header of nothing': ({ peer }) => peer.send(rawFrame(FRAME.header, 1, header(5))),
  'a body of nothing': ({ peer }) => peer.send(rawFrame(FRAME.body, 1, Buffer.from('x'))),
  'a body without header': ({ peer }) => {
    peer.method(1, publish())
    peer.send(rawFrame(FRAME.body, 1, Buffer.from('x')))
  },
  'a method instead of a header': ({ peer }) => {
    peer.method(1, publish())
    peer.method(1, qos(1))
  },
  'a header of another class': ({ peer }) => {
    peer.method(1, publish())
    peer.send(rawFrame(FRAME.header, 1, header(5, 50)))
  },
  'a longer body': ({ peer }) => {
    peer.method(1, publish())
    peer.send(rawFrame(FRAME.header, 1, header(1)))
    peer.send(rawFrame(FRAME.body, 1, Buffer.from('xx')))
  },
  'content on 0': ({ peer }) => peer.send(rawFrame(FRAME.body, 0, Buffer.from('x'))),
  'an unknown frame': ({ peer }) => peer.send(rawFrame(9, 1, Buffer.from('x'))),
  'a frame without its end': ({ peer }) => {
    const frame = rawFrame(FRAME.method, 1, Buffer.from([0, 20, 0, 20, 1]))
    frame[frame.length - 1] = 0
    peer.send(frame)
  },
  'a body that is announced too large': ({ peer }) => {
    peer.method(1, publish())
    peer.send(rawFrame(FRAME.header, 1, header(2 ** 40)))
  },
})

/** 42, 45, 50, 54, 55, 64, 67, 70, 73 */
export const requests = attempts({
  'prefetch in bytes': ({ peer }) => peer.method(1, qos(0, 1)),
  immediate: ({ peer }) => peer.publish(1, '', 'x', 'x', { immediate: true }),
  'recover without requeue': ({ peer }) =>
    peer.method(1, { name: 'basic.recover', requeue: false }),
  'the last queue, and there is none': ({ peer }) => peer.method(1, get('')),
  'the last queue': ({ peer }, name) => {
    peer.method(1, declare(name('last')))
    peer.method(1, get(''))
  },
  'bind the last queue by its name': ({ peer }, name) => {
    peer.method(1, declare(name('bound')))
    peer.method(1, {
      name: 'queue.bind',
      queue: '',
      exchange: 'amq.direct',
      routingKey: '',
      noWait: false,
      arguments: {},
    })
    peer.publish(1, 'amq.direct', name('bound'), 'routed')
    peer.method(1, get(''))
  },
  'ack 0': ({ peer }) => peer.method(1, ack(0)),
  'ack 0, multiple, of nothing': ({ peer }) => peer.method(1, ack(0, true)),
  'ack 1, multiple, of nothing': ({ peer }) => peer.method(1, ack(1, true)),
  'ack beyond, multiple': ({ peer }, name) => {
    peer.method(1, declare(name('beyond')))
    peer.publish(1, '', name('beyond'), 'x')
    peer.method(1, get(''))
    peer.method(1, ack(9, true))
  },
  'a tag twice': async ({ peer }, name) => {
    await peer.call(1, declare(name('twice')), 'queue.declare-ok')
    await peer.call(1, consume(''), 'basic.consume-ok')
    peer.method(1, consume(''))
  },
  'cancel what is not': ({ peer }) =>
    peer.method(1, { name: 'basic.cancel', consumerTag: 'nobody', noWait: false }),
  'declare a reply queue': ({ peer }) =>
    peer.method(1, declare('amq.rabbitmq.reply-to', { exclusive: false })),
  'bind a reply queue': ({ peer }) =>
    peer.method(1, {
      name: 'queue.bind',
      queue: 'amq.rabbitmq.reply-to',
      exchange: 'amq.direct',
      routingKey: 'x',
      noWait: false,
      arguments: {},
    }),
  'a line break in a name': ({ peer }, name) => peer.method(1, declare(name('a\r\nb'))),
  'a queue that the server named': async ({ peer }) => {
    const { queue } = await peer.call(1, declare(''), 'queue.declare-ok')
    peer.method(1, declare(queue))
  },
  'without waiting': ({ peer }, name) => {
    peer.method(1, declare(name('quiet'), { noWait: true }))
    peer.method(1, consume('', { noWait: true }))
    peer.publish(1, '', name('quiet'), 'x')
  },
  'without waiting, and wrong': ({ peer }, name) =>
    peer.method(1, declare(name('missing'), { passive: true, noWait: true })),
  'the queue of a consumer that cannot be told': async ({ peer }, name) => {
    await peer.call(1, declare(name('told')), 'queue.declare-ok')
    await peer.call(1, consume(''), 'basic.consume-ok')
    peer.method(1, {
      name: 'queue.delete',
      queue: '',
      ifUnused: false,
      ifEmpty: false,
      noWait: false,
    })
  },
  'confirms, twice, and a return': ({ peer }) => {
    peer.method(1, { name: 'confirm.select', noWait: false })
    peer.method(1, { name: 'confirm.select', noWait: false })
    peer.publish(1, 'amq.direct', 'nowhere', 'x', { mandatory: true })
  },
})

/** 36, 37, 47, 60, 78, 82 */
export const values = attempts({
  'CC that is no list': ({ peer }) =>
    peer.publish(1, '', 'x', 'x', { properties: { headers: { CC: 'x' } } }),
  'BCC of numbers': ({ peer }) =>
    peer.publish(1, '', 'x', 'x', { properties: { headers: { BCC: [1] } } }),
  'an empty expiration': ({ peer }) =>
    peer.publish(1, '', 'x', 'x', { properties: { expiration: '' } }),
  'an expiration with a sign': ({ peer }) =>
    peer.publish(1, '', 'x', 'x', { properties: { expiration: '+5' } }),
  'an unknown x-match': ({ peer }, name) => {
    peer.method(1, declare(name('matched')))
    const args = { 'x-match': 'some', a: 1 }
    peer.method(1, {
      name: 'queue.bind',
      queue: '',
      exchange: 'amq.headers',
      routingKey: '',
      noWait: false,
      arguments: args,
    })
  },
  'an x-death of our own': ({ peer }, name) => {
    const args = { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': name('grave') }
    peer.method(1, declare(name('dying'), { arguments: args }))
    peer.method(1, declare(name('grave')))
    const death = {
      queue: name('dying'),
      reason: 'rejected',
      count: 5,
      exchange: '',
      'routing-keys': ['x'],
    }
    peer.publish(1, '', name('dying'), 'x', { properties: { headers: { 'x-death': [death] } } })
    peer.method(1, get(name('dying')))
    peer.method(1, { name: 'basic.reject', deliveryTag: 1, requeue: false })
  },
})

function publish(): ClientMethod {
  return {
    name: 'basic.publish',
    exchange: '',
    routingKey: 'x',
    mandatory: false,
    immediate: false,
  }
}

function header(size: number, classId = 60): Buffer {
  const bytes = Buffer.alloc(14)
  bytes.writeUInt16BE(classId, 0)
  bytes.writeBigUInt64BE(BigInt(size), 4)
  return bytes
}
