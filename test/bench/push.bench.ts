/**
 * Push subscriptions: how fast they are to a fast endpoint, beside undici alone; what a burst does
 * to a weak backend that goes away in between, while the processes that push are killed in turn;
 * and whether dead endpoints slow down the healthy ones of 1 000 subscriptions.
 *
 * Method: a private Redis (everysec); services, endpoints and undici each in a process of their
 * own; bodies of 256 bytes. Push and undici send to the same endpoint over as many connections, in
 * turn, round by round, so that noise hits both. The drill is test/support/push-drill.ts. Latencies
 * are from the moment a message is published over HTTP until its request arrives.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort, privateRedis } from '@sluice/testkit'
import { type HttpClient, httpClient, PASSWORD } from '../support/http.ts'
import { drill } from '../support/push-drill.ts'
import { startWeakBackend } from '../support/weak-backend.ts'
import { type Bench, bench, median } from './bench.ts'
import { cpuMicros, type Server as Started, startServer } from './broker-process.ts'

const BODY = 'x'.repeat(256)
const CONNECTIONS = 64
const MAIN = 'services/all-in-one/src/main.ts'
const ENV = {
  SLUICE_HTTP_PORT: '0',
  SLUICE_AMQP_PORT: '0',
  SLUICE_ADMIN_PASSWORD: PASSWORD,
  SLUICE_LOG_LEVEL: 'warn',
  SLUICE_REAPER_PASS_MS: '200',
  SLUICE_PUSH_ALLOW: '127.0.0.1',
}

/** Counts requests; told to, it says how many. */
const ENDPOINT = `
import { createServer } from 'node:http'
let count = 0
const server = createServer((req, res) => {
  req.resume().on('end', () => { count++; res.end() })
})
process.on('message', () => process.send({ count }))
process.on('disconnect', () => process.exit())
server.listen(0, '127.0.0.1', () => process.send({ port: server.address().port }))
`

/** Sends requests while told to, as many at a time as there are connections. */
const UNDICI = `
import { createRequire } from 'node:module'
const { Pool } = createRequire(process.argv[1] + '/services/delivery/')('undici')
const [, , url, connections] = process.argv
const pool = new Pool(url, { connections: Number(connections) })
const headers = { 'content-type': 'text/plain' }
let running = false
async function work() {
  while (running) {
    const { body } = await pool.request({ path: '/', method: 'POST', headers, body: Buffer.from('${BODY}') })
    await body.dump()
  }
}
process.on('message', ({ run }) => {
  running = run
  if (run) for (let n = 0; n < Number(connections); n++) work()
})
process.on('disconnect', () => process.exit())
process.send({})
`

await bench('push', async (b) => {
  await throughput(b)
  await peak(b)
  await many(b)
})

/** What processes write is of interest only where a bench fails, which says so itself. */
function scopeOf(b: Bench) {
  return { after: b.after, diagnostic: () => {}, passed: true }
}

