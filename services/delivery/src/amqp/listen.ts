/** The AMQP 0-9-1 door: a listener, and a connection with its session for each socket. */
import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import { AmqpError, Connection, REPLY_CODES } from '@sluice/amqp'
import type { Config } from '@sluice/config'
import { limits, onAbort } from '@sluice/core'
import type { Deps, Door } from '@sluice/server'
import { Feeds } from '../feeds.ts'
import { refusal } from './reply.ts'
import { ReplyTo } from './reply-to.ts'
import { type AmqpContext, Session } from './session.ts'

/** How long settlements may take to reach Redis when the process stops, ms. */
const SETTLE_MS_MAX = 5_000

/** Serves AMQP until the signal aborts: then every connection is closed with 320. */
export function amqpDoor(deps: Deps, config: Config): Door {
  return {
    name: 'amqp',
    async open(signal) {
      const context: AmqpContext = {
        deps,
        feeds: new Feeds(deps.report),
        replyTo: new ReplyTo(deps.store),
        messageBytesMax: config.messageBytesMax,
      }
      await context.replyTo.open()
      const connections = new Set<Connection>()
      const server = createServer({ noDelay: true }, (socket) => {
        if (connections.size >= limits.AMQP_CONNECTIONS_MAX) socket.destroy()
        else accept(socket, context, config, connections)
      })
      server.listen(config.amqpPort, config.amqpHost)
      await listening(server, config)
      const closed = once(server, 'close').then(() => context.feeds.close(SETTLE_MS_MAX))
      onAbort(signal, () => {
        server.close()
        for (const connection of connections) connection.close(SHUTDOWN)
      })
      const address = server.address()
      const port = typeof address === 'object' && address ? address.port : config.amqpPort
      const host = config.amqpHost.includes(':') ? `[${config.amqpHost}]` : config.amqpHost
      return { url: `amqp://${host}:${port}`, closed }
    },
  }
}

async function listening(server: ReturnType<typeof createServer>, config: Config): Promise<void> {
  try {
    await once(server, 'listening')
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    const where = `${config.amqpHost}:${config.amqpPort}`
    if (code === 'EADDRINUSE') {
      throw new Error(`${where} is taken: set SLUICE_AMQP_PORT to another port (0 = any free one)`)
    }
    throw new Error(`cannot listen on ${where} (SLUICE_AMQP_HOST, SLUICE_AMQP_PORT): ${message}`)
  }
}

function accept(
  socket: Socket,
  context: AmqpContext,
  config: Config,
  connections: Set<Connection>,
): void {
  const { report, log } = context.deps
  const [product, version] = config.amqpProduct.split(' ') as [string, string]
  const connection = new Connection(
    socket,
    {
      frameMax: limits.AMQP_FRAME_MAX,
      channelMax: limits.AMQP_CHANNEL_MAX,
      heartbeatS: limits.AMQP_HEARTBEAT_S,
      serverProperties: { product, version, platform: 'Sluice', information: 'Apache-2.0' },
      mechanisms: ['PLAIN', 'AMQPLAIN'],
      messageBytesMax: config.messageBytesMax,
      refusal,
      report,
      hint: (what) => log.warn({ from: socket.remoteAddress }, what),
    },
    (connection) => new Session(context, connection),
  )
  connections.add(connection)
  connection.closed.then(() => connections.delete(connection), report)
}

/** For a stop in order: clients connect again elsewhere. */
const SHUTDOWN = new AmqpError(
  REPLY_CODES.connectionForced,
  "broker forced connection closure with reason 'shutdown'",
)
