/**
 * A backend that takes only so many requests a second, and may be made to go away for a while: a
 * process of its own, so that whoever loads it does not slow its clock. Answers 200 within its rate
 * and 429 above it. Started by weak-backend.ts.
 */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

const [perSecond = 0, burst = 0, latencyMs = 0] = process.argv.slice(2).map(Number)

/** Body, status and time of each request, ms since 1970. */
const arrivals: [body: string, status: number, atMs: number][] = []
let level = burst
let filledMs = 0

const server = createServer((req, res) => {
  const atMs = performance.timeOrigin + performance.now()
  const chunks: Buffer[] = []
  req.on('data', (chunk: Buffer) => chunks.push(chunk))
  req.on('end', () => {
    const status = admits(atMs) ? 200 : 429
    arrivals.push([Buffer.concat(chunks).toString(), status, atMs])
    setTimeout(() => res.writeHead(status).end(), latencyMs)
  })
})

/** A token bucket; without a rate it admits everything. */
function admits(atMs: number): boolean {
  if (perSecond === 0) return true
  level = Math.min(burst, level + ((atMs - filledMs) * perSecond) / 1_000)
  filledMs = atMs
  if (level < 1) return false
  level--
  return true
}

function goAway(ms: number): void {
  const { port } = server.address() as AddressInfo
  server.close()
  server.closeAllConnections()
  setTimeout(() => server.listen(port, '127.0.0.1'), ms)
}

process.on('message', (message: { awayMs?: number }) => {
  if (message.awayMs !== undefined) goAway(message.awayMs)
  else process.send?.({ arrivals })
})
process.on('disconnect', () => process.exit())
server.listen(0, '127.0.0.1', () => {
  process.send?.({ url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/` })
})
