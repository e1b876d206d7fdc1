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
import { privateRedis } from '@sluice/testkit'
import { type Bench, bench, median, perSecond } from './bench.ts'
import {
  batchRequest,
  cpuMicros,
  declare,
  fill,
  headers,
  type Server,
  startServer,
  startServices,
} from './broker-process.ts'
import { encodeRequest, load } from './http-load.ts'

const BODY = Buffer.alloc(256, 'x')
const CONNECTIONS = 64
const BATCH_CONNECTIONS = 4
const BATCH = 1_000

const BARE_EXPRESS = `
import express from 'express'
const app = express()
app.post('/x', (req, res) => res.sendStatus(200))
const server = app.listen(0, '127.0.0.1', () => process.send({ http: 'http://127.0.0.1:' + server.address().port }))
`

interface Target extends Server {
  readonly name: string
  readonly request: Buffer
  readonly connections: number
  /** Messages a request. */
  readonly messages: number
}

await bench('http', async (b) => {
  const redis = await privateRedis(b)
  const router = await startServices(b, ['router'], redis.url)
  const express = await startServer(b, ['--input-type=module', '-e', BARE_EXPRESS], {})
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
    request: batchRequest(queue, type, BODY),
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
  await fill(router.url, 'deep', BODY, backlog)

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

/** Starts the empty queue anew: what a round left must not weigh on the next. */
async function empty(url: string): Promise<void> {
  const path = `${url}/v1/vhosts/%2F/queues/empty`
  await fetch(path, { method: 'DELETE', headers: headers('application/json') })
  await declare(url, 'empty')
}
