/**
 * A burst of messages for a backend that takes far less of them a second and goes away in between,
 * while the processes that push are ended and started in turn. What must hold is checked by whoever
 * runs it: e2e/push.test.ts in seconds, bench/push.bench.ts at full length.
 */
import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import { type HttpClient, httpClient } from './http.ts'
import { type Scope, type ServiceProcess, startProcess } from './processes.ts'
import { aboveRate, startWeakBackend, type WeakBackend } from './weak-backend.ts'

const BATCH = 250
const LOOK_MS = 50

interface Drill {
  readonly redisUrl: string
  readonly messages: number
  /** How long the burst takes. */
  readonly burstMs: number
  /** What the backend takes, and what the subscription may send. */
  readonly perSecond: number
  readonly burst: number
  /** The backend goes away so long after the burst, and comes back. */
  readonly awayAfterMs: number
  readonly awayMs: number
  /** Every so often a process that pushes is ended, and started again; 0 = never. */
  readonly endEveryMs: number
  /** SIGKILL, or in order. */
  readonly kill: boolean
  readonly say?: (text: string) => void
}

interface Drilled {
  readonly messages: number
  /** Of different messages, answered with 200. */
  readonly accepted: number
  readonly requests: number
  readonly refused: number
  readonly deadLettered: number
  /** The most that any window held above rate x time. */
  readonly aboveRate: number
  /** From the first message until the last was accepted, and until all were settled. */
  readonly acceptedMs: number
  readonly settledMs: number
  /** messages / perSecond and the time away. */
  readonly idealMs: number
  readonly processesEnded: number
}

export async function drill(t: Scope, options: Drill): Promise<Drilled> {
  const { redisUrl, messages, perSecond, burst, awayMs, say = () => {} } = options
  const env = { SLUICE_REAPER_PASS_MS: '200', SLUICE_PUSH_ALLOW: '127.0.0.1' }
  const backend = await startWeakBackend(t, { perSecond, burst, latencyMs: 5 })
  const start = (name: string, services: string[]) =>
    startProcess(t, { redisUrl, env, name, services })
  const [front, ...pushing] = await Promise.all([
    start('front', ['router', 'reaper']),
    start('delivery #1', ['delivery']),
    start('delivery #2', ['delivery']),
  ])
  const client = httpClient(() => front.http)
  const admin = httpClient(() => pushing.find(({ running }) => running)?.http ?? '')
  t.after(() => {
    client.close()
    admin.close()
  })
  await declare(client, admin, backend.url, options)
  const startedMs = performance.now()
  const ending = endInTurn(pushing, options, startedMs + idealMs(options) * 0.8)
  await publish(client, options)
  say(`${messages} messages stored in ${Math.round(performance.now() - startedMs)} ms`)
  await sleep(options.awayAfterMs)
  backend.goAway(awayMs)
  say(`the backend is away for ${awayMs} ms`)
  const deadline = startedMs + idealMs(options) * 2 + 60_000
  for (let shown = performance.now(); !(await isDrained(client)); await sleep(LOOK_MS)) {
    if (performance.now() > deadline) break // the figures tell what is missing
    if (performance.now() - shown < 10_000) continue
    shown = performance.now()
    say(JSON.stringify(await counts(client, 'orders')))
  }
  const settledMs = Math.round(performance.now() - startedMs)
  const processesEnded = await ending
  return { ...(await figures(client, backend, options)), settledMs, processesEnded }
}

const idealMs = ({ messages, perSecond, awayMs }: Drill) => (messages / perSecond) * 1_000 + awayMs

async function declare(
  client: HttpClient,
  admin: HttpClient,
  url: string,
  { perSecond, burst }: Drill,
): Promise<void> {
  const put = async (to: HttpClient, path: string, body: unknown) => {
    const { status, text } = await to.request('PUT', `/v1/vhosts/%2F/${path}`, { body })
    assert.equal(status, 201, text)
  }
  // Not one failure of a message itself is allowed.
  await put(client, 'queues/orders', { arguments: { 'x-delivery-limit': 5 } })
  await put(admin, 'subscriptions/backend', {
    queue: 'orders',
    endpoint: { url, timeoutMs: 5_000 },
    shape: { perSecond, burst, rampUpMs: 1_000 },
    breaker: { failures: 5, probeMs: 1_000 },
  })
}

/** All messages within burstMs: their numbers, in batches. */
async function publish(client: HttpClient, { messages, burstMs }: Drill): Promise<void> {
  const startedMs = performance.now()
  for (let from = 0; from < messages; from += BATCH) {
    const waitMs = startedMs + (burstMs * from) / messages - performance.now()
    if (waitMs > 0) await sleep(waitMs)
    const lines = Array.from({ length: Math.min(BATCH, messages - from) }, (_, n) =>
      JSON.stringify({ body: String(from + n) }),
    )
    const path = '/v1/vhosts/%2F/exchanges/amq.default/batch?routingKey=orders'
    const headers = { 'Content-Type': 'application/x-ndjson' }
    const answer = await client.request('POST', path, { body: lines.join('\n'), headers })
    assert.equal(answer.status, 200, answer.text)
  }
}

async function endInTurn(
  pushing: readonly ServiceProcess[],
  { endEveryMs, kill }: Drill,
  untilMs: number,
): Promise<number> {
  let ended = 0
  while (endEveryMs > 0) {
    await sleep(endEveryMs)
    if (performance.now() > untilMs) break
    const process = pushing[ended % pushing.length]!
    if (kill) await process.kill9()
    else await process.stop()
    ended++
    await process.restart()
  }
  return ended
}

async function counts(client: HttpClient, queue: string): Promise<Record<string, number>> {
  const { json } = await client.request('GET', `/v1/vhosts/%2F/queues/${queue}`)
  return json.messages
}

async function isDrained(client: HttpClient): Promise<boolean> {
  const { ready, unacked, delayed, dead } = await counts(client, 'orders')
  return ready! + unacked! + delayed! + dead! === 0
}

async function figures(client: HttpClient, backend: WeakBackend, options: Drill) {
  const { messages, perSecond } = options
  const arrivals = await backend.arrivals()
  const firstMs = arrivals[0]?.atMs ?? 0
  const good = arrivals.filter(({ status }) => status === 200)
  const first = new Map<string, number>()
  for (const { body, atMs } of good) first.set(body, first.get(body) ?? atMs)
  const { ready } = await counts(client, 'amq.dead-letters')
  return {
    messages,
    accepted: first.size,
    requests: arrivals.length,
    refused: arrivals.length - good.length,
    deadLettered: ready!,
    aboveRate: Math.round(aboveRate(arrivals, perSecond) * 10) / 10,
    acceptedMs: Math.round(Math.max(...first.values()) - firstMs),
    idealMs: idealMs(options),
  }
}
