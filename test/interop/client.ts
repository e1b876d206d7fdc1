/**
 * What a scenario asks of a client library: the protocol's verbs, under one set of names.
 *
 * Each client in clients/ says them in its library's own words. What a library cannot say throws
 * `Lacks`, and the scenario counts as skipped for it. What the broker refuses rejects with `Refused`.
 */

export type Json =
  | string
  | number
  | boolean
  | null
  | readonly Json[]
  | { readonly [k: string]: Json }

export interface Client {
  connect(url: string, options?: ConnectOptions): Promise<Connection>
}

export interface ConnectOptions {
  readonly heartbeatSeconds?: number
}

export interface Connection {
  channel(): Promise<Channel>
  close(): Promise<void>
  /** Resolves when it ends by anything but `close`. */
  readonly closed: Promise<Refused>
}

export interface QueueOptions {
  readonly durable?: boolean
  readonly exclusive?: boolean
  readonly autoDelete?: boolean
  readonly arguments?: Arguments
}

export interface ExchangeOptions {
  readonly durable?: boolean
  readonly autoDelete?: boolean
  readonly internal?: boolean
  readonly arguments?: Arguments
}

export type Arguments = Readonly<Record<string, Json>>

interface QueueState {
  readonly name: string
  readonly messages: number
  readonly consumers: number
}

/** Basic properties by their names in the protocol, camel-cased. */
export interface Properties {
  readonly contentType?: string
  readonly contentEncoding?: string
  readonly headers?: Arguments
  readonly deliveryMode?: number
  readonly priority?: number
  readonly correlationId?: string
  readonly replyTo?: string
  readonly expiration?: string
  readonly messageId?: string
  /** Seconds. */
  readonly timestamp?: number
  readonly type?: string
  readonly userId?: string
  readonly appId?: string
}

export interface Outgoing {
  readonly exchange?: string
  readonly routingKey: string
  readonly mandatory?: boolean
  readonly properties?: Properties
  readonly body?: string | Buffer
  /** Adds headers of every type that the library can write. */
  readonly everyType?: boolean
}

export interface Received {
  readonly exchange: string
  readonly routingKey: string
  /** Only those present, and headers as this library reads them. */
  readonly properties: Readonly<Record<string, Json>>
  readonly body: Buffer
}

export interface Delivery extends Received {
  readonly tag: number
  readonly redelivered: boolean
}

export interface Got extends Delivery {
  /** Messages left in the queue. */
  readonly left: number
}

export interface Returned extends Received {
  readonly code: number
  readonly text: string
}

export interface Consumer {
  readonly tag: string
  readonly deliveries: Mailbox<Delivery>
  /** Resolves when the broker cancels it. */
  readonly cancelled: Promise<void>
}

export interface ConsumeOptions {
  readonly tag?: string
  readonly noAck?: boolean
  readonly exclusive?: boolean
  readonly arguments?: Arguments
}

/** What needs nothing but an open channel. */
export interface Topology {
  declareQueue(name: string, options?: QueueOptions): Promise<QueueState>
  checkQueue(name: string): Promise<QueueState>
  /** Returns how many messages went with it. */
  deleteQueue(name: string, options?: { ifUnused?: boolean; ifEmpty?: boolean }): Promise<number>
  purge(name: string): Promise<number>
  declareExchange(name: string, type: string, options?: ExchangeOptions): Promise<void>
  checkExchange(name: string): Promise<void>
  deleteExchange(name: string, options?: { ifUnused?: boolean }): Promise<void>
  bind(queue: string, exchange: string, key: string, args?: Arguments): Promise<void>
  unbind(queue: string, exchange: string, key: string, args?: Arguments): Promise<void>
  bindExchange(to: string, from: string, key: string, args?: Arguments): Promise<void>
  unbindExchange(to: string, from: string, key: string, args?: Arguments): Promise<void>
}

export interface Channel extends Topology {
  /** Resolves when it ends by anything but `close`. */
  readonly closed: Promise<Refused>
  readonly returned: Mailbox<Returned>
  close(): Promise<void>

  confirms(): Promise<void>
  /** On a channel with confirms: resolves with the broker's word. Else once written. */
  publish(message: Outgoing): Promise<'acked' | 'nacked' | 'sent'>
  qos(count: number, options?: { global?: boolean }): Promise<void>
  consume(queue: string, options?: ConsumeOptions): Promise<Consumer>
  cancel(tag: string): Promise<void>
  get(queue: string, options?: { noAck?: boolean }): Promise<Got | undefined>
  ack(tag: number, options?: { multiple?: boolean }): Promise<void>
  nack(tag: number, options?: { multiple?: boolean; requeue?: boolean }): Promise<void>
  reject(tag: number, options?: { requeue?: boolean }): Promise<void>
  recover(): Promise<void>

  txSelect(): Promise<void>
  txCommit(): Promise<void>
  txRollback(): Promise<void>
}

/** The broker closed the channel or connection, or the socket went away (code 0). */
export class Refused extends Error {
  override readonly name = 'Refused'
  readonly code: number
  readonly text: string

  constructor(code: number, text: string) {
    super(`${code} ${text}`)
    this.code = code
    this.text = text
  }
}

/** The library has no way to say this. */
export class Lacks extends Error {
  override readonly name = 'Lacks'
}

export function lacks(what: string): never {
  throw new Lacks(what)
}

/** Generous: on a busy machine everything comes late, and only what never comes is wrong. */
const WAIT_MS = 30_000

/** What arrived and was not yet asked for, in order. */
export class Mailbox<T> {
  readonly #items: T[] = []
  #wake: (() => void) | undefined

  get size(): number {
    return this.#items.length
  }

  push(item: T): void {
    this.#items.push(item)
    this.#wake?.()
  }

  /** The oldest; fails when nothing comes for half a minute. */
  async next(waitMs = WAIT_MS): Promise<T> {
    const item = await this.within(waitMs)
    if (item === undefined) throw new Error(`nothing arrived within ${waitMs} ms`)
    return item
  }

  async take(count: number): Promise<T[]> {
    const items: T[] = []
    while (items.length < count) items.push(await this.next())
    return items
  }

  /** The oldest, or undefined when nothing comes in time. */
  async within(waitMs: number): Promise<T | undefined> {
    if (this.#items.length === 0) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, waitMs)
        this.#wake = () => {
          clearTimeout(timer)
          resolve()
        }
      })
      this.#wake = undefined
    }
    return this.#items.shift()
  }
}

/** A value of a table as JSON that shows its type, as far as the library tells types apart. */
export function describe(value: unknown): Json {
  if (value === null || value === undefined) return null
  if (typeof value === 'string' || typeof value === 'boolean' || typeof value === 'number') {
    return typeof value === 'number' && !Number.isFinite(value) ? String(value) : value
  }
  if (typeof value === 'bigint') return { bigint: String(value) }
  if (value instanceof Date) return { date: value.toISOString() }
  if (value instanceof Uint8Array) return { bytes: Buffer.from(value).toString('hex') }
  if (Array.isArray(value)) return value.map(describe)
  return Object.fromEntries(
    Object.entries(value as object)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, inner]) => [name, describe(inner)]),
  )
}

/** Properties that are set, described. */
export function present(properties: Readonly<Record<string, unknown>>): Record<string, Json> {
  return Object.fromEntries(
    Object.entries(properties)
      .filter(([, value]) => value !== undefined && value !== null)
      .map(([name, value]) => [name, describe(value)]),
  )
}
