/**
 * The WebSocket door: `/ws`, subprotocol `sluice.v1`, for browsers and backends. What is said on a
 * connection is in frames.ts and docs/websocket.md.
 */
import assert from 'node:assert/strict'
import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import type { Config } from '@sluice/config'
import { BrokerError, limits, onAbort, type Running } from '@sluice/core'
import type { Principal } from '@sluice/security'
import { type Deps, publishCounts, type Upgrade } from '@sluice/server'
import { type WebSocket, WebSocketServer } from 'ws'
import type { Feeds } from '../feeds.ts'
import { SUBPROTOCOL } from './frames.ts'
import { CLOSE, type WsContext, type WsCounts, WsSession } from './session.ts'

const PATH = '/ws'

/** How often a stopping door looks whether its clients have settled what they hold, ms. */
const DRAIN_LOOK_MS = 20
/** How long they have for that; then it comes again elsewhere. */
const DRAIN_MS_MAX = 3_000
/** A delivery goes back after its acknowledgement timeout and before a fourth of it more. */
const LOOKS = 4
/** A close that the client does not answer, ms. */
const CLOSE_MS_MAX = 1_000

interface Connection {
  readonly socket: WebSocket
  readonly session: WsSession
  readonly closed: Promise<void>
  /** Since the last look: whether the client was heard of, and what it had not read by then. */
  heard: boolean
  unread: number
}

export class WebSocketDoor {
  readonly #context: WsContext
  readonly #connections = new Set<Connection>()
  readonly #server: WebSocketServer
  readonly #frameBytesMax: number
  readonly #heartbeatMs: number
  #stopping = false

