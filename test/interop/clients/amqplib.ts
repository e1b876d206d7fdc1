/** Scenarios through amqplib, the promise API. */
import {
  type ChannelModel,
  type ConfirmChannel,
  connect,
  type GetMessage,
  type Channel as LibraryChannel,
  type Message,
} from 'amqplib'
import {
  type Channel,
  type Client,
  type Connection,
  type Consumer,
  type Delivery,
  lacks,
  Mailbox,
  type Outgoing,
  present,
  type Received,
  Refused,
  type Returned,
  type Topology,
} from '../client.ts'

/** In amqplib's notation, which can force a type: { '!': type, value }. */
const EVERY_TYPE = {
  bool: true,
  byte: { '!': 'byte', value: -5 },
  short: { '!': 'short', value: -300 },
  int: { '!': 'int', value: -70_000 },
  long: { '!': 'long', value: 5_000_000_000 },
  float: { '!': 'float', value: 0.5 },
  double: { '!': 'double', value: 0.1 },
  decimal: { '!': 'decimal', value: { digits: 12_345, places: 2 } },
  timestamp: { '!': 'timestamp', value: 1_700_000_000 },
  bytes: Buffer.from([0, 255, 128]),
  text: 'grüße 漢字 🐇',
  nothing: null,
  list: [1, 'two', [3], { four: 4 }],
  table: { inner: { innermost: 'yes' } },
}

export const amqplib: Client = {
  async connect(url, { heartbeatSeconds = 0 } = {}) {
    const model = await refusing(connect(`${url}?heartbeat=${heartbeatSeconds}`))
    const closed = Promise.withResolvers<Refused>()
    model.on('error', (error) => closed.resolve(refusal(error)))
    model.on('close', (error) => closed.resolve(refusal(error ?? new Error('closed'))))
    return {
      channel: () => openChannel(model),
      close: () => model.close(),
      closed: closed.promise,
    } satisfies Connection
  },
}

/**
 * amqplib decides on confirms when it opens a channel, so a second channel is opened when a
 * scenario asks for them, and everything goes over that one from then on.
 */
async function openChannel(model: ChannelModel): Promise<Channel> {
  const closed = Promise.withResolvers<Refused>()
  const returned = new Mailbox<Returned>()
  const adopt = <C extends LibraryChannel>(channel: C): C => {
    channel.on('error', (error) => closed.resolve(refusal(error)))
    channel.on('close', () => setImmediate(() => closed.resolve(new Refused(0, 'closed'))))
    channel.on('return', (message) => returned.push(asReturned(message)))
    return channel
  }
  let plain = adopt(await refusing(model.createChannel()))
  let confirming: ConfirmChannel | undefined
  const settle = (tag: number) => ({ fields: { deliveryTag: tag } }) as Message
  return {
    closed: closed.promise,
    returned,
    close: () => refusing(plain.close()),
    ...topology(() => plain),
    async confirms() {
      confirming = adopt(await refusing(model.createConfirmChannel()))
      plain = confirming
    },
    publish: (message) => publish(plain, confirming, message),
    async qos(count, { global = false } = {}) {
      await refusing(plain.prefetch(count, global))
    },
    consume: async (queue, options = {}) => consume(plain, queue, options),
    async cancel(tag) {
      await refusing(plain.cancel(tag))
    },
    async get(queue, options = {}) {
      const message = await refusing(plain.get(queue, options))
      return message ? { ...asDelivery(message), left: message.fields.messageCount } : undefined
    },
    async ack(tag, { multiple = false } = {}) {
      plain.ack(settle(tag), multiple)
    },
    async nack(tag, { multiple = false, requeue = false } = {}) {
      plain.nack(settle(tag), multiple, requeue)
    },
    async reject(tag, { requeue = false } = {}) {
      plain.reject(settle(tag), requeue)
    },
    async recover() {
      await refusing(plain.recover())
    },
    txSelect: async () => lacks('transactions'),
    txCommit: async () => lacks('transactions'),
    txRollback: async () => lacks('transactions'),
  }
}

