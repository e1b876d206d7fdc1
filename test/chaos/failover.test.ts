/**
 * Primaries of Redis die, stop or are cut off under load, behind sentinels and in a cluster; their
 * replicas take over.
 *
 * Method: two brokers, each all services in one process; publishers that try again with the same
 * Idempotency-Key until they are told that a message is stored; a consumer a queue. Beside them the
 * client library and amqplib, as an application would use them. KILLS times (2 with SHORT=1, else
 * 50) a primary goes (see Kind), and comes back a while after another has taken over; but for one
 * that was killed it still believes to be a primary, and one that is cut off still answers clients.
 * SEED decides when each fault comes, of which kind it is, which primary it hits and which queue is
 * stressed: that one gets large messages and, in a cluster, moves to another primary before.
 *
 * Nothing confirmed with `replicas=1` may be missing. With `memory` and `fsync` the last confirms
 * before a fault may be, and those of a primary that was cut off: how many, and how far from the
 * fault, is measured and printed. Nothing is stored twice. No publisher waits longer than the
 * failover, and GAP_MS_MAX: that ends when another primary serves, and for `replicas=1` when it has
 * a replica. The client library and amqplib meet no error.
 */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { Sluice } from '@sluice/client'
import {
  type Member,
  moveSlot,
  privateCluster,
  privateSentinel,
  type Random,
  type RedisGroup,
  randomFor,
  waitFor,
} from '@sluice/testkit'
import { connect } from 'amqplib'
import { auditAll } from '../support/audit.ts'
import { type Deployment, deploy, type Vhost } from '../support/deployment.ts'
import { PASSWORD } from '../support/http.ts'
import { type Fault, figuresOf, type Kind, Line } from './failover-report.ts'

const SHORT = process.env['SHORT'] === '1'
const KILLS = Number(process.env['KILLS'] ?? (SHORT ? 2 : 50))
/** Load before a fault, at least and at most. */
const LOAD_MS_MIN = 300
const LOAD_MS_MAX = 1_500
/** Once another has taken over. */
const AWAY_MS_MAX = 3_000
const DURABILITIES = ['replicas=1', 'fsync', 'memory'] as const
/** Of a message to the queue that is stressed. */
const STRESS_BYTES = 4_096
/** Several of each, so that in a cluster every primary has some. */
const QUEUES_EACH = 3
/** What a publisher may wait beyond a failover. A short run may share the machine with others. */
const GAP_MS_MAX = SHORT ? 15_000 : 1_000
const FAILOVER_MS_MAX = 30_000
const DRAIN_MS_MAX = 60_000

const KINDS = ['killed', 'stopped', 'cut off'] as const
const GO: Record<Kind, (victim: Member) => unknown> = {
  killed: (victim) => victim.kill9(),
  stopped: (victim) => victim.pause(),
  'cut off': (victim) => victim.cutOff(),
}
const COME_BACK: Record<Kind, (victim: Member) => unknown> = {
  killed: (victim) => victim.restart(),
  stopped: (victim) => victim.cont(),
  'cut off': (victim) => victim.heal(),
}

interface Setup {
  readonly name: string
  readonly start: (t: TestContext) => Promise<RedisGroup>
}

/** The last one is for long runs. */
const SETUPS: readonly Setup[] = [
  {
    name: 'sentinels and a replica',
    start: (t) => privateSentinel(t, { fsync: 'always', replicas: 1 }),
  },
  {
    name: 'a cluster',
    start: (t) => privateCluster(t, { fsync: 'always' }),
  },
  {
    name: 'sentinels and two replicas',
    start: (t) => privateSentinel(t, { fsync: 'always', replicas: 2 }),
  },
]

for (const { name, start } of SHORT ? SETUPS.slice(0, 2) : SETUPS) {
  test(`with ${name}, a primary that goes costs nothing that a replica had to have`, async (t) => {
    const random = randomFor(t)
    const group = await start(t)
    const deployment = await deploy(t, ['router delivery reaper', 'router delivery reaper'], {
      redisUrl: group.url,
    })
    const vhost = await deployment.vhost()
    const load = await startLoad(t, deployment, vhost)
    t.after(() => {
      load.stop.abort()
      load.stopConsumers.abort()
    })
    const faults = await failPrimaries(group, random, vhost, load.lines)
    load.stop.abort()
    await load.published
    await waitFor(() => isEmpty(vhost, load.lines), {
      timeoutMs: DRAIN_MS_MAX,
      what: 'empty queues',
    })
    load.stopConsumers.abort()
    await load.consumed
    check(t, random.seed, load.lines, faults)
    assert.deepEqual(load.errors, [])
    assert.deepEqual(await auditAll(group.url, vhost.name), [])
  })
}

