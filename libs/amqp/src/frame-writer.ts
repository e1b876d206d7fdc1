/**
 * Methods and contents as frames, into a connection's Output.
 *
 * Hot path: deliveries and confirms are laid out byte by byte, from a stored record's properties
 * and body as they are. A body beyond COPY_BYTES_MAX is not copied, and one larger than a frame is
 * split. Measured by test/bench/frame-writer.bench.ts.
 *
 * Strings are at most 255 bytes in UTF-8 (RangeError otherwise): names are checked where they come
 * in, and reply texts are cut to fit.
 */
import { FRAME, FRAME_END, FRAME_OVERHEAD } from './frame-reader.ts'
import { type Output, SLAB_BYTES } from './output.ts'
import { METHOD_IDS, type Method, type ServerMethod, writeMethod } from './spec.ts'
import { ValueWriter } from './values.ts'

/** Properties and bodies up to this size are copied; larger ones cost less as chunks. */
const COPY_BYTES_MAX = 4096
/** Room for a frame of any hand-shaped method: three short strings and some numbers. */
const METHOD_ROOM = 3 * 256 + 64
/** Header of a content: frame header, class, weight, body size, frame end. */
const CONTENT_ROOM = 7 + 12 + 1
/** Up to this length a string is copied by a loop, which costs less than the call that encodes. */
const SHORT_ASCII_MAX = 40

const BASIC_CLASS = 60
const HEARTBEAT = Buffer.from([FRAME.heartbeat, 0, 0, 0, 0, 0, 0, FRAME_END])

const scratch = new ValueWriter() // one is enough: encoding never awaits

export class FrameWriter {
  readonly #out: Output
  /** Payload of the largest body frame, as tuned. */
  #bodySizeMax: number

  constructor(out: Output, frameMax: number) {
    this.#out = out
    this.#bodySizeMax = frameMax - FRAME_OVERHEAD
  }

  /** Body frames from here on may have this many bytes in all. 0 = no limit. */
  tune(frameMax: number): void {
    this.#bodySizeMax = frameMax === 0 ? 0xffff_ffff - FRAME_OVERHEAD : frameMax - FRAME_OVERHEAD
  }

  /** Any method without content. */
  method(channel: number, method: ServerMethod): void {
    const out = this.#out
    if (out.closed) return
    const frame = encodeMethod(channel, method)
    if (frame.length > SLAB_BYTES) {
      out.push(frame)
      return
    }
    const at = out.reserve(frame.length)
    frame.copy(out.slab, at)
    out.at = at + frame.length
  }

  /** basic.ack, from the server: a confirm. */
  ack(channel: number, deliveryTag: number, multiple: boolean): void {
    this.#confirm(METHOD_IDS['basic.ack'], channel, deliveryTag, multiple ? 1 : 0)
  }

  /** basic.nack, from the server: not stored. */
  nack(channel: number, deliveryTag: number, multiple: boolean): void {
    this.#confirm(METHOD_IDS['basic.nack'], channel, deliveryTag, multiple ? 1 : 0)
  }

  deliver(
    channel: number,
    consumerTag: string,
    deliveryTag: number,
    redelivered: boolean,
    exchange: string,
    routingKey: string,
    properties: Buffer,
    body: Buffer,
  ): void {
    const out = this.#out
    if (out.closed) return
    const start = out.reserve(METHOD_ROOM)
    const { slab } = out
    let at = putMethod(slab, start, channel, METHOD_IDS['basic.deliver'])
    at = putShortstr(slab, at, consumerTag)
    at = putLonglong(slab, at, deliveryTag)
    slab[at++] = redelivered ? 1 : 0
    at = putShortstr(slab, at, exchange)
    at = putShortstr(slab, at, routingKey)
    out.at = endFrame(slab, start, at)
    this.#content(channel, properties, body)
  }

  getOk(
    channel: number,
    deliveryTag: number,
    redelivered: boolean,
    exchange: string,
    routingKey: string,
    messageCount: number,
    properties: Buffer,
    body: Buffer,
  ): void {
    const out = this.#out
    if (out.closed) return
    const start = out.reserve(METHOD_ROOM)
    const { slab } = out
    let at = putMethod(slab, start, channel, METHOD_IDS['basic.get-ok'])
    at = putLonglong(slab, at, deliveryTag)
    slab[at++] = redelivered ? 1 : 0
    at = putShortstr(slab, at, exchange)
    at = putShortstr(slab, at, routingKey)
    at = putLong(slab, at, messageCount)
    out.at = endFrame(slab, start, at)
    this.#content(channel, properties, body)
  }

  /** basic.return: a mandatory message that no queue took. */
  returned(
    channel: number,
    replyCode: number,
    replyText: string,
    exchange: string,
    routingKey: string,
    properties: Buffer,
    body: Buffer,
  ): void {
    const out = this.#out
    if (out.closed) return
    const start = out.reserve(METHOD_ROOM)
    const { slab } = out
    let at = putMethod(slab, start, channel, METHOD_IDS['basic.return'])
    slab[at++] = replyCode >>> 8
    slab[at++] = replyCode
    at = putShortstr(slab, at, replyText)
    at = putShortstr(slab, at, exchange)
    at = putShortstr(slab, at, routingKey)
    out.at = endFrame(slab, start, at)
    this.#content(channel, properties, body)
  }

