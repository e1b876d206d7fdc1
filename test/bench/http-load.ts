/**
 * A load generator for HTTP that costs little beside what it measures: keep-alive sockets, requests
 * encoded beforehand, one outstanding a socket, and of an answer only its status and length read.
 */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'

export interface Load {
  /** Answers so far, of any status. */
  readonly count: () => number
  /** Statuses other than 200, counted. */
  readonly wrong: () => number
  stop(): Promise<void>
}

/** Sends `request` again and again over `connections` sockets. */
export async function load(url: string, request: Buffer, connections: number): Promise<Load> {
  const { hostname, port } = new URL(url)
  let answers = 0
  let wrong = 0
  let stopping = false
  const sockets = await Promise.all(
    Array.from({ length: connections }, async () => {
      const socket = connect({ host: hostname, port: Number(port), noDelay: true })
      await once(socket, 'connect')
      return socket
    }),
  )
  const ended = sockets.map((socket) => once(socket, 'close'))
  for (const socket of sockets) {
    onAnswers(socket, (ok) => {
      answers++
      if (!ok) wrong++
      if (stopping) socket.end()
      else socket.write(request)
    })
    socket.on('error', () => {
      wrong++
    })
    socket.write(request)
  }
  const stop = async () => {
    stopping = true
    await Promise.all(ended)
  }
  return { count: () => answers, wrong: () => wrong, stop }
}

const HEAD_END = Buffer.from('\r\n\r\n')

/** Calls back for each whole answer. */
function onAnswers(socket: Socket, answered: (ok: boolean) => void): void {
  let rest: Buffer | undefined
  socket.on('data', (chunk: Buffer) => {
    let bytes = rest === undefined ? chunk : Buffer.concat([rest, chunk])
    for (;;) {
      const headEnd = bytes.indexOf(HEAD_END)
      if (headEnd < 0) break
      const head = bytes.toString('latin1', 0, headEnd)
      const length = /\r\ncontent-length: (\d+)/i.exec(head)?.[1]
      const end = headEnd + HEAD_END.length + Number(length ?? 0)
      if (bytes.length < end) break
      bytes = bytes.subarray(end)
      answered(head.startsWith('HTTP/1.1 200'))
    }
    rest = bytes.length === 0 ? undefined : bytes
  })
}

/** One request as bytes. */
export function encodeRequest(
  method: string,
  path: string,
  headers: Readonly<Record<string, string>>,
  body: Buffer,
): Buffer {
  const lines = Object.entries({ Host: 'bench', ...headers, 'Content-Length': String(body.length) })
  const head = lines.map(([name, value]) => `${name}: ${value}\r\n`).join('')
  return Buffer.concat([Buffer.from(`${method} ${path} HTTP/1.1\r\n${head}\r\n`), body])
}
