/**
 * How fast messages go in over HTTP: one a request, beside an Express app that answers 200 to the
 * same requests; and in batches, as NDJSON and as JSON arrays.
 *
 * Method: a private Redis (everysec), the router in a process of its own, bare Express in another,
 * the load from this one over 64 keep-alive sockets with one request outstanding each (4 sockets
 * with 1 000 messages a request for batches). Bodies have 256 bytes. Express, an empty queue and
 * one with a million messages waiting are measured in turn, round by round, so that noise hits all.
 * CPU is the router's own, per message.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { privateRedis } from '@sluice/testkit'
import { type Bench, bench, median, perSecond } from './bench.ts'
import { encodeRequest, load } from './http-load.ts'

const BODY = Buffer.alloc(256, 'x')
const PASSWORD = 'bench bench'
const CONNECTIONS = 64
const BATCH_CONNECTIONS = 4
const BATCH = 1_000

const BARE_EXPRESS = `
import express from 'express'
const app = express()
app.post('/x', (req, res) => res.sendStatus(200))
const server = app.listen(0, '127.0.0.1', () => process.send({ http: 'http://127.0.0.1:' + server.address().port }))
`

interface Target {
  readonly name: string
  readonly url: string
  readonly pid: number
  readonly request: Buffer
  readonly connections: number
  /** Messages a request. */
  readonly messages: number
}

await bench('http', async (b) => {
  const redis = await privateRedis(b)
  const router = await start(b, ['services/all-in-one/src/main.ts', 'router'], {
    REDIS_URL: redis.url,
    SLUICE_HTTP_PORT: '0',
    SLUICE_ADMIN_PASSWORD: PASSWORD,
    SLUICE_LOG_LEVEL: 'warn',
  })
  const express = await start(b, ['--input-type=module', '-e', BARE_EXPRESS], {})
  for (const queue of ['empty', 'deep']) await declare(router.url, queue)

  const publish = (queue: string): Target => ({
    ...router,
    name: `publish, ${queue} queue`,
    request: encodeRequest(
      'POST',
      `/v1/vhosts/%2F/queues/${queue}/messages`,
      headers('text/plain'),
      BODY,
    ),
    connections: CONNECTIONS,
    messages: 1,
  })
  const batch = (queue: string, type: 'x-ndjson' | 'json'): Target => ({
    ...router,
    name: `batch of ${BATCH}, ${type}, ${queue} queue`,
    request: encodeRequest(
      'POST',
      `/v1/vhosts/%2F/exchanges/amq.default/batch?routingKey=${queue}`,
      headers(`application/${type}`),
      batchBody(type),
    ),
    connections: BATCH_CONNECTIONS,
    messages: BATCH,
  })
  const bare: Target = {
    ...express,
    name: 'Express that answers 200',
    request: encodeRequest('POST', '/x', headers('text/plain'), BODY),
    connections: CONNECTIONS,
    messages: 1,
  }

  const backlog = b.short ? 10_000 : 1_000_000
  b.say(`storing ${backlog} messages`)
  await fill(batch('deep', 'x-ndjson'), backlog)

  const targets = [
    bare,
    publish('empty'),
    publish('deep'),
    batch('empty', 'x-ndjson'),
    batch('deep', 'x-ndjson'),
    batch('empty', 'json'),
  ]
  await measure(b, router.url, targets)
})

async function measure(b: Bench, url: string, targets: readonly Target[]): Promise<void> {
  const rounds = b.short ? 1 : 5
  const results = new Map<Target, { rate: number; cpuMicros: number }[]>()
  for (let round = 0; round <= rounds; round++) {
    for (const target of targets) {
      b.say(
        round === 0 ? `warming up: ${target.name}` : `${target.name}, round ${round} of ${rounds}`,
      )
      const result = await oneRound(target, b.short ? 300 : 2_000)
      if (round > 0) results.set(target, [...(results.get(target) ?? []), result])
      await empty(url)
    }
  }
  const rate = (target: Target) => median(results.get(target)!.map((result) => result.rate))
  const [bare] = targets
  for (const target of targets) {
    b.line({
      case: target.name,
      unit: 'messages/s',
      median: Math.round(rate(target)),
      worst: Math.round(Math.min(...results.get(target)!.map((result) => result.rate))),
      cpuMicros:
        Math.round(median(results.get(target)!.map((result) => result.cpuMicros)) * 10) / 10,
      ...(target.messages === 1 && {
        ofExpress: Math.round((100 * rate(target)) / rate(bare!)) / 100,
      }),
    })
  }
}

/** One round: messages a second, and the server's CPU time for each. */
async function oneRound(target: Target, ms: number): Promise<{ rate: number; cpuMicros: number }> {
  const { url, request, connections, messages, pid } = target
  const running = await load(url, request, connections)
  const cpu = cpuMicros(pid)
  const before = running.count()
  const rate = messages * (await perSecond(ms, running.count))
  const done = messages * (running.count() - before)
  const spent = cpuMicros(pid) - cpu
  await running.stop()
  if (running.wrong() > 0) throw new Error(`${target.name}: ${running.wrong()} wrong answers`)
  return { rate, cpuMicros: spent / done }
}

async function fill({ url, request, connections }: Target, messages: number): Promise<void> {
  const running = await load(url, request, connections)
  while (running.count() * BATCH < messages) await new Promise((resolve) => setTimeout(resolve, 20))
  await running.stop()
}

async function start(
  b: Bench,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<{ url: string; pid: number }> {
  const child: ChildProcess = spawn(process.execPath, args, {
    cwd: new URL('../..', import.meta.url),
    env: { ...process.env, NODE_ENV: 'production', ...env },
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  })
  b.after(() => void child.kill('SIGTERM'))
  const died = once(child, 'exit').then(([code]) => {
    throw new Error(`${args.join(' ')} ended with ${code}`)
  })
  const [message] = (await Promise.race([once(child, 'message'), died])) as [{ http: string }]
  return { url: message.http, pid: child.pid! }
}

/** User and system time of a process so far. Linux; 0 elsewhere. */
function cpuMicros(pid: number): number {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ')
    return (Number(fields[11]) + Number(fields[12])) * 10_000 // ticks of 10 ms
  } catch {
    return 0
  }
}

function headers(type: string): Record<string, string> {
  return { Authorization: `Bearer ${PASSWORD}`, 'Content-Type': type }
}

function batchBody(type: 'x-ndjson' | 'json'): Buffer {
  const messages = Array.from({ length: BATCH }, () => JSON.stringify({ body: BODY.toString() }))
  return Buffer.from(type === 'json' ? `[${messages.join(',')}]` : messages.join('\n'))
}

async function declare(url: string, queue: string): Promise<void> {
  const response = await fetch(`${url}/v1/vhosts/%2F/queues/${queue}`, {
    method: 'PUT',
    headers: headers('application/json'),
  })
  if (!response.ok) throw new Error(await response.text())
}

/** Starts the empty queue anew: what a round left must not weigh on the next. */
async function empty(url: string): Promise<void> {
  const path = `${url}/v1/vhosts/%2F/queues/empty`
  await fetch(path, { method: 'DELETE', headers: headers('application/json') })
  await declare(url, 'empty')
}
