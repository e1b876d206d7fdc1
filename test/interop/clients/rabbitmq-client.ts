/** Scenarios through rabbitmq-client, its channel API. */
import {
  type Channel as LibraryChannel,
  Connection as LibraryConnection,
  type ReturnedMessage,
  type SyncMessage,
} from 'rabbitmq-client'
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

/** Its numbers take the narrowest type that holds them. */
const EVERY_TYPE = {
  bool: true,
  byte: -5,
  short: -300,
  int: -70_000,
  long: 5_000_000_000,
  double: 0.1,
  text: 'grüße 漢字 🐇',
  nothing: null,
  list: [1, 'two', [3], { four: 4 }],
  table: { inner: { innermost: 'yes' } },
}

/** The library names reply codes. */
const CODES: Readonly<Record<string, number>> = {
  NACK: 1,
  CONTENT_TOO_LARGE: 311,
  CONNECTION_FORCED: 320,
  ACCESS_REFUSED: 403,
  NOT_FOUND: 404,
  RESOURCE_LOCKED: 405,
  PRECONDITION_FAILED: 406,
  FRAME_ERROR: 501,
  SYNTAX_ERROR: 502,
  COMMAND_INVALID: 503,
  CHANNEL_ERROR: 504,
  UNEXPECTED_FRAME: 505,
  NOT_ALLOWED: 530,
  NOT_IMPLEMENTED: 540,
  INTERNAL_ERROR: 541,
}

export const rabbitmqClient: Client = {
  async connect(url, { heartbeatSeconds = 0 } = {}) {
    const library = new LibraryConnection({ url, heartbeat: heartbeatSeconds, retryLow: 10_000 })
    const closed = Promise.withResolvers<Refused>()
    let lost = false
    library.on('error', (error) => {
      lost = true
      closed.resolve(refusal(error))
    })
    await Promise.race([
      library.onConnect(10_000),
      closed.promise.then((why) => {
        library.unsafeDestroy()
        throw why
      }),
    ])
    const channels: LibraryChannel[] = []
    return {
      async channel() {
        const channel = await refusing(library.acquire({ emitErrorsFromChannel: true }))
        channels.push(channel)
        return openChannel(channel)
      },
      async close() {
        if (lost) return library.unsafeDestroy() // it would connect again first
        for (const channel of channels) await channel.close() // else it waits for them
        await library.close()
      },
      closed: closed.promise,
    } satisfies Connection
  },
}

function openChannel(library: LibraryChannel): Channel {
  const closed = Promise.withResolvers<Refused>()
  const returned = new Mailbox<Returned>()
  const cancelled = new Map<string, () => void>()
  let confirming = false
  library.on('error', (error) => closed.resolve(refusal(error)))
  library.on('close', () => setImmediate(() => closed.resolve(new Refused(0, 'closed'))))
  library.on('basic.return', (message) => returned.push(asReturned(message)))
  library.on('basic.cancel', (tag) => cancelled.get(tag)?.())
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
    qos: (prefetchCount, { global = false } = {}) =>
      refusing(library.basicQos({ prefetchCount, global })),
    consume: (queue, options = {}) => consume(library, cancelled, queue, options),
    async cancel(tag) {
      await refusing(library.basicCancel(tag))
    },
    async get(queue, options = {}) {
      const message = await refusing(library.basicGet({ queue, ...options }))
      return message && { ...asDelivery(message), left: message.messageCount }
    },
    async ack(deliveryTag, { multiple = false } = {}) {
      library.basicAck({ deliveryTag, multiple })
    },
    async nack(deliveryTag, { multiple = false, requeue = false } = {}) {
      library.basicNack({ deliveryTag, multiple, requeue })
    },
    async reject(deliveryTag, { requeue = false } = {}) {
      library.basicNack({ deliveryTag, requeue }) // it has no other word for it
    },
    recover: () => refusing(library.basicRecover({ requeue: true })),
    txSelect: () => refusing(library.txSelect()),
    txCommit: () => refusing(library.txCommit()),
    txRollback: () => refusing(library.txRollback()),
  }
}

