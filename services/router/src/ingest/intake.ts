/**
 * Requests of any method below /ingest/{name}: each becomes a message in the ingest's queue, and is
 * answered 202 once that is stored, with where its outcome will be.
 *
 * Order is the safety: whose request it is comes before its body, the message before its record,
 * and both before the answer. A request that is refused leaves nothing behind. One that comes
 * again with its Idempotency-Key has the same id, which is made of the key.
 *
 * Hot path: no router, no schema, one object a request; what is stored goes out with what others
 * send meanwhile. Measured by test/bench/ingest.bench.ts beside an Express app that answers 202.
 */
import { hash } from 'node:crypto'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { encodeProperties, type Properties, type Table } from '@sluice/amqp'
import { BrokerError, DEFAULT_EXCHANGE, limits, type Message } from '@sluice/core'
import type { Principal } from '@sluice/security'
import { type Area, type Deps, receiveBody, refuse, unauthenticated } from '@sluice/server'
import {
  type Admitted,
  type FoundRequest,
  noKey,
  type QueueStore,
  type RequestRecord,
  unavailable,
  type WaitingRoom,
} from '@sluice/store'
import {
  type Count,
  contextOf,
  endSpan,
  readTraceContext,
  type Span,
  writeTraceContext,
} from '@sluice/telemetry'
import { climbs, requestTable } from '@sluice/topology'
import { passOn, preferredWaitMs } from './answer.ts'
import { noIngest } from './http-ingests.ts'
import { Ingests, type OpenIngest } from './open-ingest.ts'

const BELOW = '/ingest/'

/** Bounds of Retry-After, seconds: a backend that stands still says nothing of when. */
const RETRY_AFTER_S_MAX = 300

/** An AMQP short string. */
const TYPE_LENGTH_MAX = 80

export function intake(deps: Deps, { messageBytesMax }: { messageBytesMax: number }): Area {
  const ingests = new Ingests(deps)
  const counts = ingestCounts(deps)
  const { credentials, report } = deps
  return {
    below: BELOW,
    serve(req, res) {
      const target = new Target(req.url!)
      const ingest = ingests.find(target.name)
      if (ingest?.settings.open) {
        new Acceptance(deps, counts, ingest, target, req, res, '').start(messageBytesMax)
        return
      }
      const enter = (principal: Principal | undefined) => {
        const known = checkSender(deps, principal, ingest, target, req)
        const { name } = principal!
        new Acceptance(deps, counts, known, target, req, res, name).start(messageBytesMax)
      }
      const proven = credentials.authenticate(req.headers.authorization, req.socket.remoteAddress)
      if (!(proven instanceof Promise)) enter(proven)
      else proven.then(enter).catch((error: unknown) => refuse(req, res, error, report))
    },
  }
}

type Counts = Readonly<Record<Admitted | 'bytes', Count>>

function ingestCounts({ metrics }: Deps): Counts {
  const door = 'ingest'
  const count = (outcome: Admitted) => metrics.count('published', { door, outcome })
  return {
    stored: count('stored'),
    duplicate: count('duplicate'),
    full: count('full'),
    crowded: count('crowded'),
    gone: count('gone'),
    'memory-high': count('memory-high'),
    'disk-low': count('disk-low'),
    'not-durable': count('not-durable'),
    'no-key': count('no-key'),
    unavailable: count('unavailable'),
    bytes: metrics.count('publishedBytes', { door }),
  }
}

/** A stranger is not even told which ingests there are. */
function checkSender(
  { credentials }: Deps,
  principal: Principal | undefined,
  ingest: OpenIngest | undefined,
  { name }: Target,
  req: IncomingMessage,
): OpenIngest {
  if (principal === undefined) throw unauthenticated(req.headers.authorization)
  if (ingest === undefined) throw noIngest(name)
  if (req.headers['sec-fetch-site'] === 'cross-site') {
    throw new BrokerError('forbidden', 'Requests that another site makes are refused.')
  }
  const resource = { kind: 'queue', name: ingest.settings.queue } as const
  const why = credentials.access.grants(principal, ingest.vhost).refusal('write', resource)
  if (why !== undefined) throw new BrokerError('forbidden', why)
  return ingest
}

/** What the request line says. */
class Target {
  readonly name: string
  /** What follows the name: begins with a slash, or is empty. */
  readonly path: string
  readonly query: string | undefined

  constructor(url: string) {
    const mark = url.indexOf('?')
    const pathEnd = mark < 0 ? url.length : mark
    const slash = url.indexOf('/', BELOW.length)
    const nameEnd = slash < 0 || slash > pathEnd ? pathEnd : slash
    this.name = url.slice(BELOW.length, nameEnd)
    this.path = url.slice(nameEnd, pathEnd)
    this.query = mark < 0 ? undefined : url.slice(mark + 1)
  }
}

