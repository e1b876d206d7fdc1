/**
 * Publishers and consumers over AMQP, with a client library that people use.
 *
 * An acknowledgement has no answer in AMQP, so what was acknowledged may have been settled; what
 * was not confirmed may have been stored. Connections end on purpose, in order or abruptly, and by
 * faults.
 */
import type { Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Random } from '@sluice/testkit'
import {
  type Channel,
  type ChannelModel,
  type ConfirmChannel,
  type ConsumeMessage,
  connect,
} from 'amqplib'
import { PASSWORD } from '../support/http.ts'
import type { Mood } from './consumers.ts'
import { idOf } from './consumers.ts'
import type { Copy, Ledger, Sent } from './ledger.ts'
import { BACKLOG_MAX, KEYS } from './publishers.ts'
import { type QueuePlan, type Stream, VHOST } from './queues.ts'

/** Ports of the AMQP doors. */
type Ports = readonly number[]

/**
 * Connects, runs `use` until it ends or the connection does, and waits a little, again and again.
 */
async function sessions(
  ports: Ports,
  random: Random,
  signal: AbortSignal,
  use: (connection: ChannelModel, ended: AbortSignal) => Promise<void>,
): Promise<void> {
  while (!signal.aborted) {
    const port = random.pick(ports)
    const connection = await connect(
      {
        hostname: '127.0.0.1',
        port,
        username: 'admin',
        password: PASSWORD,
        vhost: VHOST,
        heartbeat: 2,
      },
      { timeout: 3_000 },
    ).catch(() => undefined)
    if (connection !== undefined) {
      const closed = new AbortController()
      connection.on('error', () => {}) // 'close' follows
      connection.on('close', () => closed.abort())
      await use(connection, AbortSignal.any([closed.signal, signal])).catch(() => {}) // it closed
      if (!closed.signal.aborted) await end(connection, random.chance(0.5) && !signal.aborted)
    }
    await sleep(random.int(20, 300))
  }
}

/** Closes in order, if that works within two seconds. */
async function end(connection: ChannelModel, abruptly: boolean): Promise<void> {
  const { stream } = (connection as unknown as { connection: { stream: Socket } }).connection
  if (!abruptly) await Promise.race([connection.close().catch(() => {}), sleep(2_000)])
  stream.destroy()
}

const aborted = (signal: AbortSignal) =>
  new Promise<void>((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })

export class AmqpPublisher {
  readonly #name: string
  readonly #stream: Stream
  readonly #ports: Ports
  readonly #ledger: Ledger
  readonly #random: Random
  #sequence = 0

  constructor(name: string, stream: Stream, ports: Ports, ledger: Ledger, random: Random) {
    this.#name = name
    this.#stream = stream
    this.#ports = ports
    this.#ledger = ledger
    this.#random = random
  }

  run(signal: AbortSignal): Promise<void> {
    return sessions(this.#ports, this.#random, signal, async (connection, ended) => {
      const channel = await connection.createConfirmChannel()
      channel.on('error', () => {}) // its publishes hear of it
      while (!ended.aborted) {
        if (this.#ledger.backlog < BACKLOG_MAX) {
          const window = Array.from({ length: this.#random.int(1, 30) }, () => this.#next())
          const settled = window.map((message) => this.#publish(channel, message))
          await Promise.race([Promise.all(settled), aborted(ended)])
        }
        await sleep(this.#random.int(0, 30))
      }
    })
  }

  #next(): Sent {
    const sequence = this.#sequence++
    const sent: Sent = {
      id: `${this.#name}-${sequence}`,
      publisher: this.#name,
      sequence,
      key: `${this.#name}.${this.#random.int(1, KEYS)}`,
      priority: this.#random.int(0, 4),
      delayMs: 0,
      keyed: false,
      sentAt: performance.now(),
      confirmedAt: undefined,
    }
    this.#ledger.sent(sent, this.#stream.queues)
    return sent
  }

  #publish(channel: ConfirmChannel, message: Sent): Promise<void> {
    const { exchange, routingKey } = this.#stream
    const content = Buffer.from(JSON.stringify({ id: message.id }))
    const options = {
      mandatory: true,
      persistent: true,
      priority: message.priority,
      contentType: 'application/json',
      headers: { 'x-ordering-key': message.key },
    }
    return new Promise((resolve) => {
      const confirmed = (error: unknown) => {
        if (error === null) this.#ledger.confirm(message)
        resolve()
      }
      try {
        channel.publish(
          exchange === 'amq.default' ? '' : exchange,
          routingKey,
          content,
          options,
          confirmed,
        )
      } catch {
        resolve() // the channel has closed
      }
    })
  }
}

export class AmqpConsumer {
  readonly #plan: QueuePlan
  readonly #ports: Ports
  readonly #ledger: Ledger
  readonly #random: Random
  readonly #mood: Mood

  constructor(plan: QueuePlan, ports: Ports, ledger: Ledger, random: Random, mood: Mood) {
    this.#plan = plan
    this.#ports = ports
    this.#ledger = ledger
    this.#random = random
    this.#mood = mood
  }

  run(signal: AbortSignal): Promise<void> {
    return sessions(this.#ports, this.#random, signal, async (connection, ended) => {
      const askedAt = performance.now()
      const channel = await connection.createChannel()
      channel.on('error', () => {}) // its connection goes on to the end of the session
      await channel.prefetch(this.#random.pick([1, 3, 20, 200]))
      const held: { copy: Copy; message: ConsumeMessage }[] = []
      await channel.consume(this.#plan.name, (message) => {
        const copy = message && this.#came(message, askedAt)
        if (message && copy && !this.#settle(channel, copy, message)) held.push({ copy, message })
      })
      const lastsMs = this.#random.int(500, 8_000)
      const over = AbortSignal.any([ended, AbortSignal.timeout(lastsMs)])
      while (!over.aborted) {
        await sleep(100)
        if (!this.#mood.calm && !this.#random.chance(0.1)) continue
        for (const { copy, message } of held.splice(0)) this.#ack(channel, copy, message)
      }
    })
  }

  #came(message: ConsumeMessage, askedAt: number): Copy | undefined {
    const { redelivered } = message.fields
    const copy = this.#ledger.find(this.#plan.name, idOf(message.content.toString()))
    copy?.deliveries.push({
      ref: '',
      token: '',
      count: redelivered ? undefined : 1,
      failed: Number(message.properties.headers?.['x-delivery-count'] ?? 0),
      redelivered,
      askedAt,
      cameAt: performance.now(),
    })
    return copy
  }

  /** False when it is kept for a while, or until the connection ends. */
  #settle(channel: Channel, copy: Copy, message: ConsumeMessage): boolean {
    const dice = this.#mood.calm ? 0 : this.#random.next()
    if (dice < 0.9) this.#ack(channel, copy, message)
    else if (dice < 0.94) attempt(() => channel.nack(message, false, true))
    else if (dice < 0.96) {
      copy.endedAt ??= performance.now()
      copy.maybeRejected = true
      attempt(() => channel.reject(message, false))
    } else return false
    return true
  }

  #ack(channel: Channel, copy: Copy, message: ConsumeMessage): void {
    copy.endedAt ??= performance.now()
    copy.maybeSettled = true
    attempt(() => channel.ack(message))
  }
}

/** The channel may have closed. */
function attempt(send: () => void): void {
  try {
    send()
  } catch {}
}