async function startScript(b: Bench, script: string, ...args: string[]): Promise<ChildProcess> {
  const child = spawn(process.execPath, ['--input-type=module', '-e', script, ...args], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
  b.after(() => void child.kill('SIGKILL'))
  return child
}

async function throughput(b: Bench): Promise<void> {
  const redis = await privateRedis(b)
  const rounds = b.short ? 1 : 5
  const roundMs = b.short ? 500 : 3_000
  const endpoint = await startScript(b, ENDPOINT)
  const [{ port }] = (await once(endpoint, 'message')) as [{ port: number }]
  const url = `http://127.0.0.1:${port}`
  const undici = await startScript(b, UNDICI, process.cwd(), url, String(CONNECTIONS))
  await once(undici, 'message')
  const { client } = await startBroker(b, redis.url)
  await put(client, 'queues/fast', {})
  const backlog = b.short ? 20_000 : 600_000
  b.say(`storing ${backlog} messages`)
  await fill(client, 'fast', backlog)
  const count = async () => {
    endpoint.send({})
    return ((await once(endpoint, 'message')) as [{ count: number }])[0].count
  }
  const subscription = (paused: boolean) => ({
    queue: 'fast',
    paused,
    endpoint: { url },
    shape: { concurrencyMax: CONNECTIONS },
  })
  const sources = {
    undici: async (run: boolean) => void undici.send({ run }),
    push: async (run: boolean) => put(client, 'subscriptions/fast', subscription(!run)),
  }
  const rates = { undici: [] as number[], push: [] as number[] }
  for (let round = 0; round <= rounds; round++) {
    for (const name of ['undici', 'push'] as const) {
      await sources[name](true)
      await sleep(round === 0 ? 2 * roundMs : roundMs / 2) // until it is at its speed
      const before = await count()
      const fromMs = performance.now()
      await sleep(roundMs)
      const rate = (((await count()) - before) * 1_000) / (performance.now() - fromMs)
      await sources[name](false)
      await sleep(300)
      b.say(`${name}: ${Math.round(rate)}/s, round ${round} of ${rounds}`)
      if (round > 0) rates[name].push(rate)
    }
  }
  const { length } = rates.push
  if (length === 0) throw new Error('no rounds')
  const ratio = median(rates.push) / median(rates.undici)
  b.line({
    case: 'throughput',
    unit: 'requests/s',
    push: Math.round(median(rates.push)),
    undici: Math.round(median(rates.undici)),
    ofUndici: Math.round(ratio * 100) / 100,
  })
}

async function peak(b: Bench): Promise<void> {
  const redis = await privateRedis(b)
  const size = b.short
    ? { messages: 600, burstMs: 200, awayAfterMs: 500, awayMs: 1_000, endEveryMs: 1_500 }
    : { messages: 20_000, burstMs: 2_000, awayAfterMs: 20_000, awayMs: 20_000, endEveryMs: 8_000 }
  const figures = await drill(scopeOf(b), {
    ...size,
    redisUrl: redis.url,
    perSecond: 200,
    burst: 20,
    kill: !b.short,
    say: b.say,
  })
  const { acceptedMs, idealMs } = figures
  b.line({ case: 'peak', ...figures, ofIdeal: Math.round((100 * acceptedMs) / idealMs) / 100 })
}

/** A message a second to each of the healthy ones: alone, and beside dead ones, in turn. */
async function many(b: Bench): Promise<void> {
  const healthy = b.short ? 50 : 990
  const rounds = b.short ? 1 : 3
  const roundMs = b.short ? 1_000 : 10_000
  const redis = await privateRedis(b)
  const backend = await startWeakBackend(b)
  const { client, pushing } = await startBroker(b, redis.url)
  const urls = [`http://127.0.0.1:${await freePort()}/`, await startSilent(b)]
  b.say(`declaring ${healthy} subscriptions`)
  const names = Array.from({ length: healthy }, (_, n) => `h${n}`)
  for (const queue of names) {
    await put(client, `queues/${queue}`, {})
    await put(client, `subscriptions/${queue}`, { queue, endpoint: { url: backend.url } })
  }
  const dead = Array.from({ length: 10 }, (_, n) => `d${n}`)
  for (const queue of dead) await put(client, `queues/${queue}`, {})
  const declareDead = async (paused: boolean) => {
    for (const [n, queue] of dead.entries()) {
      const endpoint = { url: urls[n % urls.length]!, timeoutMs: 1_000 }
      await put(client, `subscriptions/${queue}`, { queue, paused, endpoint })
    }
  }
  const seen = { alone: [] as Latencies[], beside: [] as Latencies[] }
  for (let round = 0; round <= rounds; round++) {
    for (const name of ['alone', 'beside'] as const) {
      b.say(round === 0 ? `warming up: ${name}` : `${name}, round ${round} of ${rounds}`)
      await declareDead(name === 'alone')
      const before = (await backend.arrivals()).length
      const queues = name === 'alone' ? names : [...names, ...dead]
      const cpu = cpuMicros(pushing.pid)
      await load(client, queues, round === 0 ? roundMs / 3 : roundMs)
      await sleep(500)
      const cpuMs = (cpuMicros(pushing.pid) - cpu) / 1_000
      const arrived = (await backend.arrivals()).slice(before)
      if (round > 0) seen[name].push({ ...latencies(arrived), cpuMs })
    }
  }
  const sum = (all: Latencies[]) => ({
    messages: all.reduce((total, { messages }) => total + messages, 0),
    p50: median(all.map(({ p50 }) => p50)),
    p99: median(all.map(({ p99 }) => p99)),
    cpuMs: median(all.map(({ cpuMs }) => cpuMs)),
  })
  const figures = { alone: sum(seen.alone), beside: sum(seen.beside) }
  b.line({ case: 'many', subscriptions: healthy + 10, dead: 10, unit: 'ms', ...figures })
}

/** cpuMs: CPU time of the process that pushes, in one round. */
type Latencies = ReturnType<typeof latencies> & { readonly cpuMs: number }

function latencies(arrivals: readonly { body: string; atMs: number }[]) {
  const sorted = arrivals.map(({ body, atMs }) => atMs - Number(body)).sort((a, b) => a - b)
  const at = (share: number) =>
    Math.round(10 * (sorted[Math.floor(share * (sorted.length - 1))] ?? 0)) / 10
  return { messages: sorted.length, p50: at(0.5), p99: at(0.99) }
}

/** A message a second to each queue, evenly; bodies tell when they were sent. */
async function load(client: HttpClient, queues: readonly string[], ms: number): Promise<void> {
  const startedMs = performance.now()
  const waiting: Promise<void>[] = []
  for (let sent = 0; performance.now() - startedMs < ms; ) {
    const due = ((performance.now() - startedMs) * queues.length) / 1_000
    for (; sent < due; sent++) {
      const body = String(performance.timeOrigin + performance.now())
      const path = `/v1/vhosts/%2F/queues/${queues[sent % queues.length]}/messages`
      const headers = { 'Content-Type': 'text/plain' }
      waiting.push(
        client.request('POST', path, { body, headers }).then(({ status, text }) => {
          if (status !== 200) throw new Error(text)
        }),
      )
    }
    await sleep(2)
  }
  await Promise.all(waiting)
}

/** Takes connections and says nothing. */
async function startSilent(b: Bench): Promise<string> {
  const server = createServer((socket) => socket.on('error', () => {}))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  b.after(() => void server.close())
  server.unref()
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
}

async function startBroker(
  b: Bench,
  redisUrl: string,
): Promise<{ client: HttpClient; pushing: Started }> {
  const env = { ...ENV, REDIS_URL: redisUrl }
  const [front, pushing] = await Promise.all([
    startServer(b, [MAIN, 'router', 'reaper'], env),
    startServer(b, [MAIN, 'delivery'], env),
  ])
  const clients = [front, pushing].map(({ url }) => httpClient(url))
  b.after(() => {
    for (const client of clients) client.close()
  })
  const [router, delivery] = clients as [HttpClient, HttpClient]
  const client: HttpClient = {
    request: (method, path, options) =>
      (path.includes('/subscriptions/') ? delivery : router).request(method, path, options),
    close: () => {},
  }
  return { client, pushing }
}

async function put(client: HttpClient, path: string, body: unknown): Promise<void> {
  const { status, text } = await client.request('PUT', `/v1/vhosts/%2F/${path}`, { body })
  if (status >= 300) throw new Error(text)
}

async function fill(client: HttpClient, queue: string, messages: number): Promise<void> {
  const line = JSON.stringify({ body: BODY })
  const body = Array.from({ length: 1_000 }, () => line).join('\n')
  const path = `/v1/vhosts/%2F/exchanges/amq.default/batch?routingKey=${queue}`
  const headers = { 'Content-Type': 'application/x-ndjson' }
  for (let stored = 0; stored < messages; stored += 1_000) {
    const { status, text } = await client.request('POST', path, { body, headers })
    if (status !== 200) throw new Error(text)
  }
}
