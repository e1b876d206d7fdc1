/**
 * One AMQP connection, server side: a state machine over a socket.
 *
 *   header ─ starting ─ securing ─ tuning ─ opening ─ running ─ closing ─ closed
 *                                                        │                  │
 *                                                        └── our close ─────┘     lost: the socket
 *
 * 'closing' is the client's connection.close, until its channels are done; 'closed' waits for the
 * other side to hang up. Whatever happens, the handler hears of the end of each channel and of the
 * connection, once.
 *
 * Reading stops while something must not grow: frames that wait behind a slow method, answers that
 * the client does not read, a step of the handshake, or publishes during a memory alarm.
 */
import type { Duplex } from 'node:stream'
import { limits, type Report } from '@sluice/core'
import { AmqpError, REPLY_CODES } from './amqp-error.ts'
import { Channel, readMethod, readMethodId, replyText, strangeFrame } from './channel.ts'
import { Channels } from './channels.ts'
import type { ConnectionHandler, ConnectionOptions } from './connection-handler.ts'
import { FRAME, FRAME_MAX_MIN, FrameReader } from './frame-reader.ts'
import { FrameWriter } from './frame-writer.ts'
import {
  CAPABILITIES,
  checkTuneOk,
  GREETING_HINTS,
  PROTOCOL_HEADER,
  readGreeting,
  type Tuning,
} from './handshake.ts'
import { startHeartbeat } from './heartbeat.ts'
import { Output } from './output.ts'
import { PAUSE, Pace } from './pace.ts'
import { readCredentials } from './sasl.ts'
import { type ClientMethod, type ConnectionStartOk, METHOD_IDS } from './spec.ts'
import type { Table } from './values.ts'

type State =
  | 'header'
  | 'starting'
  | 'securing'
  | 'tuning'
  | 'opening'
  | 'running'
  | 'closing'
  | 'closed'
  | 'lost'

export class Connection {
  readonly #socket: Duplex
  readonly #options: ConnectionOptions
  readonly #handler: ConnectionHandler
  readonly #reader: FrameReader
  readonly #pace: Pace
  readonly output: Output
  readonly writer: FrameWriter
  /** Settles when the socket is gone and the handler has heard of it. Never rejects. */
  readonly closed: Promise<void>

  /** What the client says of itself; empty until it has. */
  clientProperties: Table = {}
  /** Capabilities the client announced in its properties. */
  capabilities: ReadonlySet<string> = new Set()
  tuned: Tuning

  #state: State = 'header'
  #greeting: Buffer = Buffer.alloc(0)
  readonly #channels = new Channels()
  #assemblingBytes = 0
  #alarm: string | undefined
  #alarmTold = false
  #received = 0
  #deadline: NodeJS.Timeout | undefined
  #heartbeat: NodeJS.Timeout | undefined
  #finished: Promise<void> | undefined

