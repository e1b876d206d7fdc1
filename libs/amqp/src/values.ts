/**
 * AMQP 0-9-1 field values and tables, bytes to values and back (specification 4.2.5, with the type
 * letters that RabbitMQ and its clients really use).
 *
 *   letter    │ value                     │ written for
 *   ──────────┼───────────────────────────┼──────────────────────────────────────
 *   t         │ boolean                   │ boolean
 *   b B s u   │ number                    │
 *   I         │ number                    │ integers of 32 bits
 *   i         │ number                    │
 *   l L       │ number, bigint past 2^53  │ other integers, bigint (signed 64 bits)
 *   f         │ number                    │
 *   d         │ number                    │ other numbers
 *   D         │ number (may round)        │
 *   S         │ string, Buffer if not UTF-8 │ string
 *   x         │ Buffer                    │ Buffer
 *   T         │ Date (whole seconds)      │ Date
 *   A F V     │ array, table, null        │ array, table, null
 *
 * Reading never trusts a length, nests at most TABLE_DEPTH_MAX deep and throws nothing but
 * AmqpError. Writing throws BrokerError invalid_request for a value that has no encoding.
 */
import { isUtf8 } from 'node:buffer'
import { BrokerError } from '@sluice/core'
import { AmqpError, REPLY_CODES } from './amqp-error.ts'

export type FieldValue =
  | string
  | number
  | bigint
  | boolean
  | null
  | Buffer
  | Date
  | FieldValue[]
  | Table

export type Table = { [key: string]: FieldValue }

/** Tables and arrays within each other. Real headers (x-death) need 3, the stack allows more. */
export const TABLE_DEPTH_MAX = 32

/** Last second a Date can hold; a later timestamp is read as the number itself. */
const DATE_SECONDS_MAX = 8_640_000_000_000n
/** A writer keeps a buffer up to this size from one use to the next. */
const SCRATCH_BYTES_MAX = 256 * 1024
const INT64_MIN = -(2n ** 63n)
const INT64_MAX = 2n ** 63n - 1n

const malformed = (what: string) => new AmqpError(REPLY_CODES.syntaxError, what)

/** Reads values from a buffer, front to back; every read past the end throws AmqpError 502. */
export class ValueReader {
  readonly #bytes: Buffer
  #at = 0
  #end: number

  constructor(bytes: Buffer) {
    this.#bytes = bytes
    this.#end = bytes.length
  }

  /** Whether 64-bit integers are bigint however small, so that they are written as wide again. */
  wide = false

  /** Bytes left. */
  get left(): number {
    return this.#end - this.#at
  }

  octet(): number {
    return this.#bytes[this.#take(1)]!
  }

  short(): number {
    return this.#bytes.readUInt16BE(this.#take(2))
  }

  long(): number {
    return this.#bytes.readUInt32BE(this.#take(4))
  }

  /** Unsigned 64-bit as a number: exact up to 2^53, as delivery tags are. */
  longlong(): number {
    const from = this.#take(8)
    return this.#bytes.readUInt32BE(from) * 0x1_0000_0000 + this.#bytes.readUInt32BE(from + 4)
  }

  /** Unsigned 64-bit, as timestamps are. */
  biglong(): bigint {
    return this.#bytes.readBigUInt64BE(this.#take(8))
  }

  /** A long string that is text. Bytes that are not UTF-8 read as replacement characters. */
  longstr(): string {
    return this.longbytes().toString('utf8')
  }

  /** A long string as it is: a view, which the next chunk of the socket does not change. */
  longbytes(): Buffer {
    const size = this.#bytes.readUInt32BE(this.#take(4))
    const from = this.#take(size)
    return this.#bytes.subarray(from, from + size)
  }

  /** Throws AmqpError 501 when the bytes are not UTF-8. */
  shortstr(): string {
    const size = this.octet()
    const from = this.#take(size)
    const text = this.#bytes.subarray(from, from + size)
    if (!isUtf8(text)) throw new AmqpError(REPLY_CODES.frameError, 'short string is not UTF-8')
    return text.toString('utf8')
  }

