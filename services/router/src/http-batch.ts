/**
 * Publishing many messages in one request.
 *
 *   POST /v1/vhosts/:vhost/exchanges/:exchange/batch
 *     application/json      an array of messages, bounded in size
 *     application/cloudevents-batch+json  an array of CloudEvents
 *     application/x-ndjson  a message a line, streamed: no bound on the whole, bounded memory
 *     with ?lines=bodies    each NDJSON line is itself the body of a message
 *
 * Messages are published in the order given. The answer comes once every message has its outcome;
 * it is 200 only if none failed, so that a client which looks at the status alone loses nothing.
 *
 * Hot path, as http-publish.ts: measured by test/bench/http.bench.ts.
 */
import { BrokerError, exchangeName, limits } from '@sluice/core'
import type { Grants } from '@sluice/security'
import {
  type Deps,
  EVENTS_TYPE,
  eventMode,
  MessageFields,
  noExchange,
  noVhost,
  parseJson,
  publishCounts,
  type Route,
  readBody,
  requirePublish,
  route,
  sendProblem,
  toProblem,
} from '@sluice/server'
import type { Request, Response } from 'express'
import { z } from 'zod'
import { BatchRun, BatchSummary } from './batch-run.ts'
import { PUBLISH_REFUSALS } from './http-publish.ts'
import { LineSplitter } from './ndjson.ts'

const Query = z.strictObject({
  routingKey: z.string().max(limits.NAME_BYTES_MAX).default('').meta({
    description: 'For messages that have none of their own.',
  }),
  lines: z.enum(['messages', 'bodies']).default('messages').meta({
    description: 'NDJSON only: whether a line is a message with its fields, or the body of one.',
  }),
})

const NDJSON = /^application\/(?:x-)?(?:ndjson|jsonl|jsonlines)\s*(?:;|$)/i
const JSON_ARRAY = /^application\/json\s*(?:;|$)/i

export function batchRoute(deps: Deps, { messageBytesMax }: { messageBytesMax: number }): Route {
  const counts = publishCounts(deps, 'http')
  return route({
    method: 'post',
    path: '/v1/vhosts/:vhost/exchanges/:exchange/batch',
    tag: 'publish',
    hot: true,
    needs: { write: 'exchange' },
    summary: 'Publish many messages',
    description:
      `A JSON array of at most ${limits.HTTP_BATCH_BYTES_MAX} bytes, or NDJSON of any length. Answers ` +
      'once every message has its outcome: 200 if none failed, else batch_incomplete with the same ' +
      'totals. The messages that did not fail are published either way.',
    query: Query,
    body: {
      raw: true,
      description: 'The messages.',
      types: {
        'application/x-ndjson': MessageFields,
        'application/json': z.array(MessageFields),
        [EVENTS_TYPE]: z.array(z.looseObject({ id: z.string(), source: z.string() })),
      },
    },
    answers: { 200: { description: 'All are stored, or wanted by no queue.', body: BatchSummary } },
    refusals: [...PUBLISH_REFUSALS, 'batch_incomplete'],
    async handle({ req, res, params, query, signal, grants }) {
      const { vhost } = params
      const exchange = exchangeName(params.exchange)
      const readBatch = reader(req)
      await checkExchange(deps, grants, exchange)
      const { routingKey, lines } = query
      const run = new BatchRun(deps, counts, {
        ...{ vhost, exchange, routingKey, messageBytesMax },
        headers: req.headers,
        grants,
      })
      const ended = await readBatch({ req, res, signal, run, lines, messageBytesMax })
      await run.settled()
      if (res.destroyed) return undefined // the client is gone; what it sent is published
      const summary = run.summary(ended?.line)
      if (ended === undefined && run.failed === 0) return { status: 200, body: summary }
      const why =
        ended?.why ?? new BrokerError('batch_incomplete', `${run.failed} messages failed.`)
      sendProblem(req, res, { ...toProblem(why), ...summary })
      return undefined
    },
  })
}

interface Batch {
  readonly req: Request
  readonly res: Response
  readonly signal: AbortSignal
  readonly run: BatchRun
  readonly lines: 'messages' | 'bodies'
  readonly messageBytesMax: number
}

