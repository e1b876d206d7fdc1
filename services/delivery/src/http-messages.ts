/**
 * Looking into a queue without touching it, and emptying it.
 *
 * Peeked messages stay where they are, their counts unchanged. A cursor names a place in the queue:
 * what consumers take meanwhile is missing from the next page, nothing is shown twice.
 */
import { BrokerError, limits } from '@sluice/core'
import { type Deps, type Route, route } from '@sluice/server'
import type { MessageState, Peeked, QueueStore } from '@sluice/store'
import { z } from 'zod'
import { findQueue } from './find-queue.ts'
import { Encoding, readHeaders, StoredFields, storedJson, timeJson } from './message-json.ts'

const PAGE_MAX = 500
/** Messages read for one request that looks for a header: the rest is behind its cursor. */
const SCANNED_MAX = 10_000
/** The same in bytes of bodies. */
const SCANNED_BYTES_MAX = 16 * 1024 * 1024
const SCAN_PAGE = 256

export const CursorQuery = z.strictObject({
  after: z.string().max(200).default('').meta({ description: 'The `next` of the last page.' }),
  limit: z.coerce.number<string>().int().min(1).max(PAGE_MAX).default(20),
  encoding: Encoding,
})

const PeekQuery = CursorQuery.extend({
  state: z
    .enum(['ready', 'delayed', 'held', 'dead'])
    .default('ready')
    .meta({
      description:
        'ready: in the order they would be delivered, those behind another of their ordering key last; ' +
        'delayed: by due time; held: leased or taken one by one, by deadline; dead: on their way to ' +
        'the dead letters.',
    }),
  id: z.string().max(64).optional().meta({ description: 'Only this message, in any state.' }),
  header: z
    .string()
    .max(limits.HTTP_URL_BYTES_MAX)
    .regex(/^[^:]+:/, 'is name:value')
    .optional()
    .meta({ description: 'name:value. Only messages with this header.' }),
})

export const PeekedJson = StoredFields.extend({
  id: z.string(),
  state: z.enum(['ready', 'delayed', 'held', 'dead']),
  deliveryCount: z.int().meta({ description: 'Deliveries so far.' }),
  failedCount: z.int(),
  dueAt: z.iso.datetime().optional().meta({ description: 'When it becomes ready.' }),
  heldBy: z.string().optional().meta({ description: 'Who has it, or had it last.' }),
  heldUntil: z.iso.datetime().optional(),
  lastError: z.string().optional(),
}).meta({ id: 'PeekedMessage' })

export const messagesOf = <T extends z.ZodType>(item: T) =>
  z.object({
    messages: z.array(item),
    next: z.string().optional().meta({ description: 'There may be more: pass it as `after`.' }),
  })

export function messageRoutes({ topology }: Deps): Route[] {
  const path = '/v1/vhosts/:vhost/queues/:queue/messages'
  const peek = route({
    method: 'get',
    path,
    tag: 'operate',
    needs: { read: 'queue' },
    summary: 'Look at messages without touching them',
    query: PeekQuery,
    answers: { 200: { description: 'A page of them.', body: messagesOf(PeekedJson) } },
    refusals: ['vhost_not_found', 'queue_not_found', 'message_not_found'],
    async handle({ params, query }) {
      const { store } = await findQueue(topology, params)
      if (query.id !== undefined) {
        const { state, message } = await findMessage(store, query.id)
        return { status: 200, body: { messages: [peekedJson(message, state, query.encoding)] } }
      }
      const { state, header, after, limit, encoding } = query
      const wanted = header === undefined ? () => true : hasHeader(header)
      const { messages, next } = await readPage(store, { state, after, limit }, wanted)
      const shown = messages.map((message) => peekedJson(message, state, encoding))
      return { status: 200, body: { messages: shown, ...(next !== '' && { next }) } }
    },
  })

  const purge = route({
    method: 'delete',
    path,
    tag: 'operate',
    needs: { read: 'queue' },
    summary: 'Purge a queue',
    description: 'Removes the messages that are ready. Held, delayed and dying ones stay.',
    answers: {
      200: { description: 'How many were removed.', body: z.object({ messages: z.int() }) },
    },
    refusals: ['vhost_not_found', 'queue_not_found'],
    async handle({ params }) {
      const { store } = await findQueue(topology, params)
      return { status: 200, body: { messages: await store.purge() } }
    },
  })

  return [peek, purge]
}

