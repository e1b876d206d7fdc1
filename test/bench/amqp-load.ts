/**
 * A load on an AMQP 0-9-1 broker that costs little itself: frames encoded beforehand, many to a
 * write, and of what comes back only what must be known is read. Any broker; no client library.
 *
 * A message's body begins with the time it was sent, for latencies.
 */
import { connect, type Socket } from 'node:net'
import {
  encodeContent,
  encodeMethod,
  encodeProperties,
  FRAME,
  FrameReader,
  METHOD_IDS,
  PROTOCOL_HEADER,
} from '@sluice/amqp'

const FRAME_MAX = 131_072
/** A heartbeat each so often is more than any broker asks for. */
const HEARTBEAT = Buffer.from([FRAME.heartbeat, 0, 0, 0, 0, 0, 0, 0xce])
const HEARTBEAT_MS = 5_000
/** Until the last confirms have come once nothing more is published. */
const DRAIN_MS_MAX = 20_000

export interface Target {
  /** amqp://user:password@host:port/vhost */
  readonly url: string
  readonly queue: string
}

export interface LoadOptions {
  readonly persistent: boolean
  readonly bodyBytes: number
  /** Publishes that a producer has unconfirmed at most. */
  readonly outstanding: number
  /** Where to publish, and the routing keys in turn, all of one length; the queue unless told. */
  readonly to?: { readonly exchange: string; readonly keys: readonly string[] }
}

class Wire {
  readonly socket: Socket
  readonly ready: Promise<void>
  readonly #beat: NodeJS.Timeout
  onMethod: (id: number, payload: Buffer) => void = () => {}
  onBody: (body: Buffer) => void = () => {}
  failed: string | undefined

  /** Opens a connection with channel 1, then sends `first` and waits for the method `last`. */
  constructor(url: string, first: readonly Buffer[], last: number) {
    const { hostname, port, username, password, pathname } = new URL(url)
    const vhost = decodeURIComponent(pathname.slice(1)) || '/'
    this.socket = connect({ host: hostname, port: Number(port || 5672), noDelay: true })
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.ready = promise
    const reader = new FrameReader(0x7fff_ffff, (type, _channel, payload) => {
      if (type === FRAME.body) return this.onBody(payload)
      if (type !== FRAME.method) return
      const id = payload.readUInt32BE(0)
      if (id === last) resolve()
      else if (id === METHOD_IDS['connection.close'] || id === METHOD_IDS['channel.close']) {
        this.failed = payload.toString('latin1', 7)
        reject(new Error(this.failed))
      } else this.onMethod(id, payload)
    })
    this.socket.on('data', (chunk) => reader.push(chunk))
    this.socket.on('error', reject)
    this.socket.on('close', () => reject(new Error('the broker hung up')))
    const credentials = `\0${decodeURIComponent(username)}\0${decodeURIComponent(password)}`
    this.socket.write(Buffer.concat([...handshake(credentials, vhost), ...first]))
    this.#beat = setInterval(() => this.socket.write(HEARTBEAT), HEARTBEAT_MS)
  }

