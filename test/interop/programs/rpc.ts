/** Calls and answers, in the words of libraries that have some for them. */
import { AMQPSession } from '@cloudamqp/amqp-client'
import { connect } from 'amqp-connection-manager'
import type { Channel } from 'amqplib'
import { Connection } from 'rabbitmq-client'
import { Mailbox } from '../client.ts'
import type { Program } from '../suites.ts'

export const rabbitmqClientRpc: Program = async (url, name) => {
  const connection = new Connection(url)
  const queue = name('rpc')
  const server = connection.createConsumer(
    { queue, queueOptions: { autoDelete: true } },
    async ({ body }, reply) => reply(`answer to ${body}`),
  )
  await new Promise<void>((resolve) => server.once('ready', () => resolve()))
  const client = connection.createRPCClient({ confirm: true })
  const answers = await Promise.all(['1', '2', '3'].map((n) => client.send(queue, n)))
  await client.close()
  await server.close()
  await connection.close()
  return answers.map(({ body }) => String(body))
}

export const cloudamqpRpc: Program = async (url, name) => {
  const session = await AMQPSession.connect(url, { logger: null })
  const queue = name('rpc')
  await session.queue(queue, { durable: false })
  await session.rpcServer(queue, ({ body }) => `answer to ${Buffer.from(body as Uint8Array)}`)
  const answers = await Promise.all(
    ['1', '2', '3'].map((n) => session.rpcCall(queue, Buffer.from(n), { timeout: 5_000 })),
  )
  const texts = answers.map((answer) => answer.bodyString())
  await session.stop()
  return texts
}

/** What is published while there is no connection waits in the library and goes out later. */
export const managedQueueing: Program = async (url, name) => {
  const queue = name('queueing')
  const connection = connect(url, { reconnectTimeInSeconds: 0.1 })
  const channel = connection.createChannel({ json: true })
  const early = channel.sendToQueue(queue, { n: 1 })
  await channel.addSetup(async (own: Channel) => {
    await own.assertQueue(queue, { durable: true })
    await own.assertExchange('amq.topic', 'topic')
    await own.bindQueue(queue, 'amq.topic', `${queue}.#`)
  })
  const routed = channel.publish('amq.topic', `${queue}.a`, { n: 2 })
  const seen = new Mailbox<string>()
  await channel.consume(queue, (message) => {
    seen.push(message.content.toString())
    channel.ack(message)
  })
  await routed
  // Sent before the queue was there, it may have gone nowhere; it was confirmed all the same.
  const confirmed = await early
  let last = await seen.next()
  if (last === '{"n":1}') last = await seen.next()
  await channel.close()
  await connection.close()
  return { confirmed, last }
}
