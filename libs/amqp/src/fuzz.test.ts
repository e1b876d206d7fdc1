/**
 * Hostile bytes, seeded: `SEED=n` replays a run.
 *
 * A session that a client might really have is damaged (octets, lengths, frames cut, doubled, lost,
 * out of order), or made of noise, and fed to a connection in chunks of any size. Whatever comes,
 * the connection ends with a close code of the protocol or without a word, never with 541; what it
 * sends is well-formed; its handler hears of every end once and of nothing after it.
 */
import assert from 'node:assert/strict'
import { Duplex } from 'node:stream'
import { type TestContext, test } from 'node:test'
import { type Random, randomFor } from '@sluice/testkit'
import { withDoor } from '../../../test/support/amqp-door.ts'
import { rawFrame } from '../../../test/support/amqp-peer.ts'
import { AmqpError } from './amqp-error.ts'
import { Connection } from './connection.ts'
import type { ConnectionHandler } from './connection-handler.ts'
import { FRAME, FrameReader } from './frame-reader.ts'
import { encodeContent, encodeMethod } from './frame-writer.ts'
import { METHOD_IDS, readServerMethod } from './spec.ts'
import { ValueReader } from './values.ts'

const CLOSE_CODES = new Set([501, 502, 503, 504, 505, 506, 530, 540])
const NO_PROPERTIES = Buffer.from([0, 0])
const HANDSHAKE_PARTS = 4

/** The frames of a session that does a bit of everything. */
function session(r: Random): Buffer[] {
  const parts = [
    Buffer.from('414d515000000901', 'hex'),
    encodeMethod(0, {
      name: 'connection.start-ok',
      clientProperties: { product: 'fuzz', capabilities: { 'basic.nack': true } },
      mechanism: 'PLAIN',
      response: Buffer.from('\0guest\0guest'),
      locale: 'en_US',
    }),
    encodeMethod(0, {
      name: 'connection.tune-ok',
      channelMax: 8,
      frameMax: 4096,
      heartbeat: 0,
    }),
    encodeMethod(0, { name: 'connection.open', virtualHost: '/' }),
    encodeMethod(1, { name: 'channel.open' }),
    encodeMethod(2, { name: 'channel.open' }),
  ]
  const steps = r.int(1, 20)
  for (let i = 0; i < steps; i++) parts.push(...step(r, r.int(1, 2)))
  const bye = { replyCode: 200, replyText: '', classId: 0, methodId: 0 }
  if (r.chance(0.5)) parts.push(encodeMethod(2, { name: 'channel.close', ...bye }))
  if (r.chance(0.5)) parts.push(encodeMethod(0, { name: 'connection.close', ...bye }))
  return parts
}

function step(r: Random, channel: number): Buffer[] {
  switch (r.int(0, 5)) {
    case 0:
      return [
        encodeMethod(channel, {
          name: 'queue.declare',
          queue: 'q'.repeat(r.int(0, 20)),
          passive: false,
          durable: true,
          exclusive: false,
          autoDelete: false,
          noWait: r.chance(0.5),
          arguments: { 'x-max-length': r.int(0, 1_000), nested: { a: [1, 'b', null] } },
        }),
      ]
    case 1:
      return [
        encodeMethod(channel, {
          name: 'basic.ack',
          deliveryTag: r.int(0, 5),
          multiple: r.chance(0.5),
        }),
      ]
    case 2:
      return [
        encodeMethod(channel, { name: 'channel.flow', active: true }),
        rawFrame(8, 0, Buffer.alloc(0)),
      ]
    case 3:
      return [encodeMethod(channel, { name: 'tx.select' })]
    default: {
      const method = encodeMethod(channel, {
        name: 'basic.publish',
        exchange: r.pick(['', 'amq.topic']),
        routingKey: 'k'.repeat(r.int(0, 255)),
        mandatory: r.chance(0.5),
        immediate: false,
      })
      const body = Buffer.alloc(r.pick([0, 1, 256, 4088, 4089, 20_000]), 'b')
      return [method, ...frames(encodeContent(channel, NO_PROPERTIES, body, 4096))]
    }
  }
}

/** Well-formed frames, one buffer each. */
function frames(bytes: Buffer): Buffer[] {
  const parts: Buffer[] = []
  for (let at = 0; at < bytes.length; ) {
    const end = at + 8 + bytes.readUInt32BE(at + 3)
    parts.push(bytes.subarray(at, end))
    at = end
  }
  return parts
}

function noise(r: Random, max: number): Buffer {
  return Buffer.from(Array.from({ length: r.int(0, max) }, () => r.int(0, 255)))
}

/** Tables within tables, each of the size that its parents can hold. */
function tableBomb(depth: number): Buffer {
  let fields = Buffer.alloc(0)
  for (let i = 0; i < depth && fields.length < 100_000; i++) {
    const head = Buffer.from([1, 0x61, 0x46, 0, 0, 0, 0])
    head.writeUInt32BE(fields.length, 3)
    fields = Buffer.concat([head, fields])
  }
  const start = Buffer.from('0032000a0000000000000000', 'hex')
  start.writeUInt32BE(fields.length, 8)
  return Buffer.concat([start, fields])
}

