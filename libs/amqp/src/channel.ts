/**
 * One channel of a connection, server side: takes its frames in order, hands what they say to the
 * embedding server's handler, and keeps what closing needs.
 *
 * A handler may answer a method later (a promise): frames that follow on the channel wait until
 * then, and when too many wait the whole connection is not read. Publishes and acknowledgements
 * are plain calls. What a handler throws closes the channel or the connection, as its code says,
 * with the ids of the failing method.
 */
import { AmqpError, cannotDecode, REPLY_CODES } from './amqp-error.ts'
import { Confirms } from './confirms.ts'
import type { Connection } from './connection.ts'
import { Content, unexpected } from './content.ts'
import { FRAME } from './frame-reader.ts'
import {
  type ClientMethod,
  METHOD_IDS,
  methodName,
  readClientMethod,
  type ServerMethod,
} from './spec.ts'
import { ValueReader } from './values.ts'

/** What a handler's `method` hears of. */
export type ChannelMethod = Exclude<
  ClientMethod,
  {
    name:
      | `connection.${string}`
      | `channel.${string}`
      | 'access.request'
      | 'basic.publish'
      | 'basic.ack'
      | 'basic.nack'
      | 'basic.reject'
      | 'basic.cancel-ok'
  }
>

/** What the embedding server does for one channel. Anything may throw AmqpError. */
export interface ChannelHandler {
  /** Answers with `channel.send`; while a promise is under way, later frames wait. */
  method(method: ChannelMethod): void | Promise<void>
  /** `properties` and `body` are views of a larger buffer: copy what is kept for long. */
  publish(
    exchange: string,
    routingKey: string,
    mandatory: boolean,
    immediate: boolean,
    properties: Buffer,
    body: Buffer,
  ): void
  ack(deliveryTag: number, multiple: boolean): void
  /** basic.nack, and basic.reject with `multiple` false. */
  nack(deliveryTag: number, multiple: boolean, requeue: boolean): void
  /**
   * Resolves when every publish so far has reached its queues or failed; undefined when that is so.
   * What a client sends behind a publish sees it: `method` and the end wait for this.
   */
  settled(): Promise<void> | undefined
  /**
   * The channel is gone: return what was not settled. Called exactly once, after the last method;
   * channel.close-ok waits for it when the client closed.
   */
  closed(): void | Promise<void>
}

/** What a waiting frame costs beside its payload. */
const WAITING_FRAME_BYTES = 64

const PUBLISH = METHOD_IDS['basic.publish']
const ACK = METHOD_IDS['basic.ack']
const NACK = METHOD_IDS['basic.nack']
const REJECT = METHOD_IDS['basic.reject']
const CLOSE = METHOD_IDS['channel.close']
const CLOSE_OK = METHOD_IDS['channel.close-ok']

export class Channel {
  readonly id: number
  readonly connection: Connection
  readonly #content: Content
  #confirms: Confirms | undefined
  #handler: ChannelHandler | undefined
  /** 'closing': we sent channel.close, and hear nothing but the answer. */
  #state: 'open' | 'closing' | 'closed' = 'open'
  /** Method of the frame being handled, for the error that it may end in. */
  #methodId = 0
  #underWay: Promise<void> | undefined
  #waiting: { type: number; payload: Buffer }[] = []
  #ended: Promise<void> | undefined
  #idle: (() => void)[] = []

  constructor(connection: Connection, id: number) {
    this.connection = connection
    this.id = id
    this.#content = new Content(connection.messageBytesMax, connection.assembling)
  }

  /** False once it is closed or closing: what is sent then is dropped. */
  get open(): boolean {
    return this.#state === 'open'
  }

  /** Confirms of this channel; the first use begins the count (confirm.select). */
  get confirms(): Confirms {
    const { writer, output } = this.connection
    this.#confirms ??= new Confirms(this, writer, output)
    return this.#confirms
  }

  /** Sends a method, unless the channel is closed. */
  send(method: ServerMethod): void {
    if (this.open) this.connection.writer.method(this.id, method)
  }

