/**
 * Data keys over HTTP: which there are, a new one from here on, one wrapped anew, one shredded.
 * None of them shows a key.
 */
import { limits } from '@sluice/core'
import {
  DELETE_ANSWERS,
  type Deps,
  type KeyInfo,
  noQueue,
  PageQuery,
  pageOf,
  pageOn,
  type Route,
  route,
} from '@sluice/server'
import { z } from 'zod'

const DataKey = z
  .object({
    id: z.string(),
    vhost: z.string(),
    queue: z.string().meta({ description: 'Whose it is; empty: of the whole vhost.' }),
    createdAt: z.iso.datetime(),
    wrappedBy: z.string().meta({ description: 'Names the key that wraps it.' }),
    state: z.enum(['open', 'locked']).meta({
      description: 'locked: this process cannot use it, since what wrapped it is not to be had.',
    }),
    newest: z.boolean().meta({ description: 'It seals what is stored now.' }),
  })
  .meta({ id: 'DataKey' })

const RotateBody = z.strictObject({
  queue: z.string().max(limits.NAME_BYTES_MAX).default('').meta({
    description: 'A queue with keys of its own; empty: the vhost.',
  }),
})

const tag = 'access'
const needs = 'administrator'

export function dataKeyRoutes(deps: Deps): Route[] {
  return [listKeys(deps), rotate(deps), rewrap(deps), shred(deps)]
}

function listKeys({ topology, encryption }: Deps): Route {
  return route({
    method: 'get',
    path: '/v1/data-keys',
    tag,
    needs,
    summary: 'List data keys by vhost and queue, newest first',
    query: PageQuery,
    answers: { 200: { description: 'A page of them.', body: pageOf(DataKey) } },
    async handle({ query }) {
      await topology.refresh()
      const page = pageOn(encryption.list(), ({ vhost, queue }) => `${vhost}/${queue}`, query)
      return { status: 200, body: { ...page, items: page.items.map(shown) } }
    },
  })
}

function rotate({ topology, encryption }: Deps): Route {
  return route({
    method: 'post',
    path: '/v1/vhosts/:vhost/data-keys',
    tag,
    needs,
    summary: 'Make a new data key: it seals what is stored from here on',
    body: RotateBody,
    answers: { 201: { description: 'The key.', body: DataKey } },
    refusals: ['vhost_not_found', 'queue_not_found', 'encryption_unavailable'],
    async handle({ params: { vhost }, body: { queue } }) {
      await topology.refresh()
      if (queue !== '' && !topology.table.queue(vhost, queue)) throw noQueue(queue)
      return { status: 201, body: shown(await encryption.rotate(vhost, queue)) }
    },
  })
}

function rewrap({ encryption }: Deps): Route {
  return route({
    method: 'post',
    path: '/v1/data-keys/rewrap',
    tag,
    needs,
    summary: 'Wrap all data keys with the first key of the settings; messages stay as they are',
    answers: {
      200: {
        description: 'Done, but for those that are locked.',
        body: z.object({ rewrapped: z.int(), locked: z.int() }),
      },
    },
    refusals: ['encryption_unavailable'],
    async handle() {
      return { status: 200, body: await encryption.rewrap() }
    },
  })
}

function shred({ encryption }: Deps): Route {
  return route({
    method: 'delete',
    path: '/v1/vhosts/:vhost/data-keys/:id',
    tag,
    needs,
    summary: 'Shred a data key: what it sealed is read by nobody any more',
    answers: DELETE_ANSWERS,
    refusals: ['vhost_not_found', 'encryption_unavailable'],
    async handle({ params: { vhost, id } }) {
      await encryption.shred(vhost, id)
      return { status: 204 }
    },
  })
}

function shown({ id, vhost, queue, createdAt, kek, state, newest }: KeyInfo) {
  const at = new Date(createdAt).toISOString()
  return { id, vhost, queue, createdAt: at, wrappedBy: kek, state, newest }
}
