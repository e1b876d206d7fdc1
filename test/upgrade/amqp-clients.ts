/** The same over AMQP, by a client library that does not connect again by itself. */
import { setTimeout as sleep } from 'node:timers/promises'
import { type ChannelModel, type ConfirmChannel, type ConsumeMessage, connect } from 'amqplib'
import { PASSWORD } from '../support/http.ts'
import type { PublishOptions } from './clients.ts'
import { isPoison, type Ledger } from './ledger.ts'

const PREFETCH = 10
/** Before another try to connect. */
const AGAIN_MS = 50
/** How a process ends connections when it stops. */
const CONNECTION_FORCED = 320
/** And those that have only just begun. */
const CUT_SHORT = /during opening handshake|ECONNRESET/

interface Session {
  readonly connection: ChannelModel
  readonly channel: ConfirmChannel
  /** False, once it is. */
  readonly closed: Promise<false>
  isClosed(): boolean
}

/** A connection with one channel; another one when it was closed. */
class Connection {
  readonly #port: number
  readonly #vhost: string
  readonly #ledger: Ledger
  #session: Promise<Session | undefined> | undefined
  #ended = false

  constructor(port: number, vhost: string, ledger: Ledger) {
    this.#port = port
    this.#vhost = vhost
    this.#ledger = ledger
  }

  /** Does not connect again, nor complain. */
  abandon(): void {
    this.#ended = true
  }

  /** Undefined once it has ended. */
  session(): Promise<Session | undefined> {
    this.#session ??= this.#connect()
    return this.#session
  }

  async close(): Promise<void> {
    this.#ended = true
    const session = await this.#session
    await session?.connection.close().catch(() => {}) // it was closed meanwhile
  }

  async #connect(): Promise<Session | undefined> {
    const place = { hostname: '127.0.0.1', port: this.#port, vhost: this.#vhost }
    while (!this.#ended) {
      const closing = Promise.withResolvers<false>()
      let isClosed = false
      try {
        const connection = await connect({ ...place, username: 'admin', password: PASSWORD })
        connection.on('error', (error) => this.#failed(error))
        connection.once('close', () => {
          isClosed = true
          closing.resolve(false)
        })
        const channel = await connection.createConfirmChannel()
        channel.on('error', (error) => this.#failed(error))
        connection.once('close', () => {
          this.#session = undefined
        })
        return { connection, channel, closed: closing.promise, isClosed: () => isClosed }
      } catch (error) {
        await sleep(AGAIN_MS) // the reason may come behind its effect
        if (!isClosed && !CUT_SHORT.test(String(error))) this.#failed(error)
      }
    }
    return undefined
  }

  #failed(error: unknown): void {
    const forced = error instanceof Error && 'code' in error && error.code === CONNECTION_FORCED
    if (!forced && !this.#ended) this.#ledger.complain(`amqp: ${error}`)
  }
}

export class AmqpPublisher {
  readonly #connection: Connection
  readonly #ledger: Ledger

  constructor(port: number, vhost: string, ledger: Ledger) {
    this.#connection = new Connection(port, vhost, ledger)
    this.#ledger = ledger
  }

  /** See `Publish`. What may have been stored is not sent again: it would come twice. */
  async publish(
    exchange: string,
    routingKey: string,
    body: string,
    { orderingKey, delayMs }: PublishOptions,
  ): Promise<boolean> {
    const session = await this.#connection.session()
    if (!session) return false
    const { channel, closed } = session
    const headers = {
      ...(orderingKey !== undefined && { 'x-ordering-key': orderingKey }),
      ...(delayMs !== undefined && { 'x-delay': delayMs }),
    }
    const options = { contentType: 'text/plain', headers }
    const confirmed = new Promise<boolean>((resolve) => {
      const answer = (error: unknown) => {
        if (String(error).includes('nack')) this.#ledger.complain(`${body} was refused`)
        resolve(error === null)
      }
      try {
        const name = exchange === 'amq.default' ? '' : exchange
        channel.publish(name, routingKey, Buffer.from(body), options, answer)
      } catch {
        resolve(false) // it is closing
      }
    })
    return Promise.race([confirmed, closed])
  }

  close(): Promise<void> {
    return this.#connection.close()
  }

  abandon(): void {
    this.#connection.abandon()
  }
}

/** Consumes from several queues over one channel. */
export class AmqpConsumer {
  readonly #connection: Connection
  readonly #queues: readonly string[]
  readonly #ledger: Ledger
  readonly #running: Promise<void>
  #tags: readonly string[] = []

  constructor(port: number, vhost: string, queues: readonly string[], ledger: Ledger) {
    this.#connection = new Connection(port, vhost, ledger)
    this.#queues = queues
    this.#ledger = ledger
    this.#running = this.#run()
  }

  async close(): Promise<void> {
    const session = await this.#connection.session()
    const cancelled = this.#tags.map((tag) => session?.channel.cancel(tag))
    await Promise.all(cancelled).catch(() => {}) // it was closed meanwhile
    await this.#connection.close()
    await this.#running
  }

  abandon(): void {
    this.#connection.abandon()
  }

  async #run(): Promise<void> {
    for (;;) {
      const session = await this.#connection.session()
      if (!session) return
      await this.#consume(session.channel).catch(async (error) => {
        await sleep(AGAIN_MS) // the reason may come behind its effect
        if (!session.isClosed()) this.#ledger.complain(`amqp consumers: ${error}`)
      })
      await session.closed
    }
  }

  async #consume(channel: ConfirmChannel): Promise<void> {
    await channel.prefetch(PREFETCH)
    const consumers = this.#queues.map((queue) =>
      channel.consume(queue, (message) => {
        if (message) this.#work(channel, message)
        else this.#ledger.complain(`amqp consumer of ${queue} was cancelled`)
      }),
    )
    this.#tags = (await Promise.all(consumers)).map(({ consumerTag }) => consumerTag)
  }

  #work(channel: ConfirmChannel, message: ConsumeMessage): void {
    const body = message.content.toString()
    this.#ledger.came(body, message.fields.redelivered)
    try {
      if (isPoison(body)) channel.nack(message)
      else channel.ack(message)
    } catch {} // the channel is closing: it comes again
  }
}
