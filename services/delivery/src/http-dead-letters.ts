/**
 * Dead letters over HTTP: why each died, and the way back.
 *
 * They wait in ordinary queues, in `amq.dead-letters` unless a dead letter exchange says otherwise,
 * with their history in their headers (libs/topology/src/dead-letter.ts).
 */
import { type Deps, type Route, route } from '@sluice/server'
import type { MessageState, Peeked } from '@sluice/store'
import { type Letter, matcher, readLetter } from '@sluice/topology'
import { z } from 'zod'
import { FilterFields, readFilter } from './dead-letter-query.ts'
import { findLetter, letterOf, pickLetter } from './find-letter.ts'
import { findQueue } from './find-queue.ts'
import { copyRoute } from './http-dead-letter-copy.ts'
import { CursorQuery, messagesOf, PeekedJson, peekedJson, readPage } from './http-messages.ts'
import { Encoding, timeJson } from './message-json.ts'
import { KeptAttempt, parseAttempt } from './push/kept-attempt.ts'

const path = '/v1/vhosts/:vhost/queues/:queue'

const Death = z.object({
  queue: z.string(),
  reason: z.string(),
  count: z.int(),
  at: z.iso.datetime().optional().meta({ description: 'When it first died so.' }),
  exchange: z.string().meta({ description: 'Where it had been published.' }),
  routingKeys: z.array(z.string()),
})

const DeadLetter = PeekedJson.extend({
  death: z.object({
    queue: z.string().meta({ description: 'Where it died last: a redrive’s target.' }),
    reason: z.string().optional().meta({
      description: 'rejected, expired, maxlen or delivery_limit.',
    }),
    lastError: z.string().optional(),
    heldBy: z.string().optional().meta({ description: 'Who had it last.' }),
    attempts: z.array(KeptAttempt).meta({
      description: 'What came of pushing it, newest first: the last 20, in 16 KiB.',
    }),
    deliveryCount: z.int().optional().meta({ description: 'Deliveries before it died.' }),
    history: z.array(Death).meta({ description: 'Newest first.' }),
  }),
}).meta({ id: 'DeadLetter' })

const Page = messagesOf(DeadLetter).extend({
  scanned: z.int().meta({ description: 'Messages looked at for this page.' }),
})

export function deadLetterRoutes(deps: Deps): Route[] {
  return [listRoute(deps), readRoute(deps), discardRoute(deps), copyRoute(deps)]
}

function listRoute({ topology }: Deps): Route {
  return route({
    method: 'get',
    path: `${path}/dead-letters`,
    tag: 'operate',
    needs: { read: 'queue' },
    summary: 'Search dead letters, with why they died',
    description:
      'The messages in this queue that died before and match. Nothing is touched. A page ends after ' +
      'a bounded look, so it may be short, or empty, and yet have a `next`.',
    query: CursorQuery.extend(FilterFields),
    answers: { 200: { description: 'A page of them.', body: Page } },
    refusals: ['vhost_not_found', 'queue_not_found'],
    async handle({ params, query: { encoding, after, limit, ...fields } }) {
      const { store } = await findQueue(topology, params)
      const matches = matcher(readFilter(fields))
      const wanted = ({ record }: Peeked) => matches(record)
      const page = await readPage(store, { state: 'ready', after, limit }, wanted)
      const { next, scanned } = page
      const messages = page.messages.flatMap((message) => {
        const letter = readLetter(message.record)
        return letter ? letterJson(message, 'ready', letter, encoding) : []
      })
      return { status: 200, body: { messages, scanned, ...(next !== '' && { next }) } }
    },
  })
}

function readRoute({ topology }: Deps): Route {
  return route({
    method: 'get',
    path: `${path}/dead-letters/:id`,
    tag: 'operate',
    needs: { read: 'queue' },
    summary: 'A dead letter, with why it died',
    query: z.strictObject({ encoding: Encoding }),
    answers: { 200: { description: 'It is untouched.', body: DeadLetter } },
    refusals: ['vhost_not_found', 'queue_not_found', 'message_not_found'],
    async handle({ params, query: { encoding } }) {
      const { store } = await findQueue(topology, params)
      const { state, message, letter } = await findLetter(store, params.id)
      return { status: 200, body: letterJson(message, state, letter, encoding) }
    },
  })
}

function discardRoute({ topology }: Deps): Route {
  return route({
    method: 'delete',
    path: `${path}/dead-letters/:id`,
    tag: 'operate',
    needs: { read: 'queue' },
    summary: 'Throw a dead letter away',
    description: 'Discarding what is not there succeeds.',
    answers: {
      200: { description: 'Whether it was there.', body: z.object({ removed: z.boolean() }) },
    },
    refusals: ['vhost_not_found', 'queue_not_found', 'in_use'],
    async handle({ params, principal }) {
      const { store } = await findQueue(topology, params)
      const found = await store.find(params.id)
      if (!found) return { status: 200, body: { removed: false } }
      letterOf(found.message)
      const { token } = await pickLetter(store, found.message.ref, `discarded by ${principal.name}`)
      const [settled] = await store.settle([{ token, outcome: 'ack' }])
      return { status: 200, body: { removed: settled === 'settled' } }
    },
  })
}

function letterJson(message: Peeked, state: MessageState, letter: Letter, encoding: Encoding) {
  const { queue, reason, history } = letter
  const { deaths, error, holder, deliveryCount, attempts } = history
  return {
    ...peekedJson(message, state, encoding),
    death: {
      queue,
      reason,
      lastError: error,
      heldBy: holder,
      attempts: attempts.flatMap((text) => parseAttempt(text) ?? []),
      deliveryCount,
      history: deaths.map(({ queue, reason, count, timeMs, exchange, routingKeys }) => ({
        ...{ queue, reason, count, exchange, routingKeys },
        ...(timeMs !== undefined && { at: timeJson(timeMs) }),
      })),
    },
  }
}
