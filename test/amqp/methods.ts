/** Methods that clients send, with what most tests leave at its default. */
import type { ClientMethod, Table } from '@sluice/amqp'
import type { AmqpBroker, AmqpClient } from '../support/amqp-broker.ts'

export interface ConsumeOptions {
  readonly tag?: string
  readonly noAck?: boolean
  readonly exclusive?: boolean
  readonly arguments?: Table
}

export function consume(queue: string, options: ConsumeOptions = {}): ClientMethod {
  return {
    name: 'basic.consume',
    queue,
    consumerTag: options.tag ?? '',
    noLocal: false,
    noAck: options.noAck ?? false,
    exclusive: options.exclusive ?? false,
    noWait: false,
    arguments: options.arguments ?? {},
  }
}

/** Starts a consumer; its tag. */
export async function consuming(
  client: AmqpClient,
  queue: string,
  options: ConsumeOptions & { readonly channel?: number } = {},
): Promise<string> {
  const { channel = 1 } = options
  const { consumerTag } = await client.call(channel, consume(queue, options), 'basic.consume-ok')
  return consumerTag
}

export const cancel = (consumerTag: string): ClientMethod => ({
  name: 'basic.cancel',
  consumerTag,
  noWait: false,
})

export const get = (queue: string, noAck = false): ClientMethod => ({
  name: 'basic.get',
  queue,
  noAck,
})

export const qos = (prefetchCount: number, global = false, prefetchSize = 0): ClientMethod => ({
  name: 'basic.qos',
  prefetchSize,
  prefetchCount,
  global,
})

export const ack = (deliveryTag: number, multiple = false): ClientMethod => ({
  name: 'basic.ack',
  deliveryTag,
  multiple,
})

export const nack = (deliveryTag: number, requeue: boolean, multiple = false): ClientMethod => ({
  name: 'basic.nack',
  deliveryTag,
  multiple,
  requeue,
})

export const reject = (deliveryTag: number, requeue: boolean): ClientMethod => ({
  name: 'basic.reject',
  deliveryTag,
  requeue,
})

export const deleteQueue = (queue: string, options: Table = {}): ClientMethod => ({
  name: 'queue.delete',
  queue,
  ifUnused: options['ifUnused'] === true,
  ifEmpty: options['ifEmpty'] === true,
  noWait: false,
})

/** Puts the channel into confirm mode. */
export async function confirming(client: AmqpClient, channel = 1): Promise<void> {
  await client.call(channel, { name: 'confirm.select', noWait: false }, 'confirm.select-ok')
}

/** Publishes to a queue, and waits until each is stored; needs confirm mode. */
export async function store(
  client: AmqpClient,
  queue: string,
  bodies: readonly string[],
  properties: Parameters<AmqpClient['publish']>[4] = {},
): Promise<void> {
  for (const body of bodies) {
    client.publish(1, '', queue, body, properties)
    await client.expect('basic.ack', 1)
  }
}

/** The next deliveries: bodies, each marked with `!` when it is redelivered. */
export async function deliveries(client: AmqpClient, count: number): Promise<string[]> {
  const bodies: string[] = []
  while (bodies.length < count) {
    const { body, method } = await client.message('basic.deliver')
    bodies.push(`${body}${method.redelivered ? '!' : ''}`)
  }
  return bodies
}

/** What the client has sent so far is done with; only deliveries may still come of it. */
export async function settled(client: AmqpClient, channel = 1): Promise<void> {
  await client.call(channel, qos(0, true), 'basic.qos-ok')
}

export const numbers = (from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, i) => String(from + i))

/** A client in confirm mode with a queue that holds the numbers 1 to `count`. */
export async function withNumbers(
  broker: AmqpBroker,
  count: number,
  args = {},
): Promise<AmqpClient> {
  const peer = await broker.client()
  await peer.queue('q', { arguments: args })
  await confirming(peer)
  await store(peer, 'q', numbers(1, count))
  return peer
}