/** One request, from its headers to its answer. */
class Acceptance {
  readonly #deps: Deps
  readonly #counts: Counts
  readonly #ingest: OpenIngest
  readonly #target: Target
  readonly #req: IncomingMessage
  readonly #res: ServerResponse
  readonly #user: string
  readonly #key: string
  #id = ''
  #print = ''
  /** Of a request that is traced. */
  #span: Span | undefined

  /** @param user of the credential, '' = none was asked for. */
  constructor(
    deps: Deps,
    counts: Counts,
    ingest: OpenIngest,
    target: Target,
    req: IncomingMessage,
    res: ServerResponse,
    user: string,
  ) {
    this.#deps = deps
    this.#counts = counts
    this.#ingest = ingest
    this.#target = target
    this.#req = req
    this.#res = res
    this.#user = user
    this.#key = String(req.headers['idempotency-key'] ?? '')
  }

  /** Throws invalid_request before the body is read; later refusals are answered here. */
  start(messageBytesMax: number): void {
    if (climbs(this.#target.path)) {
      throw new BrokerError('invalid_request', 'A path here has no segments . or ..')
    }
    if (Buffer.byteLength(this.#key) > limits.NAME_BYTES_MAX) {
      const text = `An Idempotency-Key has at most ${limits.NAME_BYTES_MAX} bytes.`
      throw new BrokerError('invalid_request', text)
    }
    const bytesMax = Math.min(this.#ingest.settings.bodyBytesMax, messageBytesMax)
    receiveBody(this.#req, this.#res, bytesMax, (error, body) => {
      if (error === undefined) this.#enter(body)
      else this.#refuse(error)
    })
  }

  #enter(body: Buffer): void {
    try {
      const room = this.#ingest.room()
      this.#name(body)
      const dedupId = this.#key === '' ? '' : this.#id
      const client = this.#ingest.client(this.#req, this.#user)
      this.#counts.bytes.value += body.length
      room.publish(this.#message(body, dedupId), client, this, 0)
    } catch (error) {
      this.#refuse(error)
    }
  }

  /** With a key the id is the same each time, and nobody's who does not know the key. */
  #name(body: Buffer): void {
    if (this.#key === '') {
      this.#id = this.#deps.store.requests.newId()
      return
    }
    const { vhost, name } = this.#ingest
    const { path, query } = this.#target
    const of = JSON.stringify([vhost, name, this.#user, this.#key])
    this.#id = hash('sha256', of, 'base64url').slice(0, 32)
    const print = JSON.stringify([this.#req.method, path, query, hash('sha256', body)])
    this.#print = hash('sha256', print, 'base64url').slice(0, 16)
  }

  /** What is kept of one with a key is there as long as the key is known. */
  get #keepMs(): number {
    const { keepAnswers, idempotencyWindowMs } = this.#ingest.settings
    const { retentionMs } = keepAnswers
    return this.#key === '' ? retentionMs : Math.max(retentionMs, 2 * idempotencyWindowMs)
  }

  #message(body: Buffer, dedupId: string): Message {
    const { name, settings } = this.#ingest
    const headers = this.#ingest.keptHeaders(this.#req)
    const { path, query } = this.#target
    const properties: Properties = { deliveryMode: 2, messageId: this.#id }
    const type = headers['content-type']
    const encoding = headers['content-encoding']
    if (isShort(type)) properties.contentType = type
    if (isShort(encoding)) properties.contentEncoding = encoding
    const table = requestTable({
      ingest: name,
      id: this.#id,
      method: this.#req.method!,
      path,
      query,
      headers,
      keepMs: this.#keepMs,
      keepBytes: settings.keepAnswers.bytesMax,
    })
    properties.headers = table
    this.#carryTrace(table, body)
    return {
      exchange: DEFAULT_EXCHANGE,
      routingKey: settings.queue,
      orderingKey: '',
      persistent: true,
      priority: 0,
      ttlMs: -1,
      delayMs: 0,
      dedupId,
      durability: null,
      properties: encodeProperties(properties),
      body,
    }
  }

  /** The trace that the request says, or one that starts with it, goes along with its message. */
  #carryTrace(table: Table, body: Buffer): void {
    const { tracing, topology } = this.#deps
    const carried = readTraceContext(this.#req.headers)
    writeTraceContext(carried, table)
    if (!tracing.on) return
    const { vhost, settings } = this.#ingest
    const asked = topology.table.queue(vhost, settings.queue)?.settings.traceRatio ?? -1
    const ratio = asked < 0 ? tracing.ratio : asked
    const options = { attributes: { 'messaging.message.body.size': body.length } }
    if (carried?.traceparent !== undefined) {
      this.#span = tracing.start('publish', vhost, settings.queue, carried, options)
    } else if (tracing.samples(ratio)) {
      this.#span = tracing.startTrace('publish', vhost, settings.queue, options)
      if (this.#span) writeTraceContext(contextOf(this.#span), table)
    }
  }

  appended(_token: number, outcome: Admitted, room: WaitingRoom): void {
    this.#counts[outcome].value++
    const stored = outcome === 'stored' || outcome === 'duplicate'
    if (this.#span) endSpan(this.#span, stored ? undefined : outcome, { 'sluice.outcome': outcome })
    if (stored) {
      this.#accept(outcome === 'duplicate', room.queue).catch((error) => this.#refuse(error))
    } else if (outcome === 'gone') {
      this.#finishDelete(room).catch((error) => this.#refuse(error))
    } else {
      this.#refuse(refusalOf(outcome, room.halfMs))
    }
  }

  async #accept(duplicate: boolean, queue: QueueStore): Promise<void> {
    const { store } = this.#deps
    const { vhost, name, settings } = this.#ingest
    const atMs = Date.now() + store.state.clockAheadMs
    const print = queue.sealing.kept('request', this.#print)
    const record: RequestRecord = { vhost, ingest: name, open: settings.open, atMs, print }
    try {
      await store.requests.accept(this.#id, record)
    } catch (error) {
      throw unavailable(error)
    }
    let found: FoundRequest | undefined
    if (duplicate) {
      found = await store.requests.find(this.#id)
      if (found !== undefined && found.record.print !== '' && found.record.print !== print) {
        throw new BrokerError(
          'idempotency_key_reused',
          'This Idempotency-Key came with another request before: use a new one.',
        )
      }
    }
    const waitMs = preferredWaitMs(this.#req.headers['prefer'])
    if (waitMs > 0) found = await this.#wait(waitMs)
    if (this.#res.destroyed) return
    this.#res.setHeader('Location', `/v1/requests/${this.#id}`)
    if (waitMs > 0) this.#res.setHeader('Preference-Applied', `wait=${Math.round(waitMs / 1_000)}`)
    if (waitMs > 0 && found !== undefined && passOn(this.#res, this.#id, found)) return
    this.#answer(duplicate, found?.state ?? 'waiting')
  }

  async #wait(waitMs: number): Promise<FoundRequest | undefined> {
    const gone = new AbortController()
    const abort = () => gone.abort()
    const { stopping, store } = this.#deps
    this.#res.on('close', abort)
    stopping.addEventListener('abort', abort)
    if (stopping.aborted || this.#res.destroyed) abort()
    try {
      return await store.requests.wait(this.#id, waitMs, gone.signal)
    } finally {
      stopping.removeEventListener('abort', abort)
    }
  }

  #answer(duplicate: boolean, state: string): void {
    const res = this.#res
    const text = `{"id":"${this.#id}","state":"${state}","duplicate":${duplicate}}\n`
    res.statusCode = 202
    res.setHeader('Content-Type', 'application/json')
    res.setHeader('Content-Length', text.length)
    res.end(text, 'latin1') // all of it is ASCII
  }

  /** Somebody deleted the queue: the table here is not the newest, or the deletion is half done. */
  async #finishDelete({ queue }: WaitingRoom): Promise<void> {
    await this.#deps.topology.finishDelete(queue.vhost, queue.name, queue.epoch)
    this.#ingest.room() // throws when it is not declared again
    throw new BrokerError('store_unavailable', 'The queue is being declared anew; try again.')
  }

  #refuse(error: unknown): void {
    refuse(this.#req, this.#res, error, this.#deps.report)
  }
}

function isShort(value: string | string[] | undefined): value is string {
  return typeof value === 'string' && value.length <= TYPE_LENGTH_MAX
}

function refusalOf(
  outcome: Exclude<Admitted, 'stored' | 'duplicate' | 'gone'>,
  halfMs: number,
): BrokerError {
  const retryAfterS = Math.min(Math.max(Math.ceil(halfMs / 1_000), 1), RETRY_AFTER_S_MAX)
  const details = { retryAfterS }
  switch (outcome) {
    case 'full':
      return new BrokerError('overloaded', 'The waiting room is full.', { details })
    case 'crowded':
      return new BrokerError(
        'too_many_requests',
        'So many requests of this client wait that there would be no room for others.',
        { details },
      )
    case 'memory-high':
      return new BrokerError('memory_high', 'Redis is short of memory; try again.')
    case 'disk-low':
      return new BrokerError('store_unavailable', 'Redis cannot write to its disk; try again.')
    case 'no-key':
      return noKey()
    case 'not-durable':
      return new BrokerError(
        'durability_unavailable',
        'The durability asked for cannot be had at the moment. The request may be stored.',
      )
    case 'unavailable':
      return new BrokerError(
        'store_unavailable',
        'Redis does not answer. The request may be stored: try again with the same Idempotency-Key.',
      )
  }
}
