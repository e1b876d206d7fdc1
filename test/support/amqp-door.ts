/**
 * An embedding server for libs/amqp, as a test wants it: records what it is told, and does what the
 * test plugs in. It keeps no queues.
 */
import { once } from 'node:events'
import type { AddressInfo } from 'node:net'
import { createServer } from 'node:net'
import {
  type Channel,
  type ChannelHandler,
  type ChannelMethod,
  Connection,
  type ConnectionHandler,
  type ConnectionOptions,
  type Credentials,
  encodeMethod,
} from '@sluice/amqp'
import { AmqpPeer, type LoginOptions } from './amqp-peer.ts'

/** channel.close, as a client that has no complaint sends it. */
export const closeChannel = {
  name: 'channel.close',
  replyCode: 200,
  replyText: '',
  classId: 0,
  methodId: 0,
} as const
/** basic.publish to queue q, on channel 1. */
export const publishMethod = encodeMethod(1, {
  name: 'basic.publish',
  exchange: '',
  routingKey: 'q',
  mandatory: false,
  immediate: false,
})

interface DoorCall {
  readonly channel: number
  readonly what: string
  readonly args: readonly unknown[]
}

/** What a test may plug in; the rest accepts and does nothing. */
interface DoorScript {
  authenticate?(credentials: Credentials): Promise<boolean>
  open?(vhost: string): Promise<void>
  updateSecret?(secret: string): Promise<void>
  method?(channel: Channel, method: ChannelMethod): void | Promise<void>
  publish?(channel: Channel, routingKey: string, body: Buffer, properties: Buffer): void
  ack?(channel: Channel, deliveryTag: number, multiple: boolean): void
  settled?(): Promise<void> | undefined
  channelClosed?(channel: Channel): void | Promise<void>
  closed?(): void | Promise<void>
  writable?(): void
}

interface Scope {
  after(end: () => void | Promise<void>): void
}

export interface Door {
  readonly port: number
  /** Everything the handlers were told, in order. */
  readonly calls: DoorCall[]
  readonly connections: Connection[]
  readonly reported: unknown[]
  readonly hints: string[]
  /** A raw client of this door, closed at the test's end. */
  peer(): Promise<AmqpPeer>
  /** The same with its connection open, and a channel 1. */
  loggedIn(options?: LoginOptions): Promise<AmqpPeer>
}

/** Listens on a free port of the loopback until the test ends. */
export async function withDoor(
  t: Scope,
  script: DoorScript = {},
  options: Partial<ConnectionOptions> = {},
): Promise<Door> {
  const calls: DoorCall[] = []
  const connections: Connection[] = []
  const reported: unknown[] = []
  const hints: string[] = []
  const server = createServer((socket) => {
    socket.setNoDelay(true)
    const connection = new Connection(
      socket,
      {
        serverProperties: { product: 'Sluice', version: '0.1.0' },
        mechanisms: ['PLAIN', 'AMQPLAIN'],
        frameMax: 131_072,
        channelMax: 2047,
        heartbeatS: 60,
        messageBytesMax: 16 * 1024 * 1024,
        refusal: () => undefined,
        report: (error) => reported.push(error),
        hint: (what) => hints.push(what),
        failureDelayMs: 50,
        ...options,
      },
      () => handlerOf(script, calls),
    )
    connections.push(connection)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const peers: AmqpPeer[] = []
  t.after(async () => {
    for (const peer of peers) await peer.close()
    server.close()
    await Promise.all(connections.map(({ closed }) => closed))
  })
  const peer = async () => {
    const connected = await AmqpPeer.connect(port)
    peers.push(connected)
    return connected
  }
  const loggedIn = async (login?: LoginOptions) => {
    const connected = await peer()
    await connected.login(login)
    await connected.openChannel(1)
    return connected
  }
  return { port, calls, connections, reported, hints, peer, loggedIn }
}

function handlerOf(script: DoorScript, calls: DoorCall[]): ConnectionHandler {
  const call = (what: string, ...args: unknown[]) => calls.push({ channel: 0, what, args })
  return {
    authenticate: async (credentials) => {
      call('authenticate', credentials)
      return (await script.authenticate?.(credentials)) ?? true
    },
    open: async (vhost) => {
      call('open', vhost)
      await script.open?.(vhost)
    },
    updateSecret: async (secret) => {
      call('updateSecret', secret)
      await script.updateSecret?.(secret)
    },
    channel: (channel) => channelHandlerOf(channel, script, calls),
    writable: () => script.writable?.(),
    closed: async () => {
      call('closed')
      await script.closed?.()
    },
  }
}

function channelHandlerOf(channel: Channel, script: DoorScript, calls: DoorCall[]): ChannelHandler {
  const call = (what: string, ...args: unknown[]) => calls.push({ channel: channel.id, what, args })
  call('channel')
  return {
    method: (method) => {
      call(method.name, method)
      return script.method?.(channel, method)
    },
    publish: (exchange, routingKey, mandatory, immediate, properties, body) => {
      call('publish', exchange, routingKey, mandatory, immediate, body.length)
      script.publish?.(channel, routingKey, body, properties)
    },
    ack: (deliveryTag, multiple) => {
      call('ack', deliveryTag, multiple)
      script.ack?.(channel, deliveryTag, multiple)
    },
    nack: (deliveryTag, multiple, requeue) => {
      call('nack', deliveryTag, multiple, requeue)
    },
    settled: () => script.settled?.(),
    closed: async () => {
      call('channel closed')
      await script.channelClosed?.(channel)
    },
  }
}

/** What a connection.close or channel.close says, as one line. */
export function closing(method: {
  replyCode: number
  replyText: string
  classId: number
  methodId: number
}): string {
  return `${method.replyText} (${method.replyCode}, method ${method.classId}.${method.methodId})`
}
