/**
 * A burst of orders for a backend that cannot take them: `npm run example:peak-shaving`.
 *
 * First a few orders go to the backend themselves, to see how weak it is. Then all of them go
 * through an ingest, which answers at once; a subscription replays them at the rate that the
 * backend can take, and midway the backend is away for some seconds. At the end each order must
 * have been accepted, made once and answered 201, and the backend must never have refused any.
 * Exit code 0 if so, 1 if not, with what is wrong. SHORT=1 is the same in a few seconds.
 */
import { randomUUID } from 'node:crypto'
import { ask, type Place, type Queue } from '../events/api.ts'
import { openBroker } from '../events/broker.ts'
import { WeakBackend } from './backend.ts'
import { Shop, withoutBroker } from './shop.ts'

const SHORT = process.env['SHORT'] === '1'
const ORDERS = SHORT ? 400 : 5_000
const PER_SECOND = 200
const BURST = 20
/**
 * Most requests on their way. A backend that stalls finds so many at once when it goes on, and a
 * burst behind them.
 */
const CONCURRENCY = 16
/** What the backend takes at once. */
const BACKEND_BURST = CONCURRENCY + BURST + 4
const AWAY_MS = SHORT ? 1_000 : 5_000
const ALONE = 200
const TIMEOUT_MS = SHORT ? 60_000 : 180_000
const LOOK_MS = 200

interface Subscription {
  readonly state?: { readonly breaker: 'open' | 'closed' }
}

interface Request {
  readonly state: string
  readonly answer?: { readonly status?: number; readonly body?: string }
}

interface Outcome {
  readonly alone: number
  readonly burstMs: number
  readonly drainMs: number
  readonly mostWaiting: number
  /** Order -> what the broker says became of it. */
  readonly requests: ReadonlyMap<number, Request>
}

const shows = process.stderr.isTTY
const say = (line: string) => {
  if (shows) process.stderr.write(`\x1b[2K\r${line}\n`)
}

async function main(): Promise<number> {
  const stop = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => stop.abort(new Error(`stopped by ${signal}`)))
  }
  const late = () => stop.abort(new Error(`not done after ${TIMEOUT_MS / 1_000} s`))
  const timer = setTimeout(late, TIMEOUT_MS)
  const backend = new WeakBackend(PER_SECOND, BACKEND_BURST)
  const broker = await openBroker(say, { SLUICE_PUSH_ALLOW: '127.0.0.0/8' })
  const { place } = broker
  const vhost = `example-${randomUUID()}`
  const shop = new Shop(`${place.url}/ingest/${vhost}/orders`)
  try {
    const outcome = await play({ place, vhost, backend, shop, signal: stop.signal })
    return print(outcome, backend, shop)
  } finally {
    clearTimeout(timer)
    await ask(place, 'DELETE', `/v1/vhosts/${vhost}`).catch(() => {}) // the broker may be gone
    await broker.close()
    backend.close()
  }
}

interface Scene {
  readonly place: Place
  readonly vhost: string
  readonly backend: WeakBackend
  readonly shop: Shop
  readonly signal: AbortSignal
}

async function play(scene: Scene): Promise<Outcome> {
  const { backend, shop, signal } = scene
  const url = await backend.open()
  say(`${ALONE} orders at once, to the backend itself`)
  const alone = await withoutBroker(url, ALONE)
  backend.forget()

  await declare(scene, url)
  const startedMs = performance.now()
  const board = new Board(scene)
  const watching = board.watch()
  await shop.rush(ORDERS, signal)
  const burstMs = performance.now() - startedMs
  say(`${ORDERS} orders were accepted in ${seconds(burstMs)}; the backend goes away`)
  backend.away = true
  await pause(AWAY_MS, signal)
  backend.away = false
  say('the backend is back')
  while (backend.made.size < ORDERS || board.waiting > 0) await pause(LOOK_MS, signal)
  const drainMs = performance.now() - startedMs
  board.close()
  await watching
  const requests = await lookUp(scene)
  return { alone, burstMs, drainMs, mostWaiting: board.mostWaiting, requests }
}

/** All that the broker must be told. The ingest is named as the vhost, which nobody else has. */
async function declare({ place, vhost }: Scene, url: string): Promise<void> {
  const base = `/v1/vhosts/${vhost}`
  await ask(place, 'PUT', base)
  await ask(place, 'PUT', `${base}/ingests/${vhost}`, {
    queue: 'orders',
    open: true,
    admission: { waitingMax: 1_000_000 },
  })
  await ask(place, 'PUT', `${base}/subscriptions/backend`, {
    queue: 'orders',
    endpoint: { url },
    replay: true,
    shape: {
      perSecond: PER_SECOND,
      burst: BURST,
      concurrencyMax: CONCURRENCY,
      rampUpMs: 1_000,
    },
    breaker: { failures: 5, probeMs: 250 },
  })
}