/** Throws message_not_found. */
export async function findMessage(store: QueueStore, id: string) {
  const found = await store.find(id)
  if (found) return found
  throw new BrokerError('message_not_found', `There is no message ${JSON.stringify(id)} here.`)
}

export function peekedJson(message: Peeked, state: MessageState, encoding: Encoding) {
  const { ref, acquired, failed, holder, failure, atMs, record } = message
  return {
    id: ref,
    state,
    ...storedJson(record, encoding),
    deliveryCount: acquired,
    failedCount: failed,
    ...(state === 'delayed' && { dueAt: timeJson(atMs) }),
    ...(holder !== '' && { heldBy: holder }),
    ...(state === 'held' && atMs > 0 && { heldUntil: timeJson(atMs) }),
    ...(failure !== '' && { lastError: failure }),
  }
}

function hasHeader(header: string): (message: Peeked) => boolean {
  const colon = header.indexOf(':')
  const name = header.slice(0, colon)
  const value = header.slice(colon + 1)
  return ({ record }) => {
    const headers = readHeaders(record)
    return Object.hasOwn(headers, name) && String(headers[name]) === value
  }
}

/**
 * Up to `limit` wanted messages from a cursor on, within SCANNED_MAX. `next` is '' at the end;
 * `scanned` says how many were looked at.
 *
 * The store's pages never cut a batch, so a cursor of ours is one of theirs and, where a page was
 * not used up, the id of the last message that was: 'cursor|id'. Throws invalid_request.
 */
export async function readPage(
  store: QueueStore,
  { state, after, limit }: { state: MessageState; after: string; limit: number },
  wanted: (message: Peeked) => boolean,
): Promise<{ messages: Peeked[]; next: string; scanned: number }> {
  const messages: Peeked[] = []
  let [cursor, last] = parseCursor(after)
  let scanned = 0
  let bytes = 0
  while (scanned < SCANNED_MAX && bytes < SCANNED_BYTES_MAX && messages.length < limit) {
    // Only pages of ready messages may be longer than asked for, and are then cut here.
    const size = state === 'ready' ? Math.max(limit, SCAN_PAGE) : limit - messages.length
    const page = await store.peek(state, cursor, size)
    for (const message of behind(page.messages, last)) {
      if (messages.length === limit) return { messages, next: `${cursor}|${last}`, scanned }
      last = message.ref
      scanned++
      bytes += message.record.body.length
      if (wanted(message)) messages.push(message)
    }
    cursor = page.cursor
    last = ''
    if (cursor === '') return { messages, next: '', scanned }
  }
  return { messages, next: `${cursor}|`, scanned }
}

function parseCursor(after: string): [cursor: string, last: string] {
  const match =
    /^((?:\d{1,12}|\d (?:side|log|parked)(?: #?[\da-f-]{1,41})?)?)\|([\da-f]{0,24})$/.exec(after)
  if (after !== '' && !match) {
    throw new BrokerError('invalid_request', '`after` is no cursor that this broker gave.')
  }
  return [match?.[1] ?? '', match?.[2] ?? '']
}

/** Those behind `last`; when it was consumed meanwhile, those of a later position. */
function behind(messages: readonly Peeked[], last: string): readonly Peeked[] {
  if (last === '') return messages
  const at = messages.findIndex(({ ref }) => ref === last)
  return at >= 0 ? messages.slice(at + 1) : messages.filter(({ ref }) => ref > last)
}
