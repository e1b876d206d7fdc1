/** For tests: an HTTP endpoint of their own that answers as it is told, and notes what came. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

interface Arrival {
  /** ms of performance.now(). */
  readonly atMs: number
  readonly body: string
  readonly headers: IncomingMessage['headers']
}

interface Answering {
  readonly status: number
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
  readonly afterMs?: number
}

export class TestBackend {
  readonly arrivals: Arrival[] = []
  /** What it answers; 'drop' ends the connection without a word. */
  answer: (arrival: Arrival) => Answering | 'drop'
  underWay = 0
  underWayMax = 0
  url = ''

  constructor(answer: TestBackend['answer'] = () => ({ status: 200 })) {
    this.answer = answer
  }

  async open(t: TestContext): Promise<this> {
    const server = createServer((req, res) => void this.#serve(req, res))
    server.listen(0, '127.0.0.1')
    await new Promise((resolve) => server.once('listening', resolve))
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook`
    t.after(() => {
      server.closeAllConnections()
      server.close()
    })
    return this
  }

  bodies(): string[] {
    return this.arrivals.map(({ body }) => body)
  }

  async #serve(req: IncomingMessage, res: ServerResponse): Promise<void> {
    const atMs = performance.now()
    this.underWay++
    this.underWayMax = Math.max(this.underWayMax, this.underWay)
    const chunks: Buffer[] = []
    for await (const chunk of req) chunks.push(chunk)
    const arrival = { atMs, body: Buffer.concat(chunks).toString(), headers: req.headers }
    this.arrivals.push(arrival)
    const answer = this.answer(arrival)
    if (answer === 'drop') {
      this.underWay--
      req.socket.destroy()
      return
    }
    if (answer.afterMs) await sleep(answer.afterMs)
    this.underWay--
    res.writeHead(answer.status, answer.headers).end(answer.body ?? '')
  }
}

/** The most that any window holds above rate x time: a burst it would have taken. */
export function excess(timesMs: readonly number[], perSecond: number): number {
  let least = Number.POSITIVE_INFINITY
  let most = 0
  timesMs
    .toSorted((a, b) => a - b)
    .forEach((ms, n) => {
      const level = n - (perSecond * ms) / 1_000
      least = Math.min(least, level)
      most = Math.max(most, level + 1 - least)
    })
  return most
}
