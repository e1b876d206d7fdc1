/**
 * How fast a publish stream becomes frames, and then messages.
 *
 * Input: 64 KiB socket chunks holding 1,000 publishes (method + header + 256-byte body). `frames/s`
 * is FrameReader alone; `messages/s` is a whole connection over a stream that costs nothing, up to
 * the handler's publish. Median and worst of 15 rounds, after 5 to warm up; run it alone:
 * `node test/bench/frame-reader.bench.ts`.
 */
import { Duplex } from 'node:stream'
import {
  Connection,
  type ConnectionHandler,
  encodeContent,
  encodeMethod,
  encodeProperties,
  FrameReader,
  PROTOCOL_HEADER,
} from '@sluice/amqp'
import { bench, median } from './bench.ts'

const PUBLISHES = 1_000
const CHUNK_BYTES = 65_536
const ROUNDS = 20
const WARM_UP = 5

const publish = Buffer.concat([
  encodeMethod(1, {
    name: 'basic.publish',
    exchange: 'amq.topic',
    routingKey: 'orders.eu.created',
    mandatory: false,
    immediate: false,
  }),
  encodeContent(
    1,
    encodeProperties({ contentType: 'application/json', deliveryMode: 2, messageId: '0123456789' }),
    Buffer.alloc(256, 'x'),
    131_072,
  ),
])

await bench('frame-reader', async (b) => {
  const repeats = b.short ? 10 : 100
  const chunks = split(Buffer.concat(Array.from({ length: PUBLISHES }, () => publish)))
  let frames = 0
  b.line({
    unit: 'frames/s',
    ...rounds(PUBLISHES * 3 * repeats, () => {
      frames = 0
      const reader = new FrameReader(131_072, () => frames++)
      for (let i = 0; i < repeats; i++) for (const chunk of chunks) reader.push(chunk)
      if (frames !== PUBLISHES * 3 * repeats) throw new Error(`lost frames: ${frames}`)
    }),
  })

  let messages = 0
  let bytes = 0
  const wire = await open((body) => {
    messages++
    bytes += body.length
  })
  const before = process.memoryUsage().heapUsed
  b.line({
    unit: 'messages/s',
    ...rounds(PUBLISHES * repeats, () => {
      messages = 0
      for (let i = 0; i < repeats; i++) for (const chunk of chunks) wire.emit('data', chunk)
      if (messages !== PUBLISHES * repeats) throw new Error(`lost messages: ${messages}`)
    }),
    bytes,
    heapGrownMiB: Math.round((process.memoryUsage().heapUsed - before) / 1024 / 1024),
  })
  wire.destroy()
})

function rounds(count: number, run: () => void): { median: number; worst: number } {
  const rates: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const from = performance.now()
    run()
    if (round >= WARM_UP) rates.push(Math.round((count * 1_000) / (performance.now() - from)))
  }
  return { median: median(rates), worst: Math.min(...rates) }
}

/** A connection with channel 1 open, over a stream that goes nowhere. */
async function open(publish: (body: Buffer) => void): Promise<Duplex> {
  const wire = new Duplex({
    allowHalfOpen: false,
    read: () => {},
    write: (_chunk, _encoding, done) => done(),
  })
  const handler: ConnectionHandler = {
    authenticate: async () => true,
    open: async () => {},
    updateSecret: async () => {},
    writable: () => {},
    closed: () => {},
    channel: () => ({
      method: () => {},
      publish: (_exchange, _routingKey, _mandatory, _immediate, _properties, body) => publish(body),
      ack: () => {},
      nack: () => {},
      settled: () => undefined,
      closed: () => {},
    }),
  }
  new Connection(
    wire,
    {
      serverProperties: {},
      mechanisms: ['PLAIN'],
      frameMax: 131_072,
      channelMax: 2047,
      heartbeatS: 0,
      messageBytesMax: 1024 * 1024,
      refusal: () => undefined,
      report: console.error,
      hint: () => {},
    },
    () => handler,
  )
  wire.push(
    Buffer.concat([
      PROTOCOL_HEADER,
      encodeMethod(0, {
        name: 'connection.start-ok',
        clientProperties: {},
        mechanism: 'PLAIN',
        response: Buffer.from('\0guest\0guest'),
        locale: 'en_US',
      }),
      encodeMethod(0, {
        name: 'connection.tune-ok',
        channelMax: 2047,
        frameMax: 131_072,
        heartbeat: 0,
      }),
      encodeMethod(0, { name: 'connection.open', virtualHost: '/' }),
      encodeMethod(1, { name: 'channel.open' }),
    ]),
  )
  await new Promise((resolve) => setTimeout(resolve, 50))
  return wire
}

function split(bytes: Buffer): Buffer[] {
  const pieces: Buffer[] = []
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES) {
    pieces.push(bytes.subarray(at, at + CHUNK_BYTES))
  }
  return pieces
}
