/**
 * A deliberately weak backend: it takes so many orders a second, answers 429 to the rest, and now
 * and then goes away. It notes everything that it saw.
 */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export class WeakBackend {
  readonly perSecond: number
  /** How many it takes at once after a pause. */
  readonly burst: number
  /** Order -> how often it was made. */
  readonly made = new Map<number, number>()
  /** When it was asked, ms. */
  readonly askedMs: number[] = []
  refused = 0
  /** Requests that came while it was away. */
  missed = 0
  away = false
  readonly #server: Server
  /** Orders it can take right now, as of #filledMs. */
  #room: number
  #filledMs = performance.now()

  constructor(perSecond: number, burst: number) {
    this.perSecond = perSecond
    this.burst = burst
    this.#room = burst
    this.#server = createServer((req, res) => {
      this.#serve(req, res).catch(() => res.destroy()) // the client went away
    })
  }

  async open(): Promise<string> {
    this.#server.listen(0, '127.0.0.1')
    await once(this.#server, 'listening')
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  close(): void {
    this.#server.closeAllConnections()
    this.#server.close()
  }

  /** As if nothing had happened. */
  forget(): void {
    this.made.clear()
    this.askedMs.length = 0
    this.refused = 0
  }

  /** Most requests within any second. */
  get busiestSecond(): number {
    let most = 0
    for (let first = 0, next = 0; next < this.askedMs.length; next++) {
      while (this.askedMs[next]! - this.askedMs[first]! >= 1_000) first++
      most = Math.max(most, next - first + 1)
    }
    return most
  }

  async #serve(req: IncomingMessage, res: ServerResponse): Promise<void> {
    if (this.away) {
      this.missed++
      req.socket.destroy()
      return
    }
    this.askedMs.push(performance.now())
    if (!this.#hasRoom()) {
      this.refused++
      res.writeHead(429, { 'Retry-After': 1 }).end('too many orders')
      return
    }
    const chunks: Buffer[] = []
    for await (const chunk of req) chunks.push(chunk)
    const { order } = JSON.parse(Buffer.concat(chunks).toString())
    this.made.set(order, (this.made.get(order) ?? 0) + 1)
    res.writeHead(201, { 'Content-Type': 'application/json' }).end(`{"made":${order}}`)
  }

  #hasRoom(): boolean {
    const nowMs = performance.now()
    const filled = ((nowMs - this.#filledMs) * this.perSecond) / 1_000
    this.#room = Math.min(this.burst, this.#room + filled)
    this.#filledMs = nowMs
    if (this.#room < 1) return false
    this.#room--
    return true
  }
}
