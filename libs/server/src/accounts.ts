/**
 * Users, their permissions and API keys, changed as documents of the topology: every process
 * follows within a second. For whatever door lets an administrator do it; who may is for the door.
 */
import { BrokerError, limits } from '@sluice/core'
import {
  ApiKeyDocument,
  hashPassword,
  importHash,
  newApiKey,
  PermissionDocument,
  parseUserName,
  readDocument,
  TopicPermissionDocument,
  UserDocument,
} from '@sluice/security'
import type { DocumentKind, RoutingTable, Topology } from '@sluice/topology'
import type { z } from 'zod'
import { noUser } from './not-found.ts'

/** Every process holds all of them. */
const USERS_MAX = 10_000
const KEYS_OF_OWNER_MAX = 1_000

/** What to set; what is left out stays as it is. */
export interface UserChange {
  readonly password?: string | undefined
  /** One made by RabbitMQ, instead of a password. */
  readonly hash?: { readonly algorithm: string; readonly base64: string } | undefined
  readonly tags?: readonly string[] | undefined
  /** -1 = any number. */
  readonly maxConnections?: number | undefined
  readonly maxChannels?: number | undefined
}

export interface Accounts {
  readonly topology: Topology
  /** The administrator of the settings, who is no document. */
  readonly administrator: string
}

/** Throws invalid_request, and forbidden for the administrator of the settings. */
export async function putUser(
  { topology, administrator }: Accounts,
  user: string,
  { password, hash, tags, ...most }: UserChange,
): Promise<{ created: boolean }> {
  const name = parseUserName(user)
  if (name === administrator) {
    throw new BrokerError('forbidden', `User '${name}' is kept in the settings of the broker.`)
  }
  let passwordHash: string | undefined
  if (password !== undefined) passwordHash = await hashPassword(password)
  else if (hash !== undefined) passwordHash = importHash(hash.algorithm, hash.base64)
  await topology.refresh()
  if (topology.table.documents.get('user', '', name) === undefined) await forget(topology, name)
  const { before } = await topology.changeDocument('user', '', name, (current, table) => {
    const known = readDocument(UserDocument, current)
    if (!known && table.documents.list('user', '').length >= USERS_MAX) {
      throw new BrokerError('invalid_request', `There are at most ${USERS_MAX} users.`)
    }
    return {
      passwordHash: passwordHash ?? known?.passwordHash ?? '',
      tags: [...new Set(tags ?? known?.tags ?? [])],
      maxConnections: most.maxConnections ?? known?.maxConnections ?? -1,
      maxChannels: most.maxChannels ?? known?.maxChannels ?? -1,
    }
  })
  return { created: before === undefined }
}

/** With its keys and permissions; what a crash leaves of them goes before one of its name comes. */
export async function deleteUser({ topology }: Accounts, name: string): Promise<void> {
  await remove(topology, 'user', '', name)
  await forget(topology, name)
}

/** Removes what somebody of this name had. */
async function forget(topology: Topology, name: string): Promise<void> {
  const { table } = topology
  for (const { name: id, value } of table.documents.list('api-key', '')) {
    if (readDocument(ApiKeyDocument, value)?.owner === name)
      await remove(topology, 'api-key', '', id)
  }
  for (const vhost of table.vhosts()) {
    for (const kind of ['permission', 'topic-permission'] as const) {
      const had = table.documents.get(kind, vhost, name) !== undefined
      if (had) await remove(topology, kind, vhost, name)
    }
  }
}

/** Throws vhost_not_found, and not_found when there is no such user. */
export async function putPermission(
  { topology }: Accounts,
  vhost: string,
  user: string,
  permission: PermissionDocument,
): Promise<{ created: boolean }> {
  const { before } = await topology.changeDocument('permission', vhost, user, (_, table) => {
    requireUser(table, user)
    return { ...permission }
  })
  return { created: before === undefined }
}

/** Replaces all that a user has in the vhost; none: no routing key is limited. */
export async function putTopicPermissions(
  { topology }: Accounts,
  vhost: string,
  user: string,
  rules: TopicPermissionDocument,
): Promise<void> {
  await topology.changeDocument('topic-permission', vhost, user, (_, table) => {
    requireUser(table, user)
    return rules.length === 0 ? null : rules.map((rule) => ({ ...rule }))
  })
}

/** The user may no longer enter the vhost. */
export async function deletePermission(
  { topology }: Accounts,
  vhost: string,
  user: string,
): Promise<void> {
  await remove(topology, 'permission', vhost, user)
}

export interface UserPermission extends PermissionDocument {
  readonly vhost: string
  readonly topics: TopicPermissionDocument
}

/** What a user may do, a vhost each. */
export function permissionsOf(table: RoutingTable, user: string): UserPermission[] {
  const { documents } = table
  return table.vhosts().flatMap((vhost) => {
    const found = readDocument(PermissionDocument, documents.get('permission', vhost, user))
    const topics = documents.get('topic-permission', vhost, user)
    if (!found) return []
    return [{ vhost, ...found, topics: readDocument(TopicPermissionDocument, topics) ?? [] }]
  })
}

type KeyOptions = Pick<ApiKeyDocument, 'owner' | 'description' | 'permissions' | 'tags'> & {
  readonly createdAt: number
  readonly expiresAt: number | undefined
}

/** The key itself, told this once. Throws not_found for an owner who is not there. */
export async function createApiKey(
  { topology, administrator }: Accounts,
  { permissions, expiresAt, ...options }: KeyOptions,
): Promise<{ id: string; key: string }> {
  const { id, key, hash } = newApiKey()
  const { owner } = options
  await topology.changeDocument('api-key', '', id, (_, table) => {
    if (owner !== administrator) requireUser(table, owner)
    const all = table.documents.list('api-key', '')
    const owned = all.filter(({ value }) => readDocument(ApiKeyDocument, value)?.owner === owner)
    if (owned.length >= KEYS_OF_OWNER_MAX) {
      throw new BrokerError('invalid_request', `A user has at most ${KEYS_OF_OWNER_MAX} keys.`)
    }
    return {
      ...options,
      hash,
      ...(permissions && { permissions: permissions.map((permission) => ({ ...permission })) }),
      ...(expiresAt !== undefined && { expiresAt }),
    }
  })
  return { id, key }
}

export async function deleteApiKey({ topology }: Accounts, id: string): Promise<void> {
  await remove(topology, 'api-key', '', id)
}

/** What is not there is not there. */
async function remove(
  topology: Topology,
  kind: DocumentKind,
  vhost: string,
  name: string,
): Promise<void> {
  if (Buffer.byteLength(name) > limits.NAME_BYTES_MAX) return
  await topology.changeDocument(kind, vhost, name, () => null)
}

function requireUser({ documents }: RoutingTable, name: string): void {
  if (documents.get('user', '', name) === undefined) throw noUser(name)
}

/** A document as its schema reads it; undefined for one that is of another shape. */
export function readEach<S extends z.ZodType>(
  schema: S,
  documents: readonly { readonly name: string; readonly value: unknown }[],
): (z.output<S> & { readonly name: string })[] {
  return documents.flatMap(({ name, value }) => {
    const found = readDocument(schema, value)
    return found === undefined
      ? []
      : [{ name, ...(found as object) } as z.output<S> & { name: string }]
  })
}
