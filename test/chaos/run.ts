/**
 * One run: a broker under load while things go wrong, then peace until its queues are empty, then
 * the checks.
 */

import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Random, random, waitFor } from '@sluice/testkit'
import { auditAll } from '../support/audit.ts'
import { type HttpClient, httpClient } from '../support/http.ts'
import { AmqpConsumer, AmqpPublisher } from './amqp.ts'
import { checkAll, countRedelivered, isLost } from './checkers.ts'
import { type Cluster, type Node, startCluster } from './cluster.ts'
import { Consumer, idOf, type Mood } from './consumers.ts'
import { Faults, schedule } from './faults.ts'
import { Ledger } from './ledger.ts'
import { Publisher, type PublisherPlan } from './publishers.ts'
import { BASE, declareAll, GRAVES, QUEUES, STREAMS, VHOST } from './queues.ts'

interface RunOptions {
  readonly seed: number
  /** How long things go wrong, ms. */
  readonly forMs: number
  readonly fsync: 'always' | 'everysec'
  readonly verbose: boolean
}

export interface RunResult {
  readonly seed: number
  readonly fsync: string
  readonly faults: Readonly<Record<string, number>>
  readonly published: number
  readonly confirmed: number
  readonly settled: number
  readonly dead: number
  readonly redelivered: number
  readonly lost: number
  /** Before a kill of Redis, the age of the oldest confirmed message that was lost, ms. */
  readonly lostMs: number
  readonly drainMs: number
  readonly wrong: readonly string[]
}

/** Leases lapse, heartbeats end, and the claim of a dead letter lasts 30 s. */
const DRAIN_MS_MAX = 90_000

export async function run(t: TestContext, options: RunOptions): Promise<RunResult> {
  const { seed, forMs, fsync, verbose } = options
  const dice = random(seed)
  const begun = performance.now()
  const say = (line: string) => {
    if (verbose)
      process.stderr.write(`${((performance.now() - begun) / 1_000).toFixed(1)} ${line}\n`)
  }
  const cluster = await startCluster(t, fsync)
  await declareAll(cluster.routers[0]!)
  const ledger = new Ledger()
  const faults = new Faults(cluster)
  const plan = schedule(dice, forMs)
  const load = startLoad(cluster, ledger, dice)

  await faults.run(plan, say)
  say('calm')
  load.mood.calm = true
  load.stopPublishers.abort()
  await load.published
  say('nothing more is published')
  const calmAt = performance.now()
  const stuck = await drain(cluster, say)
  load.stopConsumers.abort()
  await load.consumed
  say('drained')
  await collectDead(cluster.doors[0]!, ledger)

  const wrong = [...stuck, ...cluster.crashes, ...(await auditAll(cluster.redis.url, VHOST))]
  const exact = fsync === 'always'
  wrong.push(...(exact ? checkAll(ledger) : ledger.wrong))
  return { ...summary(ledger, faults), seed, fsync, drainMs: performance.now() - calmAt, wrong }
}

/** By routing key; '' is the fan-out. */
const AMQP_STREAMS: readonly string[] = ['plain', 'line', 'keyed', 'retried', 'levels', '']

function startLoad({ routers, doors, amqp }: Cluster, ledger: Ledger, dice: Random) {
  const stopPublishers = new AbortController()
  const stopConsumers = new AbortController()
  const mood: Mood = { calm: false }
  const part = () => random(dice.int(0, 0x7fffffff))
  const published = publishers().map((plan) =>
    new Publisher(plan, routers, ledger, part()).run(stopPublishers.signal),
  )
  const overAmqp = STREAMS.filter(({ routingKey }) => AMQP_STREAMS.includes(routingKey)).map(
    (stream) => {
      const name = `${stream.routingKey || 'fan'}.amqp`
      return new AmqpPublisher(name, stream, amqp, ledger, part()).run(stopPublishers.signal)
    },
  )
  const times = (count: number, make: () => { run(signal: AbortSignal): Promise<void> }) =>
    Array.from({ length: count }, () => make().run(stopConsumers.signal))
  const consumed = QUEUES.flatMap((plan) => [
    ...times(plan.http, () => new Consumer(plan, doors, ledger, part(), mood)),
    ...times(plan.amqp, () => new AmqpConsumer(plan, amqp, ledger, part(), mood)),
  ])
  const measured = measure(routers, ledger, stopPublishers.signal)
  return {
    mood,
    stopPublishers,
    stopConsumers,
    published: Promise.all([...published, ...overAmqp, measured]),
    consumed: Promise.all(consumed),
  }
}

