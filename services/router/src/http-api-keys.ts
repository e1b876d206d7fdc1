/**
 * API keys over HTTP, and who the caller is.
 *
 * Users make keys for themselves, administrators for anybody. A key does at most what its owner
 * may; it is shown in the answer that creates it, and nobody can be shown it again. Who has come by
 * a key or a token makes no keys, or one with limits could make one without.
 */
import { BrokerError, limits } from '@sluice/core'
import { ApiKeyDocument, type Principal, TAGS } from '@sluice/security'
import {
  createApiKey,
  DELETE_ANSWERS,
  type Deps,
  deleteApiKey,
  PageQuery,
  pageOf,
  pageOn,
  type Route,
  readEach,
  route,
} from '@sluice/server'
import { z } from 'zod'

const EXPIRY_MS_MIN = 1_000

const { shape } = ApiKeyDocument

const KeyBody = z.strictObject({
  owner: z.string().max(limits.NAME_BYTES_MAX).optional().meta({
    description: 'Whom it acts for: the caller, unless an administrator names somebody.',
  }),
  description: shape.description.default(''),
  permissions: shape.permissions.meta({
    description: 'What it may do at most, a vhost each. Absent: all that its owner may.',
  }),
  tags: shape.tags.default([]),
  expiresInMs: z.int().min(EXPIRY_MS_MIN).max(limits.DURATION_MS_MAX).optional(),
})

const time = z.iso.datetime()
const Key = z
  .object({
    id: z.string(),
    owner: z.string(),
    description: z.string(),
    permissions: shape.permissions,
    tags: shape.tags,
    createdAt: time,
    expiresAt: time.optional(),
  })
  .meta({ id: 'ApiKey' })

const Whoami = z.object({
  name: z.string(),
  kind: z.enum(['administrator', 'user', 'api-key', 'token']),
  tags: z.array(z.enum(TAGS)),
  vhosts: z.array(z.string()).meta({ description: 'Those it may enter.' }),
})

const tag = 'access'

export function apiKeyRoutes(deps: Deps): Route[] {
  return [whoami(deps), listKeys(deps), createKey(deps), deleteKey(deps)]
}

function whoami({ topology, access }: Deps): Route {
  return route({
    method: 'get',
    path: '/v1/whoami',
    tag,
    needs: 'login',
    summary: 'Who the caller is, and where it may go',
    answers: { 200: { description: 'The caller.', body: Whoami } },
    async handle({ principal }) {
      await topology.refresh()
      const vhosts = topology.table.vhosts().filter((vhost) => access.enters(principal, vhost))
      const tags = [...access.tags(principal)]
      return { status: 200, body: { name: principal.name, kind: principal.kind, tags, vhosts } }
    },
  })
}

function listKeys({ topology, access }: Deps): Route {
  return route({
    method: 'get',
    path: '/v1/api-keys',
    tag,
    needs: 'login',
    summary: 'List API keys: one’s own, or all of them to an administrator',
    query: PageQuery,
    answers: { 200: { description: 'A page of them, without the keys.', body: pageOf(Key) } },
    async handle({ principal, query }) {
      await topology.refresh()
      const all = readEach(ApiKeyDocument, topology.table.documents.list('api-key', ''))
      const every = access.tags(principal).has('administrator')
      const seen = all.filter(({ owner }) => every || owner === principal.name)
      const page = pageOn(seen, ({ description }) => description, query)
      return { status: 200, body: { ...page, items: page.items.map(shown) } }
    },
  })
}

function createKey({ topology, access, store }: Deps): Route {
  return route({
    method: 'post',
    path: '/v1/api-keys',
    tag,
    needs: 'login',
    summary: 'Make an API key; it is shown this once',
    body: KeyBody,
    answers: {
      201: {
        description: 'The key, to be sent as bearer or as password.',
        body: z.object({ id: z.string(), key: z.string(), expiresAt: time.optional() }),
      },
    },
    refusals: ['forbidden', 'not_found'],
    async handle({ principal, body: { owner = principal.name, expiresInMs, ...rest } }) {
      const every = access.tags(principal).has('administrator')
      if (!mayMakeKeys(principal) || (owner !== principal.name && !every)) {
        throw new BrokerError('forbidden', `user '${principal.name}' may not make this key`)
      }
      const createdAt = await store.nowMs()
      const expiresAt = expiresInMs === undefined ? undefined : createdAt + expiresInMs
      const accounts = { topology, administrator: access.administrator }
      const made = await createApiKey(accounts, { ...rest, owner, createdAt, expiresAt })
      return { status: 201, body: { ...made, ...(expiresAt && { expiresAt: iso(expiresAt) }) } }
    },
  })
}

function deleteKey({ topology, access }: Deps): Route {
  return route({
    method: 'delete',
    path: '/v1/api-keys/:key',
    tag,
    needs: 'login',
    summary: 'Delete an API key; what it opened is closed',
    answers: DELETE_ANSWERS,
    refusals: ['forbidden'],
    async handle({ principal, params: { key } }) {
      await topology.refresh()
      const owned = access.apiKey(key)?.owner === principal.name
      if (!owned && !access.tags(principal).has('administrator')) {
        throw new BrokerError('forbidden', `key '${key}' is not of user '${principal.name}'`)
      }
      await deleteApiKey({ topology, administrator: access.administrator }, key)
      return { status: 204 }
    },
  })
}

const mayMakeKeys = ({ kind }: Principal) => kind === 'administrator' || kind === 'user'

function shown({ name: id, hash: _, createdAt, expiresAt, ...rest }: ApiKeyDocument & Named) {
  return {
    id,
    ...rest,
    createdAt: iso(createdAt),
    ...(expiresAt !== undefined && { expiresAt: iso(expiresAt) }),
  }
}

interface Named {
  readonly name: string
}

const iso = (ms: number) => new Date(ms).toISOString()
