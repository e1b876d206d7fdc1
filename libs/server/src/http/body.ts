/**
 * Request bodies: read whole, within a limit of bytes and of time, and left unread without harm.
 *
 * Hot path: `receiveBody` runs for every message published by HTTP, hence a callback and no timer
 * for a body that comes with its headers. Measured by test/bench/http.bench.ts.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { BrokerError, limits } from '@sluice/core'

export type BodyReceived = (error: BrokerError | undefined, body: Buffer) => void

const JSON_TYPE = /^application\/(?:[\w.+-]+\+)?json\s*(?:;\s*charset="?utf-8"?\s*)?$/i

const EMPTY = Buffer.alloc(0)

/** How long a refused body is still taken in and thrown away, so that the client sees an answer. */
const LINGER_MS = 500

/**
 * Reads the whole body. `done` is called once: with the body, or with message_too_large (known from
 * Content-Length before a byte is read), request_timeout, or invalid_request when it was cut short.
 */
export function receiveBody(
  req: IncomingMessage,
  res: ServerResponse,
  bytesMax: number,
  done: BodyReceived,
): void {
  if (hasNoBody(req)) {
    done(undefined, EMPTY)
    return
  }
  const header = req.headers['content-length']
  const announced = header === undefined ? undefined : Number(header)
  if (announced !== undefined && announced > bytesMax) {
    done(tooLarge(bytesMax), EMPTY)
    return
  }
  if (req.headers.expect !== undefined) res.writeContinue()

  let first: Buffer | undefined
  let chunks: Buffer[] | undefined
  let size = 0
  let timer: NodeJS.Timeout | undefined
  const settle = (error: BrokerError | undefined, body: Buffer) => {
    clearTimeout(timer)
    req.off('data', onData)
    req.off('end', onEnd)
    req.off('close', onClose)
    if (error === undefined) req.resume()
    else req.pause()
    done(error, body)
  }
  const onData = (chunk: Buffer) => {
    size += chunk.length
    if (first === undefined) first = chunk
    else if (chunks === undefined) chunks = [first, chunk]
    else chunks.push(chunk)
    if (size > bytesMax) settle(tooLarge(bytesMax), EMPTY)
    else if (size === announced) onEnd()
    else timer ??= setTimeout(onLate, limits.HTTP_BODY_MS_MAX + (announced ?? bytesMax) / 16)
  }
  const onEnd = () =>
    settle(undefined, chunks === undefined ? (first ?? EMPTY) : Buffer.concat(chunks))
  const onClose = () => settle(new BrokerError('invalid_request', 'The body was cut short.'), EMPTY)
  const onLate = () =>
    settle(new BrokerError('request_timeout', 'The body came too slowly.'), EMPTY)
  req.on('data', onData)
  req.on('end', onEnd)
  req.on('close', onClose)
}

/** `receiveBody` as a promise. */
export function readBody(
  req: IncomingMessage,
  res: ServerResponse,
  bytesMax: number,
): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    receiveBody(req, res, bytesMax, (error, body) => (error ? reject(error) : resolve(body)))
  })
}

/**
 * A JSON body, parsed; `{}` when there is none. Throws unsupported_media_type, message_too_large,
 * request_timeout and invalid_request.
 */
export async function readJson(
  req: IncomingMessage,
  res: ServerResponse,
  bytesMax: number,
): Promise<unknown> {
  if (hasNoBody(req)) return {} // whatever its type: `curl -d ''` says it sends a form
  const { 'content-type': type = '', 'content-encoding': encoding = 'identity' } = req.headers
  if (encoding !== 'identity') {
    throw new BrokerError('unsupported_media_type', 'A compressed body is not understood here.')
  }
  if (!JSON_TYPE.test(type)) {
    throw new BrokerError('unsupported_media_type', 'Send Content-Type: application/json.')
  }
  return parseJson(await readBody(req, res, bytesMax))
}

/** Whether a request comes without a body, as far as its headers say. */
export function hasNoBody({ headers }: IncomingMessage): boolean {
  const length = headers['content-length']
  return headers['transfer-encoding'] === undefined && (length === undefined || length === '0')
}

/** Throws invalid_request when the bytes are not JSON, not UTF-8, or nested too deeply. */
export function parseJson(bytes: Buffer): unknown {
  let value: unknown
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (error) {
    throw new BrokerError('invalid_request', `Not JSON: ${(error as Error).message}`)
  }
  let level: unknown[] = [value]
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > limits.JSON_DEPTH_MAX) {
      throw new BrokerError(
        'invalid_request',
        `Nested deeper than ${limits.JSON_DEPTH_MAX} levels.`,
      )
    }
    level = level
      .filter((v) => typeof v === 'object' && v !== null)
      .flatMap((v) => Object.values(v as object))
  }
  return value
}

/**
 * Answers a request whose body nobody read, and closes its connection. What is still coming is
 * thrown away for a moment: a close with bytes unread would reset the connection, and the answer
 * with it.
 */
export function hangUpAfter(req: IncomingMessage, res: ServerResponse, text: string): void {
  res.setHeader('Connection', 'close')
  if (req.headers.expect !== undefined) {
    res.end(text) // never told to continue, so it sends nothing
    return
  }
  res.write(text)
  const timer = setTimeout(() => res.end(), LINGER_MS)
  const close = () => {
    clearTimeout(timer)
    res.end()
  }
  req.on('end', close)
  req.on('close', close)
  req.resume()
}

function tooLarge(bytesMax: number): BrokerError {
  return new BrokerError('message_too_large', `A body here has at most ${bytesMax} bytes.`, {
    details: { bytesMax },
  })
}
