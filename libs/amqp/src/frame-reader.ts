/**
 * Splits a socket's bytes into AMQP 0-9-1 frames.
 *
 *   ┌──────┬─────────┬──────┬─────────┬──────┐
 *   │ type │ channel │ size │ payload │ 0xCE │     specification 4.2.3
 *   │  u8  │   u16   │ u32  │  size   │  u8  │     big endian
 *   └──────┴─────────┴──────┴─────────┴──────┘
 *
 * Hot path: runs for every byte a client sends. A frame that lies whole within a chunk is passed
 * on without a copy and without allocating more than its view; a split frame is copied
 * once, more often only when it comes in very small pieces. Measured by
 * test/bench/frame-reader.bench.ts.
 */
import { AmqpError, REPLY_CODES } from './amqp-error.ts'

export const FRAME = { method: 1, header: 2, body: 3, heartbeat: 8 } as const

/** Octets of a frame that are not payload. */
export const FRAME_OVERHEAD = 8
export const FRAME_END = 0xce
/** Every peer must accept frames of this size (specification 4.2.3). */
export const FRAME_MAX_MIN = 4096

const HEADER_SIZE = 7
const END_SIZE = 1
/** RabbitMQ lets frames be this much too large, since some clients forget a frame's overhead. */
const SLACK = 8
/** More pieces are put together: a frame sent octet by octet would cost 100 times its size. */
const PIECES_MAX = 128

/** `payload` is a view of the socket's chunk; whoever keeps it keeps the whole chunk in memory. */
export type OnFrame = (type: number, channel: number, payload: Buffer) => void

export class FrameReader {
  readonly #onFrame: OnFrame
  #frameMax: number
  #paused = false
  /** Bytes that do not make a whole frame yet, as they came. */
  #pieces: Buffer[] = []
  #piecesSize = 0
  /** No frame can be complete before this many bytes are here. */
  #wanted = HEADER_SIZE

  /** @param frameMax bytes of a whole frame; `tune` changes it once it is negotiated. */
  constructor(frameMax: number, onFrame: OnFrame) {
    this.#frameMax = frameMax
    this.#onFrame = onFrame
  }

  /** Frames from here on may have this many bytes. 0 = no limit. */
  tune(frameMax: number): void {
    this.#frameMax = frameMax === 0 ? Number.POSITIVE_INFINITY : frameMax
  }

  get paused(): boolean {
    return this.#paused
  }

  /** Emits no frame until `resume`, not even the rest of the chunk it is in. */
  pause(): void {
    this.#paused = true
  }

  /** Emits the frames that wait, unless one of them pauses again. Throws as `push` does. */
  resume(): void {
    this.#paused = false
    if (this.#piecesSize >= this.#wanted) this.#read()
  }

  /**
   * Takes the next chunk. Throws an AmqpError (501) that must close the connection, and whatever
   * the callback throws; after either it must not be called again.
   */
  push(chunk: Buffer): void {
    this.#pieces.push(chunk)
    this.#piecesSize += chunk.length
    if (this.#piecesSize >= this.#wanted && !this.#paused) this.#read()
    else if (this.#pieces.length > PIECES_MAX) this.#pieces = [Buffer.concat(this.#pieces)]
  }

  #read(): void {
    const { length } = this.#pieces
    const bytes = length === 1 ? this.#pieces[0]! : Buffer.concat(this.#pieces, this.#piecesSize)
    this.#pieces = []
    this.#piecesSize = 0
    const from = this.#readFrames(bytes)
    if (from < bytes.length) {
      this.#pieces.push(bytes.subarray(from))
      this.#piecesSize = bytes.length - from
    }
  }

  /** Emits every whole frame, sets #wanted, returns where the bytes left over begin. */
  #readFrames(bytes: Buffer): number {
    let start = 0
    this.#wanted = HEADER_SIZE
    while (bytes.length - start >= HEADER_SIZE && !this.#paused) {
      const size = bytes.readUInt32BE(start + 3)
      const frameSize = size + FRAME_OVERHEAD
      if (frameSize > this.#frameMax + SLACK) throw this.#tooLarge(bytes[start]!, size)
      if (bytes.length - start < frameSize) {
        this.#wanted = frameSize
        break
      }

      const end = start + HEADER_SIZE + size
      if (bytes[end] !== FRAME_END) throw badEnd(bytes[start]!, bytes[end]!)
      const type = bytes[start]!
      const channel = (bytes[start + 1]! << 8) | bytes[start + 2]!
      const payload = bytes.subarray(start + HEADER_SIZE, end)
      start = end + END_SIZE
      this.#onFrame(type, channel, payload)
    }
    return start
  }

  #tooLarge(type: number, size: number): AmqpError {
    const sizes = `{frame_too_large,${size},${this.#frameMax - FRAME_OVERHEAD}}`
    return new AmqpError(REPLY_CODES.frameError, `type ${type}, all octets = <<>>: ${sizes}`)
  }
}

function badEnd(type: number, end: number): AmqpError {
  return new AmqpError(REPLY_CODES.frameError, `type ${type}: {invalid_frame_end_marker,${end}}`)
}
