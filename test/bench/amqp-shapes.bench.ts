/**
 * AMQP in other shapes than one queue between equals: many queues, many consumers, fan-out, a slow
 * consumer beside a fast one, a long queue, one huge message, and a publisher faster than Redis.
 *
 * Method: a private Redis (`everysec`) with the broker in one process of its own, raw frames from
 * this one (amqp-load.ts), 256-byte bodies, persistent. RabbitMQ, where there is one, in turn in
 * the same run. Rates are deliveries a second, medians of three rounds. Memory is the broker's
 * resident set. `SHORT=1`, `ROUND_MS`; arguments: only shapes whose name contains one. Linux.
 */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { encodeContent, encodeMethod, encodeProperties } from '@sluice/amqp'
import { privateRedis } from '@sluice/testkit'
import { type ChannelModel, connect } from 'amqplib'
import { startRabbitmq } from '../interop/rabbitmq.ts'
import { AmqpPeer } from '../support/amqp-peer.ts'
import {
  type Consumer,
  type LoadOptions,
  type Producer,
  startConsumer,
  startProducer,
} from './amqp-load.ts'
import { type Bench, bench, median } from './bench.ts'
import { fill, PASSWORD, startServer } from './broker-process.ts'

const LOAD: LoadOptions = { persistent: true, bodyBytes: 256, outstanding: 500 }
const PREFETCH = 250
const ROUNDS = 3
const MiB = 1024 * 1024
const HUGE_BYTES = 128 * MiB

interface Broker {
  readonly name: string
  readonly url: string
  /** Undefined where it is not a child of ours. */
  readonly pid: number | undefined
}

interface Sluice extends Broker {
  readonly pid: number
  readonly httpUrl: string
  readonly redisPid: number
}

const wanted = process.argv.slice(2)
const ms = (b: Bench) => Number(process.env['ROUND_MS'] ?? (b.short ? 700 : 5_000))

await bench('amqp-shapes', async (b) => {
  const sluice = await startSluice(b)
  const rabbit = b.short ? { missing: 'a short run' } : await startRabbitmq()
  const brokers: Broker[] = [sluice]
  if ('missing' in rabbit) {
    b.say(`without RabbitMQ: ${rabbit.missing}`)
  } else {
    b.after(() => rabbit.stop())
    brokers.push({ name: 'rabbitmq', url: rabbit.url, pid: rabbit.pid })
  }
  const count = b.short ? 100 : 1_000
  const shapes: Readonly<Record<string, () => Promise<void>>> = {
    'queues with a consumer each': () => inTurn(b, brokers, manyQueues(count)),
    'consumers of one queue': () => inTurn(b, brokers, manyConsumers(count)),
    'fan-out': () => inTurn(b, brokers, fanOut(100)),
    'slow beside fast': () => inTurn(b, brokers, slowBesideFast),
    'long queue': () => longQueue(b, sluice),
    'huge message': () => hugeMessage(b, sluice),
    'faster than Redis': () => fasterThanRedis(b, sluice),
  }
  for (const [name, run] of Object.entries(shapes)) {
    if (wanted.length > 0 && !wanted.some((text) => name.includes(text))) continue
    b.say(name)
    await run()
  }
})

async function startSluice(b: Bench): Promise<Sluice> {
  const redis = await privateRedis(b, { fsync: 'everysec' })
  const redisPid = Number(/process_id:(\d+)/.exec(await redis.redis.info('server'))?.[1])
  const { url, amqp, pid } = await startServer(
    b,
    ['services/all-in-one/src/main.ts', 'router', 'delivery', 'reaper'],
    {
      REDIS_URL: redis.url,
      SLUICE_HTTP_PORT: '0',
      SLUICE_AMQP_PORT: '0',
      SLUICE_ADMIN_PASSWORD: PASSWORD,
      SLUICE_LOG_LEVEL: 'error',
      SLUICE_MESSAGE_BYTES_MAX: String(HUGE_BYTES),
    },
  )
  const { hostname, port } = new URL(amqp)
  const login = `admin:${encodeURIComponent(PASSWORD)}`
  return {
    name: 'sluice',
    url: `amqp://${login}@${hostname}:${port}/%2F`,
    pid,
    httpUrl: url,
    redisPid,
  }
}

