/**
 * The HTTP listener: what a connection may do before Express sees a request.
 *
 * Bodies have no deadline here, since a streamed batch may last for hours; who reads a body bounds
 * its time (body.ts).
 */
import { once } from 'node:events'
import { createServer, type IncomingMessage, type RequestListener, type Server } from 'node:http'
import { createServer as createHttpsServer } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { BrokerError, limits, onAbort, type Running } from '@sluice/core'
import type { Tls } from '../tls.ts'
import { toProblem } from './problem.ts'

interface ListenOptions {
  readonly host: string
  /** 0 picks a free one. */
  readonly port: number
  readonly connectionsMax: number
  /** Speaks HTTPS with it; undefined: plain HTTP. */
  readonly tls?: Tls | undefined
  /** Called with how many there are whenever that has changed. */
  readonly connections: (open: number) => void
  /** Who takes over connections that ask for another protocol, by path. */
  readonly upgrades: readonly {
    readonly path: string
    accept(request: IncomingMessage, socket: Duplex, head: Buffer): void
  }[]
}

/** How often a stopping listener looks for connections that have become idle. */
const CLOSE_IDLE_MS = 50
/**
 * How long a stopping listener still hears what was already on its way. Closing at once would reset
 * connections nobody accepted yet and requests nobody read yet; so they are answered `draining`.
 */
const LAST_WORDS_MS = 150

/**
 * Serves `app` until the signal aborts: soon no new connection, and open requests finish.
 * Throws one Error that names the setting when the address cannot be had.
 */
export async function listenHttp(
  app: RequestListener,
  { host, port, connectionsMax, connections, tls, upgrades }: ListenOptions,
  signal: AbortSignal,
): Promise<Running & { readonly url: string }> {
  const upgradeFor = ({ url = '' }: IncomingMessage) =>
    upgrades.find(({ path }) => path === url.split('?', 1)[0])
  const options = {
    maxHeaderSize: limits.HTTP_HEADER_BYTES_MAX,
    headersTimeout: limits.HTTP_HEADERS_MS_MAX,
    requestTimeout: 0,
    keepAliveTimeout: limits.HTTP_KEEP_ALIVE_MS,
    connectionsCheckingInterval: 1_000,
    noDelay: true,
    // Any other offer to speak another protocol is ignored, as HTTP allows (RFC 9110, 7.8).
    shouldUpgradeCallback: (request: IncomingMessage) => upgradeFor(request) !== undefined,
  }
  const server: Server = tls ? secured(tls, options, app) : createServer(options, app)
  server.maxConnections = connectionsMax
  const open = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    connections(open.add(socket).size)
    socket.once('close', () => {
      open.delete(socket)
      connections(open.size)
    })
  })
  server.maxHeadersCount = 0 // else the ones past it vanish; their bytes are bounded, app.ts counts
  server.on('checkContinue', app) // body.ts says continue once it wants the body
  server.on('clientError', refuse)
  server.on('upgrade', (request, socket, head) => {
    const upgrade = upgradeFor(request)
    socket.on('error', () => socket.destroy())
    if (upgrade) upgrade.accept(request, socket, head)
    else answer(socket, new BrokerError('not_found', 'No WebSocket is served at this path.'))
  })
  await listen(server, host, port)

  const closed = once(server, 'close').then(() => {})
  onAbort(signal, () => {
    setTimeout(() => {
      server.close()
      const idle = setInterval(() => {
        server.closeIdleConnections()
        // Clients open some before they need them; to Node one without a request is not idle.
        for (const socket of open) if (socket.bytesRead === 0) socket.destroy()
      }, CLOSE_IDLE_MS)
      server.on('close', () => clearInterval(idle))
    }, LAST_WORDS_MS)
  })
  const { address, family, port: taken } = server.address() as AddressInfo
  return {
    url: `${tls ? 'https' : 'http'}://${family === 'IPv6' ? `[${address}]` : address}:${taken}`,
    closed,
  }
}

function secured(tls: Tls, options: object, app: RequestListener): Server {
  const server = createHttpsServer({ ...options, ...tls.options }, app)
  tls.follow(server)
  server.on('tlsClientError', (_, socket) => socket.destroy()) // a handshake that failed
  return server
}

async function listen(server: Server, host: string, port: number): Promise<void> {
  server.listen({ host, port })
  try {
    await once(server, 'listening')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const why: Record<string, string> = {
      EADDRINUSE: `port ${port} on ${host} is taken: stop who has it, or choose another SLUICE_HTTP_PORT`,
      EACCES: `port ${port} needs privileges: choose a SLUICE_HTTP_PORT above 1023`,
      EADDRNOTAVAIL: `${host} is no address of this machine: see SLUICE_HTTP_HOST`,
      ENOTFOUND: `${host} is no known host: see SLUICE_HTTP_HOST`,
    }
    const reason = why[code ?? '']
    throw reason === undefined
      ? error
      : new Error(`Cannot listen for HTTP: ${reason}.`, { cause: error })
  }
}

/** What is no request at all: answered where that socket has no answer under way, and closed. */
function refuse(error: NodeJS.ErrnoException, stream: NodeJS.WritableStream): void {
  const socket = stream as Socket
  const answering = Reflect.get(socket, '_httpMessage') // as Node's own handler asks
  if (!socket.writable || error.code === 'ECONNRESET' || answering) {
    socket.destroy()
    return
  }
  answer(socket, refusalFor(error.code))
}

function answer(socket: Duplex, refusal: BrokerError): void {
  const problem = toProblem(refusal)
  const body = JSON.stringify(problem)
  socket.end(
    `HTTP/1.1 ${problem.status} Refused\r\nContent-Type: application/problem+json\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
    () => socket.destroy(),
  )
}

function refusalFor(code: string | undefined): BrokerError {
  if (code === 'HPE_HEADER_OVERFLOW') {
    const text = `The request line and headers have at most ${limits.HTTP_HEADER_BYTES_MAX} bytes.`
    return new BrokerError('headers_too_large', text)
  }
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') {
    return new BrokerError('request_timeout', 'The headers came too slowly.')
  }
  return new BrokerError('invalid_request', 'This is not an HTTP/1.1 request.')
}
