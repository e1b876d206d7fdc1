/** A whole broker with its AMQP door, and raw clients of it in a vhost of the test's own. */
import assert from 'node:assert/strict'
import type { TestContext } from 'node:test'
import type { ClientMethod, ServerMethod } from '@sluice/amqp'
import { closing } from './amqp-door.ts'
import { AmqpPeer, type LoginOptions } from './amqp-peer.ts'
import { type BrokerOptions, PASSWORD, type TestBroker, withBroker } from './broker.ts'

export interface AmqpBroker extends TestBroker {
  readonly amqpPort: number
  /** A client with its connection open and a channel 1, closed at the test's end. */
  client(login?: LoginOptions): Promise<AmqpClient>
}

/** A raw client that knows the questions tests ask most. */
export interface AmqpClient extends AmqpPeer {
  /** Declares a queue; its name. */
  queue(name: string, options?: QueueOptions): Promise<string>
  /** Declares an exchange. */
  exchange(name: string, type: string, options?: ExchangeOptions): Promise<void>
  bind(queue: string, exchange: string, routingKey: string): Promise<void>
  /**
   * Sends a method that must be refused, and what that closed, as in
   * `channel NOT_FOUND - no queue 'q' in vhost '/' (404, method 50.10)`. A channel is open again.
   */
  refused(method: ClientMethod): Promise<string>
  /** The same for whatever `send` sends. */
  refusal(send: () => void): Promise<string>
  /** basic.get with no_ack: the body, or undefined when the queue is empty. */
  get(queue: string): Promise<string | undefined>
}

type Arguments = Extract<ClientMethod, { name: 'queue.declare' }>['arguments']

interface QueueOptions {
  passive?: boolean
  durable?: boolean
  exclusive?: boolean
  autoDelete?: boolean
  arguments?: Arguments
}

interface ExchangeOptions {
  passive?: boolean
  durable?: boolean
  autoDelete?: boolean
  internal?: boolean
  arguments?: Arguments
}

export async function withAmqp(t: TestContext, options: BrokerOptions = {}): Promise<AmqpBroker> {
  const peers: AmqpPeer[] = []
  // Before the broker, which would wait for them to agree to its close.
  t.after(async () => {
    for (const peer of peers) await peer.close()
  })
  const broker = await withBroker(t, options)
  const amqpPort = Number(new URL(broker.doors['amqp']!).port)
  const client = async (login: LoginOptions = {}) => {
    const peer = await AmqpPeer.connect(amqpPort)
    peers.push(peer)
    await peer.login({ user: 'admin', password: PASSWORD, vhost: broker.vhost, ...login })
    await peer.openChannel(1)
    return Object.assign(peer, questions(peer))
  }
  return { ...broker, amqpPort, client }
}

export function declareQueue(name: string, options: QueueOptions = {}): ClientMethod {
  return {
    name: 'queue.declare',
    queue: name,
    passive: false,
    durable: true,
    exclusive: false,
    autoDelete: false,
    noWait: false,
    arguments: {},
    ...options,
  }
}

export function declareExchange(
  name: string,
  type: string,
  options: ExchangeOptions = {},
): ClientMethod {
  return {
    name: 'exchange.declare',
    exchange: name,
    type,
    passive: false,
    durable: true,
    autoDelete: false,
    internal: false,
    noWait: false,
    arguments: {},
    ...options,
  }
}

function questions(peer: AmqpPeer): Omit<AmqpClient, keyof AmqpPeer> {
  const refusal = async (send: () => void) => {
    send()
    const frame = await peer.next()
    assert(frame.kind === 'method', 'a method')
    const { method } = frame
    if (method.name === 'channel.close') {
      assert.equal(frame.channel, 1)
      peer.method(1, { name: 'channel.close-ok' })
      await peer.openChannel(1)
      return `channel ${closing(method)}`
    }
    assert.equal(method.name, 'connection.close', JSON.stringify(method satisfies ServerMethod))
    return `connection ${closing(method as Extract<ServerMethod, { name: 'connection.close' }>)}`
  }
  return {
    refusal,
    refused: (method) => refusal(() => peer.method(1, method)),
    async queue(name, options) {
      const { queue } = await peer.call(1, declareQueue(name, options), 'queue.declare-ok')
      return queue
    },
    async exchange(name, type, options) {
      await peer.call(1, declareExchange(name, type, options), 'exchange.declare-ok')
    },
    async bind(queue, exchange, routingKey) {
      const binding = { queue, exchange, routingKey, noWait: false, arguments: {} }
      await peer.call(1, { name: 'queue.bind', ...binding }, 'queue.bind-ok')
    },
    async get(queue) {
      peer.method(1, { name: 'basic.get', queue, noAck: true })
      const frame = await peer.next()
      assert(frame.kind === 'method')
      if (frame.method.name === 'basic.get-empty') return undefined
      assert.equal(frame.method.name, 'basic.get-ok')
      const header = await peer.next()
      assert(header.kind === 'header')
      let body = ''
      while (body.length < header.size) {
        const part = await peer.next()
        assert(part.kind === 'body')
        body += part.body.toString('latin1')
      }
      return body
    },
  }
}
