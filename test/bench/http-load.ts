/**
 * A load generator for HTTP that costs little beside what it measures: keep-alive sockets, requests
 * encoded beforehand, one outstanding a socket, and of an answer only its status and length read.
 */
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'

/** Of whoever serves HTTPS to a bench. */
const CA = new URL('../support/tls/ca.pem', import.meta.url)

/** A keep-alive socket for requests whose answers matter, one at a time. */
export interface Connection {
  /** Sends a request; resolves to the body of its answer. Rejects when that is not 200. */
  ask(request: Buffer): Promise<string>
  close(): void
}

export async function connectTo(url: string): Promise<Connection> {
  const socket = await open(url)
  let waiting: PromiseWithResolvers<string> | undefined
  onAnswers(socket, (ok, body) => {
    const text = body.toString()
    if (ok) waiting?.resolve(text)
    else waiting?.reject(new Error(`refused: ${text}`))
  })
  socket.on('close', () => waiting?.reject(new Error('the connection was closed')))
  socket.on('error', () => {}) // 'close' follows
  return {
    ask(request) {
      waiting = Promise.withResolvers()
      socket.write(request)
      return waiting.promise
    },
    close: () => socket.destroy(),
  }
}

export interface Load {
  /** Answers so far, of any status. */
  readonly count: () => number
  /** Statuses other than the expected one, counted. */
  readonly wrong: () => number
  stop(): Promise<void>
}

interface LoadOptions {
  /** What every answer should be; default 200. */
  readonly status?: number
  /** Hears how long each answer took, ms. */
  readonly took?: (ms: number) => void
}

/** Sends `request` again and again over `connections` sockets. */
export async function load(
  url: string,
  request: Buffer,
  connections: number,
  { status = 200, took }: LoadOptions = {},
): Promise<Load> {
  let answers = 0
  let wrong = 0
  let stopping = false
  const sockets = await Promise.all(Array.from({ length: connections }, () => open(url)))
  const ended = sockets.map((socket) => once(socket, 'close'))
  for (const socket of sockets) {
    let sentMs = performance.now()
    const answered = (ok: boolean) => {
      answers++
      if (!ok) wrong++
      if (took !== undefined) {
        const nowMs = performance.now()
        took(nowMs - sentMs)
        sentMs = nowMs
      }
      if (stopping) socket.end()
      else socket.write(request)
    }
    onAnswers(socket, answered, status)
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

async function open(url: string): Promise<Socket> {
  const { protocol, hostname, port } = new URL(url)
  const at = { host: hostname, port: Number(port), noDelay: true }
  if (protocol === 'https:') {
    const socket = connectTls({ ...at, ca: readFileSync(CA) })
    await once(socket, 'secureConnect')
    return socket
  }
  const socket = connect(at)
  await once(socket, 'connect')
  return socket
}

const HEAD_END = Buffer.from('\r\n\r\n')

/** Calls back for each whole answer. */
function onAnswers(
  socket: Socket,
  answered: (ok: boolean, body: Buffer) => void,
  status = 200,
): void {
  const good = `HTTP/1.1 ${status} `
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
      const body = bytes.subarray(headEnd + HEAD_END.length, end)
      bytes = bytes.subarray(end)
      answered(head.startsWith(good), body)
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