  /** Sends a message to a consumer of this channel. Names are at most 255 bytes. */
  deliver(
    consumerTag: string,
    deliveryTag: number,
    redelivered: boolean,
    exchange: string,
    routingKey: string,
    properties: Buffer,
    body: Buffer,
  ): void {
    if (!this.open) return
    this.connection.writer.deliver(
      this.id,
      consumerTag,
      deliveryTag,
      redelivered,
      exchange,
      routingKey,
      properties,
      body,
    )
  }

  /** Answers basic.get; `messageCount` is what is left in the queue. */
  getOk(
    deliveryTag: number,
    redelivered: boolean,
    exchange: string,
    routingKey: string,
    messageCount: number,
    properties: Buffer,
    body: Buffer,
  ): void {
    if (!this.open) return
    this.connection.writer.getOk(
      this.id,
      deliveryTag,
      redelivered,
      exchange,
      routingKey,
      messageCount,
      properties,
      body,
    )
  }

  /** Gives a mandatory message back to its publisher: 312 NO_ROUTE. */
  returned(exchange: string, routingKey: string, properties: Buffer, body: Buffer): void {
    if (!this.open) return
    const { noRoute } = REPLY_CODES
    this.connection.writer.returned(
      this.id,
      noRoute,
      'NO_ROUTE',
      exchange,
      routingKey,
      properties,
      body,
    )
  }

  /** Ends the channel, or the connection when the code says so: for errors that come late. */
  fail(error: unknown, methodId = 0): void {
    if (this.open) this.connection.fail(error, this, methodId)
  }

  /** For Connection: the embedding server's side of this channel. */
  attach(handler: ChannelHandler): void {
    this.#handler = handler
  }

  /** For Connection: the next frame. Throws nothing: what goes wrong closes what it must. */
  frame(type: number, payload: Buffer): void {
    if (this.#underWay === undefined && this.#waiting.length === 0) {
      this.#take(type, payload)
      return
    }
    this.#waiting.push({ type, payload: Buffer.from(payload) })
    this.connection.waiting(payload.length + WAITING_FRAME_BYTES)
  }

  /** For Connection: sends channel.close and from then on hears only the answer. */
  close(error: AmqpError, methodId: number): void {
    if (!this.open) return
    this.connection.writer.method(this.id, {
      name: 'channel.close',
      replyCode: error.replyCode,
      replyText: replyText(error),
      classId: methodId >>> 16,
      methodId: methodId & 0xffff,
    })
    this.#state = 'closing'
    this.#content.reset()
    this.#finish().catch(this.connection.report)
  }

  /** For Connection: resolves when no method or publish is under way and no frame waits. */
  async idle(): Promise<void> {
    if (this.#underWay !== undefined) await new Promise<void>((resolve) => this.#idle.push(resolve))
    await this.#handler?.settled()
  }

  /** For Connection: no frame is taken any more; resolves when the handler has closed. */
  drop(): Promise<void> {
    this.#state = 'closed'
    this.#content.reset()
    this.#forgetWaiting()
    return this.#finish()
  }

  /** The method under way is done, then the handler hears of the end. */
  async #finish(): Promise<void> {
    await this.#underWay
    await this.#end()
  }