/** Live numbers, while somebody looks. */
class Board {
  readonly #scene: Scene
  waiting = 0
  mostWaiting = 0
  #open = true

  constructor(scene: Scene) {
    this.#scene = scene
  }

  close(): void {
    this.#open = false
  }

  async watch(): Promise<void> {
    const { place, vhost, signal } = this.#scene
    while (this.#open && !signal.aborted) {
      const base = `/v1/vhosts/${vhost}`
      const { messages } = await ask<Queue>(place, 'GET', `${base}/queues/orders`)
      this.waiting = messages.ready + messages.unacked + messages.delayed
      this.mostWaiting = Math.max(this.mostWaiting, this.waiting)
      if (shows) this.#show(await ask<Subscription>(place, 'GET', `${base}/subscriptions/backend`))
      await pause(LOOK_MS, signal)
    }
    if (shows) process.stderr.write('\n')
  }

  #show({ state }: Subscription): void {
    const { backend, shop } = this.#scene
    const now = performance.now()
    const lately = backend.askedMs.filter((at) => now - at < 1_000).length
    const figures = [
      `accepted ${shop.accepted.size}`,
      `waiting ${this.waiting}`,
      `made ${backend.made.size} of ${ORDERS}`,
      `${lately}/s at the backend`,
      ...(state?.breaker === 'open' ? ['it is away'] : []),
    ]
    process.stderr.write(`\x1b[2K\r${figures.join(' · ')}`)
  }
}

/** What the broker says of every order, each asked for where its 202 said. */
async function lookUp({ place, shop }: Scene): Promise<Map<number, Request>> {
  say('asking what became of each')
  const requests = new Map<number, Request>()
  const orders = [...shop.accepted]
  const asker = async () => {
    for (let next = orders.pop(); next; next = orders.pop()) {
      const [order, { location }] = next
      const response = await fetch(place.url + location)
      requests.set(order, (await response.json()) as Request)
    }
  }
  await Promise.all(Array.from({ length: 32 }, asker))
  return requests
}

/** Tells how it went. Returns the exit code. */
function print(outcome: Outcome, backend: WeakBackend, shop: Shop): number {
  const { alone, burstMs, drainMs, mostWaiting, requests } = outcome
  say('')
  const delivered = [...requests].filter(([order, { state, answer }]) => {
    return state === 'delivered' && answer?.status === 201 && answer.body === `{"made":${order}}`
  })
  const twice = [...backend.made.values()].filter((times) => times > 1).length
  const bound = PER_SECOND + BACKEND_BURST
  const busiest = backend.busiestSecond
  const faults: string[] = []
  if (shop.accepted.size !== ORDERS) faults.push(`${shop.accepted.size} orders were accepted`)
  if (backend.made.size !== ORDERS) faults.push(`${backend.made.size} orders were made`)
  if (twice > 0) faults.push(`${twice} orders were made more than once`)
  if (delivered.length !== ORDERS) faults.push(`${delivered.length} have the backend’s answer`)
  if (backend.refused > 0) faults.push(`the backend refused ${backend.refused}`)
  if (busiest > bound) faults.push(`the backend saw ${busiest} in one second, not ${bound}`)

  const took = [...shop.accepted.values()].map(({ tookMs }) => tookMs).sort((a, b) => a - b)
  const at = (share: number) => (took[Math.floor(share * (took.length - 1))] ?? 0).toFixed(1)
  const lines = [
    `a backend that takes ${PER_SECOND} orders a second, and is away for ${seconds(AWAY_MS)}`,
    `${ALONE} orders at once, sent to it directly: ${alone} made, ${ALONE - alone} refused`,
    '',
    `${ORDERS} orders at once, through the broker:`,
    `  accepted    ${shop.accepted.size} in ${seconds(burstMs)}, each in ${at(0.5)} ms (half), ${at(0.99)} ms (99 %)`,
    `  put off     ${shop.putOff}`,
    `  waiting     ${mostWaiting} at most`,
    `  made        ${backend.made.size}, within ${seconds(drainMs)}; at ${PER_SECOND} a second and with the pause ${seconds((ORDERS / PER_SECOND) * 1_000 + AWAY_MS)}`,
    `  at most     ${busiest} in any second, of ${bound} that it takes; ${backend.refused} refused`,
    `  answers     ${delivered.length} found where the 202 said`,
    '',
    ...(faults.length === 0 ? ['Every order is accounted for.'] : faults),
  ]
  process.stdout.write(`${lines.join('\n')}\n`)
  return faults.length === 0 ? 0 : 1
}

const seconds = (ms: number) => `${(ms / 1_000).toFixed(1)} s`

async function pause(ms: number, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  await new Promise((resolve) => setTimeout(resolve, ms))
  signal.throwIfAborted()
}

process.exitCode = await main().catch((error: unknown) => {
  process.stderr.write(`example: ${error instanceof Error ? error.message : error}\n`)
  return 1
})
