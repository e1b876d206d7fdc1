/**
 * Libraries that connect again by themselves: the socket is cut while a message is held and
 * unsettled; it comes back redelivered, and publishing goes on.
 */
import { AMQPSession } from '@cloudamqp/amqp-client'
import { connect as connectManaged } from 'amqp-connection-manager'
import { type ChannelModel, type ConsumeMessage, connect } from 'amqplib'
import { Connection, ConsumerStatus } from 'rabbitmq-client'
import { type TcpProxy, tcpProxy } from '../../support/tcp-proxy.ts'
import { type Json, Mailbox } from '../client.ts'
import type { Program } from '../suites.ts'

interface Seen {
  readonly body: string
  readonly redelivered: boolean
}

/** A library's part: consume from `queue`, holding what is first, and publish with confirms. */
interface Recovering {
  /** Resolves once the broker has confirmed. */
  publish(body: string): Promise<unknown>
  readonly seen: Mailbox<Seen>
  close(): Promise<void>
}

function recovery(open: (url: string, queue: string) => Promise<Recovering>): Program {
  return async (url, name) => {
    const proxy = await tcpProxy(Number(new URL(url).port))
    try {
      return await story(proxy, await open(through(url, proxy), name('recovery')))
    } finally {
      await proxy.close()
    }
  }
}

async function story(proxy: TcpProxy, { publish, seen, close }: Recovering): Promise<Json> {
  await publish('before')
  const first = await seen.next()
  proxy.reset()
  const again = await seen.next()
  await publish('after')
  const last = await seen.next()
  await close()
  return [first, again, last].map(({ body, redelivered }) => ({ body, redelivered }))
}

function through(url: string, proxy: TcpProxy): string {
  const address = new URL(url)
  address.port = String(proxy.port)
  return address.href
}

export const amqplibRecovery = recovery(async (url, queue) => {
  const seen = new Mailbox<Seen>()
  const model = await connect(`${url}?heartbeat=5`, {
    recovery: {
      initialDelay: 50,
      async setup(own: ChannelModel) {
        const channel = await own.createChannel()
        channel.on('error', () => {})
        await channel.assertQueue(queue, { durable: true })
        await channel.consume(queue, (message: ConsumeMessage | null) => {
          if (message === null) return
          const { redelivered } = message.fields
          const body = message.content.toString()
          seen.push({ body, redelivered })
          if (redelivered || body !== 'before') channel.ack(message)
        })
      },
    },
  })
  model.on('error', () => {})
  return {
    seen,
    async publish(body) {
      const channel = await model.createConfirmChannel()
      channel.on('error', () => {})
      channel.sendToQueue(queue, Buffer.from(body), { persistent: true })
      await channel.waitForConfirms()
    },
    close: () => model.close(),
  }
})

export const managed = recovery(async (url, queue) => {
  const seen = new Mailbox<Seen>()
  const connection = connectManaged(url, { reconnectTimeInSeconds: 0.1 })
  const channel = connection.createChannel({
    setup: async (own: { assertQueue(queue: string, options: object): Promise<unknown> }) => {
      await own.assertQueue(queue, { durable: true })
    },
  })
  channel.on('error', () => {})
  await channel.waitForConnect()
  await channel.consume(queue, (message) => {
    const { redelivered } = message.fields
    const body = message.content.toString()
    seen.push({ body, redelivered })
    if (redelivered || body !== 'before') channel.ack(message)
  })
  return {
    seen,
    publish: (body) => channel.sendToQueue(queue, Buffer.from(body), { persistent: true }),
    async close() {
      await channel.close()
      await connection.close()
    },
  }
})

export const rabbitmqClientRecovery = recovery(async (url, queue) => {
  const seen = new Mailbox<Seen>()
  const connection = new Connection({ url, retryLow: 50 })
  connection.on('error', () => {})
  const consumer = connection.createConsumer(
    { queue, queueOptions: { durable: true }, qos: { prefetchCount: 5 } },
    async ({ body, redelivered }) => {
      const text = String(body)
      seen.push({ body: text, redelivered })
      if (text === 'before' && !redelivered)
        await new Promise((resolve) => setTimeout(resolve, 500))
      return ConsumerStatus.ACK
    },
  )
  consumer.on('error', () => {})
  const publisher = connection.createPublisher({
    confirm: true,
    maxAttempts: 3,
    queues: [{ queue, durable: true }],
  })
  return {
    seen,
    publish: (body) => publisher.send({ routingKey: queue, durable: true }, body),
    async close() {
      await publisher.close()
      await consumer.close()
      await connection.close()
    },
  }
})

export const cloudamqpRecovery = recovery(async (url, name) => {
  const seen = new Mailbox<Seen>()
  const session = await AMQPSession.connect(url, { reconnectInterval: 50, logger: null })
  const queue = await session.queue(name, { durable: true })
  await queue.subscribe({ manualAck: true }, async (message) => {
    const body = message.bodyString() ?? ''
    seen.push({ body, redelivered: message.redelivered })
    if (message.redelivered || body !== 'before') await message.ack()
  })
  return {
    seen,
    publish: (body) => queue.publish(Buffer.from(body), { confirm: true, deliveryMode: 2 }),
    close: () => session.stop(),
  }
})