/** Four ways to publish to each: one by one and in batches, with an idempotency key and without. */
function publishers(): PublisherPlan[] {
  return STREAMS.flatMap((stream, index) =>
    [true, false].flatMap((keyed) =>
      [1, 40].map((batch) => ({
        name: `${stream.routingKey || 'fan'}.${keyed ? 'key' : 'bare'}${batch}.${index}`,
        stream,
        keyed,
        batch,
      })),
    ),
  )
}

/** Keeps the ledger told of how much waits in the queues. */
async function measure(routers: readonly HttpClient[], ledger: Ledger, signal: AbortSignal) {
  for (let turn = 0; !signal.aborted; turn++) {
    const counts = await readCounts(routers[turn % routers.length]!).catch(() => undefined)
    if (counts) ledger.backlog = counts.reduce((sum, { left }) => sum + left, 0)
    await sleep(200)
  }
}

async function readCounts(router: HttpClient): Promise<{ name: string; left: number }[]> {
  const { status, json, text } = await router.request('GET', `${BASE}/queues?pageSize=100`, {
    timeoutMs: 3_000,
  })
  if (status !== 200) throw new Error(text)
  const items = json.items as { name: string; messages: Record<string, number> }[]
  return items.map(({ name, messages }) => {
    const { ready = 0, unacked = 0, delayed = 0, dead = 0 } = messages
    return { name, left: (GRAVES.includes(name) ? 0 : ready) + unacked + delayed + dead }
  })
}

/** Waits until all queues but the graves are empty; names those that are not in the end. */
async function drain({ routers, nodes }: Cluster, say: (line: string) => void): Promise<string[]> {
  let left = ['nothing could be read']
  const isEmpty = async () => {
    const counts = await readCounts(routers[0]!).catch((error: Error) => {
      say(error.message)
      return undefined
    })
    if (!counts) return await sleep(500, false)
    left = counts
      .filter(({ left }) => left > 0)
      .map(({ name, left }) => `${name} still has ${left}`)
    if (left.length > 0) await sleep(500)
    say(left.join(', '))
    return left.length === 0
  }
  const drained = await waitFor(isEmpty, { timeoutMs: DRAIN_MS_MAX }).catch(() => false)
  return drained ? [] : [...left, ...(await probe(nodes))]
}

/** Who does not answer, directly or through its wire. */
async function probe(nodes: readonly Node[]): Promise<string[]> {
  const ask = async (name: string, client: HttpClient) => {
    const answer = await client.request('GET', '/readyz', { timeoutMs: 3_000 }).catch(String)
    if (typeof answer !== 'string' && answer.status === 200) return []
    return [`${name}: ${typeof answer === 'string' ? answer : answer.text}`]
  }
  const asked = nodes.flatMap(({ process, client }) => {
    const direct = httpClient(process.http)
    const answer = ask(`${process.name}, asked directly`, direct).finally(() => direct.close())
    return [answer, ask(`${process.name}, through its wire`, client)]
  })
  return (await Promise.all(asked)).flat()
}

/** Reads all dead letters, page by page, through the API. */
async function collectDead(door: HttpClient, ledger: Ledger): Promise<void> {
  for (const grave of GRAVES) {
    for (let next: string | undefined = ''; next !== undefined; ) {
      const path = `${BASE}/queues/${grave}/dead-letters?limit=500&after=${encodeURIComponent(next)}`
      const { status, json, text } = await door.request('GET', path)
      if (status !== 200) throw new Error(text)
      for (const { body, death } of json.messages) {
        ledger.find(death.queue, idOf(body))?.dead.push(death.reason)
      }
      next = json.next
    }
  }
}

function summary(ledger: Ledger, faults: Faults) {
  const copies = [...ledger.all()]
  const lost = copies.filter(isLost)
  const ages = lost.map(({ sent }) => {
    const kill = faults.redisKills.find((at) => at > sent.confirmedAt!)
    return kill === undefined ? Number.POSITIVE_INFINITY : kill - sent.confirmedAt!
  })
  return {
    faults: Object.fromEntries(faults.done),
    published: ledger.published,
    confirmed: ledger.confirmed,
    settled: copies.filter(({ settled, maybeSettled }) => settled > 0 || maybeSettled).length,
    dead: copies.filter(({ dead }) => dead.length > 0).length,
    redelivered: countRedelivered(ledger),
    lost: lost.length,
    lostMs: Math.max(0, ...ages),
  }
}
