/**
 * How fast messages go out over HTTP: leased and acknowledged, one a request and a hundred.
 *
 * Method: a private Redis (everysec), router and delivery in one process, the load from this one:
 * each of 64 keep-alive sockets (4 for a hundred) leases, acknowledges what it got, and begins
 * again. Bodies have 256 bytes. A queue with just what is leased and one with a million more behind
 * are measured in turn, round by round, so that noise hits both. CPU is the process's own, per
 * message leased and acknowledged.
 */
import { privateRedis } from '@sluice/testkit'
import { type Bench, bench, median } from './bench.ts'
import { cpuMicros, declare, fill, headers, type Server, startServices } from './broker-process.ts'
import { type Connection, connectTo, encodeRequest } from './http-load.ts'

const BODY = Buffer.alloc(256, 'x')

interface Shape {
  /** Messages a lease. */
  readonly max: number
  readonly connections: number
}
const SHAPES: readonly Shape[] = [
  { max: 1, connections: 64 },
  { max: 100, connections: 4 },
]

interface Result {
  readonly rate: number
  readonly cpuMicros: number
}

await bench('lease', async (b) => {
  const redis = await privateRedis(b)
  const server = await startServices(b, ['router', 'delivery'], redis.url)
  for (const queue of ['empty', 'deep']) await declare(server.url, queue)
  const backlog = b.short ? 10_000 : 1_000_000
  b.say(`storing ${backlog} messages`)
  await fill(server.url, 'deep', BODY, backlog)
  for (const shape of SHAPES) await measure(b, server, shape)
})

async function measure(b: Bench, server: Server, shape: Shape): Promise<void> {
  const rounds = b.short ? 1 : 5
  const messages = (b.short ? 20 : 200) * shape.max * (shape.max === 1 ? 50 : 2)
  const results: Record<string, Result[]> = { empty: [], deep: [] }
  for (let round = 0; round <= rounds; round++) {
    for (const [queue, list] of Object.entries(results)) {
      b.say(`lease(${shape.max})+ack, ${queue} queue, round ${round} of ${rounds}, 0 warms up`)
      const stored = await fill(server.url, queue, BODY, messages)
      const result = await oneRound(server, queue, shape, stored)
      if (round > 0) list.push(result)
    }
  }
  for (const [queue, list] of Object.entries(results)) {
    const rates = list.map(({ rate }) => rate)
    const micros = median(list.map((result) => result.cpuMicros))
    b.line({
      case: `lease(${shape.max})+ack, ${queue} queue`,
      unit: 'messages/s',
      median: Math.round(median(rates)),
      worst: Math.round(Math.min(...rates)),
      cpuMicros: Math.round(micros * 10) / 10,
    })
  }
}

/** Leases and acknowledges `messages`, then stops. */
async function oneRound(
  server: Server,
  queue: string,
  { max, connections }: Shape,
  messages: number,
): Promise<Result> {
  const sockets = await Promise.all(
    Array.from({ length: connections }, () => connectTo(server.url)),
  )
  const path = `/v1/vhosts/%2F/queues/${queue}`
  const post = (what: string, body: object) =>
    encodeRequest(
      'POST',
      `${path}/${what}`,
      headers('application/json'),
      Buffer.from(JSON.stringify(body)),
    )
  let left = messages
  const cpu = cpuMicros(server.pid)
  const start = performance.now()
  const consume = async (socket: Connection) => {
    while (left > 0) {
      const wanted = Math.min(max, left)
      left -= wanted
      const tokens = tokensIn(await socket.ask(post('leases', { max: wanted })))
      left += wanted - tokens.length
      if (tokens.length === 0) continue
      const settlements = tokens.map((token) => ({ token, outcome: 'ack' }))
      const answer = await socket.ask(post('settlements', { settlements }))
      if (answer.includes('stale')) throw new Error(`stale: ${answer}`)
    }
  }
  await Promise.all(sockets.map(consume))
  const seconds = (performance.now() - start) / 1_000
  const spent = cpuMicros(server.pid) - cpu
  for (const socket of sockets) socket.close()
  return { rate: messages / seconds, cpuMicros: spent / messages }
}

/** The tokens of a lease's answer, without parsing the rest of it. */
function tokensIn(answer: string): string[] {
  return Array.from(answer.matchAll(/"token":"([^"]+)"/g), ([, token]) => token!)
}
