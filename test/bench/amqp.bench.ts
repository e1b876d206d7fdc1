/**
 * Publish, confirm, deliver, acknowledge over AMQP: Sluice and RabbitMQ in turn, in one run.
 *
 * Method: a private Redis (`everysec`, then `always`) with the broker in one process; a RabbitMQ of
 * this bench's own or RABBITMQ_URL, with a durable classic queue. Two producers with 512 publishes
 * unconfirmed at most, 256-byte bodies; two consumers, prefetch 250, every delivery acknowledged by
 * itself. Rates are deliveries a second, the median of three rounds. Latency is from publish to
 * delivery at half of RabbitMQ's top rate. CPU is that of the broker (Node and Redis, or Erlang)
 * per message; beside it the load's own, which must stay well below. `ROUND_MS`, `SHORT=1`.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { privateRedis } from '@sluice/testkit'
import { startRabbitmq } from '../interop/rabbitmq.ts'
import {
  type LoadOptions,
  prepare,
  startConsumer,
  startProducer,
  type Target,
} from './amqp-load.ts'
import { type Bench, bench, median } from './bench.ts'
import { cpuMicros, PASSWORD, startServices } from './broker-process.ts'

const LOAD = { bodyBytes: 256, outstanding: 512 }
const PREFETCH = 250
const PAIRS = 2
const ROUNDS = 3

interface Broker {
  readonly name: string
  readonly target: Target
  /** Processes whose CPU counts. */
  readonly pids: readonly number[]
}

interface Measured {
  readonly perSecond: number
  readonly cpuMicrosEach: number
  readonly loadMicrosEach: number
  readonly latencies: readonly number[]
}

await bench('amqp', async (b) => {
  const brokers: Broker[] = []
  const rabbit = b.short ? { missing: 'a short run' } : await startRabbitmq()
  if ('missing' in rabbit) {
    b.say(`without RabbitMQ: ${rabbit.missing}`)
  } else {
    b.after(() => rabbit.stop())
    const { url, pid } = rabbit
    brokers.push({
      name: 'rabbitmq',
      target: { url, queue: 'sluice-bench' },
      pids: pid === undefined ? [] : [pid],
    })
  }
  for (const fsync of ['everysec', 'always'] as const) brokers.push(await sluice(b, fsync))

  const tops = new Map<string, number>()
  for (const persistent of [true, false]) {
    const rounds = new Map<Broker, Measured[]>(brokers.map((broker) => [broker, []]))
    for (let round = 0; round <= (b.short ? 1 : ROUNDS); round++) {
      for (const [broker, list] of rounds) {
        if (!persistent && broker.name.endsWith('always')) continue
        const measured = await measure(b, broker, { ...LOAD, persistent })
        b.say(`${broker.name} ${Math.round(measured.perSecond)}/s, round ${round}, 0 warms up`)
        if (round > 0) list.push(measured)
      }
    }
    for (const [{ name }, list] of rounds) {
      if (list.length === 0) continue
      const perSecond = Math.round(median(list.map((one) => one.perSecond)))
      tops.set(`${name} ${persistent}`, perSecond)
      b.line({
        broker: name,
        persistent,
        unit: 'deliveries/s',
        median: perSecond,
        cpuMicrosEach: tenths(median(list.map((one) => one.cpuMicrosEach))),
        loadMicrosEach: tenths(median(list.map((one) => one.loadMicrosEach))),
      })
    }
    const half = (tops.get(`rabbitmq ${persistent}`) ?? 20_000) / 2
    for (const broker of brokers) {
      if (!persistent && broker.name.endsWith('always')) continue
      const { latencies } = await measure(b, broker, { ...LOAD, persistent }, half)
      b.line({
        broker: broker.name,
        persistent,
        atPerSecond: Math.round(half),
        ...tails(latencies),
      })
    }
  }
})

async function sluice(b: Bench, fsync: 'everysec' | 'always'): Promise<Broker> {
  const redis = await privateRedis(b, { fsync })
  const redisPid = Number(/process_id:(\d+)/.exec(await redis.redis.info('server'))?.[1])
  const server = await startServices(b, ['router', 'delivery', 'reaper'], redis.url)
  const { hostname, port } = new URL(server.amqp)
  return {
    name: `sluice ${fsync}`,
    target: {
      url: `amqp://admin:${encodeURIComponent(PASSWORD)}@${hostname}:${port}/%2F`,
      queue: 'sluice-bench',
    },
    pids: [server.pid, redisPid],
  }
}

/** Both producers and both consumers for one round; at a rate, or as fast as it goes. */
async function measure(
  b: Bench,
  { target, pids }: Broker,
  options: LoadOptions,
  perSecond?: number,
): Promise<Measured> {
  const ms = Number(process.env['ROUND_MS'] ?? (b.short ? 1_000 : 6_000))
  await prepare(target)
  const consumers = await times(PAIRS, () => startConsumer(target, PREFETCH))
  const producers = await times(PAIRS, () => startProducer(target, options))
  for (const producer of producers) {
    producer.start(perSecond === undefined ? undefined : perSecond / PAIRS)
  }
  const received = () => consumers.reduce((sum, consumer) => sum + consumer.received(), 0)
  const cpu = () => pids.reduce((sum, pid) => sum + cpuMicros(pid), 0)
  await sleep(ms / 4)
  for (const consumer of consumers) consumer.latencies()
  const [fromMs, fromCount, fromCpu] = [performance.now(), received(), cpu()]
  const own = process.cpuUsage()
  await sleep(ms)
  const count = received() - fromCount
  const { user, system } = process.cpuUsage(own)
  const measured = {
    perSecond: (count * 1_000) / (performance.now() - fromMs),
    cpuMicrosEach: (cpu() - fromCpu) / count,
    loadMicrosEach: (user + system) / count,
    latencies: consumers.flatMap((consumer) => consumer.latencies()),
  }
  await Promise.all(producers.map((producer) => producer.drain()))
  for (const wire of [...producers, ...consumers]) wire.close()
  return measured
}

function times<T>(count: number, make: () => Promise<T>): Promise<T[]> {
  return Promise.all(Array.from({ length: count }, make))
}

function tails(latencies: readonly number[]): { p50Ms: number; p99Ms: number } {
  const sorted = Float64Array.from(latencies).sort()
  const at = (share: number) => tenths(sorted[Math.floor(sorted.length * share)] ?? 0)
  return { p50Ms: at(0.5), p99Ms: at(0.99) }
}

function tenths(value: number): number {
  return Math.round(value * 10) / 10
}