const damages: ((parts: Buffer[], r: Random) => void)[] = [
  function octets(parts, r) {
    for (let i = r.int(1, 4); i > 0; i--) {
      const part = Buffer.from(parts[r.int(0, parts.length - 1)]!)
      if (part.length > 0) part[r.int(0, part.length - 1)] = r.int(0, 255)
      parts[r.int(0, parts.length - 1)] = part
    }
  },
  function lengths(parts, r) {
    const at = r.int(0, parts.length - 1)
    const part = Buffer.from(parts[at]!)
    if (part.length < 4) return
    part.writeUInt32BE(
      r.pick([0, 1, 4096, 4097, 0x7fff_ffff, 0xffff_ffff]),
      r.int(0, part.length - 4),
    )
    parts[at] = part
  },
  function cut(parts, r) {
    const at = r.int(0, parts.length - 1)
    parts[at] = parts[at]!.subarray(0, r.int(0, parts[at]!.length))
    if (r.chance(0.5)) parts.length = at + 1
  },
  function lost(parts, r) {
    parts.splice(r.int(0, parts.length - 1), r.int(1, 3))
  },
  function doubled(parts, r) {
    const at = r.int(0, parts.length - 1)
    parts.splice(at, 0, parts[at]!)
  },
  function swapped(parts, r) {
    const [a, b] = [r.int(0, parts.length - 1), r.int(0, parts.length - 1)]
    const kept = parts[a]!
    parts[a] = parts[b]!
    parts[b] = kept
  },
  function foreign(parts, r) {
    const channel = r.pick([0, 1, 2, 3, 65_535])
    const type = r.pick([0, 1, 2, 3, 4, 8, 255])
    parts.splice(r.int(0, parts.length), 0, rawFrame(type, channel, noise(r, 40)))
  },
  function strangeMethod(parts, r) {
    const ids = Object.values(METHOD_IDS)
    const id = Buffer.alloc(4)
    id.writeUInt32BE(r.pick(ids))
    const channel = r.pick([0, 1, 2, 3])
    parts.splice(r.int(0, parts.length), 0, rawFrame(1, channel, Buffer.concat([id, noise(r, 30)])))
  },
  function bomb(parts, r) {
    const payload = tableBomb(r.pick([1, 31, 32, 33, 500]))
    parts.splice(r.int(HANDSHAKE_PARTS, parts.length), 0, rawFrame(1, 1, payload))
  },
  function announced(parts, r) {
    const header = Buffer.alloc(14)
    header.writeUInt16BE(60)
    header.writeBigUInt64BE(r.pick([1n, 16n << 20n, 1n << 29n, 1n << 63n, (1n << 64n) - 1n]), 4)
    parts.splice(r.int(0, parts.length), 0, rawFrame(2, r.int(1, 2), header))
  },
  function justNoise(parts, r) {
    parts.splice(r.int(0, parts.length), 0, noise(r, 200))
  },
]

/** A socket fed by the test; it keeps what the connection sends. */
class Wire extends Duplex {
  readonly sent: Buffer[] = []

  constructor() {
    super({ allowHalfOpen: false })
  }

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.sent.push(Buffer.from(chunk))
    done()
  }
}

/** A handler that is now quick, now slow, sometimes refuses, and keeps the books of its calls. */
class Books {
  readonly #random: Random
  ends = 0
  open = 0
  largest = 0

  constructor(random: Random) {
    this.#random = random
  }

  async authenticate(): Promise<boolean> {
    await this.#maybeLater()
    return !this.#random.chance(0.05)
  }

  async admit(): Promise<void> {
    await this.#maybeLater()
  }

  async updateSecret(): Promise<void> {
    await this.#maybeLater()
  }

  closed(): void {
    assert.equal(this.open, 0, 'every channel closed before its connection')
    this.ends++
  }

