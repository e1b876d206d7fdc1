/** What became of a request that an ingest accepted: asked for by its id. */
import { BrokerError } from '@sluice/core'
import { type Call, type Deps, type Route, route, unauthenticated } from '@sluice/server'
import type { FoundRequest } from '@sluice/store'
import { z } from 'zod'
import { preferredWaitMs, RequestJson, requestJson } from './answer.ts'

/** Longer ones were never given. */
const ID = /^[\w-]{1,64}$/

export function requestRoute(deps: Deps): Route {
  const { store } = deps
  return route({
    method: 'get',
    path: '/v1/requests/:id',
    needs: 'nothing', // of an open ingest, knowing the id is enough
    tag: 'ingest',
    summary: 'Show what became of a request that an ingest accepted',
    description:
      'Whoever knows the id may ask about a request of an open ingest; others need a credential that ' +
      'may enter its vhost. With Prefer: wait=10 the answer comes when it is over, or after 10 s.',
    headers: z.object({
      Prefer: z.string().optional().meta({ description: 'wait=<seconds>, at most 55.' }),
    }),
    answers: { 200: { description: 'The request.', body: RequestJson } },
    refusals: ['request_not_found', 'forbidden'],
    async handle(call) {
      const { id } = call.params
      const found = ID.test(id) ? await store.requests.find(id) : undefined
      if (!found?.record.open) await checkReader(deps, call, found)
      if (found === undefined) {
        throw new BrokerError('request_not_found', 'There is no request of this id.')
      }
      const waitMs = preferredWaitMs(call.req.headers['prefer'])
      const latest = waitMs > 0 ? await store.requests.wait(id, waitMs, call.signal) : found
      return { status: 200, body: requestJson(id, latest ?? found) }
    },
  })
}

async function checkReader(
  { credentials }: Deps,
  { req }: Call<object, unknown, unknown>,
  found: FoundRequest | undefined,
): Promise<void> {
  const { authorization } = req.headers
  const principal = await credentials.authenticate(authorization, req.socket.remoteAddress)
  if (principal === undefined) throw unauthenticated(authorization)
  if (found !== undefined && !credentials.access.enters(principal, found.record.vhost)) {
    throw new BrokerError('forbidden', `access refused for user '${principal.name}'`)
  }
}