function topology(channel: () => LibraryChannel): Topology {
  return {
    async declareQueue(name, { durable = false, ...options } = {}) {
      return state(await refusing(channel().assertQueue(name, { durable, ...options })))
    },
    checkQueue: async (name) => state(await refusing(channel().checkQueue(name))),
    deleteQueue: async (name, options) =>
      (await refusing(channel().deleteQueue(name, options))).messageCount,
    purge: async (name) => (await refusing(channel().purgeQueue(name))).messageCount,
    async declareExchange(name, type, { durable = false, ...options } = {}) {
      await refusing(channel().assertExchange(name, type, { durable, ...options }))
    },
    async checkExchange(name) {
      await refusing(channel().checkExchange(name))
    },
    async deleteExchange(name, options) {
      await refusing(channel().deleteExchange(name, options))
    },
    async bind(queue, exchange, key, args) {
      await refusing(channel().bindQueue(queue, exchange, key, args))
    },
    async unbind(queue, exchange, key, args) {
      await refusing(channel().unbindQueue(queue, exchange, key, args))
    },
    async bindExchange(to, from, key, args) {
      await refusing(channel().bindExchange(to, from, key, args))
    },
    async unbindExchange(to, from, key, args) {
      await refusing(channel().unbindExchange(to, from, key, args))
    },
  }
}

async function publish(
  plain: LibraryChannel,
  confirming: ConfirmChannel | undefined,
  { exchange = '', routingKey, mandatory = false, properties = {}, body = '', everyType }: Outgoing,
): Promise<'acked' | 'nacked' | 'sent'> {
  const { headers, deliveryMode, ...rest } = properties
  const options = {
    ...rest,
    mandatory,
    headers: { ...headers, ...(everyType && EVERY_TYPE) },
    ...(deliveryMode !== undefined && { deliveryMode }),
  }
  if (confirming === undefined) {
    plain.publish(exchange, routingKey, Buffer.from(body), options)
    return 'sent'
  }
  return new Promise((resolve, reject) => {
    confirming.publish(exchange, routingKey, Buffer.from(body), options, (error) => {
      if (!error) resolve('acked')
      else if (error.message === 'message nacked') resolve('nacked')
      else reject(refusal(error))
    })
  })
}

async function consume(
  channel: LibraryChannel,
  queue: string,
  {
    tag,
    noAck = false,
    exclusive = false,
    arguments: args,
  }: Parameters<Channel['consume']>[1] & {},
): Promise<Consumer> {
  const deliveries = new Mailbox<Delivery>()
  const cancelled = Promise.withResolvers<void>()
  const { consumerTag } = await refusing(
    channel.consume(
      queue,
      (message) => (message ? deliveries.push(asDelivery(message)) : cancelled.resolve()),
      { noAck, exclusive, arguments: args, ...(tag !== undefined && { consumerTag: tag }) },
    ),
  )
  return { tag: consumerTag, deliveries, cancelled: cancelled.promise }
}

function asReceived({ fields, properties, content }: Message): Received {
  return {
    exchange: fields.exchange,
    routingKey: fields.routingKey,
    properties: present({ ...properties }),
    body: content,
  }
}

function asDelivery(message: Message | GetMessage): Delivery {
  const { deliveryTag: tag, redelivered } = message.fields
  return { ...asReceived(message), tag, redelivered }
}

function asReturned(message: Message): Returned {
  const { replyCode: code, replyText: text } = message.fields as unknown as {
    replyCode: number
    replyText: string
  }
  return { ...asReceived(message), code, text }
}

function state({
  queue,
  messageCount,
  consumerCount,
}: {
  queue: string
  messageCount: number
  consumerCount: number
}) {
  return { name: queue, messages: messageCount, consumers: consumerCount }
}

async function refusing<T>(work: PromiseLike<T>): Promise<T> {
  try {
    return await work
  } catch (error) {
    throw refusal(error)
  }
}

function refusal(error: unknown): Refused {
  const { message, code } = error as Error & { code?: number | string }
  const text = /with message "(.*)"$/s.exec(message)?.[1] ?? message
  return new Refused(typeof code === 'number' ? code : 0, text)
}