/** A load that is set up on a broker: what it consumes and what publishes to that. */
interface Load {
  readonly shape: string
  readonly consumers: readonly Consumer[]
  readonly producers: readonly Producer[]
  /** What counts; all consumers unless told. */
  readonly counted?: readonly Consumer[]
}

type SetUp = (broker: Broker, model: ChannelModel) => Promise<Load>

/** The same load on each broker, round by round; a line for each. */
async function inTurn(b: Bench, brokers: readonly Broker[], setUp: SetUp): Promise<void> {
  const rates = new Map<Broker, number[]>(brokers.map((broker) => [broker, []]))
  let shape = ''
  for (let round = 0; round < (b.short ? 1 : ROUNDS); round++) {
    for (const [broker, list] of rates) {
      const model = await connect(broker.url)
      const load = await setUp(broker, model)
      shape = load.shape
      list.push(await rateOf(load, ms(b)))
      await model.close()
      b.say(`${broker.name} ${Math.round(list.at(-1)!)}/s`)
    }
  }
  for (const [{ name, pid }, list] of rates) {
    const perSecond = Math.round(median(list))
    const residentMiB = pid === undefined ? undefined : Math.round(resident(pid) / MiB)
    b.line({ shape, broker: name, unit: 'deliveries/s', median: perSecond, residentMiB })
  }
}

async function rateOf({ consumers, producers, counted = consumers }: Load, forMs: number) {
  for (const producer of producers) producer.start()
  const received = () => counted.reduce((sum, consumer) => sum + consumer.received(), 0)
  await sleep(forMs / 4)
  const [fromMs, from] = [performance.now(), received()]
  await sleep(forMs)
  const perSecond = ((received() - from) * 1_000) / (performance.now() - fromMs)
  await Promise.all(producers.map((producer) => producer.drain()))
  for (const wire of [...producers, ...consumers]) wire.close()
  return perSecond
}

/** Declares durable queues, each empty: their names, all of one length. */
async function queues(model: ChannelModel, prefix: string, count: number): Promise<string[]> {
  const channel = await model.createChannel()
  const names = Array.from({ length: count }, (_, i) => `${prefix}-${String(i).padStart(4, '0')}`)
  for (const name of names) {
    await channel.assertQueue(name, { durable: true })
    await channel.purgeQueue(name)
  }
  return names
}

function consumersOf({ url }: Broker, names: readonly string[], prefetch: number, slowMs = 0) {
  return Promise.all(names.map((queue) => startConsumer({ url, queue }, prefetch, slowMs)))
}

function manyQueues(count: number): SetUp {
  return async (broker, model) => {
    const names = await queues(model, 'many', count)
    const consumers = await consumersOf(broker, names, 10)
    const halves = [names.slice(0, count / 2), names.slice(count / 2)]
    const producers = halves.map((keys) =>
      startProducer({ url: broker.url, queue: '' }, { ...LOAD, to: { exchange: '', keys } }),
    )
    const shape = `${count} queues with a consumer each`
    return { shape, consumers, producers: await Promise.all(producers) }
  }
}

function manyConsumers(count: number): SetUp {
  return async (broker, model) => {
    const [queue = ''] = await queues(model, 'shared', 1)
    const consumers = await consumersOf(broker, Array<string>(count).fill(queue), 10)
    const target = { url: broker.url, queue }
    const producers = await Promise.all([startProducer(target, LOAD), startProducer(target, LOAD)])
    return { shape: `${count} consumers of one queue`, consumers, producers }
  }
}