  heartbeat(): void {
    if (!this.#out.closed) this.#out.push(HEARTBEAT)
  }

  #confirm(id: number, channel: number, deliveryTag: number, bits: number): void {
    const out = this.#out
    if (out.closed) return
    const start = out.reserve(32)
    const { slab } = out
    const at = putLonglong(slab, putMethod(slab, start, channel, id), deliveryTag)
    slab[at] = bits
    out.at = endFrame(slab, start, at + 1)
  }

  #content(channel: number, properties: Buffer, body: Buffer): void {
    const out = this.#out
    const { length } = properties
    const copied = length <= COPY_BYTES_MAX
    let at = out.reserve(CONTENT_ROOM + (copied ? length : 0))
    at = putFrame(out.slab, at, FRAME.header, channel, 12 + length)
    at = putLong(out.slab, at, BASIC_CLASS << 16) // weight 0
    at = putLonglong(out.slab, at, body.length)
    if (copied) {
      at = putBytes(out.slab, at, properties)
    } else {
      out.at = at
      out.push(properties)
    }
    out.slab[at] = FRAME_END
    out.at = at + 1

    const sizeMax = this.#bodySizeMax
    if (body.length <= sizeMax) {
      if (body.length > 0) this.#body(channel, body)
      return
    }
    for (let from = 0; from < body.length; from += sizeMax) {
      this.#body(channel, body.subarray(from, from + sizeMax))
    }
  }

  #body(channel: number, body: Buffer): void {
    const out = this.#out
    const copied = body.length <= COPY_BYTES_MAX
    let at = out.reserve(FRAME_OVERHEAD + (copied ? body.length : 0))
    at = putFrame(out.slab, at, FRAME.body, channel, body.length)
    if (copied) {
      at = putBytes(out.slab, at, body)
    } else {
      out.at = at
      out.push(body)
    }
    out.slab[at] = FRAME_END
    out.at = at + 1
  }
}

/** A method's frame as a buffer of its own. Throws BrokerError for a value without encoding. */
export function encodeMethod(channel: number, method: Method): Buffer {
  scratch.reset()
  scratch.octet(FRAME.method)
  scratch.short(channel)
  scratch.long(0)
  scratch.long(METHOD_IDS[method.name])
  writeMethod(scratch, method)
  scratch.octet(FRAME_END)
  const frame = scratch.bytes()
  frame.writeUInt32BE(frame.length - FRAME_OVERHEAD, 3)
  return frame
}

/** The header and body frames of a content as a buffer of their own. */
export function encodeContent(
  channel: number,
  properties: Buffer,
  body: Buffer,
  frameMax: number,
): Buffer {
  const header = Buffer.alloc(CONTENT_ROOM + properties.length)
  let at = putFrame(header, 0, FRAME.header, channel, 12 + properties.length)
  at = putLonglong(header, putLong(header, at, BASIC_CLASS << 16), body.length)
  header[at + properties.copy(header, at)] = FRAME_END
  const frames: Buffer[] = [header]
  const sizeMax = frameMax - FRAME_OVERHEAD
  for (let from = 0; from < body.length; from += sizeMax) {
    const part = body.subarray(from, from + sizeMax)
    const head = Buffer.alloc(7)
    putFrame(head, 0, FRAME.body, channel, part.length)
    frames.push(head, part, Buffer.from([FRAME_END]))
  }
  return Buffer.concat(frames)
}

function putFrame(b: Buffer, at: number, type: number, channel: number, size: number): number {
  b[at] = type
  b[at + 1] = channel >>> 8
  b[at + 2] = channel
  return putLong(b, at + 3, size)
}

/** A method frame's beginning; `endFrame` writes its size. */
function putMethod(b: Buffer, at: number, channel: number, id: number): number {
  b[at] = FRAME.method
  b[at + 1] = channel >>> 8
  b[at + 2] = channel
  return putLong(b, at + 7, id)
}

function endFrame(b: Buffer, start: number, at: number): number {
  putLong(b, start + 3, at - start - 7)
  b[at] = FRAME_END
  return at + 1
}

function putLong(b: Buffer, at: number, value: number): number {
  b[at] = value >>> 24
  b[at + 1] = value >>> 16
  b[at + 2] = value >>> 8
  b[at + 3] = value
  return at + 4
}

function putLonglong(b: Buffer, at: number, value: number): number {
  if (value <= 0x7fff_ffff) return putLong(b, putLong(b, at, 0), value)
  return putLong(b, putLong(b, at, Math.floor(value / 0x1_0000_0000)), value % 0x1_0000_0000)
}

function putShortstr(b: Buffer, at: number, text: string): number {
  const { length } = text
  if (length > SHORT_ASCII_MAX) return putUtf8(b, at, text)
  for (let i = 0; i < length; i++) {
    const code = text.charCodeAt(i)
    if (code > 0x7f) return putUtf8(b, at, text)
    b[at + 1 + i] = code
  }
  b[at] = length
  return at + 1 + length
}

function putUtf8(b: Buffer, at: number, text: string): number {
  const size = Buffer.byteLength(text)
  if (size > 255) throw new RangeError(`a short string of ${size} bytes`)
  b[at] = size
  b.write(text, at + 1, size, 'utf8')
  return at + 1 + size
}

function putBytes(b: Buffer, at: number, bytes: Buffer): number {
  b.set(bytes, at)
  return at + bytes.length
}
