/**
 * The ways in for AMQP 0-9-1: plain TCP, TLS, and WebSocket for browsers. Each stream becomes a
 * connection with a session of its own; what happens on it is the same.
 */
import { once } from 'node:events'
import { createServer, type Server, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { createServer as createTlsServer } from 'node:tls'
import { AmqpError, Connection, type Mechanism, REPLY_CODES } from '@sluice/amqp'
import type { Config } from '@sluice/config'
import { limits, onAbort, type Start } from '@sluice/core'
import type { Deps, Door, Tls, Upgrade } from '@sluice/server'
import { createWebSocketStream, WebSocketServer } from 'ws'
import type { Feeds } from '../feeds.ts'
import { ConnectionLimits } from './connection-limits.ts'
import { amqpCounts } from './counts.ts'
import { refusal } from './reply.ts'
import { ReplyTo } from './reply-to.ts'
import { type AmqpContext, type Peer, Session } from './session.ts'

/** How often the server's alarms, and connections elsewhere, are looked at, ms. */
const LOOK_MS = 1_000

/** Where browsers open a WebSocket that speaks AMQP. */
const WEBSOCKET_PATH = '/ws/amqp'

/** For a stop in order: clients connect again elsewhere. */
const SHUTDOWN = new AmqpError(
  REPLY_CODES.connectionForced,
  "broker forced connection closure with reason 'shutdown'",
)

/** The doors of one process, their connections, and the loop that closes them when it stops. */
export function amqpDoors(
  deps: Deps,
  config: Config,
  feeds: Feeds,
): { doors: Door[]; upgrades: Upgrade[]; loop: Start } {
  const amqp = new AmqpServer(deps, config, feeds)
  const doors: Door[] = []
  if (!config.tlsOnly) {
    doors.push(amqp.door('amqp', config.amqpPort, 'SLUICE_AMQP_PORT', plain()))
  }
  if (deps.tls) {
    doors.push(amqp.door('amqps', config.amqpsPort, 'SLUICE_AMQPS_PORT', secure(deps.tls)))
  }
  return { doors, upgrades: [amqp.webSocket()], loop: (signal) => amqp.run(signal) }
}

type MakeServer = (accept: (socket: Socket) => void) => Server

const plain = (): MakeServer => (accept) => createServer({ noDelay: true }, accept)

const secure =
  (tls: Tls): MakeServer =>
  (accept) => {
    const server = createTlsServer({ ...tls.options, noDelay: true }, accept)
    tls.follow(server)
    return server
  }

class AmqpServer {
  readonly #context: AmqpContext
  readonly #config: Config
  readonly #connections = new Map<Connection, Session>()
  /** What the server lacks, in RabbitMQ's words; '' = nothing (18). */
  #alarm = ''

  constructor(deps: Deps, config: Config, feeds: Feeds) {
    this.#config = config
    this.#context = {
      deps,
      feeds,
      replyTo: new ReplyTo(deps.store),
      limits: new ConnectionLimits(deps),
      messageBytesMax: config.messageBytesMax,
      ackTimeoutMs: config.amqpAckTimeoutMs,
      counts: amqpCounts(deps, () => this.#connections.size),
    }
  }

  /** Started before the doors, and stopped with them: then every connection is closed with 320. */
  async run(signal: AbortSignal): Promise<{ closed: Promise<void> }> {
    await this.#context.replyTo.open()
    const stopped = Promise.withResolvers<void>()
    const looks = setInterval(() => this.#look(), LOOK_MS)
    const { onLost } = this.#context.deps.store
    const lost = () => {
      for (const session of this.#connections.values()) session.lost()
    }
    onLost.add(lost)
    onAbort(signal, () => {
      clearInterval(looks)
      onLost.delete(lost)
      // Clients connect again, here or elsewhere.
      for (const connection of this.#connections.keys()) connection.close(SHUTDOWN)
      stopped.resolve()
    })
    const closed = stopped.promise
      .then(() => Promise.all([...this.#connections.keys()].map(({ closed }) => closed)))
      .then(() => {})
    return { closed }
  }

  #look(): void {
    const { limits, deps } = this.#context
    limits.look().catch(deps.report)
    this.#lookAtAlarms()
  }

  #lookAtAlarms(): void {
    const alarm = this.#context.deps.store.alarms.join(' & ')
    if (alarm === this.#alarm) return
    this.#alarm = alarm
    this.#context.deps.log.warn({ alarm }, alarm === '' ? 'publishers go on' : 'publishers wait')
    for (const connection of this.#connections.keys()) {
      if (alarm === '') connection.unblock()
      else connection.block(alarm)
    }
  }

  door(name: string, port: number, setting: string, make: MakeServer): Door {
    const host = this.#config.amqpHost
    return {
      name,
      open: async (signal) => {
        const server = make((socket) => this.#accept(socket, this.#peerOf(socket)))
        server.on('tlsClientError', () => {}) // a handshake that failed: its socket is closed
        server.listen(port, host)
        await listening(server, `${host}:${port}`, setting)
        const closed = once(server, 'close').then(() => {})
        onAbort(signal, () => server.close())
        const address = server.address()
        const taken = typeof address === 'object' && address ? address.port : port
        return { url: `${name}://${host.includes(':') ? `[${host}]` : host}:${taken}`, closed }
      },
    }
  }

  webSocket(): Upgrade {
    const sockets = new WebSocketServer({
      noServer: true,
      maxPayload: limits.AMQP_WEBSOCKET_MESSAGE_MAX,
      handleProtocols: (offered) => (offered.has('amqp') ? 'amqp' : false),
    })
    return {
      path: WEBSOCKET_PATH,
      accept: (request, socket, head) => {
        sockets.handleUpgrade(request, socket, head, (webSocket) => {
          this.#accept(createWebSocketStream(webSocket), this.#peerOf(request.socket))
        })
      },
    }
  }

  #peerOf(socket: Socket): Peer {
    const certified = this.#context.deps.tls?.certified(socket)
    return { address: socket.remoteAddress ?? '', certified }
  }

  #accept(stream: Duplex, peer: Peer): void {
    if (this.#connections.size >= limits.AMQP_CONNECTIONS_MAX) {
      stream.destroy()
      return
    }
    const { report, log } = this.#context.deps
    const [product, version] = this.#config.amqpProduct.split(' ') as [string, string]
    const mechanisms: Mechanism[] = ['PLAIN', 'AMQPLAIN']
    if (peer.certified !== undefined) mechanisms.push('EXTERNAL')
    const connection = new Connection(
      stream,
      {
        frameMax: limits.AMQP_FRAME_MAX,
        channelMax: limits.AMQP_CHANNEL_MAX,
        heartbeatS: limits.AMQP_HEARTBEAT_S,
        serverProperties: { product, version, platform: 'Sluice', information: 'Apache-2.0' },
        mechanisms,
        messageBytesMax: this.#config.messageBytesMax,
        refusal,
        report,
        hint: (what) => log.warn(what),
      },
      (connection) => {
        const session = new Session(this.#context, connection, peer)
        this.#connections.set(connection, session)
        return session
      },
    )
    this.#context.counts.connectionsOpened.value++
    if (this.#alarm !== '') connection.block(this.#alarm)
    connection.closed.then(() => this.#connections.delete(connection), report)
  }
}

async function listening(server: Server, where: string, setting: string): Promise<void> {
  try {
    await once(server, 'listening')
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    const why = code === 'EADDRINUSE' ? 'it is taken' : message
    throw new Error(
      `Cannot listen for AMQP on ${where}: ${why}. Choose another ${setting} (0 = any free port).`,
      { cause: error },
    )
  }
}
