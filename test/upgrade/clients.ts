/**
 * Clients that behave well, through every door: they publish to and consume from all queues, go on
 * elsewhere when their connection is closed, and leave in order. Anything else that they meet is
 * complained of.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { Sluice, SluiceError } from '@sluice/client'
import { waitFor } from '@sluice/testkit'
import { PASSWORD } from '../support/http.ts'
import { type TcpProxy, tcpProxy } from '../support/tcp-proxy.ts'
import { AmqpConsumer, AmqpPublisher } from './amqp-clients.ts'
import { bodyOf, DELAY_MS, isPoison, keyOf, type Ledger, QUEUES } from './ledger.ts'

/** Confirmed messages that may wait for a consumer; then publishers do. */
const BACKLOG_MAX = 300
/** What a lease lasts whose answer was lost. */
const LEASE_MS = 5_000
/** A lease whose answer was lost lapses before. */
const EMPTY_MS_MAX = 40_000
const CONCURRENCY = 4
export const EXCHANGE = 'amq.topic'

/** Ports of the processes that serve at the moment. */
export interface Doors {
  readonly router: number
  readonly delivery: number
  readonly amqp: number
}

export interface PublishOptions {
  readonly orderingKey?: string
  readonly delayMs?: number
}

/** To an exchange, with a routing key. False: whether it was stored is not known. */
export type Publish = (
  exchange: string,
  routingKey: string,
  body: string,
  options: PublishOptions,
) => Promise<boolean>

export interface ClientsOptions {
  /** No other clients have it. */
  readonly name: string
  readonly vhost: string
  readonly doors: Doors
  readonly ledger: Ledger
  /** Between one round of a publisher and the next. */
  readonly roundMs: number
}

export interface Clients {
  /** New connections go there. */
  turn(doors: Doors): void
  /** Returns once all publishers have ended. */
  stopPublishing(): Promise<void>
  /** Ends everything, once their own queue is empty, and deletes that. */
  close(): Promise<void>
  /** Where the test has failed: ends everything at once, unless it is closed. */
  abandon(): Promise<void>
}

export async function startClients(options: ClientsOptions): Promise<Clients> {
  const { name, vhost, doors, ledger } = options
  const wires = {
    router: await tcpProxy(doors.router),
    delivery: await tcpProxy(doors.delivery),
    amqp: await tcpProxy(doors.amqp),
  }
  const open = ({ port }: TcpProxy) =>
    new Sluice({ url: `http://127.0.0.1:${port}`, vhost, token: PASSWORD })
  const producer = open(wires.router)
  const consumer = open(wires.delivery)
  const own = `own-${name}`
  await producer.topology.declareQueue(own)
  await producer.topology.bind({ source: EXCHANGE, destination: own, routingKey: own })
  const queues = [...Object.keys(QUEUES), own]

  const consumers = queues.flatMap((queue) =>
    (['websocket', 'http'] as const).map((via) => consume(consumer, queue, via, ledger)),
  )
  const looking = new AbortController()
  const looked = lookOn(consumer, own, ledger, looking.signal)
  const amqpConsumer = new AmqpConsumer(wires.amqp.port, vhost, queues, ledger)
  const amqpPublisher = new AmqpPublisher(wires.amqp.port, vhost, ledger)
  const socket = consumer.socket()
  const publishers = publishersOf(producer, socket, amqpPublisher)
  const stop = new AbortController()
  const publishing = Object.entries(publishers).map(([door, send]) =>
    publish(`${name}-${door}`, queues, send, options, stop.signal),
  )
  const stopPublishing = async () => {
    stop.abort()
    await Promise.all(publishing)
  }
  const hangUp = async () => {
    stop.abort()
    await Promise.all([socket.close(), producer.close(), consumer.close()])
    await Promise.all(Object.values(wires).map((wire) => wire.close()))
  }
  let gone = false
  return {
    turn: (doors) => {
      for (const door of ['router', 'delivery', 'amqp'] as const) wires[door].target = doors[door]
    },
    stopPublishing,
    close: async () => {
      await stopPublishing()
      const what = `${own} to be empty`
      await waitFor(() => isEmpty(producer, own), { what, timeoutMs: EMPTY_MS_MAX })
      const allSeen = () => ledger.unseen(own).length === 0
      await waitFor(allSeen, { what: `all of ${own} to be seen`, timeoutMs: EMPTY_MS_MAX })
      looking.abort()
      await looked
      await Promise.all([...consumers.map((one) => one.drain()), amqpConsumer.close()])
      await producer.topology.deleteQueue(own)
      await amqpPublisher.close()
      await hangUp()
      gone = true
    },
    abandon: async () => {
      if (gone) return
      looking.abort()
      amqpConsumer.abandon()
      amqpPublisher.abandon()
      for (const one of consumers) one.drain().catch(() => {}) // the test has failed
      await hangUp()
    },
  }
}

