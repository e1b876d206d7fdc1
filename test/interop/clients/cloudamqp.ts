/** Scenarios through @cloudamqp/amqp-client, over TCP. */
import {
  type AMQPChannel,
  AMQPClient,
  type AMQPMessage,
  type AMQPProperties,
} from '@cloudamqp/amqp-client'
import {
  type Channel,
  type Client,
  type Connection,
  type ConsumeOptions,
  type Consumer,
  type Delivery,
  Mailbox,
  type Outgoing,
  present,
  type Received,
  Refused,
  type Returned,
  type Topology,
} from '../client.ts'

const EVERY_TYPE = {
  bool: true,
  int: -70_000,
  long: 5_000_000_000n,
  double: 0.1,
  timestamp: new Date(1_700_000_000_000),
  bytes: new Uint8Array([0, 255, 128]),
  text: 'grüße 漢字 🐇',
  nothing: null,
  list: [1, 'two', [3], { four: 4 }],
  table: { inner: { innermost: 'yes' } },
}

export const cloudamqp: Client = {
  async connect(url, { heartbeatSeconds = 0 } = {}) {
    const library = new AMQPClient(`${url}?heartbeat=${heartbeatSeconds}`, {}, null)
    const closed = Promise.withResolvers<Refused>()
    library.onerror = (error) => closed.resolve(refusal(error))
    library.ondisconnect = (error) => closed.resolve(refusal(error ?? new Error('closed')))
    await refusing(library.connect())
    return {
      channel: async () => openChannel(await refusing(library.channel())),
      close: () => library.close(),
      closed: closed.promise,
    } satisfies Connection
  },
}

function openChannel(library: AMQPChannel): Channel {
  const closed = Promise.withResolvers<Refused>()
  const returned = new Mailbox<Returned>()
  let confirming = false
  library.onerror = (reason) => closed.resolve(refusal(new Error(reason)))
  library.onReturn = (message) => returned.push(asReturned(message))
  return {
    closed: closed.promise,
    returned,
    close: () => refusing(library.close()),
    ...topology(library),
    async confirms() {
      await refusing(library.confirmSelect())
      confirming = true
    },
    publish: (message) => publish(library, confirming, message),
    qos: (count, { global = false } = {}) => refusing(library.basicQos(count, 0, global)),
    consume: (queue, options = {}) => consume(library, queue, options),
    async cancel(tag) {
      await refusing(library.basicCancel(tag))
    },
    async get(queue, { noAck = false } = {}) {
      const message = await refusing(library.basicGet(queue, { noAck }))
      return message ? { ...asDelivery(message), left: message.messageCount! } : undefined
    },
    ack: (tag, { multiple = false } = {}) => refusing(library.basicAck(tag, multiple)),
    nack: (tag, { multiple = false, requeue = false } = {}) =>
      refusing(library.basicNack(tag, requeue, multiple)),
    reject: (tag, { requeue = false } = {}) => refusing(library.basicReject(tag, requeue)),
    recover: () => refusing(library.basicRecover(true)),
    txSelect: () => refusing(library.txSelect()),
    txCommit: () => refusing(library.txCommit()),
    txRollback: () => refusing(library.txRollback()),
  }
}

function topology(library: AMQPChannel): Topology {
  return {
    async declareQueue(name, { arguments: args = {}, durable = false, ...options } = {}) {
      return state(await refusing(library.queueDeclare(name, { durable, ...options }, args)))
    },
    checkQueue: async (name) =>
      state(await refusing(library.queueDeclare(name, { passive: true }))),
    deleteQueue: async (name, options) =>
      (await refusing(library.queueDelete(name, { ifUnused: false, ...options }))).messageCount,
    purge: async (name) => (await refusing(library.queuePurge(name))).messageCount,
    declareExchange: (name, type, { arguments: args = {}, durable = false, ...options } = {}) =>
      refusing(library.exchangeDeclare(name, type, { durable, ...options }, args)),
    checkExchange: (name) => refusing(library.exchangeDeclare(name, '', { passive: true })),
    deleteExchange: (name, options) => refusing(library.exchangeDelete(name, options)),
    bind: (queue, exchange, key, args) => refusing(library.queueBind(queue, exchange, key, args)),
    unbind: (queue, exchange, key, args) =>
      refusing(library.queueUnbind(queue, exchange, key, args)),
    bindExchange: (to, from, key, args) => refusing(library.exchangeBind(to, from, key, args)),
    unbindExchange: (to, from, key, args) => refusing(library.exchangeUnbind(to, from, key, args)),
  }
}

async function publish(
  library: AMQPChannel,
  confirming: boolean,
  { exchange = '', routingKey, mandatory = false, properties = {}, body = '', everyType }: Outgoing,
): Promise<'acked' | 'nacked' | 'sent'> {
  const { headers, timestamp, ...rest } = properties
  const written: AMQPProperties = {
    ...rest,
    ...(timestamp !== undefined && { timestamp: new Date(timestamp * 1_000) }),
    ...((headers || everyType) && { headers: { ...headers, ...(everyType && EVERY_TYPE) } }),
  }
  try {
    await library.basicPublish(exchange, routingKey, Buffer.from(body), written, mandatory)
    return confirming ? 'acked' : 'sent'
  } catch (error) {
    if ((error as Error).message === 'Message rejected') return 'nacked'
    throw refusal(error)
  }
}

async function consume(
  library: AMQPChannel,
  queue: string,
  { tag = '', noAck = false, exclusive = false, arguments: args = {} }: ConsumeOptions,
): Promise<Consumer> {
  const deliveries = new Mailbox<Delivery>()
  const cancelled = Promise.withResolvers<void>()
  const consumer = await refusing(
    library.basicConsume(queue, { tag, noAck, exclusive, args }, (message) =>
      deliveries.push(asDelivery(message)),
    ),
  )
  // It ends well when the client cancels, and badly when the broker does or the channel closes.
  consumer.wait().catch((error: Error) => {
    if (error.message === 'Consumer cancelled by the server') cancelled.resolve()
  })
  return { tag: consumer.tag, deliveries, cancelled: cancelled.promise }
}

function asReceived({ exchange, routingKey, properties, body }: AMQPMessage): Received {
  return {
    exchange,
    routingKey,
    properties: present(properties),
    body: Buffer.from((body as Uint8Array | null) ?? []),
  }
}

function asDelivery(message: AMQPMessage): Delivery {
  const { deliveryTag: tag, redelivered } = message
  return { ...asReceived(message), tag, redelivered }
}

function asReturned(message: AMQPMessage): Returned {
  return { ...asReceived(message), code: message.replyCode!, text: message.replyText! }
}

function state(reply: { name: string; messageCount: number; consumerCount: number }) {
  const { name, messageCount: messages, consumerCount: consumers } = reply
  return { name, messages, consumers }
}

async function refusing<T>(work: Promise<T>): Promise<T> {
  try {
    return await work
  } catch (error) {
    throw refusal(error)
  }
}

/** `channel 1 closed: TEXT (404)`, within further words or not. */
function refusal(error: unknown): Refused {
  const { message } = error as Error
  const [, text, code] = /(?:channel \d+|connection) closed: (.*) \((\d+)\)$/s.exec(message) ?? []
  return new Refused(Number(code ?? 0), text ?? message)
}