  /** The handler hears of the end, once. */
  #end(): Promise<void> {
    this.#ended ??= (async () => this.#handler?.closed())()
    return this.#ended
  }

  #take(type: number, payload: Buffer): void {
    this.#methodId = 0
    try {
      if (this.#state === 'open') this.#handle(type, payload)
      else this.#handleClosing(type, payload)
    } catch (error) {
      this.connection.fail(error, this, this.#methodId)
    }
  }

  #handle(type: number, payload: Buffer): void {
    const content = this.#content
    switch (type) {
      case FRAME.method:
        if (content.due !== 'method') throw notDue(content.due)
        this.#method(payload)
        return
      case FRAME.header:
        if (content.due !== 'header') throw notDue(content.due)
        this.#methodId = PUBLISH
        if (content.header(payload)) this.#publish()
        return
      case FRAME.body:
        if (content.due !== 'body') throw notDue(content.due)
        this.#methodId = PUBLISH
        if (content.bodyFrame(payload)) this.#publish()
        return
      default:
        throw strangeFrame(type, payload)
    }
  }

  #publish(): void {
    const content = this.#content
    const { exchange, routingKey, mandatory, immediate, properties, body } = content
    content.reset()
    this.connection.published()
    this.#handler!.publish(exchange, routingKey, mandatory, immediate, properties, body)
  }

  #method(payload: Buffer): void {
    const id = readMethodId(payload)
    this.#methodId = id
    switch (id) {
      case PUBLISH:
        this.#content.start(payload)
        return
      case ACK: {
        const bits = readSettle(payload)
        this.#handler!.ack(readTag(payload), (bits & 1) !== 0)
        return
      }
      case NACK: {
        const bits = readSettle(payload)
        this.#handler!.nack(readTag(payload), (bits & 1) !== 0, (bits & 2) !== 0)
        return
      }
      case REJECT: {
        const bits = readSettle(payload)
        this.#handler!.nack(readTag(payload), false, (bits & 1) !== 0)
        return
      }
      default:
        this.#other(readMethod(id, payload))
    }
  }

  /** Methods that are not on the hot path; those that concern the channel itself end here. */
  #other(method: ClientMethod): void {
    switch (method.name) {
      case 'channel.open':
        throw new AmqpError(REPLY_CODES.channelError, "second 'channel.open' seen")
      case 'channel.close':
        this.#await(this.#closedByClient())
        return
      case 'channel.flow':
        if (!method.active) throw new AmqpError(REPLY_CODES.notImplemented, 'active=false')
        this.send({ name: 'channel.flow-ok', active: true })
        return
      case 'access.request':
        this.send({ name: 'access.request-ok', ticket: 1 })
        return
      case 'basic.cancel-ok':
      case 'channel.flow-ok':
        return // answers to what we sent: there is nothing left to do
      case 'basic.publish':
      case 'basic.ack':
      case 'basic.nack':
      case 'basic.reject':
        throw new Error(`${method.name} is read by hand`)
      default: {
        if (method.name.startsWith('connection.') || method.name === 'channel.close-ok') {
          throw new AmqpError(REPLY_CODES.commandInvalid, 'unimplemented method')
        }
        const underWay = this.#behindPublishes(() => this.#handler!.method(method as ChannelMethod))
        if (underWay !== undefined) this.#await(underWay)
      }
    }
  }

  /** `act` after what was published before; not at all when that has closed the channel. */
  #behindPublishes(act: () => void | Promise<void>): void | Promise<void> {
    const settled = this.#handler!.settled()
    if (settled === undefined) return act()
    return settled.then(() => (this.open ? act() : undefined))
  }

  /** Lets later frames wait until `underWay` is done. */
  #await(underWay: Promise<void>): void {
    const methodId = this.#methodId
    this.#underWay = underWay
      .catch((error) => this.connection.fail(error, this, methodId))
      .then(() => {
        this.#underWay = undefined
        this.#takeWaiting()
      })
  }

  #takeWaiting(): void {
    while (this.#waiting.length > 0 && this.#underWay === undefined) {
      if (this.#state === 'closed') {
        this.#passOn()
        break
      }
      const { type, payload } = this.#waiting.shift()!
      this.#take(type, payload)
      // Not before: it may let the connection read on, and frames for this channel come in.
      this.connection.waiting(-payload.length - WAITING_FRAME_BYTES)
    }
    if (this.#underWay === undefined) {
      for (const idle of this.#idle.splice(0)) idle()
    }
  }

  #forgetWaiting(): void {
    let bytes = 0
    for (const { payload } of this.#waiting) bytes += payload.length + WAITING_FRAME_BYTES
    this.#waiting = []
    if (bytes > 0) this.connection.waiting(-bytes)
  }

  /** The number is free again before close-ok is written: the client may reopen it at once. */
  async #closedByClient(): Promise<void> {
    await this.#handler!.settled()
    if (!this.open) return this.#closeCrossed()
    this.#state = 'closed'
    this.#content.reset()
    await this.#end()
    this.connection.forget(this)
    this.#closeOk()
    this.#passOn()
  }

  /** What waits behind the end of this channel is for the next one of its number. */
  #passOn(): void {
    for (const { type, payload } of this.#waiting.splice(0)) {
      this.connection.frame(type, this.id, payload)
      this.connection.waiting(-payload.length - WAITING_FRAME_BYTES)
    }
  }

  /** After our channel.close: everything is ignored but the client's own close and its answer. */
  #handleClosing(type: number, payload: Buffer): void {
    if (type !== FRAME.method || this.#state !== 'closing') return
    const id = readMethodId(payload)
    if (id === CLOSE) this.#closeCrossed()
    if (id !== CLOSE_OK) return
    this.#state = 'closed'
    this.connection.forget(this, this.#finish())
  }

  /** A publish before it has failed, and our channel.close is on its way: this answers theirs. */
  #closeCrossed(): void {
    if (this.#state !== 'closing') return
    this.#state = 'closed'
    this.connection.forget(this, this.#finish())
    this.#closeOk()
  }

  #closeOk(): void {
    const { ended, writer } = this.connection
    if (!ended) writer.method(this.id, { name: 'channel.close-ok' })
  }
}

