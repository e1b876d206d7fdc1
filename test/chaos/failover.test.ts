/**
 * Primaries of Redis die or are cut off under load, behind sentinels and in a cluster; their
 * replicas take over.
 *
 * Method: two brokers, each all services in one process; publishers that try again with the same
 * Idempotency-Key until they are told that a message is stored; a consumer a queue. KILLS times (2
 * with SHORT=1, else 50), by turns, the primary is killed with SIGKILL, or stopped with SIGSTOP; it
 * comes back once another has taken over, and what was only stopped still believes to be a primary.
 * In a cluster a queue moves to another primary before each time.
 *
 * Each primary has one replica. Of two, one may confirm what a primary that was cut off still
 * takes, while the other has been promoted.
 * Nothing confirmed with `replicas=1` may be missing. With `memory` the last confirms before a kill
 * may be: how many, and how old, is measured and printed. Nothing is stored twice, and the longest
 * gap between two confirms of a publisher is measured too.
 */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import {
  moveSlot,
  privateCluster,
  privateSentinel,
  type RedisGroup,
  waitFor,
} from '@sluice/testkit'
import { auditAll } from '../support/audit.ts'
import { type Deployment, deploy, type Vhost } from '../support/deployment.ts'

const SHORT = process.env['SHORT'] === '1'
const KILLS = Number(process.env['KILLS'] ?? (SHORT ? 2 : 50))
/** Load before a kill, and until the killed one comes back. */
const LOAD_MS = 700
const DURABILITIES = ['replicas=1', 'memory'] as const
/** Several of each, so that in a cluster every primary has some. */
const QUEUES_EACH = 3
/** The group's own failover takes some 2 to 5 s; a machine under load longer. */
const GAP_MS_MAX = SHORT ? 30_000 : 20_000
/** An answer that was on its way when the primary died is read within this. */
const READ_MS_MAX = 1_000
const DRAIN_MS_MAX = 60_000

/** What was published to a queue, by number, and what came out. */
class Line {
  /** When each was confirmed, ms of the monotonic clock. */
  readonly confirmedAt: number[] = []
  readonly #seen = new Set<number>()
  gapMs = 0
  /** Deliveries of something seen before that do not say so. */
  twice = 0
  /** First deliveries that came before an earlier message. */
  disordered = 0
  #last = -1

  see(number: number, redelivered: boolean): void {
    if (this.#seen.has(number)) {
      if (!redelivered) this.twice++
      return
    }
    this.#seen.add(number)
    if (number < this.#last && !redelivered) this.disordered++
    this.#last = Math.max(this.#last, number)
  }

  /** When those were confirmed that never came out. */
  lost(): number[] {
    return this.confirmedAt.filter((_, number) => !this.#seen.has(number))
  }
}

for (const [name, start] of [
  ['sentinels', privateSentinel],
  ['a cluster', privateCluster],
] as const) {
  test(`with ${name}, a primary that goes costs nothing that a replica had to have`, async (t) => {
    const group = await start(t, { fsync: 'everysec', replicas: 1 })
    const deployment = await deploy(t, ['router delivery reaper', 'router delivery reaper'], {
      redisUrl: group.url,
    })
    const vhost = await deployment.vhost()
    const lines = new Map<string, Line>()
    for (const durability of DURABILITIES) {
      for (let left = QUEUES_EACH; left > 0; left--) {
        const queue = `${durability}-${left}`
        lines.set(queue, new Line())
        await vhost.queue(queue, { 'x-durability': durability, 'x-dedup-window': 3_600_000 })
      }
    }
    const tagOf = (queue: string) => `{${vhost.name}/${encodeURIComponent(queue)}}`
    const load = startLoad(deployment, vhost, lines)
    const kills = await failPrimaries(group, [...lines.keys()].map(tagOf))
    load.stop.abort()
    await load.published
    await waitFor(() => isEmpty(vhost, lines), { timeoutMs: DRAIN_MS_MAX, what: 'empty queues' })
    load.stopConsumers.abort()
    await load.consumed
    await report(t, lines, kills)
    assert.deepEqual(await auditAll(group.url, vhost.name), [])
  })
}

/** When each went, ms of the monotonic clock. */
async function failPrimaries(group: RedisGroup, tags: readonly string[]): Promise<number[]> {
  const kills: number[] = []
  while (kills.length < KILLS) {
    await group.whole()
    await sleep(LOAD_MS)
    if (group.url.startsWith('redis+cluster:')) {
      await moveSlot(group, tags[kills.length % tags.length]!)
      await sleep(LOAD_MS)
    }
    const primaries = await group.primaries()
    const victim = primaries[kills.length % primaries.length]!
    const dies = kills.length % 2 === 0
    if (dies) await victim.kill9()
    else victim.pause()
    kills.push(performance.now())
    await waitFor(async () => !(await group.primaries()).includes(victim), {
      what: 'a new primary',
      timeoutMs: 30_000,
    })
    if (dies) await victim.restart()
    else victim.cont()
  }
  await group.whole()
  await sleep(LOAD_MS)
  return kills
}

function startLoad({ routers }: Deployment, vhost: Vhost, lines: ReadonlyMap<string, Line>) {
  const stop = new AbortController()
  const stopConsumers = new AbortController()
  const published = [...lines].map(([queue, line], index) =>
    publish(routers[index % routers.length]!, vhost.name, queue, line, stop.signal),
  )
  const consumed = [...lines].map(([queue, line]) =>
    consume(vhost, queue, line, stopConsumers.signal),
  )
  return {
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
  let last = performance.now()
  for (let number = 0; !signal.aborted; number++) {
    const headers = { 'Content-Type': 'text/plain', 'Idempotency-Key': randomUUID() }
    const path = `/v1/vhosts/${vhost}/queues/${queue}/messages`
    for (;;) {
      const options = { headers, body: String(number), timeoutMs: 15_000 }
      const answer = await router.request('POST', path, options).catch(() => undefined)
      if (answer?.status === 200) break
      assert.ok(answer === undefined || answer.status === 503, answer?.text)
      await sleep(50)
    }
    const now = performance.now()
    line.gapMs = Math.max(line.gapMs, now - last)
    last = now
    line.confirmedAt.push(now)
  }
}

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

async function report(t: TestContext, lines: ReadonlyMap<string, Line>, kills: readonly number[]) {
  for (const durability of DURABILITIES) {
    const some = [...lines].flatMap(([queue, line]) => (queue.startsWith(durability) ? line : []))
    const sum = (of: (line: Line) => number) => some.reduce((all, line) => all + of(line), 0)
    const ages = some
      .flatMap((line) => line.lost())
      .map((confirmedAt) => (kills.find((at) => at > confirmedAt - READ_MS_MAX) ?? 0) - confirmedAt)
    const figures = {
      durability,
      kills: kills.length,
      confirmed: sum(({ confirmedAt }) => confirmedAt.length),
      lost: ages.length,
      lostMs: Math.round(Math.max(0, ...ages)),
      twice: sum(({ twice }) => twice),
      disordered: sum(({ disordered }) => disordered),
      gapMs: Math.round(Math.max(...some.map(({ gapMs }) => gapMs))),
    }
    t.diagnostic(JSON.stringify(figures))
    if (durability === 'replicas=1') assert.equal(figures.lost, 0, JSON.stringify(figures))
    // The others wait besides until there is a replica again.
    if (durability === 'memory') assert.ok(figures.gapMs <= GAP_MS_MAX, JSON.stringify(figures))
  }
}
