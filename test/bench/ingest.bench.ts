/**
 * How fast an ingest accepts requests, and how long each takes, beside an Express app that answers
 * 202 to the same requests and stores nothing.
 *
 * Method: a private Redis (everysec), the router in a process of its own, bare Express in another,
 * the load from this one over 64 keep-alive sockets with one request outstanding each, and over a
 * single one, where nothing is gathered and a latency is one request's. Bodies have 256 bytes; the
 * requests carry what a browser's do. Express, an ingest with one line and one with a fair order
 * are measured in turn, round by round, so that noise hits all; their queues are emptied in
 * between. CPU is the process's own, a request.
 */
import { privateRedis } from '@sluice/testkit'
import { type Bench, bench, median, perSecond } from './bench.ts'
import { cpuMicros, headers, type Server, startServer, startServices } from './broker-process.ts'
import { encodeRequest, load } from './http-load.ts'

const BODY = Buffer.alloc(256, 'x')
const CONNECTIONS = 64
const PATH = '/orders/42/items?colour=blue&size=7'

const BARE_EXPRESS = `
import express from 'express'
const app = express()
app.post('/ingest/express/*path', (req, res) => res.sendStatus(202))
const server = app.listen(0, '127.0.0.1', () => process.send({ http: 'http://127.0.0.1:' + server.address().port }))
`

interface Target extends Server {
  readonly name: string
  readonly ingest: string
  readonly request: Buffer
  readonly connections: number
}

interface Round {
  readonly rate: number
  readonly cpuMicros: number
  readonly p50: number
  readonly p99: number
}

await bench('ingest', async (b) => {
  const redis = await privateRedis(b)
  const router = await startServices(b, ['router'], redis.url)
  const express = await startServer(b, ['--input-type=module', '-e', BARE_EXPRESS], {})
  const admission = { waitingMax: 100_000_000 }
  await put(router, 'line', { admission })
  await put(router, 'fair', { admission, fairness: { by: { header: 'X-Client' } } })
  const target = (
    server: Server,
    name: string,
    ingest: string,
    connections = CONNECTIONS,
  ): Target => ({
    ...server,
    name,
    ingest,
    connections,
    request: encodeRequest('POST', `/ingest/${ingest}${PATH}`, browserHeaders(), BODY),
  })
  await measure(b, [
    target(express, 'Express that answers 202', 'express'),
    target(router, 'ingest', 'line'),
    target(router, 'ingest, fair order', 'fair'),
    target(express, 'Express, one at a time', 'express', 1),
    target(router, 'ingest, one at a time', 'line', 1),
  ])
})

function browserHeaders(): Record<string, string> {
  return {
    ...headers('application/json'),
    Accept: '*/*',
    'Accept-Language': 'en-GB,en;q=0.9',
    'User-Agent': 'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0 Safari/537.36',
    Origin: 'https://shop.example',
    'X-Client': 'client-7',
  }
}

async function put({ url }: Server, name: string, document: unknown): Promise<void> {
  const response = await fetch(`${url}/v1/vhosts/%2F/ingests/${name}`, {
    method: 'PUT',
    headers: headers('application/json'),
    body: JSON.stringify(document),
  })
  if (!response.ok) throw new Error(await response.text())
}

async function measure(b: Bench, targets: readonly Target[]): Promise<void> {
  const rounds = b.short ? 1 : 5
  const results = new Map<Target, Round[]>(targets.map((target) => [target, []]))
  for (let round = 0; round <= rounds; round++) {
    for (const target of targets) {
      b.say(`${target.name}, ${round === 0 ? 'warming up' : `round ${round} of ${rounds}`}`)
      const result = await oneRound(target, b.short ? 300 : 3_000)
      if (round > 0) results.get(target)!.push(result)
      if (target.ingest !== 'express') await empty(target)
    }
  }
  const of = (target: Target, figure: keyof Round) =>
    median(results.get(target)!.map((result) => result[figure]))
  const beside = ({ connections }: Target) =>
    targets.find((target) => target.ingest === 'express' && target.connections === connections)!
  for (const target of targets) {
    b.line({
      case: target.name,
      unit: 'requests/s',
      median: Math.round(of(target, 'rate')),
      p50Ms: Math.round(of(target, 'p50') * 100) / 100,
      p99Ms: Math.round(of(target, 'p99') * 100) / 100,
      cpuMicros: Math.round(of(target, 'cpuMicros') * 10) / 10,
      ofExpress: Math.round((100 * of(target, 'rate')) / of(beside(target), 'rate')) / 100,
    })
  }
}

async function oneRound(target: Target, ms: number): Promise<Round> {
  const { name, url, request, connections, pid } = target
  const latencies: number[] = []
  const took = (latency: number) => latencies.push(latency)
  const running = await load(url, request, connections, { status: 202, took })
  const cpu = cpuMicros(pid)
  const before = running.count()
  const rate = await perSecond(ms, running.count)
  const spent = cpuMicros(pid) - cpu
  const done = running.count() - before
  await running.stop()
  if (running.wrong() > 0) throw new Error(`${name}: ${running.wrong()} wrong answers`)
  latencies.sort((a, b) => a - b)
  const at = (share: number) => latencies[Math.floor(share * (latencies.length - 1))]!
  return { rate, cpuMicros: spent / done, p50: at(0.5), p99: at(0.99) }
}

/** Deletes the queue with what waits in it, and declares it anew. */
async function empty({ url, ingest }: Target): Promise<void> {
  const path = `${url}/v1/vhosts/%2F/queues/${ingest}`
  await fetch(path, { method: 'DELETE', headers: headers('application/json') })
  await fetch(path, { method: 'PUT', headers: headers('application/json') })
}