  /** Takes over `socket`; `handlerFor` makes the embedding server's side of it. */
  constructor(
    socket: Duplex,
    options: ConnectionOptions,
    handlerFor: (connection: Connection) => ConnectionHandler,
  ) {
    this.#socket = socket
    this.#options = options
    this.tuned = options
    this.output = new Output(socket, () => this.#writableAgain())
    this.writer = new FrameWriter(this.output, FRAME_MAX_MIN)
    this.#reader = new FrameReader(limits.AMQP_HANDSHAKE_FRAME_MAX, this.frame)
    this.#pace = new Pace(socket, this.#reader, () => this.#readOn())
    this.#handler = handlerFor(this)
    this.closed = new Promise((resolve) => {
      socket.once('close', () => {
        this.#lose()
        this.#finish().then(resolve, (error) => {
          this.report(error)
          resolve()
        })
      })
    })
    socket.on('error', () => {}) // 'close' follows
    socket.once('end', () => {
      // A client that says goodbye may still listen for the answer; who just leaves does not.
      if (this.#state !== 'closing' && this.#state !== 'closed') socket.destroy()
    })
    socket.on('data', this.#data)
    this.#expire(options.handshakeMsMax ?? limits.AMQP_HANDSHAKE_MS_MAX)
  }

  get messageBytesMax(): number {
    return this.#options.messageBytesMax
  }

  get report(): Report {
    return this.#options.report
  }

  /** Open and not closing. */
  get running(): boolean {
    return this.#state === 'running'
  }

  /** connection.close or close-ok was sent: nothing may follow but an answer to the other's. */
  get ended(): boolean {
    return this.#state === 'closed' || this.#state === 'lost'
  }

  /** False while so much waits to be sent that deliveries should pause; see `writable()`. */
  get writable(): boolean {
    return this.output.writable
  }

  /** The name a client gave its connection; '' = none. */
  get clientName(): string {
    const name = this.clientProperties['connection_name']
    return typeof name === 'string' ? name : ''
  }

  /**
   * Closes an open connection for a reason of ours (320 CONNECTION_FORCED for an operator's or a
   * shutdown's), and cuts it off when the client does not agree soon. One that is not open yet is
   * cut off at once.
   */
  close(error: AmqpError): void {
    if (this.running) {
      this.#closeWith(error)
      this.#expire(Math.min(this.#closeMs, limits.AMQP_FORCED_CLOSE_MS_MAX))
    } else if (this.#state !== 'closing' && this.#state !== 'closed') {
      this.#socket.destroy()
    }
  }

  /**
   * The server lacks `reason` ('low on memory'): the next publish is the last that is read until
   * `unblock`.
   */
  block(reason: string): void {
    this.#alarm = reason
  }

  unblock(): void {
    this.#alarm = undefined
    if (this.#alarmTold && this.running) this.writer.method(0, { name: 'connection.unblocked' })
    this.#alarmTold = false
    this.#pace.resume(PAUSE.alarm)
  }

  /** For Channel: a publish is complete. */
  published(): void {
    if (this.#alarm === undefined || this.#pace.has(PAUSE.alarm)) return
    this.#pace.pause(PAUSE.alarm)
    if (!this.capabilities.has('connection.blocked')) return
    this.#alarmTold = true
    this.writer.method(0, { name: 'connection.blocked', reason: this.#alarm })
  }

  /** For Channel: more (or fewer) bytes wait behind a method under way. */
  waiting(bytes: number): void {
    this.#pace.waiting(bytes)
  }

  /** For Content: more (or fewer) bytes of unfinished messages are held. */
  readonly assembling = (bytes: number): void => {
    this.#assemblingBytes += bytes
    const max = limits.AMQP_ASSEMBLING_MESSAGES_MAX * this.messageBytesMax
    if (bytes > 0 && this.#assemblingBytes > max) {
      throw new AmqpError(REPLY_CODES.resourceError, 'too many large messages are half sent')
    }
  }

  /** For Channel: its number is free again; its handler may still be at `end`. */
  forget(channel: Channel, end?: Promise<void>): void {
    this.#channels.forget(channel, end)
  }

  /** An error ends `channel`, or the connection when it has none or its code says so. */
  fail(error: unknown, channel?: Channel, methodId = 0): void {
    const refusal = this.#refusal(error)
    const id = refusal.methodId || methodId
    if (channel !== undefined && refusal.closes === 'channel') {
      if (this.running) channel.close(refusal, id)
    } else {
      this.#closeWith(refusal, id)
    }
  }

  #refusal(error: unknown): AmqpError {
    if (error instanceof AmqpError) return error
    const refusal = this.#options.refusal(error)
    if (refusal !== undefined) return refusal
    this.report(error)
    return new AmqpError(REPLY_CODES.internalError, 'an unexpected failure; see the log')
  }

  // Bytes in

  readonly #data = (chunk: Buffer): void => {
    this.#received += chunk.length
    if (this.#state === 'lost') return
    this.#read(() => {
      if (this.#state === 'header') this.#greet(chunk)
      else this.#reader.push(chunk)
    })
  }

  /** What is thrown here is the reader's: the frames are out of step, and nothing more is read. */
  #read(read: () => void): void {
    try {
      read()
    } catch (error) {
      this.#closeWith(this.#refusal(error))
      this.#expire(this.#failureDelayMs)
      this.#reader.pause()
      this.#state = 'lost'
    }
  }

  #greet(chunk: Buffer): void {
    this.#greeting = Buffer.concat([this.#greeting, chunk])
    const greeting = readGreeting(this.#greeting)
    if (greeting === 'unfinished') return
    if (greeting !== 'amqp') {
      this.#options.hint(GREETING_HINTS[greeting])
      this.#state = 'closed'
      this.output.push(PROTOCOL_HEADER)
      this.output.end()
      return
    }
    const rest = this.#greeting.subarray(PROTOCOL_HEADER.length)
    this.#greeting = PROTOCOL_HEADER
    this.#state = 'starting'
    this.writer.method(0, {
      name: 'connection.start',
      versionMajor: 0,
      versionMinor: 9,
      serverProperties: { ...this.#options.serverProperties, capabilities: CAPABILITIES },
      mechanisms: this.#options.mechanisms.join(' '),
      locales: 'en_US',
    })
    if (rest.length > 0) this.#reader.push(rest)
  }

  /** For the reader, and for what a channel leaves to the next one of its number. */
  readonly frame = (type: number, id: number, payload: Buffer): void => {
    if (this.#state === 'running' && id !== 0) {
      const channel = this.#channels.get(id)
      if (channel !== undefined) channel.frame(type, payload)
      else this.#unopened(type, id, payload)
    } else {
      this.#control(type, id, payload)
    }
    if (this.output.pending > limits.AMQP_UNREAD_BYTES_MAX && !this.output.writable) {
      this.#pace.pause(PAUSE.unread)
    }
  }

  /** A frame for a channel that is not open: only channel.open is right. */
  #unopened(type: number, id: number, payload: Buffer): void {
    try {
      if (!this.#channels.opens(type, id, payload, this.tuned.channelMax)) return
      const channel = new Channel(this, id)
      channel.attach(this.#handler.channel(channel))
      this.#channels.add(channel)
      channel.send({ name: 'channel.open-ok' })
    } catch (error) {
      this.fail(error)
    }
  }

  // Channel 0

  /** A frame on channel 0, or on any while the connection is not open. */
  #control(type: number, id: number, payload: Buffer): void {
    let methodId = 0
    try {
      if (this.#state === 'closing' || this.#state === 'closed') {
        if (id === 0 && type === FRAME.method) this.#controlWhileClosing(readMethodId(payload))
        return
      }
      if (id !== 0 || (type !== FRAME.method && type !== FRAME.heartbeat)) {
        if (type === FRAME.header || type === FRAME.body || type === FRAME.method) {
          throw new AmqpError(REPLY_CODES.unexpectedFrame, `type ${type} on channel ${id}`)
        }
        throw strangeFrame(type, payload)
      }
      if (type === FRAME.heartbeat) {
        if (payload.length > 0) throw strangeFrame(type, payload)
        return
      }
      methodId = readMethodId(payload)
      this.#controlMethod(readMethod(methodId, payload), methodId)
    } catch (error) {
      this.fail(error, undefined, methodId)
    }
  }

  #controlMethod(method: ClientMethod, methodId: number): void {
    switch (method.name) {
      case 'connection.start-ok':
        if (this.#state !== 'starting') break
        this.#state = 'securing'
        this.#step(this.#secure(method), methodId)
        return
      case 'connection.tune-ok':
        if (this.#state !== 'tuning') break
        checkTuneOk(this.#options, method)
        this.#tune(method.frameMax, method.channelMax, method.heartbeat)
        return
      case 'connection.open':
        if (this.#state !== 'opening') break
        this.#step(this.#open(method.virtualHost), methodId)
        return
      case 'connection.update-secret':
        if (this.#state !== 'running') break
        this.#step(this.#updateSecret(method.newSecret.toString('utf8')), methodId)
        return
      case 'connection.close':
        if (this.#state !== 'running') break
        this.#closedByClient().catch((error) => this.fail(error, undefined, methodId))
        return
    }
    throw new AmqpError(
      REPLY_CODES.channelError,
      `unexpected method in connection state ${this.#state}`,
    )
  }

  /** A step of channel 0 that takes its time; nothing is read until it is done. */
  #step(step: Promise<void>, methodId: number): void {
    this.#pace.pause(PAUSE.step)
    step
      .catch((error) => this.fail(error, undefined, methodId))
      .then(() => this.#pace.resume(PAUSE.step))
      .catch(this.report)
  }

  async #secure({ clientProperties, mechanism, response }: ConnectionStartOk): Promise<void> {
    this.clientProperties = clientProperties
    const capabilities = clientProperties['capabilities']
    if (isTable(capabilities)) {
      const named = Object.entries(capabilities).filter(([, value]) => value === true)
      this.capabilities = new Set(named.map(([name]) => name))
    }
    const credentials = readCredentials(mechanism, response, this.#options.mechanisms)
    const known = await this.#handler.authenticate(credentials)
    if (this.#state !== 'securing') return
    if (known) {
      this.#state = 'tuning'
      const { channelMax, frameMax, heartbeatS } = this.#options
      this.writer.method(0, {
        name: 'connection.tune',
        channelMax,
        frameMax,
        heartbeat: heartbeatS,
      })
    } else if (this.capabilities.has('authentication_failure_close')) {
      throw new AmqpError(
        REPLY_CODES.accessRefused,
        `Login was refused using authentication mechanism ${mechanism}. For details see the broker logfile.`,
      )
    } else {
      this.#state = 'lost'
      this.#expire(this.#failureDelayMs)
    }
  }

  #tune(frameMax: number, channelMax: number, heartbeatS: number): void {
    this.tuned = { frameMax, channelMax, heartbeatS }
    this.#reader.tune(frameMax)
    this.writer.tune(frameMax)
    this.#state = 'opening'
    this.#heartbeat = startHeartbeat(heartbeatS, this.writer, this.output, {
      heard: () => this.#pace.heard(this.#received, this.output.taken),
      silent: () => this.#socket.destroy(),
    })
  }

  async #open(vhost: string): Promise<void> {
    await this.#handler.open(vhost)
    if (this.#state !== 'opening') return
    this.#state = 'running'
    clearTimeout(this.#deadline)
    this.writer.method(0, { name: 'connection.open-ok' })
  }

  async #updateSecret(secret: string): Promise<void> {
    await this.#handler.updateSecret(secret)
    if (this.running) this.writer.method(0, { name: 'connection.update-secret-ok' })
  }

  // The end

  async #closedByClient(): Promise<void> {
    this.#state = 'closing'
    // What was sent before the close counts: publishes may wait behind a slow declare.
    await this.#channels.idle()
    await this.#finish()
    if (this.#state !== 'closing') return
    this.#closeOk()
  }

  #controlWhileClosing(methodId: number): void {
    if (this.#state !== 'closed') return
    if (methodId === METHOD_IDS['connection.close']) this.#closeOk()
    else if (methodId === METHOD_IDS['connection.close-ok']) this.output.end()
  }

  #closeOk(): void {
    this.writer.method(0, { name: 'connection.close-ok' })
    this.output.end()
    this.#state = 'closed'
    this.#expire(this.#closeMs)
  }

  /** Sends connection.close and ends the channels; a failed handshake is held for a while. */
  #closeWith(error: AmqpError, methodId = error.methodId): void {
    const state = this.#state
    if (state === 'closing' || state === 'closed' || state === 'lost') return
    this.#state = 'closed'
    this.writer.method(0, {
      name: 'connection.close',
      replyCode: error.replyCode,
      replyText: replyText(error),
      classId: methodId >>> 16,
      methodId: methodId & 0xffff,
    })
    this.#expire(state === 'running' ? this.#closeMs : this.#failureDelayMs)
    this.#finish().catch(this.report)
  }

  get #failureDelayMs(): number {
    return this.#options.failureDelayMs ?? limits.AMQP_FAILURE_DELAY_MS
  }

  /** How long the client has to agree to a close. */
  get #closeMs(): number {
    const max = this.#options.closeMsMax ?? limits.AMQP_CLOSE_MS_MAX
    const { heartbeatS } = this.tuned
    return heartbeatS > 0 ? Math.min(heartbeatS * 1_000, max) : max
  }

  /** Cuts the socket off after this time, instead of any time set before. */
  #expire(ms: number): void {
    clearTimeout(this.#deadline)
    this.#deadline = setTimeout(() => this.#socket.destroy(), ms)
  }

  #lose(): void {
    this.#state = 'lost'
    this.#reader.pause()
    this.output.close()
    clearTimeout(this.#deadline)
    clearInterval(this.#heartbeat)
  }

  /** Ends every channel, then tells the handler; once. */
  #finish(): Promise<void> {
    this.#finished ??= (async () => {
      for (const error of await this.#channels.drop()) this.report(error)
      await this.#handler.closed()
    })()
    return this.#finished
  }

  /** Takes the frames that wait; false when there is nothing to read from any more. */
  #readOn(): boolean {
    if (this.#state === 'lost') return false
    this.#read(() => this.#reader.resume())
    return true
  }

  #writableAgain(): void {
    this.#pace.resume(PAUSE.unread)
    if (this.running) this.#handler.writable()
  }
}

function isTable(value: unknown): value is Table {
  return value instanceof Object && Object.getPrototypeOf(value) === Object.prototype
}