  close(): void {
    clearInterval(this.#beat)
    this.socket.destroy()
  }
}

function handshake(credentials: string, virtualHost: string): Buffer[] {
  return [
    PROTOCOL_HEADER,
    encodeMethod(0, {
      name: 'connection.start-ok',
      clientProperties: { product: 'load', capabilities: { 'basic.nack': true } },
      mechanism: 'PLAIN',
      response: Buffer.from(credentials),
      locale: 'en_US',
    }),
    encodeMethod(0, {
      name: 'connection.tune-ok',
      channelMax: 2047,
      frameMax: FRAME_MAX,
      heartbeat: 60,
    }),
    encodeMethod(0, { name: 'connection.open', virtualHost }),
    encodeMethod(1, { name: 'channel.open' }),
  ]
}

/** Declares the queue (durable, classic) and empties it. */
export async function prepare({ url, queue }: Target): Promise<void> {
  const flags = { passive: false, durable: true, exclusive: false, autoDelete: false }
  const wire = new Wire(
    url,
    [
      encodeMethod(1, { name: 'queue.declare', queue, ...flags, noWait: false, arguments: {} }),
      encodeMethod(1, { name: 'queue.purge', queue, noWait: false }),
    ],
    METHOD_IDS['queue.purge-ok'],
  )
  await wire.ready
  wire.close()
}

export interface Producer {
  readonly confirmed: () => number
  /** Publishes until the next call; `perSecond` undefined = as fast as confirms allow. */
  start(perSecond?: number): void
  /** Stops, and resolves when every publish is confirmed. */
  drain(): Promise<void>
  close(): void
}

export async function startProducer(
  { url, queue }: Target,
  { persistent, bodyBytes, outstanding, to = { exchange: '', keys: [queue] } }: LoadOptions,
): Promise<Producer> {
  const select = encodeMethod(1, { name: 'confirm.select', noWait: false })
  const wire = new Wire(url, [select], METHOD_IDS['confirm.select-ok'])
  await wire.ready
  const properties = encodeProperties({ deliveryMode: persistent ? 2 : 1 })
  const content = encodeContent(1, properties, Buffer.alloc(bodyBytes), FRAME_MAX)
  const frames = publishes(to, content)
  const one = frames[0]!
  const bodyAt = one.length - 1 - bodyBytes
  // Each key as often as the others, however many are sent at a time.
  const all = Buffer.concat(
    Array.from({ length: 2 * outstanding }, (_, i) => frames[i % frames.length]!),
  )
  let at = 0

  const tally = new Tally()
  let sent = 0
  let confirmed = 0
  let running = false
  let pace: NodeJS.Timeout | undefined
  let drained = () => {}
  const send = (count: number) => {
    if (count <= 0) return
    // Copied, since the last ones may still wait in the socket.
    const bytes = Buffer.from(all.subarray(at * one.length, (at + count) * one.length))
    at = (at + count) % outstanding
    const now = performance.now()
    for (let i = 0; i < count; i++) bytes.writeDoubleBE(now, i * one.length + bodyAt)
    sent += count
    wire.socket.write(bytes)
  }
  wire.onMethod = (id, payload) => {
    if (id !== METHOD_IDS['basic.ack']) throw new Error(`not confirmed: ${id.toString(16)}`)
    confirmed = tally.confirm(payload.readUInt32BE(8), payload[12] === 1)
    if (running && pace === undefined && sent - confirmed <= outstanding / 2) {
      send(outstanding - (sent - confirmed))
    }
    if (!running && confirmed >= sent) drained()
  }
  return {
    confirmed: () => confirmed,
    start(perSecond) {
      running = true
      if (perSecond === undefined) return send(outstanding - (sent - confirmed))
      const from = performance.now()
      const base = sent
      pace = setInterval(() => {
        const due = base + Math.floor(((performance.now() - from) * perSecond) / 1_000)
        send(Math.min(due - sent, outstanding - (sent - confirmed)))
      }, 1)
    },
    async drain() {
      running = false
      clearInterval(pace)
      pace = undefined
      if (confirmed >= sent) return
      const { promise, resolve, reject } = Promise.withResolvers<void>()
      drained = resolve
      const fail = () => reject(new Error(`${sent - confirmed} publishes are not confirmed`))
      const timer = setTimeout(fail, DRAIN_MS_MAX)
      await promise.finally(() => clearTimeout(timer))
    },
    close: () => wire.close(),
  }
}

/** A whole publish for each routing key. */
function publishes({ exchange, keys }: LoadOptions['to'] & {}, content: Buffer): Buffer[] {
  const flags = { exchange, mandatory: false, immediate: false }
  return keys.map((routingKey) =>
    Buffer.concat([encodeMethod(1, { name: 'basic.publish', routingKey, ...flags }), content]),
  )
}

/** How many publishes are confirmed: brokers may confirm single ones ahead of others. */
class Tally {
  #upTo = 0
  readonly #ahead = new Set<number>()

  confirm(tag: number, multiple: boolean): number {
    if (multiple) {
      this.#upTo = Math.max(this.#upTo, tag)
      if (this.#ahead.size > 0)
        for (const one of this.#ahead) if (one <= tag) this.#ahead.delete(one)
    } else if (tag === this.#upTo + 1) {
      this.#upTo = tag
    } else {
      this.#ahead.add(tag)
    }
    while (this.#ahead.size > 0 && this.#ahead.delete(this.#upTo + 1)) this.#upTo++
    return this.#upTo + this.#ahead.size
  }
}

export interface Consumer {
  readonly received: () => number
  /** Latencies in ms since the last call. */
  latencies(): number[]
  close(): void
}

/** Acknowledges every delivery, by itself; `slowMs` after it came, at once unless told. */
export async function startConsumer(
  { url, queue }: Target,
  prefetch: number,
  slowMs = 0,
): Promise<Consumer> {
  const consume = { queue, consumerTag: 'c', noLocal: false, noAck: false, exclusive: false }
  const wire = new Wire(
    url,
    [
      encodeMethod(1, {
        name: 'basic.qos',
        prefetchSize: 0,
        prefetchCount: prefetch,
        global: false,
      }),
      encodeMethod(1, { name: 'basic.consume', ...consume, noWait: false, arguments: {} }),
    ],
    METHOD_IDS['basic.consume-ok'],
  )
  let received = 0
  let latencies: number[] = []
  const ack = encodeMethod(1, { name: 'basic.ack', deliveryTag: 0, multiple: false })
  const many = Buffer.concat(Array.from({ length: prefetch }, () => ack))
  let acks = 0
  const flush = () => {
    if (acks > 0) wire.socket.write(Buffer.from(many.subarray(0, acks * ack.length)))
    acks = 0
  }
  wire.onMethod = (id, payload) => {
    if (id !== METHOD_IDS['basic.deliver']) return
    const tagAt = 5 + payload[4]!
    if (slowMs > 0) {
      const deliveryTag = payload.readUInt32BE(tagAt + 4)
      const late = encodeMethod(1, { name: 'basic.ack', deliveryTag, multiple: false })
      setTimeout(() => wire.socket.write(late), slowMs)
      return
    }
    payload.copy(many, acks * ack.length + 11, tagAt, tagAt + 8)
    if (++acks === 1) setImmediate(flush)
    else if (acks === prefetch) flush()
  }
  wire.onBody = (body) => {
    received++
    latencies.push(performance.now() - body.readDoubleBE(0))
  }
  await wire.ready
  return {
    received: () => received,
    latencies() {
      const past = latencies
      latencies = []
      return past
    },
    close: () => wire.close(),
  }
}