/** An error's text as a short string: cut to 255 bytes. */
export function replyText({ message }: AmqpError): string {
  if (Buffer.byteLength(message) <= 255) return message
  // A character cut in two becomes a replacement of at most its size.
  return `${Buffer.from(message).subarray(0, 249).toString('utf8')}...`
}

/** A heartbeat where none belongs, or a type that is none. */
export function strangeFrame(type: number, payload: Buffer): AmqpError {
  return type === FRAME.heartbeat && payload.length === 0
    ? new AmqpError(REPLY_CODES.unexpectedFrame, `type ${type}, all octets = <<>>`)
    : new AmqpError(REPLY_CODES.frameError, `type ${type}: unknown_frame`)
}

/** Class id in the upper 16 bits. Throws AmqpError 501 when the frame is too short for one. */
export function readMethodId(payload: Buffer): number {
  if (payload.length < 4) throw new AmqpError(REPLY_CODES.frameError, 'type 1: unknown_frame')
  return payload.readUInt32BE(0)
}

/** Throws AmqpError: 503 when no client may send it, 501 when the arguments cannot be decoded. */
export function readMethod(id: number, payload: Buffer): ClientMethod {
  const reader = new ValueReader(payload)
  reader.long()
  let method: ClientMethod | undefined
  try {
    method = readClientMethod(id, reader)
    if (method !== undefined && reader.left > 0) throw cannotDecode('bytes follow the arguments')
  } catch (error) {
    if (error instanceof AmqpError) throw cannotDecode(error.message.replace(/^.* - /, ''))
    throw error
  }
  if (method !== undefined) return method
  const what = methodName(id) === undefined ? 'unknown method' : 'unimplemented method'
  throw new AmqpError(REPLY_CODES.commandInvalid, `${what} (${id >>> 16},${id & 0xffff})`, id)
}

/** The bits after the delivery tag of basic.ack, nack and reject. */
function readSettle(payload: Buffer): number {
  if (payload.length !== 13) throw cannotDecode(`${payload.length} bytes`)
  return payload[12]!
}

function readTag(payload: Buffer): number {
  return payload.readUInt32BE(4) * 0x1_0000_0000 + payload.readUInt32BE(8)
}

function notDue(due: 'method' | 'header' | 'body'): AmqpError {
  switch (due) {
    case 'method':
      return new AmqpError(
        REPLY_CODES.unexpectedFrame,
        'expected method frame, got non method frame instead',
      )
    case 'header':
      return unexpected(
        'expected content header for class 60, got non content header frame instead',
      )
    case 'body':
      return unexpected('expected content body, got non content body frame instead')
  }
}
