/**
 * A dead letter, edited and published again. The copy is stored first, and only then is the
 * original removed, if that is asked for: a crash in between leaves one of each, and the same
 * request again is recognised by the queue that remembers the copy's identity.
 */
import { createHash } from 'node:crypto'
import { decodeProperties } from '@sluice/amqp'
import { BrokerError, exchangeName, limits, type Message } from '@sluice/core'
import {
  type Deps,
  Draft,
  MessageFields,
  type Route,
  readFields,
  readMessage,
  refusalOf,
  requirePublish,
  route,
  toMessage,
} from '@sluice/server'
import { type MessageRecord, messageIdentity, type Peeked } from '@sluice/store'
import { appendTo, type Letter, type QueueEntry } from '@sluice/topology'
import { z } from 'zod'
import { findLetter, pickLetter } from './find-letter.ts'
import { findQueue } from './find-queue.ts'

const name = z.string().max(limits.NAME_BYTES_MAX)

const CopyBody = MessageFields.extend({
  exchange: name.optional().meta({ description: 'Publish it there.' }),
  queue: name.optional().meta({
    description: 'Or put it into this queue. Neither: into the one where it died.',
  }),
  headers: z.record(z.string(), z.json()).optional().meta({
    description: 'Set these; the others stay.',
  }),
  removeHeaders: z.array(name).max(100).optional().meta({ description: 'Without these.' }),
  remove: z.boolean().default(false).meta({
    description: 'Remove the original, once the copy is stored.',
  }),
})

const OWN: ReadonlySet<string> = new Set([
  ...['exchange', 'queue', 'headers', 'removeHeaders', 'remove', 'body', 'bodyBase64'],
])

const Copied = z.object({
  queues: z.array(z.string()).meta({ description: 'Where the copy is.' }),
  duplicate: z.boolean().meta({ description: 'This very copy had been stored before.' }),
  removed: z.boolean().meta({ description: 'Whether the original is gone.' }),
})

export function copyRoute(deps: Deps): Route {
  const { topology, store: broker } = deps
  return route({
    method: 'post',
    path: '/v1/vhosts/:vhost/queues/:queue/dead-letters/:id/copies',
    tag: 'operate',
    needs: { read: 'queue', write: 'default exchange' },
    summary: 'Edit a copy of a dead letter and publish it',
    description:
      'What is not given stays as it is in the letter. The same request again stores no second copy ' +
      'while the queue remembers the first.',
    body: CopyBody,
    bodyBytesMax: limits.HTTP_BATCH_BYTES_MAX,
    answers: { 200: { description: 'The copy is stored.', body: Copied } },
    refusals: [
      ...(['vhost_not_found', 'queue_not_found', 'message_not_found', 'in_use'] as const),
      ...(['exchange_not_found', 'unroutable', 'queue_full', 'forbidden'] as const),
    ],
    async handle({ params, body: changes, grants, principal }) {
      const entry = await findQueue(topology, params)
      const found = await findLetter(entry.store, params.id)
      const { ref } = found.message
      const target = targetOf(changes, found.letter)
      const message = edited(entry, found, changes, target, broker.state.clockAheadMs)
      const { exchange, queue } = target
      if (exchange !== undefined) requirePublish(topology.table, grants, message)

      const holder = `edited by ${principal.name}`
      const leased = changes.remove ? await pickLetter(entry.store, ref, holder) : undefined
      const { outcome, queues } = await send(deps, entry, message, queue)
      const place = queue === undefined ? message : { exchange: '', routingKey: queue }
      const refusal = refusalOf(outcome, place)
      const settlement = refusal ? 'release' : 'ack'
      const [settled] = leased
        ? await entry.store.settle([{ token: leased.token, outcome: settlement }])
        : []
      if (refusal) throw refusal
      const duplicate = outcome === 'duplicate'
      return { status: 200, body: { queues, duplicate, removed: settled === 'settled' } }
    },
  })
}

type Changes = z.output<typeof CopyBody>

/** One of both. */
interface CopyTarget {
  readonly exchange?: string
  readonly queue?: string
}

function targetOf({ exchange, queue }: Changes, letter: Letter): CopyTarget {
  if (exchange !== undefined && queue !== undefined) {
    throw new BrokerError('invalid_request', 'Name an exchange or a queue, not both.')
  }
  if (exchange !== undefined) return { exchange: exchangeName(exchange) }
  return { queue: queue ?? letter.queue }
}

/** The letter with its changes. Its own identity and theirs make the copy's. */
function edited(
  { store }: QueueEntry,
  { message: { ref, record }, letter }: { message: Peeked; letter: Letter },
  changes: Changes,
  { exchange, queue }: CopyTarget,
  clockAheadMs: number,
): Message {
  const draft = new Draft(letter.routingKey)
  // Decoded anew: a draft is changed in place.
  Object.assign(draft.properties, decodeProperties(record.properties))
  draft.persistent = record.persistent
  draft.priority = letter.properties.priority ?? 0
  draft.orderingKey = record.orderingKey
  const fields = changes as Readonly<Record<string, unknown>>
  readFields(fields, draft, OWN)
  const removed = new Set(changes.removeHeaders)
  const headers = { ...letter.properties.headers, ...changes.headers }
  draft.properties.headers = Object.fromEntries(
    Object.entries(headers).filter(([header]) => !removed.has(header)),
  )
  if (draft.dedupId === '') draft.dedupId = copyIdentity(messageIdentity(store, ref), changes)
  if (queue !== undefined && fields['routingKey'] === undefined) draft.routingKey = queue
  const body = bodyOf(changes, draft, record)
  const message = toMessage(draft, exchange ?? '', body, clockAheadMs)
  return record.sealedBy === undefined ? message : { ...message, sealedBy: record.sealedBy }
}

function bodyOf({ body, bodyBase64 }: Changes, draft: Draft, record: MessageRecord): Buffer {
  if (body === undefined && bodyBase64 === undefined) return record.body
  const given = readMessage({ body, bodyBase64 }, '')
  const { contentType } = given.draft.properties
  if (contentType !== undefined) draft.properties.contentType ??= contentType
  return given.body
}

function copyIdentity(identity: string, { remove: _, ...changes }: Changes): string {
  return createHash('sha256')
    .update(JSON.stringify([identity, changes]))
    .digest('base64url')
}

async function send(
  { topology, publisher }: Deps,
  { vhost }: QueueEntry,
  message: Message,
  queue: string | undefined,
) {
  if (queue === undefined) {
    const { outcome, queues } = await publisher.publishOne(vhost, message)
    return { outcome, queues: queues.map(({ definition }) => definition.name) }
  }
  const outcome = await appendTo(await findQueue(topology, { vhost, queue }), message)
  return { outcome: outcome === 'gone' ? ('unroutable' as const) : outcome, queues: [queue] }
}
