/**
 * A Python library as a client: one process a connection (python/bridge.py), spoken to in lines of
 * JSON.
 */
import { type ChildProcessByStdio, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import type { Readable, Writable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import {
  type Channel,
  type Client,
  type Connection,
  type Delivery,
  type Got,
  Lacks,
  Mailbox,
  Refused,
  type Returned,
} from '../client.ts'

/** Debian's: its packages are invisible to any other Python. */
export const PYTHON = '/usr/bin/python3'

export const pika = bridged('pika_client.py')
export const pyAmqp = bridged('amqp_client.py')

interface Line {
  readonly id?: number
  readonly ok?: unknown
  readonly lacks?: string
  readonly refused?: { readonly code: number; readonly text: string }
  readonly connected?: true
  readonly event?: 'deliver' | 'return' | 'cancel' | 'closed' | 'lost'
  readonly channel?: number
  readonly [field: string]: unknown
}

function bridged(script: string): Client {
  const path = fileURLToPath(new URL(`../python/${script}`, import.meta.url))
  return {
    async connect(url, { heartbeatSeconds = 0 } = {}) {
      const address = script.startsWith('pika') ? `${url}?heartbeat=${heartbeatSeconds}` : url
      const child = spawn(PYTHON, [path, address, String(heartbeatSeconds)], {
        stdio: ['pipe', 'pipe', 'inherit'],
      })
      const bridge = new Bridge(child)
      await bridge.connected.promise
      return bridge
    },
  }
}

class Bridge implements Connection {
  readonly connected = Promise.withResolvers<void>()
  readonly #lost = Promise.withResolvers<Refused>()
  readonly #child: ChildProcessByStdio<Writable, Readable, null>
  readonly #waiting = new Map<number, PromiseWithResolvers<unknown>>()
  readonly #channels = new Map<number, BridgeChannel>()
  #id = 0
  #over = false

  constructor(child: ChildProcessByStdio<Writable, Readable, null>) {
    this.#child = child
    createInterface({ input: child.stdout }).on('line', (line) => this.#read(JSON.parse(line)))
    child.stdin.on('error', () => {}) // its end is what counts
    child.on('exit', () => this.#end(new Refused(0, 'the client ended')))
  }

  get closed(): Promise<Refused> {
    return this.#lost.promise
  }

  async channel(): Promise<Channel> {
    const number = this.#channels.size + 1
    const channel = new BridgeChannel((op, fields) => this.call(number, op, fields))
    this.#channels.set(number, channel)
    await this.call(number, 'open')
    return channel
  }

  async close(): Promise<void> {
    if (!this.#over) await this.call(0, 'end').catch(() => {})
    this.#child.kill()
  }

  call(channel: number, op: string, fields: object = {}): Promise<unknown> {
    const id = ++this.#id
    const answer = Promise.withResolvers<unknown>()
    this.#waiting.set(id, answer)
    this.#child.stdin.write(`${JSON.stringify({ id, op, channel, ...fields })}\n`)
    return answer.promise
  }

  #read(line: Line): void {
    const refused = line.refused && new Refused(line.refused.code, line.refused.text)
    if (line.event === 'lost') this.#end(new Refused(line['code'] as number, String(line['text'])))
    else if (line.event) this.#channels.get(line.channel!)?.happened(line)
    else if (line.connected) this.connected.resolve()
    else if (line.id === undefined) this.connected.reject(refused)
    else {
      const answer = this.#waiting.get(line.id)!
      this.#waiting.delete(line.id)
      if (refused) answer.reject(refused)
      else if (line.lacks) answer.reject(new Lacks(line.lacks))
      else answer.resolve(line.ok)
    }
  }

  #end(why: Refused): void {
    this.#over = true
    this.connected.reject(why)
    this.#lost.resolve(why)
    for (const answer of this.#waiting.values()) answer.reject(why)
    this.#waiting.clear()
  }
}

type WireDelivery = Omit<Got, 'body'> & { readonly body: string }

class BridgeChannel implements Channel {
  readonly returned = new Mailbox<Returned>()
  readonly #closed = Promise.withResolvers<Refused>()
  readonly #call: (op: string, fields?: object) => Promise<unknown>
  readonly #consumers = new Map<string, { mailbox: Mailbox<Delivery>; cancel: () => void }>()
  readonly #early: Line[] = []

  constructor(call: (op: string, fields?: object) => Promise<unknown>) {
    this.#call = call
  }

  get closed(): Promise<Refused> {
    return this.#closed.promise
  }

  happened(line: Line): void {
    if (line.event === 'closed') {
      this.#closed.resolve(new Refused(line['code'] as number, line['text'] as string))
    } else if (line.event === 'return') {
      const { code, text, exchange, routingKey, properties, body } = line as unknown as Returned & {
        body: string
      }
      this.returned.push({ code, text, exchange, routingKey, properties, body: bytes(body) })
    } else if (line.event === 'cancel') {
      this.#consumers.get(line['tag'] as string)?.cancel()
    } else {
      const consumer = this.#consumers.get(line['consumer'] as string)
      // The library may deliver before it has returned from basic_consume.
      if (consumer === undefined) this.#early.push(line)
      else consumer.mailbox.push(asGot(line['delivery'] as WireDelivery))
    }
  }

  async close() {
    await this.#call('close')
  }
  declareQueue = (name: string, options: object = {}) =>
    this.#call('declareQueue', { name, ...options }) as ReturnType<Channel['declareQueue']>
  checkQueue = (name: string) =>
    this.#call('checkQueue', { name }) as ReturnType<Channel['checkQueue']>
  deleteQueue = (name: string, options: object = {}) =>
    this.#call('deleteQueue', { name, ...options }) as Promise<number>
  purge = (name: string) => this.#call('purge', { name }) as Promise<number>
  declareExchange = (name: string, type: string, options: object = {}) =>
    this.#call('declareExchange', { name, type, ...options }) as Promise<void>
  checkExchange = (name: string) => this.#call('checkExchange', { name }) as Promise<void>
  deleteExchange = (name: string, options: object = {}) =>
    this.#call('deleteExchange', { name, ...options }) as Promise<void>
  bind = (queue: string, exchange: string, key: string, args?: object) =>
    this.#call('bind', { queue, exchange, key, arguments: args }) as Promise<void>
  unbind = (queue: string, exchange: string, key: string, args?: object) =>
    this.#call('unbind', { queue, exchange, key, arguments: args }) as Promise<void>
  bindExchange = (to: string, from: string, key: string, args?: object) =>
    this.#call('bindExchange', { to, from, key, arguments: args }) as Promise<void>
  unbindExchange = (to: string, from: string, key: string, args?: object) =>
    this.#call('unbindExchange', { to, from, key, arguments: args }) as Promise<void>

  confirms = () => this.#call('confirms') as Promise<void>
  publish: Channel['publish'] = ({ exchange = '', mandatory = false, body = '', ...rest }) =>
    this.#call('publish', {
      exchange,
      mandatory,
      body: Buffer.from(body).toString('base64'),
      ...rest,
    }) as ReturnType<Channel['publish']>
  qos: Channel['qos'] = (count, { global = false } = {}) =>
    this.#call('qos', { count, global }) as Promise<void>

  consume: Channel['consume'] = async (queue, options = {}) => {
    const given = { noAck: false, exclusive: false, ...options }
    const tag = (await this.#call('consume', { queue, ...given })) as string
    const mailbox = new Mailbox<Delivery>()
    const cancelled = Promise.withResolvers<void>()
    this.#consumers.set(tag, { mailbox, cancel: cancelled.resolve })
    for (const line of this.#early.splice(0)) this.happened(line)
    return { tag, deliveries: mailbox, cancelled: cancelled.promise }
  }

  cancel = (tag: string) => this.#call('cancel', { tag }) as Promise<void>
  get: Channel['get'] = async (queue, { noAck = false } = {}) => {
    const got = (await this.#call('get', { queue, noAck })) as WireDelivery | null
    return got === null ? undefined : asGot(got)
  }

  ack: Channel['ack'] = (tag, { multiple = false } = {}) =>
    this.#call('ack', { tag, multiple }) as Promise<void>
  nack: Channel['nack'] = (tag, { multiple = false, requeue = false } = {}) =>
    this.#call('nack', { tag, multiple, requeue }) as Promise<void>
  reject: Channel['reject'] = (tag, { requeue = false } = {}) =>
    this.#call('reject', { tag, requeue }) as Promise<void>
  recover = () => this.#call('recover') as Promise<void>
  txSelect = () => this.#call('txSelect') as Promise<void>
  txCommit = () => this.#call('txCommit') as Promise<void>
  txRollback = () => this.#call('txRollback') as Promise<void>
}

function asGot(delivery: WireDelivery): Got {
  return { ...delivery, body: bytes(delivery.body) }
}

function bytes(base64: string): Buffer {
  return Buffer.from(base64, 'base64')
}