async function failPrimaries(
  group: RedisGroup,
  random: Random,
  vhost: Vhost,
  lines: ReadonlyMap<string, Line>,
): Promise<Fault[]> {
  const faults: Fault[] = []
  const loadMs = () => sleep(random.int(LOAD_MS_MIN, LOAD_MS_MAX))
  while (faults.length < KILLS) {
    const [queue, line] = random.pick([...lines])
    line.stressed = true
    await loadMs()
    if (group.url.startsWith('redis+cluster:')) {
      await moveSlot(group, `{${vhost.name}/${encodeURIComponent(queue)}}`)
      await loadMs()
    }
    const fault = await failPrimary(group, random)
    faults.push(fault)
    const goesOn = () =>
      [...lines.values()].every(({ confirmedAt }) => confirmedAt.at(-1)! > fault.safeAt)
    await waitFor(goesOn, { what: 'confirms in every queue', timeoutMs: FAILOVER_MS_MAX })
    await group.whole()
    line.stressed = false
  }
  await sleep(LOAD_MS_MAX)
  return faults
}

async function failPrimary(group: RedisGroup, random: Random): Promise<Fault> {
  const primaries = await group.primaries()
  const victim = random.pick(primaries)
  const kind = random.pick(KINDS)
  const at = performance.now()
  await GO[kind](victim)
  const takenOver = async () => {
    const others = (await group.primaries()).filter((one) => one !== victim)
    return others.length === primaries.length
  }
  await waitFor(takenOver, { what: 'a new primary', timeoutMs: FAILOVER_MS_MAX })
  const servedAt = performance.now()
  await sleep(random.int(0, AWAY_MS_MAX))
  await COME_BACK[kind](victim)
  const isSafe = async () => (await group.replicas()) > 0
  await waitFor(isSafe, { what: 'a replica', timeoutMs: FAILOVER_MS_MAX })
  return { kind, at, servedAt, safeAt: performance.now() }
}

async function startLoad(t: TestContext, { routers, processes }: Deployment, vhost: Vhost) {
  const stop = new AbortController()
  const stopConsumers = new AbortController()
  const lines = new Map<string, Line>()
  const errors: unknown[] = []
  const open = async (queue: string, durability: string) => {
    const line = new Line(durability)
    lines.set(queue, line)
    await vhost.queue(queue, { 'x-durability': durability, 'x-dedup-window': 3_600_000 })
    return line
  }
  const published: Promise<void>[] = []
  for (const durability of DURABILITIES) {
    for (let left = QUEUES_EACH; left > 0; left--) {
      const queue = `${durability}-${left}`
      const line = await open(queue, durability)
      const router = routers[left % routers.length]!
      published.push(publish(router, vhost.name, queue, line, stop.signal))
    }
  }
  const consumed = [...lines].map(([queue, line]) =>
    consume(vhost, queue, line, stopConsumers.signal),
  )
  const note = (running: Promise<void>) => running.catch((error) => void errors.push(error))
  for (const [index, application] of [useClient, useAmqplib].entries()) {
    const queue = `applications-${index}`
    const line = await open(queue, 'memory')
    const { publishing, consuming } = await application(t, processes[index]!, {
      vhost: vhost.name,
      queue,
      line,
      stop: stop.signal,
      stopConsumers: stopConsumers.signal,
    })
    published.push(note(publishing))
    consumed.push(note(consuming))
  }
  return {
    lines,
    errors,
    stop,
    stopConsumers,
    published: Promise.all(published),
    consumed: Promise.all(consumed),
  }
}

async function publish(
  router: Deployment['routers'][number],
  vhost: string,
  queue: string,
  line: Line,
  signal: AbortSignal,
): Promise<void> {
  for (let number = 0; !signal.aborted; number++) {
    const headers = { 'Content-Type': 'text/plain', 'Idempotency-Key': randomUUID() }
    const path = `/v1/vhosts/${vhost}/queues/${queue}/messages`
    for (;;) {
      const options = { headers, body: bodyOf(number, line), timeoutMs: 15_000 }
      const answer = await router.request('POST', path, options).catch(() => undefined)
      if (answer?.status === 200) break
      assert.ok(answer === undefined || answer.status === 503, answer?.text)
      await sleep(50)
    }
    line.confirmedAt.push(performance.now())
  }
}

