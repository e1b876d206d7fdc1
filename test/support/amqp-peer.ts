/**
 * A client that sends exactly the bytes a test wants, and shows what comes back frame by frame.
 *
 * It knows the encoding and nothing of the protocol's rules: use it for what a real client library
 * will not do, and to see what it hides.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect as connectTcp, type Socket } from 'node:net'
import {
  type ClientMethod,
  encodeContent,
  encodeMethod,
  encodeProperties,
  FRAME,
  FRAME_END,
  FrameReader,
  type MethodName,
  PROTOCOL_HEADER,
  type Properties,
  readServerMethod,
  type ServerMethod,
  type Table,
  ValueReader,
} from '@sluice/amqp'

export type PeerFrame =
  | { readonly kind: 'method'; readonly channel: number; readonly method: ServerMethod }
  | {
      readonly kind: 'header'
      readonly channel: number
      readonly size: number
      readonly properties: Buffer
    }
  | { readonly kind: 'body'; readonly channel: number; readonly body: Buffer }
  | { readonly kind: 'heartbeat'; readonly channel: number }

type Named<N extends MethodName> = Extract<ServerMethod, { name: N }>

export interface LoginOptions {
  readonly user?: string
  readonly password?: string
  readonly vhost?: string
  readonly frameMax?: number
  readonly channelMax?: number
  readonly heartbeat?: number
  readonly clientProperties?: Table
}

interface PeerMessage<N extends MethodName> {
  readonly method: Named<N>
  readonly properties: Buffer
  readonly body: Buffer
}

const FRAME_WAIT_MS = 10_000

/** A frame of any type with any payload. */
export function rawFrame(type: number, channel: number, payload: Buffer): Buffer {
  const bytes = Buffer.alloc(payload.length + 8)
  bytes.writeUInt8(type, 0)
  bytes.writeUInt16BE(channel, 1)
  bytes.writeUInt32BE(payload.length, 3)
  payload.copy(bytes, 7)
  bytes.writeUInt8(FRAME_END, payload.length + 7)
  return bytes
}

export class AmqpPeer {
  readonly socket: Socket
  readonly #frames: PeerFrame[] = []
  readonly #reader: FrameReader
  #raw: Buffer[] | undefined
  #wake: (() => void) | undefined
  #gone = false
  frameMax = 131_072