function fanOut(count: number): SetUp {
  return async (broker, model) => {
    const names = await queues(model, 'fan', count)
    const channel = await model.createChannel()
    await channel.assertExchange('fan', 'fanout')
    for (const name of names) await channel.bindQueue(name, 'fan', '')
    const consumers = await consumersOf(broker, names, PREFETCH)
    const to = { exchange: 'fan', keys: [''] }
    const producer = await startProducer({ url: broker.url, queue: '' }, { ...LOAD, to })
    return { shape: `fan-out to ${count} queues`, consumers, producers: [producer] }
  }
}

/** What a consumer gets that keeps up, while one beside it holds ten for a second each. */
async function slowBesideFast(broker: Broker, model: ChannelModel): Promise<Load> {
  const [queue = ''] = await queues(model, 'beside', 1)
  const target = { url: broker.url, queue }
  const [slow, fast] = [
    await startConsumer(target, 10, 1_000),
    await startConsumer(target, PREFETCH),
  ]
  const producers = [await startProducer(target, LOAD)]
  const shape = 'a fast consumer beside a slow one'
  return { shape, consumers: [slow, fast], producers, counted: [fast] }
}

/** Publish and consume at once, on an empty queue and on one with much in it, in turn. */
async function longQueue(b: Bench, sluice: Sluice): Promise<void> {
  const model = await connect(sluice.url)
  const [empty = '', long = ''] = await queues(model, 'long', 2)
  const messages = b.short ? 20_000 : 1_000_000
  await fill(sluice.httpUrl, long, Buffer.alloc(256, 'x'), messages)
  b.say(`${messages} messages wait`)
  const rates = new Map<string, number[]>([empty, long].map((queue) => [queue, []]))
  const channel = await model.createChannel()
  for (let round = 0; round <= (b.short ? 1 : 5); round++) {
    for (const [queue, list] of rates) {
      const target = { url: sluice.url, queue }
      const producers = [await startProducer(target, LOAD), await startProducer(target, LOAD)]
      const consumers = await consumersOf(sluice, [queue, queue], PREFETCH)
      const perSecond = await rateOf({ shape: '', consumers, producers }, ms(b))
      if (round > 0) list.push(perSecond) // the first one warms up
      // What the round left of its own must not make a long queue of the empty one.
      if (queue === empty) await channel.purgeQueue(empty)
    }
  }
  const [atEmpty = 0, atLong = 0] = [...rates.values()].map((list) => Math.round(median(list)))
  b.line({
    shape: `${messages} messages waiting`,
    unit: 'deliveries/s',
    median: atLong,
    emptyQueue: atEmpty,
    ratio: Math.round((atLong / atEmpty) * 100) / 100,
  })
  await channel.deleteQueue(long)
  await model.close()
}

/** One message in and out again; how far memory grows meanwhile, in the broker and in Redis. */
async function hugeMessage(b: Bench, { url, pid, redisPid }: Sluice): Promise<void> {
  const size = b.short ? 16 * MiB : HUGE_BYTES
  const model = await connect(url)
  const channel = await model.createConfirmChannel()
  const [queue = ''] = await queues(model, 'huge', 1)
  const [before, redisBefore] = [resident(pid), resident(redisPid)]
  const peaks = watchPeaks([pid, redisPid])
  const body = Buffer.alloc(size, 'huge')
  const start = performance.now()
  channel.sendToQueue(queue, body, { persistent: true })
  await channel.waitForConfirms()
  const inMs = performance.now() - start
  const got = await channel.get(queue, { noAck: true })
  const outMs = performance.now() - start - inMs
  assert(got !== false && got.content.equals(body))
  await model.close()
  const [peak = 0, redisPeak = 0] = peaks()
  b.line({
    shape: `one message of ${size / MiB} MiB`,
    inMs: Math.round(inMs),
    outMs: Math.round(outMs),
    residentMiB: { before: Math.round(before / MiB), peak: Math.round(peak / MiB) },
    redisMiB: { before: Math.round(redisBefore / MiB), peak: Math.round(redisPeak / MiB) },
  })
}