function topology(library: LibraryChannel): Topology {
  return {
    declareQueue: async (queue, options) =>
      state(await refusing(library.queueDeclare({ queue, ...options }))),
    checkQueue: async (queue) =>
      state(await refusing(library.queueDeclare({ queue, passive: true }))),
    deleteQueue: async (queue, options) =>
      (await refusing(library.queueDelete({ queue, ...options }))).messageCount,
    purge: async (queue) => (await refusing(library.queuePurge({ queue }))).messageCount,
    declareExchange: (exchange, type, options) =>
      refusing(library.exchangeDeclare({ exchange, type, ...options })),
    checkExchange: (exchange) => refusing(library.exchangeDeclare({ exchange, passive: true })),
    deleteExchange: (exchange, options) =>
      refusing(library.exchangeDelete({ exchange, ...options })),
    bind: (queue, exchange, routingKey, args) =>
      refusing(library.queueBind({ queue, exchange, routingKey, ...argumentsOf(args) })),
    unbind: (queue, exchange, routingKey, args) =>
      refusing(library.queueUnbind({ queue, exchange, routingKey, ...argumentsOf(args) })),
    bindExchange: (destination, source, routingKey, args) =>
      refusing(library.exchangeBind({ destination, source, routingKey, ...argumentsOf(args) })),
    unbindExchange: (destination, source, routingKey, args) =>
      refusing(library.exchangeUnbind({ destination, source, routingKey, ...argumentsOf(args) })),
  }
}

function argumentsOf(args: Parameters<Channel['bind']>[3]) {
  return args === undefined ? {} : { arguments: args }
}

async function publish(
  library: LibraryChannel,
  confirming: boolean,
  { exchange = '', routingKey, mandatory = false, properties = {}, body = '', everyType }: Outgoing,
): Promise<'acked' | 'nacked' | 'sent'> {
  const { headers, deliveryMode, ...rest } = properties
  const envelope = {
    ...rest,
    exchange,
    routingKey,
    mandatory,
    durable: deliveryMode === 2,
    ...((headers || everyType) && { headers: { ...headers, ...(everyType && EVERY_TYPE) } }),
  }
  try {
    await refusing(library.basicPublish(envelope, Buffer.from(body)))
    return confirming ? 'acked' : 'sent'
  } catch (error) {
    if ((error as Refused).code === CODES['NACK']) return 'nacked'
    throw error
  }
}

async function consume(
  library: LibraryChannel,
  cancels: Map<string, () => void>,
  queue: string,
  { tag, noAck = false, exclusive = false, arguments: args }: ConsumeOptions,
): Promise<Consumer> {
  const deliveries = new Mailbox<Delivery>()
  const cancelled = Promise.withResolvers<void>()
  const { consumerTag } = await refusing(
    library.basicConsume(
      {
        queue,
        noAck,
        exclusive,
        ...(tag !== undefined && { consumerTag: tag }),
        ...(args && { arguments: args }),
      },
      (message) => deliveries.push(asDelivery(message)),
    ),
  )
  cancels.set(consumerTag, cancelled.resolve)
  return { tag: consumerTag, deliveries, cancelled: cancelled.promise }
}

type LibraryMessage = Omit<SyncMessage, 'messageCount'>

function asReceived(message: Omit<LibraryMessage, 'deliveryTag' | 'redelivered'>): Received {
  const { exchange, routingKey, body, ...rest } = message
  const {
    // What is no property.
    consumerTag: _tag,
    deliveryTag: _delivery,
    redelivered: _redelivered,
    messageCount: _left,
    replyCode: _code,
    replyText: _text,
    durable: _durable,
    // It dates whatever has no date.
    timestamp,
    ...properties
  } = rest as Record<string, unknown>
  return {
    exchange,
    routingKey,
    properties: present({ ...properties, ...(isPast(timestamp) && { timestamp }) }),
    body: asBytes(body),
  }
}

function isPast(timestamp: unknown): boolean {
  return typeof timestamp === 'number' && timestamp < Date.now() / 1_000 - 86_400
}

/** It decodes bodies whose content type it knows. */
function asBytes(body: unknown): Buffer {
  if (Buffer.isBuffer(body)) return body
  return Buffer.from(typeof body === 'string' ? body : JSON.stringify(body))
}

function asDelivery(message: LibraryMessage): Delivery {
  const { deliveryTag: tag, redelivered } = message
  return { ...asReceived(message), tag, redelivered }
}

function asReturned(message: ReturnedMessage): Returned {
  return { ...asReceived(message), code: message.replyCode, text: message.replyText }
}

function state(reply: { queue: string; messageCount: number; consumerCount: number }) {
  const { queue: name, messageCount: messages, consumerCount: consumers } = reply
  return { name, messages, consumers }
}

async function refusing<T>(work: Promise<T>): Promise<T> {
  try {
    return await work
  } catch (error) {
    throw refusal(error)
  }
}

/** Its texts begin with the method that failed. */
function refusal(error: unknown): Refused {
  const { message, code } = error as Error & { code?: string }
  return new Refused(CODES[code ?? ''] ?? 0, message.replace(/^(?:[A-Z][A-Za-z]+|undefined): /, ''))
}