  channel() {
    const random = this.#random
    let closed = false
    const hear = () => {
      assert(!closed, 'nothing after the end of its channel')
      assert.equal(this.ends, 0)
    }
    const maybeRefuse = () => {
      hear()
      if (random.chance(0.03)) throw new AmqpError(random.pick([404, 406, 530, 540]), 'refused')
    }
    this.open++
    return {
      method: () => {
        maybeRefuse()
        return random.chance(0.5) ? this.#maybeLater().then(maybeRefuse) : undefined
      },
      publish: (...args: unknown[]) => {
        maybeRefuse()
        this.largest = Math.max(this.largest, (args[5] as Buffer).length)
      },
      ack: maybeRefuse,
      nack: maybeRefuse,
      settled: () => (random.chance(0.3) ? this.#maybeLater() : undefined),
      closed: async () => {
        hear()
        closed = true
        await this.#maybeLater()
        this.open--
      },
    }
  }

  async #maybeLater(): Promise<void> {
    if (this.#random.chance(0.5)) await new Promise((resolve) => setImmediate(resolve))
  }
}

async function run(r: Random, bytes: Buffer): Promise<void> {
  const wire = new Wire()
  const books = new Books(r)
  const reported: unknown[] = []
  const connection = new Connection(
    wire,
    {
      serverProperties: {},
      mechanisms: ['PLAIN', 'AMQPLAIN'],
      frameMax: 8192,
      channelMax: 16,
      heartbeatS: 0,
      messageBytesMax: 1024 * 1024,
      refusal: () => undefined,
      report: (error) => reported.push(error),
      hint: () => {},
      handshakeMsMax: 100,
      failureDelayMs: 1,
      closeMsMax: 1,
    },
    () => handlerOf(books),
  )
  for (let at = 0; at < bytes.length; ) {
    const size = r.pick([1, 7, 8, 100, 4096, 65_536])
    wire.push(bytes.subarray(at, at + size))
    at += size
    if (r.chance(0.2)) await new Promise((resolve) => setImmediate(resolve))
  }
  wire.push(null)
  await connection.closed
  assert.deepEqual(reported, [])
  assert.equal(books.ends, 1, 'the handler heard of the end once')
  assert(books.largest <= 1024 * 1024)
  checkSent(Buffer.concat(wire.sent))
}

function handlerOf(books: Books): ConnectionHandler {
  return {
    authenticate: () => books.authenticate(),
    open: () => books.admit(),
    updateSecret: () => books.updateSecret(),
    channel: () => books.channel(),
    writable: () => {},
    closed: () => books.closed(),
  }
}

/** Everything sent is frames a client can read, and a connection.close is the last of them. */
function checkSent(bytes: Buffer): void {
  let closed = false
  const reader = new FrameReader(0x7fff_ffff, (type, _channel, payload) => {
    if (type !== FRAME.method) return
    const fields = new ValueReader(payload)
    const method = readServerMethod(fields.long(), fields)
    assert(method !== undefined && fields.left === 0)
    assert(!closed || method.name === 'connection.close-ok', `${method.name} after close`)
    if (method.name !== 'connection.close') return
    closed = true
    assert(CLOSE_CODES.has(method.replyCode), `closed with ${method.replyText}`)
    assert.doesNotMatch(method.replyText, /guest/)
  })
  const header = bytes.indexOf('AMQP') === 0
  reader.push(header ? bytes.subarray(8) : bytes)
}

async function fuzz(t: TestContext, runs: number, make: (r: Random) => Buffer): Promise<void> {
  const r = randomFor(t)
  for (let i = 0; i < runs; i++) await run(r, make(r))
}

test('a session without damage ends in order, whatever the chunks', async (t) => {
  await fuzz(t, 200, (r) => Buffer.concat(session(r)))
})

for (const damage of damages) {
  test(`damaged sessions end in order: ${damage.name}`, async (t) => {
    await fuzz(t, 250, (r) => {
      const parts = session(r)
      for (let times = r.int(1, 2); times > 0; times--) damage(parts, r)
      return Buffer.concat(parts)
    })
  })
}

test('sessions with every kind of damage end in order', async (t) => {
  await fuzz(t, 500, (r) => {
    const parts = session(r)
    for (let times = r.int(2, 6); times > 0 && parts.length > 1; times--) r.pick(damages)(parts, r)
    return Buffer.concat(parts)
  })
})

test('noise, with or without a handshake before it, ends in order', async (t) => {
  await fuzz(t, 500, (r) => {
    const handshake = r.chance(0.5) ? session(r).slice(0, r.int(1, HANDSHAKE_PARTS + 1)) : []
    return Buffer.concat([...handshake, noise(r, 2_000)])
  })
})

test('a connection beside hostile ones is not harmed, and memory stays bounded', async (t) => {
  const r = randomFor(t)
  const { peer, loggedIn, reported } = await withDoor(t, {}, { messageBytesMax: 1024 * 1024 })
  const healthy = await loggedIn()
  const before = process.memoryUsage().rss
  for (let round = 0; round < 40; round++) {
    const hostile = await Promise.all(Array.from({ length: 5 }, peer))
    for (const client of hostile) {
      client.collectRaw()
      const parts = session(r)
      for (let times = r.int(1, 3); times > 0 && parts.length > 1; times--) {
        r.pick(damages)(parts, r)
      }
      client.send(Buffer.concat(parts))
    }
    await healthy.call(1, { name: 'channel.flow', active: true }, 'channel.flow-ok')
    for (const client of hostile) await client.close()
  }
  assert.deepEqual(reported, [])
  const grownMiB = (process.memoryUsage().rss - before) / 1024 / 1024
  assert(grownMiB < 200, `${grownMiB} MiB more`)
})