  private constructor(socket: Socket) {
    this.socket = socket
    this.#reader = new FrameReader(0x7fff_ffff, (type, channel, payload) => {
      this.#frames.push(decode(type, channel, payload))
    })
    socket.on('error', () => {}) // 'close' follows
    socket.on('data', (chunk) => {
      if (this.#raw !== undefined) this.#raw.push(chunk)
      else this.#reader.push(chunk)
      this.#wake?.()
    })
    socket.on('close', () => {
      this.#gone = true
      this.#wake?.()
    })
  }

  static async connect(port: number): Promise<AmqpPeer> {
    const socket = connectTcp(port, '127.0.0.1')
    const peer = new AmqpPeer(socket)
    await once(socket, 'connect')
    return peer
  }

  /** Collects what arrives as it is, instead of reading frames from it. */
  collectRaw(): void {
    this.#raw = []
  }

  send(bytes: Buffer | string): void {
    this.socket.write(bytes)
  }

  method(channel: number, method: ClientMethod): void {
    this.send(encodeMethod(channel, method))
  }

  /** basic.publish with its content, in one write. */
  publish(
    channel: number,
    exchange: string,
    routingKey: string,
    body: Buffer | string,
    options: { properties?: Properties; mandatory?: boolean; immediate?: boolean } = {},
  ): void {
    const { properties = {}, mandatory = false, immediate = false } = options
    this.send(
      Buffer.concat([
        encodeMethod(channel, {
          name: 'basic.publish',
          exchange,
          routingKey,
          mandatory,
          immediate,
        }),
        encodeContent(channel, encodeProperties(properties), Buffer.from(body), this.frameMax),
      ]),
    )
  }

  /** The next frame; fails when the socket closes first, or nothing comes within 10 s. */
  async next(): Promise<PeerFrame> {
    if (!(await this.#arrives(() => this.#frames.length > 0))) {
      throw new Error('the server hung up before the next frame')
    }
    return this.#frames.shift()!
  }

  /** The next frame that is no heartbeat, which must be this method. */
  async expect<N extends ServerMethod['name']>(name: N, channel?: number): Promise<Named<N>> {
    let frame = await this.next()
    while (frame.kind === 'heartbeat') frame = await this.next()
    assert.equal(frame.kind === 'method' ? frame.method.name : frame.kind, name, show(frame))
    if (channel !== undefined) assert.equal(frame.channel, channel)
    return (frame as unknown as { method: Named<N> }).method
  }

  /** The next method, which must be this one, with the content that follows it. */
  async message<N extends 'basic.deliver' | 'basic.get-ok' | 'basic.return'>(
    name: N,
    channel?: number,
  ): Promise<PeerMessage<N>> {
    const method = await this.expect(name, channel)
    const header = await this.next()
    assert.equal(header.kind, 'header')
    const { size, properties } = header as Extract<PeerFrame, { kind: 'header' }>
    const parts: Buffer[] = []
    for (let left = size; left > 0; ) {
      const frame = await this.next()
      assert.equal(frame.kind, 'body')
      const { body } = frame as Extract<PeerFrame, { kind: 'body' }>
      parts.push(body)
      left -= body.length
    }
    return { method, properties, body: Buffer.concat(parts) }
  }

  /** Resolves when the server has closed the socket, with what arrived raw. */
  async hungUp(): Promise<Buffer> {
    await this.#arrives(() => this.#gone)
    return Buffer.concat(this.#raw ?? [])
  }

  /** Frames that arrived and nobody asked for. */
  get unread(): readonly PeerFrame[] {
    return this.#frames
  }

  /** From the protocol header to connection.open-ok. */
  async login(options: LoginOptions = {}): Promise<void> {
    const { user = 'guest', password = 'guest', vhost = '/', clientProperties = {} } = options
    this.send(PROTOCOL_HEADER)
    await this.expect('connection.start')
    this.startOk('PLAIN', `\0${user}\0${password}`, clientProperties)
    const tune = await this.expect('connection.tune')
    this.frameMax = options.frameMax ?? tune.frameMax
    this.method(0, {
      name: 'connection.tune-ok',
      frameMax: this.frameMax,
      channelMax: options.channelMax ?? tune.channelMax,
      heartbeat: options.heartbeat ?? 0,
    })
    this.method(0, { name: 'connection.open', virtualHost: vhost })
    await this.expect('connection.open-ok')
  }

  startOk(mechanism: string, response: string | Buffer, clientProperties: Table = {}): void {
    this.method(0, {
      name: 'connection.start-ok',
      clientProperties,
      mechanism,
      response: Buffer.from(response),
      locale: 'en_US',
    })
  }

  async openChannel(channel: number): Promise<void> {
    this.method(channel, { name: 'channel.open' })
    await this.expect('channel.open-ok', channel)
  }

  /** Sends a method and returns the server's next one, which must be this. */
  async call<N extends ServerMethod['name']>(
    channel: number,
    method: ClientMethod,
    answer: N,
  ): Promise<Named<N>> {
    this.method(channel, method)
    return this.expect(answer, channel)
  }

  async close(): Promise<void> {
    if (this.#gone) return
    this.socket.destroy()
    await this.hungUp()
  }

  async #arrives(condition: () => boolean): Promise<boolean> {
    const deadline = performance.now() + FRAME_WAIT_MS
    while (!condition()) {
      if (this.#gone) return false
      const leftMs = deadline - performance.now()
      if (leftMs <= 0) throw new Error(`nothing came within ${FRAME_WAIT_MS} ms`)
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, leftMs)
        this.#wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
    }
    return true
  }
}

function decode(type: number, channel: number, payload: Buffer): PeerFrame {
  switch (type) {
    case FRAME.method: {
      const reader = new ValueReader(payload)
      const method = readServerMethod(reader.long(), reader)
      assert(method !== undefined, 'a method that servers send')
      assert.equal(reader.left, 0, 'every byte of the method is read')
      return { kind: 'method', channel, method }
    }
    case FRAME.header: {
      assert.equal(payload.readUInt32BE(0), 60 << 16, 'class basic, weight 0')
      const size = Number(payload.readBigUInt64BE(4))
      return { kind: 'header', channel, size, properties: payload.subarray(12) }
    }
    case FRAME.body:
      return { kind: 'body', channel, body: payload }
    case FRAME.heartbeat:
      return { kind: 'heartbeat', channel }
    default:
      throw new Error(`a frame of type ${type}`)
  }
}

function show(frame: PeerFrame): string {
  return `got ${JSON.stringify(frame.kind === 'method' ? frame.method : frame)}`
}
