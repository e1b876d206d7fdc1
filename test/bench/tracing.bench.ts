/**
 * What metrics and traces cost, publish to acknowledgement over AMQP, each against off in one run.
 *
 * Method: a broker process and a Redis (`everysec`) for each of: off (no histograms by queue, no
 * endpoint), metrics (as by default), and traces of no, 1 % and 100 % of publishes, exported to a
 * process that throws them away. One after the other, round by round, each round beginning with
 * another one. Two producers with 512 publishes unconfirmed at most, 256-byte bodies, none with a
 * context of its own; two consumers, prefetch 250. Rates are deliveries a second, CPU is that of
 * the broker's Node process a message, medians of ten rounds, and against off the median of the
 * rounds' ratios; round 0 warms up. At 100 % more spans come than are exported; the rest is
 * dropped, as it would be. `ROUND_MS`, `SHORT=1`.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { privateRedis } from '@sluice/testkit'
import { prepare, startConsumer, startProducer, type Target } from './amqp-load.ts'
import { type Bench, bench, median } from './bench.ts'
import { cpuMicros, PASSWORD, startServer } from './broker-process.ts'

const LOAD = { bodyBytes: 256, outstanding: 512, persistent: true }
const PREFETCH = 250
const PAIRS = 2
const ROUNDS = 10

interface Variant {
  readonly name: string
  readonly target: Target
  readonly pid: number
  readonly rounds: { readonly perSecond: number; readonly cpuMicrosEach: number }[]
}

await bench('tracing', async (b) => {
  const { url: sink } = await startServer(b, ['test/bench/otlp-drain.ts'], {})
  const traced = (ratio: string) => ({
    OTEL_EXPORTER_OTLP_ENDPOINT: sink,
    SLUICE_TRACES_RATIO: ratio,
  })
  const variants: Variant[] = []
  for (const [name, env] of Object.entries({
    off: { SLUICE_QUEUE_HISTOGRAMS: 'false' },
    metrics: {},
    'traces 0 %': traced('0'),
    'traces 1 %': traced('0.01'),
    'traces 100 %': traced('1'),
  })) {
    variants.push(await start(b, name, env))
  }
  for (let round = 0; round <= (b.short ? 1 : ROUNDS); round++) {
    const turn = round % variants.length
    for (const variant of [...variants.slice(turn), ...variants.slice(0, turn)]) {
      const measured = await measure(b, variant)
      b.say(`${variant.name} ${Math.round(measured.perSecond)}/s, round ${round}`)
      if (round > 0) variant.rounds.push(measured)
    }
  }
  const of = ({ rounds }: Variant, key: 'perSecond' | 'cpuMicrosEach') =>
    median(rounds.map((round) => round[key]))
  const off = variants[0]!.rounds
  for (const variant of variants) {
    const ratios = variant.rounds.map((round, n) => round.cpuMicrosEach / off[n]!.cpuMicrosEach)
    b.line({
      variant: variant.name,
      unit: 'deliveries/s',
      median: Math.round(of(variant, 'perSecond')),
      cpuMicrosEach: Math.round(of(variant, 'cpuMicrosEach') * 100) / 100,
      cpuAgainstOff: Math.round(median(ratios) * 1_000) / 1_000,
    })
  }
})

async function start(
  b: Bench,
  name: string,
  env: Readonly<Record<string, string>>,
): Promise<Variant> {
  const redis = await privateRedis(b, { fsync: 'everysec' })
  const args = ['services/all-in-one/src/main.ts', 'router', 'delivery', 'reaper']
  const server = await startServer(b, args, {
    ...{ REDIS_URL: redis.url, SLUICE_HTTP_PORT: '0', SLUICE_AMQP_PORT: '0' },
    ...{ SLUICE_ADMIN_PASSWORD: PASSWORD, SLUICE_LOG_LEVEL: 'error', ...env },
  })
  const { hostname, port } = new URL(server.amqp)
  const url = `amqp://admin:${encodeURIComponent(PASSWORD)}@${hostname}:${port}/%2F`
  return { name, target: { url, queue: 'sluice-bench' }, pid: server.pid, rounds: [] }
}

async function measure(b: Bench, { target, pid }: Variant): Promise<Variant['rounds'][number]> {
  const ms = Number(process.env['ROUND_MS'] ?? (b.short ? 500 : 3_000))
  await prepare(target)
  const times = <T>(make: () => Promise<T>) =>
    Promise.all(Array.from({ length: PAIRS }, () => make()))
  const consumers = await times(() => startConsumer(target, PREFETCH))
  const producers = await times(() => startProducer(target, LOAD))
  for (const producer of producers) producer.start()
  const received = () => consumers.reduce((sum, consumer) => sum + consumer.received(), 0)
  await sleep(ms / 4)
  const [fromMs, fromCount, fromCpu] = [performance.now(), received(), cpuMicros(pid)]
  await sleep(ms)
  const count = received() - fromCount
  const measured = {
    perSecond: (count * 1_000) / (performance.now() - fromMs),
    cpuMicrosEach: (cpuMicros(pid) - fromCpu) / count,
  }
  for (const consumer of consumers) consumer.latencies() // lets go of what it noted
  await Promise.all(producers.map((producer) => producer.drain()))
  for (const wire of [...producers, ...consumers]) wire.close()
  return measured
}
