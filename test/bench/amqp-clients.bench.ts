/**
 * Client libraries as they are, where the client is the limit: amqplib and pika on Sluice and on
 * RabbitMQ in turn, in one run.
 *
 * Method: each library publishes 256-byte persistent messages with confirms where it can wait for
 * many (amqplib: 512 at a time) or without (pika, whose blocking channel waits for each one), then
 * consumes them with a prefetch of 250 and acknowledges each. Each round has a durable queue of its
 * own. Messages a second of each half, medians of three rounds, by the library's own clock; pika
 * runs in a process of its own. A private Redis (`everysec`). `SHORT=1`, `MESSAGES`.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { privateRedis } from '@sluice/testkit'
import { connect } from 'amqplib'
import { PYTHON } from '../interop/clients/bridge.ts'
import { startRabbitmq } from '../interop/rabbitmq.ts'
import { type Bench, bench, median } from './bench.ts'
import { PASSWORD, startServices } from './broker-process.ts'

const ROUNDS = 3
const BODY = Buffer.alloc(256, 'x')
const OUTSTANDING = 512
const PREFETCH = 250
const PIKA = fileURLToPath(new URL('./pika_load.py', import.meta.url))

/** Messages a second of both halves. */
interface Rates {
  readonly publish: number
  readonly consume: number
}

type Library = (url: string, queue: string, messages: number) => Promise<Rates>

await bench('amqp-clients', async (b) => {
  const brokers = { sluice: await startSluice(b), ...(await rabbitmq(b)) }
  const libraries: Record<string, Library> = { amqplib }
  if (existsSync('/usr/lib/python3/dist-packages/pika')) libraries['pika'] = pika
  else b.say('without pika: apt-get install python3-pika')
  const messages = Number(process.env['MESSAGES'] ?? (b.short ? 2_000 : 50_000))
  for (const [library, run] of Object.entries(libraries)) {
    const rates = new Map<string, Rates[]>(Object.keys(brokers).map((name) => [name, []]))
    for (let round = 0; round <= (b.short ? 1 : ROUNDS); round++) {
      for (const [name, url] of Object.entries(brokers)) {
        const rate = await run(url, `clients-${library}-${round}`, messages)
        b.say(`${library} on ${name}: ${rate.publish}/s in, ${rate.consume}/s out`)
        if (round > 0) rates.get(name)!.push(rate) // the first one warms up
      }
    }
    for (const [broker, list] of rates) {
      const publish = median(list.map((rate) => rate.publish))
      const consume = median(list.map((rate) => rate.consume))
      b.line({ library, broker, unit: 'messages/s', publish, consume })
    }
  }
})

async function startSluice(b: Bench): Promise<string> {
  const redis = await privateRedis(b, { fsync: 'everysec' })
  const server = await startServices(b, ['router', 'delivery', 'reaper'], redis.url)
  const { hostname, port } = new URL(server.amqp)
  return `amqp://admin:${encodeURIComponent(PASSWORD)}@${hostname}:${port}`
}

async function rabbitmq(b: Bench): Promise<Readonly<Record<string, string>>> {
  const rabbit = b.short ? { missing: 'a short run' } : await startRabbitmq()
  if ('missing' in rabbit) {
    b.say(`without RabbitMQ: ${rabbit.missing}`)
    return {}
  }
  b.after(() => rabbit.stop())
  return { rabbitmq: rabbit.url }
}

async function amqplib(url: string, queue: string, messages: number): Promise<Rates> {
  const model = await connect(url)
  const channel = await model.createConfirmChannel()
  await channel.assertQueue(queue, { durable: true })
  await channel.prefetch(PREFETCH)
  let start = performance.now()
  for (let sent = 0; sent < messages; sent += OUTSTANDING) {
    for (let i = sent; i < Math.min(sent + OUTSTANDING, messages); i++) {
      channel.sendToQueue(queue, BODY, { persistent: true })
    }
    await channel.waitForConfirms()
  }
  const publish = perSecond(messages, start)
  start = performance.now()
  const all = Promise.withResolvers<void>()
  let seen = 0
  await channel.consume(queue, (message) => {
    if (message === null) return all.reject(new Error('the broker cancelled'))
    channel.ack(message)
    if (++seen === messages) all.resolve()
  })
  await all.promise
  const consume = perSecond(messages, start)
  await channel.deleteQueue(queue)
  await model.close()
  return { publish, consume }
}

async function pika(url: string, queue: string, messages: number): Promise<Rates> {
  const child = spawn(PYTHON, [PIKA, url, queue, String(messages)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let out = ''
  child.stdout.on('data', (chunk) => {
    out += chunk
  })
  const [code] = await once(child, 'close')
  if (code !== 0) throw new Error(`pika ended with ${code}`)
  return JSON.parse(out) as Rates
}

function perSecond(messages: number, start: number): number {
  return Math.round((messages * 1_000) / (performance.now() - start))
}
