/**
 * Puts a published message together: method, header, then bodies until the announced size is here.
 *
 * Hot path: a body that comes in one frame is passed on as the view it is; a larger one grows with
 * what has really arrived, so an announced size alone costs nothing.
 */
import { limits } from '@sluice/core'
import { AmqpError, cannotDecode, REPLY_CODES } from './amqp-error.ts'
import { METHOD_IDS } from './spec.ts'
import { ValueReader } from './values.ts'

const BASIC_CLASS = 60
const HEADER_SIZE = 12
const NO_BYTES = Buffer.alloc(0)
const GROW_FROM_BYTES = 256 * 1024
const PUBLISH = METHOD_IDS['basic.publish']

/** What the next frame of a channel may be. */
type Due = 'method' | 'header' | 'body'

export class Content {
  readonly #messageBytesMax: number
  /** Told how many bytes more (or fewer, negative) are held. */
  readonly #held: (bytes: number) => void
  /** The last basic.publish and what it said: the next one is usually the same. */
  #publish: Buffer = NO_BYTES
  exchange = ''
  routingKey = ''
  mandatory = false
  immediate = false
  properties: Buffer = NO_BYTES
  body: Buffer = NO_BYTES
  due: Due = 'method'
  #size = 0
  #received = 0
  /** Bytes of `body` that #held was told of. */
  #counted = 0

  constructor(messageBytesMax: number, held: (bytes: number) => void) {
    this.#messageBytesMax = messageBytesMax
    this.#held = held
  }

  /** Takes a basic.publish: its payload, method id included. Throws AmqpError. */
  start(payload: Buffer): void {
    if (payload.length !== this.#publish.length || !payload.equals(this.#publish)) {
      try {
        this.#read(payload)
      } catch (error) {
        if (error instanceof AmqpError) throw cannotDecode(error.message.replace(/^.* - /, ''))
        throw error
      }
    }
    this.due = 'header'
  }

  /** Takes the content header; true when the message is complete. Throws AmqpError. */
  header(payload: Buffer): boolean {
    if (payload.length < HEADER_SIZE + 2) {
      throw new AmqpError(REPLY_CODES.frameError, 'type 2: unknown_frame', PUBLISH)
    }
    const classId = payload.readUInt16BE(0)
    if (classId !== BASIC_CLASS || payload.readUInt16BE(2) !== 0) {
      throw unexpected(
        `expected content header for class ${BASIC_CLASS}, got one for class ${classId} instead`,
      )
    }
    const size = payload.readUInt32BE(4) * 0x1_0000_0000 + payload.readUInt32BE(8)
    if (size > limits.MESSAGE_BYTES_CAP) {
      throw new AmqpError(
        REPLY_CODES.frameError,
        `content body size ${size} exceeds maximum allowed size ${limits.MESSAGE_BYTES_CAP}`,
        PUBLISH,
      )
    }
    this.properties = payload.subarray(HEADER_SIZE)
    this.body = NO_BYTES
    this.#size = size
    this.#received = 0
    this.due = size === 0 ? 'method' : 'body'
    return size === 0
  }

  /** Takes a body frame; true when the message is complete. Throws AmqpError. */
  bodyFrame(payload: Buffer): boolean {
    const received = this.#received + payload.length
    if (received > this.#size) {
      throw new AmqpError(
        REPLY_CODES.frameError,
        'content body frame exceeds remaining content size',
        PUBLISH,
      )
    }
    if (this.#size > this.#messageBytesMax) return this.#skip(received)
    if (payload.length === this.#size) {
      this.body = payload
    } else {
      if (received > this.body.length) this.#grow(received)
      payload.copy(this.body, this.#received)
    }
    this.#received = received
    if (received < this.#size) return false
    this.due = 'method'
    return true
  }

  /**
   * Lets a message that is too large go by, and refuses it at its end, as RabbitMQ does: clients
   * that hear of it midway mix the rest of its body with what they send next on the channel.
   */
  #skip(received: number): false {
    this.properties = NO_BYTES
    this.#received = received
    if (received < this.#size) return false
    throw new AmqpError(
      REPLY_CODES.preconditionFailed,
      `message size ${this.#size} is larger than configured max size ${this.#messageBytesMax}`,
      PUBLISH,
    )
  }

  /** Lets go of the message: it is passed on, or will never be complete. */
  reset(): void {
    if (this.#counted > 0) this.#held(-this.#counted)
    this.#counted = 0
    this.#received = 0
    this.properties = NO_BYTES
    this.body = NO_BYTES
    this.due = 'method'
  }

  #grow(atLeast: number): void {
    if (this.body.length === 0) {
      // A view of the chunk its first frame came in would keep that chunk until the last one.
      this.properties = Buffer.from(this.properties)
    }
    const doubled = Math.max(atLeast, this.body.length * 2, GROW_FROM_BYTES)
    const grown = Buffer.allocUnsafe(Math.min(this.#size, doubled))
    this.#held(grown.length - this.#counted)
    this.#counted = grown.length
    this.body.copy(grown, 0, 0, this.#received)
    this.body = grown
  }

  #read(payload: Buffer): void {
    const reader = new ValueReader(payload)
    reader.long() // the method's id
    reader.short() // reserved: the ticket
    this.exchange = reader.shortstr()
    this.routingKey = reader.shortstr()
    const bits = reader.octet()
    if (reader.left > 0) throw cannotDecode('bytes follow the arguments')
    this.mandatory = (bits & 1) !== 0
    this.immediate = (bits & 2) !== 0
    this.#publish = Buffer.from(payload)
  }
}

export function unexpected(explanation: string): AmqpError {
  return new AmqpError(REPLY_CODES.unexpectedFrame, explanation, PUBLISH)
}