/** Why a batch was not read to its end, and the last line that was read. */
interface Ended {
  readonly why: BrokerError
  readonly line: number
}

type ReadBatch = (batch: Batch) => Promise<Ended | undefined>

/** How this request's batch is read. Throws unsupported_media_type. */
function reader({ headers }: Request): ReadBatch {
  const { 'content-type': type = '', 'content-encoding': encoding = 'identity' } = headers
  if (encoding !== 'identity') {
    throw new BrokerError('unsupported_media_type', 'A compressed batch is not understood here.')
  }
  if (NDJSON.test(type)) return readLines
  if (JSON_ARRAY.test(type))
    return (batch) => readArray(batch, (item, n) => batch.run.addItem(item, n))
  if (eventMode(headers) === 'batched') {
    return (batch) => readArray(batch, (event, n) => batch.run.addEvent(event, n))
  }
  const text =
    'Send application/x-ndjson, or an array: application/json or application/cloudevents-batch+json.'
  throw new BrokerError('unsupported_media_type', text)
}

async function checkExchange(deps: Deps, grants: Grants, exchange: string): Promise<void> {
  const { topology } = deps
  const { vhost } = grants
  if (!topology.table.exchange(vhost, exchange)) await topology.refresh()
  const { table } = topology
  if (!table.hasVhost(vhost)) throw noVhost(vhost)
  if (!table.exchange(vhost, exchange)) throw noExchange(exchange)
  requirePublish(table, grants, { exchange })
}

async function readArray(
  { req, res, run }: Batch,
  add: (item: unknown, line: number) => void,
): Promise<Ended | undefined> {
  const items = parseJson(await readBody(req, res, limits.HTTP_BATCH_BYTES_MAX))
  if (!Array.isArray(items)) throw new BrokerError('invalid_request', 'A batch is an array.')
  for (const [index, item] of items.entries()) {
    if (run.hopeless) return { why: hopeless(), line: index }
    add(item, index + 1)
    if (run.congested) await run.room()
  }
  return undefined
}

/** Base64 and escapes make a body longer; fields and headers come on top. */
const lineBytesMax = (messageBytesMax: number) => 2 * messageBytesMax + limits.PROPERTIES_BYTES_MAX

function readLines({
  req,
  res,
  signal,
  run,
  lines,
  messageBytesMax,
}: Batch): Promise<Ended | undefined> {
  let line = 0
  const splitter = new LineSplitter(lineBytesMax(messageBytesMax), (bytes, number) => {
    if (run.hopeless) return
    line = number
    if (bytes === undefined)
      run.fail(new BrokerError('message_too_large', 'The line is too long.'), number)
    else if (bytes.length === 0)
      return // an empty line is no message
    else if (lines === 'messages') run.addLine(bytes, number)
    else run.addBody(bytes, 'application/json', number)
  })

  return new Promise((resolve) => {
    const end = (ended: Ended | undefined) => {
      clearTimeout(idle)
      signal.removeEventListener('abort', onAbort)
      req.off('data', onData).off('end', onEnd)
      req.pause()
      resolve(ended)
    }
    const give = (code: 'request_timeout' | 'draining', text: string) =>
      end({ why: new BrokerError(code, text), line })
    const onAbort = () =>
      give('draining', 'This process is stopping; send the rest to another one.')
    const onLate = () => give('request_timeout', 'Nothing came for too long.')
    const onEnd = () => {
      splitter.end()
      end(undefined)
    }
    const onData = (chunk: Buffer) => {
      idle.refresh()
      splitter.push(chunk)
      if (run.hopeless) end({ why: hopeless(), line })
      else if (run.congested) {
        req.pause()
        void run.room().then(() => req.resume())
      }
    }
    const idle = setTimeout(onLate, limits.HTTP_STREAM_IDLE_MS_MAX)
    if (signal.aborted) return onAbort()
    if (req.headers.expect !== undefined) res.writeContinue()
    signal.addEventListener('abort', onAbort) // the client hung up, or the process stops
    req.on('data', onData).on('end', onEnd)
    return undefined
  })
}

function hopeless(): BrokerError {
  const text = `Given up on after ${limits.HTTP_BATCH_FAILURES_MAX} failures.`
  return new BrokerError('batch_incomplete', text)
}