/**
 * Redis stands still nine tenths of the time; two clients publish without confirms as fast as the
 * socket takes it. Memory stays bounded, nobody is cut off, and everything that was sent arrives.
 */
async function fasterThanRedis(b: Bench, { url, pid, redisPid }: Sluice): Promise<void> {
  const model = await connect(`${url}?heartbeat=5`)
  let lost = 0
  model.on('close', () => lost++)
  const [queue = ''] = await queues(model, 'flood', 1)
  const peers = [await login(url), await login(url)]
  for (const peer of peers) peer.socket.on('close', () => lost++)
  const before = resident(pid)
  const peaks = watchPeaks([pid])
  const slow = setInterval(() => {
    process.kill(redisPid, 'SIGSTOP')
    setTimeout(() => process.kill(redisPid, 'SIGCONT'), 180)
  }, 200)
  const until = performance.now() + (b.short ? 3_000 : 30_000)
  const sent = await Promise.all(peers.map((peer) => flood(peer, queue, until)))
  clearInterval(slow)
  await sleep(200)
  process.kill(redisPid, 'SIGCONT')
  const lostMeanwhile = lost
  const channel = await model.createChannel()
  const total = sent[0]! + sent[1]!
  const stored = await settled(async () => (await channel.checkQueue(queue)).messageCount, total)
  b.line({
    shape: 'publishers faster than Redis',
    sent: total,
    stored,
    residentMiB: { before: Math.round(before / MiB), peak: Math.round(peaks()[0]! / MiB) },
    disconnected: lostMeanwhile,
  })
  await channel.deleteQueue(queue)
  for (const peer of peers) await peer.close()
  await model.close()
}

/** Publishes a KiB at a time, as fast as the socket takes it; how many. */
async function flood(peer: AmqpPeer, queue: string, until: number): Promise<number> {
  const one = Buffer.concat([
    encodeMethod(1, {
      name: 'basic.publish',
      exchange: '',
      routingKey: queue,
      mandatory: false,
      immediate: false,
    }),
    encodeContent(1, encodeProperties({ deliveryMode: 2 }), Buffer.alloc(1_024, 'x'), 131_072),
  ])
  const many = Buffer.concat(Array<Buffer>(64).fill(one))
  let count = 0
  while (performance.now() < until) {
    count += 64
    if (peer.socket.write(many)) await new Promise((resolve) => setImmediate(resolve))
    else await new Promise((resolve) => peer.socket.once('drain', resolve))
  }
  return count
}

/** Looks until a count is what it should be or has not changed for five seconds. */
async function settled(look: () => Promise<number>, expected: number): Promise<number> {
  let [count, since] = [await look(), performance.now()]
  while (count !== expected && performance.now() - since < 5_000) {
    await sleep(100)
    const next = await look()
    if (next !== count) [count, since] = [next, performance.now()]
  }
  return count
}

async function login(url: string): Promise<AmqpPeer> {
  const { port, username, password } = new URL(url)
  const peer = await AmqpPeer.connect(Number(port))
  await peer.login({ user: username, password: decodeURIComponent(password), heartbeat: 0 })
  await peer.openChannel(1)
  return peer
}

function resident(pid: number): number {
  const kib = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
  return Number(kib) * 1_024
}

/** Samples resident sets until the call, which returns the largest of each. */
function watchPeaks(pids: readonly number[]): () => number[] {
  const peaks = pids.map(resident)
  const look = () => {
    for (const [i, pid] of pids.entries()) peaks[i] = Math.max(peaks[i]!, resident(pid))
  }
  const timer = setInterval(look, 20)
  return () => {
    clearInterval(timer)
    look()
    return peaks
  }
}