  /** Where a key stands twice the first counts, as in RabbitMQ. */
  table(depth = 1): Table {
    const outer = this.#enter(depth)
    const table: Table = {}
    while (this.#at < this.#end) {
      const key = this.shortstr()
      const value = this.#value(depth)
      if (!Object.hasOwn(table, key)) setField(table, key, value)
    }
    this.#end = outer
    return table
  }

  #integer(value: bigint): number | bigint {
    return this.wide ? value : narrow(value)
  }

  #array(depth: number): FieldValue[] {
    const outer = this.#enter(depth)
    const values: FieldValue[] = []
    while (this.#at < this.#end) values.push(this.#value(depth))
    this.#end = outer
    return values
  }

  /** Narrows reading to the length that stands here; returns the end to go back to. */
  #enter(depth: number): number {
    if (depth > TABLE_DEPTH_MAX) {
      throw malformed(`tables nest deeper than ${TABLE_DEPTH_MAX}`)
    }
    const size = this.#bytes.readUInt32BE(this.#take(4))
    if (size > this.left) throw malformed('a table is longer than what holds it')
    const outer = this.#end
    this.#end = this.#at + size
    return outer
  }

  #take(size: number): number {
    const from = this.#at
    if (size > this.#end - from) throw malformed('a value ends too early')
    this.#at = from + size
    return from
  }

  #value(depth: number): FieldValue {
    const letter = this.octet()
    const bytes = this.#bytes
    switch (letter) {
      case 0x74: // t
        return this.octet() !== 0
      case 0x62: // b
        return bytes.readInt8(this.#take(1))
      case 0x42: // B
        return this.octet()
      case 0x73: // s
        return bytes.readInt16BE(this.#take(2))
      case 0x75: // u
        return this.short()
      case 0x49: // I
        return bytes.readInt32BE(this.#take(4))
      case 0x69: // i
        return bytes.readUInt32BE(this.#take(4))
      case 0x6c: // l
      case 0x4c: // L
        return this.#integer(bytes.readBigInt64BE(this.#take(8)))
      case 0x66: // f
        return bytes.readFloatBE(this.#take(4))
      case 0x64: // d
        return bytes.readDoubleBE(this.#take(8))
      case 0x44: {
        const scale = this.octet() // D
        return bytes.readInt32BE(this.#take(4)) / 10 ** scale
      }
      case 0x53: {
        const text = this.longbytes() // S
        return isUtf8(text) ? text.toString('utf8') : Buffer.from(text)
      }
      case 0x78: // x
        return Buffer.from(this.longbytes())
      case 0x54: {
        const seconds = this.biglong() // T
        return seconds > DATE_SECONDS_MAX ? narrow(seconds) : new Date(Number(seconds) * 1000)
      }
      case 0x41: // A
        return this.#array(depth + 1)
      case 0x46: // F
        return this.table(depth + 1)
      case 0x56: // V
        return null
      default:
        throw malformed(`unknown field type ${letter}`)
    }
  }
}

/** Numbers where they are exact, bigint where not. Past 63 bits the value is held at the edge. */
function narrow(value: bigint): number | bigint {
  if (value > INT64_MAX) return INT64_MAX
  const number = Number(value)
  return Number.isSafeInteger(number) ? number : value
}

/** Sets a table's field; safe for a key like `__proto__`, which an assignment is not. */
function setField(table: Table, key: string, value: FieldValue): void {
  if (key === '__proto__') {
    Object.defineProperty(table, key, {
      value,
      enumerable: true,
      configurable: true,
      writable: true,
    })
  } else {
    table[key] = value
  }
}

/** Writes values into a buffer of its own that grows; `bytes()` copies out what was written. */
export class ValueWriter {
  #bytes = Buffer.allocUnsafe(4096)
  #at = 0

  /** A copy of everything written since the last `reset`. */
  bytes(): Buffer {
    return Buffer.from(this.#bytes.subarray(0, this.#at))
  }

  get size(): number {
    return this.#at
  }

  /** Starts anew; a buffer that one large table made grow is let go. */
  reset(): void {
    if (this.#bytes.length > SCRATCH_BYTES_MAX) this.#bytes = Buffer.allocUnsafe(4096)
    this.#at = 0
  }

  octet(value: number): void {
    this.#bytes[this.#room(1)] = value
  }

  short(value: number): void {
    this.#bytes.writeUInt16BE(value, this.#room(2))
  }

  long(value: number): void {
    this.#bytes.writeUInt32BE(value, this.#room(4))
  }

  /** A whole number from 0 to 2^53. */
  longlong(value: number): void {
    const from = this.#room(8)
    this.#bytes.writeUInt32BE(Math.floor(value / 0x1_0000_0000), from)
    this.#bytes.writeUInt32BE(value % 0x1_0000_0000, from + 4)
  }

  longstr(value: string): void {
    const sizeAt = this.#room(4 + value.length * 3)
    const size = this.#bytes.write(value, sizeAt + 4, 'utf8')
    this.#at = sizeAt + 4 + size
    this.#close(sizeAt)
  }

  longbytes(value: Buffer): void {
    const sizeAt = this.#room(4 + value.length)
    value.copy(this.#bytes, sizeAt + 4)
    this.#close(sizeAt)
  }

  /** Throws invalid_request when it has more than 255 bytes in UTF-8. */
  shortstr(value: string): void {
    const from = this.#room(1 + value.length * 3)
    const size = this.#bytes.write(value, from + 1, 'utf8')
    if (size > 255) throw refused('a short string has at most 255 bytes')
    this.#bytes[from] = size
    this.#at = from + 1 + size
  }

  table(value: Table, depth = 1): void {
    const sizeAt = this.#open(depth)
    for (const key of Object.keys(value)) {
      this.shortstr(key)
      this.#value(value[key]!, depth)
    }
    this.#close(sizeAt)
  }

  #open(depth: number): number {
    if (depth > TABLE_DEPTH_MAX) throw refused(`tables nest at most ${TABLE_DEPTH_MAX} deep`)
    return this.#room(4)
  }

  #close(sizeAt: number): void {
    this.#bytes.writeUInt32BE(this.#at - sizeAt - 4, sizeAt)
  }

  #room(size: number): number {
    const from = this.#at
    if (from + size > this.#bytes.length) {
      const grown = Buffer.allocUnsafe(Math.max(this.#bytes.length * 2, from + size))
      this.#bytes.copy(grown, 0, 0, from)
      this.#bytes = grown
    }
    this.#at = from + size
    return from
  }

  #value(value: FieldValue, depth: number): void {
    if (typeof value === 'string') {
      this.octet(0x53) // S
      this.longstr(value)
    } else if (typeof value === 'number') {
      this.#number(value)
    } else if (typeof value === 'boolean') {
      this.octet(0x74) // t
      this.octet(value ? 1 : 0)
    } else if (typeof value === 'bigint') {
      this.#int64(value)
    } else if (value === null) {
      this.octet(0x56) // V
    } else if (Buffer.isBuffer(value)) {
      this.octet(0x78) // x
      this.longbytes(value)
    } else if (value instanceof Date) {
      const seconds = Math.floor(value.getTime() / 1000)
      if (!(seconds >= 0)) throw refused('a timestamp is a time since 1970')
      this.octet(0x54) // T
      this.longlong(seconds)
    } else if (Array.isArray(value)) {
      this.octet(0x41) // A
      const sizeAt = this.#open(depth + 1)
      for (const item of value) this.#value(item, depth + 1)
      this.#close(sizeAt)
    } else if (typeof value === 'object') {
      this.octet(0x46) // F
      this.table(value, depth + 1)
    } else {
      throw refused('a field value of this type has no encoding')
    }
  }

  #number(value: number): void {
    if (Number.isInteger(value) && !Object.is(value, -0)) {
      if (value >= -0x80000000 && value <= 0x7fffffff) {
        this.octet(0x49) // I
        this.#bytes.writeInt32BE(value, this.#room(4))
        return
      }
      if (Number.isSafeInteger(value)) {
        this.#int64(BigInt(value))
        return
      }
    }
    this.octet(0x64) // d
    this.#bytes.writeDoubleBE(value, this.#room(8))
  }

  #int64(value: bigint): void {
    if (value < INT64_MIN || value > INT64_MAX) throw refused('an integer has at most 64 bits')
    this.octet(0x6c) // l
    this.#bytes.writeBigInt64BE(value, this.#room(8))
  }
}

const refused = (what: string) => new BrokerError('invalid_request', `Properties: ${what}.`)
