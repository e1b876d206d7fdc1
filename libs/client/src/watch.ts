/**
 * Looking on: what is published to an exchange, to every reader, as Server-Sent Events. Read with
 * fetch, since EventSource sends no credential.
 */
import { Message } from './delivery.ts'
import { problemError, SluiceError } from './errors.ts'
import type { CallOptions, Http } from './http.ts'
import { backoffMs, sleep } from './wait.ts'

/** What of an exchange is looked at. */
export interface WatchOptions<T = unknown> extends CallOptions {
  /** Which messages: as in a binding of a queue to the exchange. Default '#', all of a topic. */
  readonly bindingKey?: string
  /** Checks and types a body; what it throws ends the iteration. */
  readonly parse?: (body: unknown) => T
  /** Hears of lost connections, which end nothing. */
  readonly onError?: (error: unknown) => void
}

/** A stream says something each 15 s; one that is silent for longer is half open. */
const SILENT_MS_MAX = 45_000

interface Event {
  readonly id: string
  readonly event: string
  readonly data: string
}

/** Never ends by itself; goes on where it was when the connection breaks. */
export async function* watch<T>(
  http: Http,
  exchange: string,
  { bindingKey = '#', parse, signal, onError }: WatchOptions<T>,
): AsyncGenerator<Message<T>, void, void> {
  let last = ''
  for (let failed = 0; ; ) {
    try {
      for await (const { id, event, data } of events(http, exchange, bindingKey, last, signal)) {
        failed = 0
        if (event === 'end') throw problemError(JSON.parse(data), 0)
        last = id
        yield new Message<T>(JSON.parse(data), parse)
      }
    } catch (error) {
      if (!(error instanceof SluiceError) || !error.retriable) throw error
      onError?.(error)
    }
    await sleep(backoffMs(++failed, http.retry), signal)
  }
}

/** The events of one connection. Throws SluiceError, and the signal's reason. */
async function* events(
  http: Http,
  exchange: string,
  bindingKey: string,
  last: string,
  signal: AbortSignal | undefined,
): AsyncGenerator<Event, void, void> {
  const ended = new AbortController()
  const abort = () => ended.abort(signal?.reason)
  if (signal?.aborted) throw signal.reason
  signal?.addEventListener('abort', abort, { once: true })
  const silent = () => ended.abort(new SluiceError('connection_failed', 'The broker is silent.'))
  let timer = setTimeout(silent, SILENT_MS_MAX)
  try {
    const path = http.path('exchanges', exchange === '' ? 'amq.default' : exchange, 'events')
    const headers = last === '' ? {} : { 'Last-Event-ID': last }
    const response = await http.open('GET', path, { query: { bindingKey }, headers }, ended.signal)
    if (!response.ok || !response.body) {
      throw problemError(await response.json().catch(() => undefined), response.status)
    }
    let text = ''
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
    for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
      clearTimeout(timer)
      timer = setTimeout(silent, SILENT_MS_MAX)
      text += chunk.value
      for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
        const event = parseEvent(text.slice(0, end))
        text = text.slice(end + 2)
        if (event) yield event
      }
    }
  } catch (error) {
    if (signal?.aborted) throw signal.reason
    if (error instanceof SluiceError) throw error
    throw new SluiceError('connection_failed', 'The stream broke.', { cause: error })
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', abort)
    ended.abort()
  }
}

/** undefined for a comment. */
function parseEvent(block: string): Event | undefined {
  const fields: Record<string, string> = {}
  for (const line of block.split('\n')) {
    const colon = line.indexOf(':')
    if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 1).trimStart()
  }
  const { id = '', event, data } = fields
  return event === undefined || data === undefined ? undefined : { id, event, data }
}
