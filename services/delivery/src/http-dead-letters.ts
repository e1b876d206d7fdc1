/**
 * Dead letters over HTTP: why each died, and the way back.
 *
 * They wait in ordinary queues, in `amq.dead-letters` unless a dead letter exchange says otherwise,
 * with their history in their headers (libs/topology/src/dead-letter.ts).
 */
import { type Deps, type Route, route } from '@sluice/server'
import type { Peeked } from '@sluice/store'
import { deathHistory, matcher, originalQueue } from '@sluice/topology'
import { z } from 'zod'
import { FilterFields, readFilter } from './dead-letter-query.ts'
import { findQueue } from './find-queue.ts'
import { copyRoute } from './http-dead-letter-copy.ts'
import { PageQuery, PeekedJson, pageOf, peekedJson, readPage } from './http-messages.ts'
import { type Encoding, readHeaders, timeJson } from './message-json.ts'
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
    queue: z.string().optional().meta({ description: 'Where it died last: a redrive’s target.' }),
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

const Page = pageOf(DeadLetter).extend({
  scanned: z.int().meta({ description: 'Messages looked at for this page.' }),
})

export function deadLetterRoutes(deps: Deps): Route[] {
  return [listRoute(deps), copyRoute(deps)]
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
    query: PageQuery.extend(FilterFields),
    answers: { 200: { description: 'A page of them.', body: Page } },
    refusals: ['vhost_not_found', 'queue_not_found'],
    async handle({ params, query: { encoding, after, limit, ...fields } }) {
      const { store } = await findQueue(topology, params)
      const matches = matcher(readFilter(fields))
      const wanted = ({ record }: Peeked) => matches(record)
      const page = await readPage(store, { state: 'ready', after, limit }, wanted)
      const { next, scanned } = page
      const messages = page.messages.map((message) => letterJson(message, encoding))
      return { status: 200, body: { messages, scanned, ...(next !== '' && { next }) } }
    },
  })
}

function letterJson(message: Peeked, encoding: Encoding) {
  const headers = readHeaders(message.record)
  const { deaths, error, holder, deliveryCount, attempts } = deathHistory(headers)
  const reason = headers['x-last-death-reason'] ?? deaths[0]?.reason
  return {
    ...peekedJson(message, 'ready', encoding),
    death: {
      queue: originalQueue(headers),
      reason: typeof reason === 'string' ? reason : undefined,
      lastError: error,
      heldBy: holder,
      attempts: attempts.flatMap((text) => parseAttempt(text) ?? []),
      deliveryCount,
      history: deaths.map(({ queue, reason, count, timeMs, exchange, routingKeys }) => ({
        queue,
        reason,
        count,
        ...(timeMs !== undefined && { at: timeJson(timeMs) }),
        exchange,
        routingKeys,
      })),
    },
  }
}