interface Place {
  readonly vhost: string
  readonly queue: string
  readonly line: Line
  readonly stop: AbortSignal
  readonly stopConsumers: AbortSignal
}

/** What an application does; either promise rejects with the first error that it would meet. */
type Application = (
  t: TestContext,
  process: Deployment['processes'][number],
  place: Place,
) => Promise<{ publishing: Promise<void>; consuming: Promise<void> }>

const useClient: Application = async (t, { http }, { vhost, queue, line, ...signals }) => {
  const client = new Sluice({ url: http, vhost, token: PASSWORD })
  t.after(() => client.close())
  const failed = Promise.withResolvers<void>()
  const consumer = client.consume(
    queue,
    ({ body, redelivered }) => line.see(Number(body), redelivered),
    { onError: failed.reject },
  )
  signals.stopConsumers.addEventListener('abort', () => failed.resolve(consumer.drain()))
  const publish = async () => {
    for (let number = 0; !signals.stop.aborted; number++) {
      await client.publish({ queue }, bodyOf(number, line))
      line.confirmedAt.push(performance.now())
    }
  }
  return { publishing: publish(), consuming: failed.promise }
}

const useAmqplib: Application = async (_t, { doors }, { vhost, queue, line, ...signals }) => {
  const login = `admin:${encodeURIComponent(PASSWORD)}`
  const connection = await connect(`${doors['amqp']!.replace('//', `//${login}@`)}/${vhost}`)
  const failed = Promise.withResolvers<void>()
  connection.once('error', failed.reject)
  connection.once('close', () => failed.reject(new Error('the connection was closed')))
  const consuming = await connection.createChannel()
  await consuming.prefetch(50)
  await consuming.consume(queue, (message) => {
    if (message === null) return failed.reject(new Error('the consumer was cancelled'))
    line.see(Number(message.content), message.fields.redelivered)
    consuming.ack(message)
  })
  signals.stopConsumers.addEventListener('abort', () => failed.resolve(connection.close()))
  const publish = async () => {
    const channel = await connection.createConfirmChannel()
    const options = { contentType: 'text/plain' }
    for (let number = 0; !signals.stop.aborted; number++) {
      channel.sendToQueue(queue, Buffer.from(bodyOf(number, line)), options)
      await Promise.race([channel.waitForConfirms(), failed.promise])
      line.confirmedAt.push(performance.now())
    }
  }
  return { publishing: publish(), consuming: failed.promise }
}

const bodyOf = (number: number, { stressed }: Line) =>
  String(number).padEnd(stressed ? STRESS_BYTES : 0)

async function consume(vhost: Vhost, queue: string, line: Line, signal: AbortSignal) {
  while (!signal.aborted) {
    const body = { max: 100, waitMs: 1_000, leaseMs: 10_000 }
    const leased = await vhost
      .delivery('POST', `/queues/${queue}/leases`, { body, timeoutMs: 15_000 })
      .catch(() => undefined)
    if (leased?.status !== 200) {
      await sleep(50)
      continue
    }
    const { messages } = leased.json
    if (messages.length === 0) continue
    for (const message of messages) line.see(Number(message.body), message.redelivered)
    const settlements = messages.map(({ token }: { token: string }) => ({ token, outcome: 'ack' }))
    const settle = { body: { settlements }, timeoutMs: 15_000 }
    await vhost.delivery('POST', `/queues/${queue}/settlements`, settle).catch(() => undefined)
  }
}

async function isEmpty(vhost: Vhost, lines: ReadonlyMap<string, Line>): Promise<boolean> {
  for (const queue of lines.keys()) {
    const { ready = 1, unacked = 1, delayed = 1 } = await vhost.counts(queue)
    if (ready + unacked + delayed > 0) return await sleep(200, false)
  }
  return true
}

function check(
  t: TestContext,
  seed: number,
  lines: ReadonlyMap<string, Line>,
  faults: readonly Fault[],
): void {
  const count = (kind: Kind) => [kind, faults.filter((fault) => fault.kind === kind).length]
  t.diagnostic(JSON.stringify({ seed, ...Object.fromEntries(KINDS.map(count)) }))
  const all = DURABILITIES.map((durability) => figuresOf(durability, lines.values(), faults))
  for (const figures of all) t.diagnostic(JSON.stringify(figures))
  for (const { durability, lost, beyondMs } of all) {
    if (durability === 'replicas=1') assert.equal(lost, 0, 'lost, and a replica had to have it')
    assert.ok(beyondMs <= GAP_MS_MAX, `${durability}: ${beyondMs} ms longer than the failover`)
  }
}