  constructor(
    deps: Deps,
    config: Pick<Config, 'messageBytesMax' | 'amqpAckTimeoutMs'>,
    feeds: Feeds,
    heartbeatMs: number = limits.WEBSOCKET_HEARTBEAT_MS,
  ) {
    this.#heartbeatMs = heartbeatMs
    const { messageBytesMax, amqpAckTimeoutMs: ackTimeoutMs } = config
    this.#context = { deps, feeds, messageBytesMax, ackTimeoutMs, counts: countsOf(deps) }
    // Base64 and escapes make a body longer; fields and headers come on top.
    this.#frameBytesMax = 2 * messageBytesMax + limits.PROPERTIES_BYTES_MAX
    this.#server = new WebSocketServer({
      noServer: true,
      maxPayload: limits.WEBSOCKET_OPEN_BYTES_MAX,
      handleProtocols: (offered) => (offered.has(SUBPROTOCOL) ? SUBPROTOCOL : false),
    })
  }

  get upgrade(): Upgrade {
    return {
      path: PATH,
      accept: (request, socket, head) => {
        this.#accept(request, socket, head).catch((error) => {
          this.#context.deps.report(error)
          socket.destroy()
        })
      },
    }
  }

  /** Looks after its connections; when the process stops it sends them elsewhere. */
  async run(signal: AbortSignal): Promise<Running> {
    const stopped = Promise.withResolvers<void>()
    const beat = setInterval(() => this.#look(), this.#heartbeatMs)
    const { ackTimeoutMs } = this.#context
    const expiry = ackTimeoutMs > 0 && setInterval(() => this.#expire(), ackTimeoutMs / LOOKS)
    onAbort(signal, () => {
      clearInterval(beat)
      if (expiry) clearInterval(expiry)
      this.#stopping = true
      stopped.resolve(this.#drain())
    })
    return { closed: stopped.promise }
  }

  async #accept(request: IncomingMessage, socket: Duplex, head: Buffer): Promise<void> {
    const { credentials, tls } = this.#context.deps
    const address = request.socket.remoteAddress ?? ''
    const { authorization } = request.headers
    const named = tls?.certified(request.socket)
    let principal: Principal | undefined
    // A browser adds a remembered credential to connections that other sites open.
    if (!isCrossSite(request)) {
      if (authorization !== undefined) principal = await prove(credentials, authorization, address)
      else if (named !== undefined) principal = credentials.certified(named)
    }
    this.#server.handleUpgrade(request, socket, head, (webSocket) => {
      this.#connect(webSocket, socket, principal, address)
    })
  }

  #connect(
    socket: WebSocket,
    stream: Duplex,
    principal: Principal | undefined,
    address: string,
  ): void {
    const { deps } = this.#context
    const session = new WsSession(this.#context, socket, { principal, address }, () => {
      clearTimeout(late)
      allowFrames(socket, this.#frameBytesMax)
    })
    const late = setTimeout(
      () => session.end(CLOSE.timeout, 'no open frame came'),
      limits.WEBSOCKET_OPEN_MS_MAX,
    )
    const { promise: closed, resolve } = Promise.withResolvers<void>()
    const connection = { socket, session, closed, heard: true, unread: 0 }
    this.#connections.add(connection)
    const heard = () => {
      connection.heard = true
    }
    stream.on('drain', () => session.look())
    socket.on('pong', heard)
    socket.on('ping', heard)
    socket.on('message', (data: Buffer, isBinary) => {
      heard()
      if (isBinary) session.end(CLOSE.malformed, 'frames are text')
      else session.receive(data.toString('utf8'))
    })
    socket.on('error', () => {}) // a peer that breaks the protocol: ws closes it
    socket.on('close', () => {
      clearTimeout(late)
      this.#connections.delete(connection)
      session.closed().then(resolve, (error) => {
        deps.report(error)
        resolve()
      })
    })
    if (socket.protocol !== SUBPROTOCOL) session.end(CLOSE.malformed, `speak ${SUBPROTOCOL}`)
    else if (this.#stopping) session.end(CLOSE.serviceRestart, 'this process is stopping')
    else if (this.#connections.size > limits.WEBSOCKET_CONNECTIONS_MAX) {
      session.end(CLOSE.tryAgainLater, 'too many connections')
    }
  }

  /** Half-open connections end: who neither answers a ping nor reads on is gone. */
  #look(): void {
    for (const connection of this.#connections) {
      const { socket, heard, unread } = connection
      const reads = socket.bufferedAmount < unread
      // One that is paused has sent what Redis has not taken yet: its pong is behind that.
      if (!heard && !reads && !socket.isPaused) {
        socket.terminate()
        continue
      }
      connection.heard = false
      connection.unread = socket.bufferedAmount
      if (socket.readyState === socket.OPEN) socket.ping()
    }
  }

  #expire(): void {
    const nowMs = performance.now()
    for (const { session } of this.#connections) session.expire(nowMs)
  }

  async #drain(): Promise<void> {
    const connections = [...this.#connections]
    for (const { session } of connections) session.drain()
    const until = performance.now() + DRAIN_MS_MAX
    while (performance.now() < until && connections.some(({ session }) => !session.idle)) {
      for (const { session } of connections) if (session.idle) session.stop()
      await new Promise((resolve) => setTimeout(resolve, DRAIN_LOOK_MS))
    }
    for (const { session } of connections) session.stop()
    const timer = setTimeout(() => {
      for (const { socket } of connections) socket.terminate()
    }, CLOSE_MS_MAX)
    await Promise.all(connections.map(({ closed }) => closed))
    clearTimeout(timer)
  }
}

/** What a frame may have once it is known who sends it; ws has no way to say so later. */
function allowFrames(socket: WebSocket, bytesMax: number): void {
  const receiver: unknown = Reflect.get(socket, '_receiver')
  assert(typeof receiver === 'object' && receiver && '_maxPayload' in receiver)
  receiver._maxPayload = bytesMax
}

/** undefined also where nobody is heard after too many failures: open will say so. */
async function prove(
  credentials: Deps['credentials'],
  authorization: string,
  address: string,
): Promise<Principal | undefined> {
  try {
    return await credentials.authenticate(authorization, address)
  } catch (error) {
    if (error instanceof BrokerError) return undefined
    throw error
  }
}

function isCrossSite({ headers }: IncomingMessage): boolean {
  if (headers['sec-fetch-site'] === 'cross-site') return true
  if (headers.origin === undefined) return false
  return !URL.canParse(headers.origin) || new URL(headers.origin).host !== headers.host
}

function countsOf(deps: Deps): WsCounts {
  const { metrics } = deps
  const door = 'websocket'
  const settled = (outcome: Parameters<typeof metrics.count<'settled'>>[1]['outcome']) =>
    metrics.count('settled', { door, outcome })
  return {
    published: publishCounts(deps, door),
    delivered: metrics.count('leased', { door }),
    settled: {
      ack: settled('settled'),
      retry: settled('retried'),
      release: settled('released'),
      'dead-letter': settled('dead-lettered'),
      extend: settled('extended'),
      stale: settled('stale'),
    },
  }
}