/** By the name of the door. */
function publishersOf(
  producer: Sluice,
  socket: ReturnType<Sluice['socket']>,
  amqp: AmqpPublisher,
): Readonly<Record<string, Publish>> {
  return {
    http: async (exchange, routingKey, body, options) =>
      (await producer.publish({ exchange, routingKey }, body, options)).routed,
    websocket: async (exchange, routingKey, body, options) =>
      (await socket.publish({ exchange, routingKey }, body, options)).routed,
    amqp: (...message) => amqp.publish(...message),
  }
}

async function isEmpty(client: Sluice, queue: string): Promise<boolean> {
  const { ready, unacked, delayed, dead } = (await client.topology.getQueue(queue)).messages
  return ready + unacked + delayed + dead === 0
}

/** A round at a time, each message once the one before is confirmed. */
async function publish(
  name: string,
  queues: readonly string[],
  send: Publish,
  { ledger, roundMs }: ClientsOptions,
  signal: AbortSignal,
): Promise<void> {
  for (let number = 0; !signal.aborted; number++) {
    for (const queue of queues) {
      const body = bodyOf(queue, name, number)
      const exchange = queue in QUEUES ? 'amq.default' : EXCHANGE
      const options = {
        ...(queue === 'keyed' && { orderingKey: keyOf(body) }),
        ...(queue === 'later' && { delayMs: DELAY_MS }),
      }
      ledger.sent(body)
      try {
        if (await send(exchange, queue, body, options)) ledger.confirmed(body)
        else ledger.uncertain(body)
      } catch (error) {
        ledger.complain(`publishing ${body}: ${error}`)
      }
    }
    do await sleep(roundMs)
    while (ledger.backlog > BACKLOG_MAX && !signal.aborted)
  }
}

/** What a process that stops tells a client, which then goes elsewhere by itself. */
const MOVED: ReadonlySet<string> = new Set(['connection_failed', 'draining'])

/** Server-Sent Events of what is published to the queue, from some moment on without a gap. */
async function lookOn(client: Sluice, queue: string, ledger: Ledger, signal: AbortSignal) {
  try {
    for await (const { body } of client.watch(EXCHANGE, { bindingKey: queue, signal })) {
      ledger.seen(String(body))
    }
  } catch (error) {
    if (!signal.aborted) ledger.complain(`looking on at ${queue}: ${error}`)
  }
}

class Poison extends Error {}

function consume(client: Sluice, queue: string, via: 'websocket' | 'http', ledger: Ledger) {
  const handler = ({ body, redelivered }: { body: unknown; redelivered: boolean }) => {
    ledger.came(String(body), redelivered)
    if (isPoison(String(body))) throw new Poison()
  }
  const onError = (error: unknown) => {
    const moved = error instanceof SluiceError && MOVED.has(error.code)
    if (!moved && !(error instanceof Poison)) ledger.complain(`${via} of ${queue}: ${error}`)
  }
  const options = { via, concurrency: CONCURRENCY, leaseMs: LEASE_MS, onError }
  const consumer = client.consume(queue, handler, options)
  consumer.closed.catch((error) => ledger.complain(`${via} of ${queue} ended: ${error}`))
  return consumer
}
