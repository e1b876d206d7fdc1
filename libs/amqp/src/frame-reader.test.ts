import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { FrameReader } from './frame-reader.ts'

function frame(type: number, channel: number, payload: string): Buffer {
  const bytes = Buffer.alloc(payload.length + 8)
  bytes.writeUInt8(type, 0)
  bytes.writeUInt16BE(channel, 1)
  bytes.writeUInt32BE(payload.length, 3)
  bytes.write(payload, 7)
  bytes.writeUInt8(0xce, payload.length + 7)
  return bytes
}

const bytes = Buffer.concat([
  frame(1, 1, 'method'),
  frame(8, 0, ''),
  frame(3, 65_535, 'body'.repeat(50)),
])
const want = [
  [1, 1, 'method'],
  [8, 0, ''],
  [3, 65_535, 'body'.repeat(50)],
]

test('the same frames come out, whatever the chunk boundaries', () => {
  for (let chunkSize = 1; chunkSize <= bytes.length; chunkSize++) {
    const got: unknown[] = []
    const reader = new FrameReader(4096, (type, channel, payload) =>
      got.push([type, channel, payload.toString()]),
    )
    for (let at = 0; at < bytes.length; at += chunkSize) {
      reader.push(bytes.subarray(at, at + chunkSize))
    }
    assert.deepEqual(got, want, `chunks of ${chunkSize}`)
  }
})

test('a paused reader keeps what it has, at every boundary, and goes on in order', () => {
  for (let cut = 0; cut <= bytes.length; cut++) {
    const got: unknown[] = []
    const reader = new FrameReader(4096, (type, channel, payload) => {
      got.push([type, channel, payload.toString()])
      reader.pause()
    })
    reader.push(bytes.subarray(0, cut))
    reader.push(bytes.subarray(cut))
    for (let frames = got.length; frames < 3; frames++) {
      assert.equal(got.length, frames)
      reader.resume()
    }
    assert.deepEqual(got, want, `cut at ${cut}`)
  }
})

test('no. 11: a frame of the tuned size and 8 bytes is read, one more byte is 501', () => {
  const sizes: number[] = []
  const reader = new FrameReader(4096, (_type, _channel, payload) => sizes.push(payload.length))
  reader.push(frame(3, 1, 'x'.repeat(4096)))
  assert.deepEqual(sizes, [4096])
  assert.throws(() => reader.push(frame(3, 1, 'x'.repeat(4097))), {
    name: 'AmqpError',
    replyCode: 501,
    message: 'FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,4097,4088}',
  })
})

test('no. 11: a frame that is too large is refused from its header alone', () => {
  const reader = new FrameReader(4096, () => assert.fail('no frame'))
  assert.throws(() => reader.push(frame(3, 1, 'x'.repeat(5_000)).subarray(0, 7)), {
    replyCode: 501,
  })
})

test('no. 11: a frame that does not end in 0xCE is 501, after the frames before it', () => {
  const wrong = frame(1, 1, 'abc')
  wrong[wrong.length - 1] = 0
  let frames = 0
  const reader = new FrameReader(4096, () => frames++)
  assert.throws(() => reader.push(Buffer.concat([frame(1, 1, 'abc'), wrong])), {
    replyCode: 501,
    message: 'FRAME_ERROR - type 1: {invalid_frame_end_marker,0}',
  })
  assert.equal(frames, 1)
})

test('tuning takes effect for the frames that follow', () => {
  let frames = 0
  const reader = new FrameReader(4096, () => frames++)
  reader.tune(8192)
  reader.push(frame(3, 1, 'x'.repeat(8_000)))
  assert.equal(frames, 1)
})

test('a frame that comes octet by octet holds little more than its size', () => {
  setFlagsFromString('--expose-gc')
  const collect: () => void = runInNewContext('gc')
  let frames = 0
  const reader = new FrameReader(131_072, () => frames++)
  const whole = frame(3, 1, 'x'.repeat(131_000))
  collect()
  const before = process.memoryUsage().heapUsed
  for (let at = 0; at < whole.length - 1; at++) {
    const octet = Buffer.allocUnsafeSlow(1)
    octet[0] = whole[at]!
    reader.push(octet)
  }
  collect()
  const grown = process.memoryUsage().heapUsed - before
  assert(grown < 2_000_000, `${grown} bytes for a frame of 131,000`)
  reader.push(whole.subarray(-1))
  assert.equal(frames, 1)
})
