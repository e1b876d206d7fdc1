/** Frames as a client would read them, whatever the sizes, and how they reach the socket. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Duplex } from 'node:stream'
import { test } from 'node:test'
import { encodeContent, encodeMethod, FrameWriter } from './frame-writer.ts'
import { OUTPUT_HIGH_BYTES, Output } from './output.ts'

/** A socket that keeps what it is given, in the writes it was given in, and takes its time. */
class Sink extends Duplex {
  readonly writes: Buffer[] = []
  #release: (() => void)[] = []
  slow = false

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.#take([chunk], done)
  }

  override _writev(chunks: { chunk: Buffer }[], done: () => void): void {
    this.#take(
      chunks.map(({ chunk }) => chunk),
      done,
    )
  }

  /** Lets the slow writes so far succeed. */
  release(): void {
    for (const done of this.#release.splice(0)) done()
  }

  get bytes(): Buffer {
    return Buffer.concat(this.writes)
  }

  #take(chunks: Buffer[], done: () => void): void {
    this.writes.push(Buffer.concat(chunks))
    if (this.slow) this.#release.push(done)
    else done()
  }
}

function open(frameMax = 131_072, onWritable = () => {}) {
  const sink = new Sink()
  const output = new Output(sink, onWritable)
  return { sink, output, writer: new FrameWriter(output, frameMax) }
}

const turn = () => new Promise<void>((resolve) => setImmediate(() => setImmediate(resolve)))

const longName = 'ä'.repeat(127)
const sizes = [0, 1, 4088, 4089, 4096, 4097, 8176, 8177, 40_000, 300_000]
for (const frameMax of [4096, 131_072]) {
  for (const size of sizes) {
    test(`a delivery of ${size} bytes in frames of ${frameMax} is encoded as by hand`, async () => {
      const { sink, writer } = open(frameMax)
      for (const properties of [Buffer.from([0, 0]), Buffer.alloc(5_000, 7)]) {
        const body = Buffer.alloc(size, 'body')
        writer.deliver(3, 'ctag', 2 ** 33 + 5, true, 'amq.topic', longName, properties, body)
        await turn()
        const byHand = Buffer.concat([
          encodeMethod(3, {
            name: 'basic.deliver',
            consumerTag: 'ctag',
            deliveryTag: 2 ** 33 + 5,
            redelivered: true,
            exchange: 'amq.topic',
            routingKey: longName,
          }),
          encodeContent(3, properties, body, frameMax),
        ])
        assert(sink.bytes.equals(byHand))
        assert.equal(sink.writes.length, 1, 'one write')
        sink.writes.length = 0
      }
    })
  }
}

test('get-ok, return, ack, nack and heartbeat are encoded as by hand', async () => {
  const { sink, writer } = open()
  const content = encodeContent(9, Buffer.from([0, 0]), Buffer.from('x'), 4096)
  writer.getOk(9, 1, false, 'e', 'k', 70_000, Buffer.from([0, 0]), Buffer.from('x'))
  writer.returned(9, 312, 'NO_ROUTE', 'e', 'k', Buffer.from([0, 0]), Buffer.from('x'))
  writer.ack(9, 2 ** 40, true)
  writer.nack(9, 4, false)
  writer.heartbeat()
  await turn()
  const byHand = Buffer.concat([
    encodeMethod(9, {
      name: 'basic.get-ok',
      deliveryTag: 1,
      redelivered: false,
      exchange: 'e',
      routingKey: 'k',
      messageCount: 70_000,
    }),
    content,
    encodeMethod(9, {
      name: 'basic.return',
      replyCode: 312,
      replyText: 'NO_ROUTE',
      exchange: 'e',
      routingKey: 'k',
    }),
    content,
    encodeMethod(9, { name: 'basic.ack', deliveryTag: 2 ** 40, multiple: true }),
    encodeMethod(9, { name: 'basic.nack', deliveryTag: 4, multiple: false, requeue: false }),
    Buffer.from([8, 0, 0, 0, 0, 0, 0, 0xce]),
  ])
  assert.equal(sink.bytes.toString('hex'), byHand.toString('hex'))
})

test('a name past 255 bytes is refused and leaves nothing behind', async () => {
  const { sink, writer } = open()
  const props = Buffer.from([0, 0])
  assert.throws(
    () => writer.deliver(1, 'c', 1, false, '', 'k'.repeat(256), props, props),
    RangeError,
  )
  writer.ack(1, 1, false)
  await turn()
  assert.equal(sink.bytes.length, 21)
})

test('everything of a turn is one write, however many slabs it fills', async () => {
  const { sink, writer } = open()
  const props = Buffer.from([0, 0])
  for (let tag = 1; tag <= 2_000; tag++) {
    writer.deliver(1, 'c', tag, false, 'e', 'k', props, Buffer.alloc(tag % 6_000, tag))
  }
  await turn()
  assert.equal(sink.writes.length, 1)
  let at = 0
  for (let tag = 1; tag <= 2_000; tag++) {
    assert.equal(sink.bytes.readUInt32BE(at + 7), 0x003c003c, `delivery ${tag} is where it belongs`)
    at += sink.bytes.readUInt32BE(at + 3) + 8
    at += sink.bytes.readUInt32BE(at + 3) + 8
    at += sink.bytes.readUInt32BE(at + 3) + 8
  }
  assert.equal(at, sink.bytes.length)
})

test('slabs are not written again before the socket has taken them', async () => {
  const { sink, writer } = open()
  sink.slow = true
  const other = open()
  const props = Buffer.from([0, 0])
  const sent: Buffer[] = []
  sink._writev = (chunks) => {
    sent.push(...chunks.map(({ chunk }) => chunk))
  }
  sink._write = (chunk: Buffer) => {
    sent.push(chunk)
  }
  for (let tag = 1; tag <= 50; tag++) {
    writer.deliver(1, 'c', tag, false, 'e', 'k', props, Buffer.alloc(2_000, 1))
  }
  await turn()
  const before = Buffer.concat(sent).toString('hex')
  for (let tag = 1; tag <= 50; tag++) {
    other.writer.deliver(1, 'c', tag, false, 'e', 'k', props, Buffer.alloc(2_000, 2))
  }
  await turn()
  assert.equal(Buffer.concat(sent).toString('hex'), before)
})

test('too much pending makes it not writable, and it says when that is over', async () => {
  let told = 0
  const { sink, output, writer } = open(131_072, () => told++)
  sink.slow = true
  const body = Buffer.alloc(OUTPUT_HIGH_BYTES)
  writer.deliver(1, 'c', 1, false, 'e', 'k', Buffer.from([0, 0]), body)
  assert.equal(output.writable, false)
  await turn()
  assert.equal(output.writable, false, 'handed to the socket, which has not taken it')
  assert.equal(told, 0)
  sink.release()
  await turn()
  assert.equal(told, 1)
  assert.equal(output.writable, true)
})

test('end sends what there is, and what comes later is dropped', async () => {
  const { sink, output, writer } = open()
  writer.ack(1, 1, false)
  output.end()
  writer.ack(1, 2, false)
  writer.heartbeat()
  await once(sink, 'finish')
  await turn()
  assert.equal(sink.bytes.length, 21)
})
