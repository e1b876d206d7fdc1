/**
 * What encryption at rest costs, against an open queue in turn, round by round in one run: a record
 * made and read again; publishing in batches over HTTP; and publish, confirm, deliver, acknowledge
 * over AMQP with raw frames. Bodies have 256 bytes. CPU is of the broker's process and of Redis, in
 * µs a message; `ofOpen` the median over the rounds of the ratio to the open queue.
 */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { DataKey, encodeRecord, KEY_MATERIAL_SIZE } from '@sluice/store'
import { plainMessage, privateRedis } from '@sluice/testkit'
// Its bytes are the store's own affair.
import { decodeRecord, encodeSealed, openRecord, placeOf } from '../../libs/store/src/record.ts'
import { prepare, startConsumer, startProducer } from './amqp-load.ts'
import { type Bench, bench, median, perSecond } from './bench.ts'
import {
  batchRequest,
  cpuMicros,
  declare,
  headers,
  PASSWORD,
  type Server,
  startServices,
} from './broker-process.ts'
import { load } from './http-load.ts'

const ROUNDS = 5
const BATCH = 1_000
const CONNECTIONS = 4
const LOAD = { bodyBytes: 256, outstanding: 512, persistent: true }
const PREFETCH = 250
const PAIRS = 2
const QUEUES = ['open', 'sealed'] as const
type Queue = (typeof QUEUES)[number]

const MESSAGE = plainMessage({ routingKey: 'bench', body: Buffer.alloc(256, 'x') })

interface Round {
  readonly perSecond: number
  readonly micros: number
  readonly redisMicros?: number
}

function tell(b: Bench, what: string, rounds: ReadonlyMap<Queue, readonly Round[]>): void {
  const open = rounds.get('open')!
  for (const [queue, list] of rounds) {
    const ratio = (of: (round: Round) => number) =>
      hundredths(median(list.map((round, i) => of(round) / of(open[i]!))))
    b.line({
      what,
      queue,
      perSecond: Math.round(median(list.map((round) => round.perSecond))),
      micros: hundredths(median(list.map(({ micros }) => micros))),
      redisMicros: hundredths(median(list.map(({ redisMicros = 0 }) => redisMicros))),
      ...(queue === 'sealed' && {
        perSecondOfOpen: ratio((round) => round.perSecond),
        microsOfOpen: ratio(({ micros }) => micros),
      }),
    })
  }
}

async function each(
  b: Bench,
  what: string,
  measure: (queue: Queue) => Promise<Round>,
): Promise<void> {
  const rounds = new Map<Queue, Round[]>(QUEUES.map((queue) => [queue, []]))
  for (let round = 0; round <= (b.short ? 1 : ROUNDS); round++) {
    for (const queue of QUEUES) {
      const measured = await measure(queue)
      if (round > 0) rounds.get(queue)!.push(measured) // the first warms up
    }
    b.say(`${what}, round ${round}`)
  }
  tell(b, what, rounds)
}

/** Made and read, as one message takes its way through a process. */
async function record(b: Bench): Promise<void> {
  const of = { id: 1, vhost: '/', queue: 'q', generation: 1 }
  const key = new DataKey(of, randomBytes(KEY_MATERIAL_SIZE))
  const place = placeOf('/', 'q')
  const run = {
    open: () => {
      const bytes = encodeRecord(MESSAGE)
      return decodeRecord(bytes, 4, bytes.length, 0, 0)
    },
    sealed: () => {
      const bytes = encodeSealed(MESSAGE, key, place)
      return openRecord(decodeRecord(bytes, 4, bytes.length, 0, 0), key, place)
    },
  }
  const count = b.short ? 20_000 : 500_000
  await each(b, 'record', async (queue) => {
    const started = performance.now()
    for (let i = 0; i < count; i++) assert.equal(run[queue]().body.length, 256)
    const ms = performance.now() - started
    return { perSecond: (count * 1_000) / ms, micros: (ms * 1_000) / count }
  })
}

async function measured(
  ms: number,
  { pid }: Server,
  redisPid: number,
  count: () => number,
): Promise<Round> {
  const [before, own, redis] = [count(), cpuMicros(pid), cpuMicros(redisPid)]
  const rate = await perSecond(ms, count)
  const messages = count() - before
  return {
    perSecond: rate,
    micros: (cpuMicros(pid) - own) / messages,
    redisMicros: (cpuMicros(redisPid) - redis) / messages,
  }
}

async function batches(b: Bench, server: Server, redisPid: number): Promise<void> {
  const ms = b.short ? 500 : 3_000
  await each(b, 'HTTP batches', async (queue) => {
    const request = batchRequest(`${queue}.http`, 'x-ndjson', MESSAGE.body)
    const running = await load(server.url, request, CONNECTIONS)
    await sleep(ms / 3)
    const round = await measured(ms, server, redisPid, () => running.count() * BATCH)
    await running.stop()
    assert.equal(running.wrong(), 0)
    return round
  })
}

async function amqp(b: Bench, server: Server, redisPid: number): Promise<void> {
  const ms = b.short ? 500 : 4_000
  const { hostname, port } = new URL(server.amqp)
  const url = `amqp://admin:${encodeURIComponent(PASSWORD)}@${hostname}:${port}/%2F`
  await each(b, 'AMQP', async (queue) => {
    const target = { url, queue: `${queue}.amqp` }
    await prepare(target)
    const pairs = Array.from({ length: PAIRS })
    const consumers = await Promise.all(pairs.map(() => startConsumer(target, PREFETCH)))
    const producers = await Promise.all(pairs.map(() => startProducer(target, LOAD)))
    for (const producer of producers) producer.start()
    await sleep(ms / 4)
    const received = () => consumers.reduce((sum, consumer) => sum + consumer.received(), 0)
    const round = await measured(ms, server, redisPid, received)
    await Promise.all(producers.map((producer) => producer.drain()))
    for (const wire of [...producers, ...consumers]) wire.close()
    return round
  })
}

async function policy(url: string, name: string, pattern: string, definition: object) {
  const body = JSON.stringify({ pattern, applyTo: 'queues', priority: 1, definition })
  const at = `${url}/v1/vhosts/%2F/policies/${name}`
  const { ok } = await fetch(at, { method: 'PUT', headers: headers('application/json'), body })
  assert.ok(ok)
}

const hundredths = (value: number) => Math.round(value * 100) / 100

await bench('encryption', async (b) => {
  await record(b)
  const { url, redis } = await privateRedis(b)
  const redisPid = Number(/process_id:(\d+)/.exec(await redis.info('server'))?.[1])
  const env = { SLUICE_ENCRYPTION_KEY: randomBytes(32).toString('hex') }
  const server = await startServices(b, ['router', 'delivery', 'reaper'], url, env)
  const short = { 'max-length': 10_000 }
  await policy(server.url, 'open', '^open\\.http', short)
  await policy(server.url, 'sealed', '^sealed\\.http', { ...short, encryption: true })
  await policy(server.url, 'sealed-amqp', '^sealed\\.amqp', { encryption: true })
  for (const queue of QUEUES) await declare(server.url, `${queue}.http`)
  await batches(b, server, redisPid)
  await amqp(b, server, redisPid)
})
