/**
 * Users and what they may do, over HTTP: for administrators.
 *
 * A password goes in and never comes out. What is left out of a PUT stays as it is.
 */
import { limits } from '@sluice/core'
import { PermissionDocument, Tags, TopicPermissionDocument, UserDocument } from '@sluice/security'
import {
  type Accounts,
  DELETE_ANSWERS,
  type Deps,
  deletePermission,
  deleteUser,
  noUser,
  PageQuery,
  pageOf,
  pageOn,
  permissionsOf,
  putPermission,
  putTopicPermissions,
  putUser,
  REPLACE_ANSWERS,
  type Route,
  readEach,
  route,
} from '@sluice/server'
import { z } from 'zod'
import { declared, Most } from './http-topology.ts'

const PASSWORD_LENGTH_MIN = 8
const PASSWORD_LENGTH_MAX = 256

const UserBody = z
  .strictObject({
    password: z.string().min(PASSWORD_LENGTH_MIN).max(PASSWORD_LENGTH_MAX).optional(),
    passwordHash: z.base64().max(limits.NAME_BYTES_MAX).optional().meta({
      description: 'One made by RabbitMQ, instead of a password: salt and digest, base64.',
    }),
    hashingAlgorithm: z
      .enum(['rabbit_password_hashing_sha256', 'rabbit_password_hashing_sha512'])
      .default('rabbit_password_hashing_sha256'),
    tags: Tags.optional().meta({
      description: 'administrator, monitoring, policymaker, management, impersonator.',
    }),
    maxConnections: Most.optional().meta({
      description: 'AMQP connections, over all processes; -1 = any number.',
    }),
    maxChannels: Most.optional().meta({
      description: 'AMQP channels, over all processes; -1 = any number.',
    }),
  })
  .refine(({ password, passwordHash }) => password === undefined || passwordHash === undefined, {
    error: 'Give a password or a hash of one.',
  })

const User = z
  .object({
    name: z.string(),
    tags: z.array(z.string()),
    hasPassword: z.boolean().meta({ description: 'Without one, a certificate proves the user.' }),
    maxConnections: z.int(),
    maxChannels: z.int(),
  })
  .meta({ id: 'User' })

const UserPermission = PermissionDocument.extend({
  vhost: z.string(),
  topics: TopicPermissionDocument,
}).meta({ id: 'UserPermission' })

const tag = 'access'
const needs = 'administrator'
const USER_PATH = '/v1/users/:user'

const shown = (user: UserDocument & { readonly name: string }) => ({
  name: user.name,
  tags: user.tags,
  hasPassword: user.passwordHash !== '',
  maxConnections: user.maxConnections,
  maxChannels: user.maxChannels,
})

export function userRoutes({ topology, access }: Deps): Route[] {
  const accounts = { topology, administrator: access.administrator }
  return [...userReads(accounts), ...userWrites(accounts), ...permissionRoutes(accounts)]
}

function userReads({ topology }: Accounts): Route[] {
  return [
    route({
      method: 'get',
      path: '/v1/users',
      tag,
      needs,
      summary: 'List users; the administrator of the settings is not among them',
      query: PageQuery,
      answers: { 200: { description: 'A page of them.', body: pageOf(User) } },
      async handle({ query }) {
        await topology.refresh()
        const users = readEach(UserDocument, topology.table.documents.list('user', ''))
        const page = pageOn(users, ({ name }) => name, query)
        return { status: 200, body: { ...page, items: page.items.map(shown) } }
      },
    }),
    route({
      method: 'get',
      path: USER_PATH,
      tag,
      needs,
      summary: 'Show a user',
      answers: { 200: { description: 'The user.', body: User } },
      refusals: ['not_found'],
      async handle({ params: { user } }) {
        await topology.refresh()
        const value = topology.table.documents.get('user', '', user)
        const [found] = readEach(UserDocument, [{ name: user, value }])
        if (!found) throw noUser(user)
        return { status: 200, body: shown(found) }
      },
    }),
  ]
}

function userWrites(accounts: Accounts): Route[] {
  return [
    route({
      method: 'put',
      path: USER_PATH,
      tag,
      needs,
      summary: 'Create or change a user; what is left out stays',
      description: 'A new password, and a tag taken away, act on open connections within 2 s.',
      body: UserBody,
      answers: REPLACE_ANSWERS,
      refusals: ['forbidden'],
      async handle({ params: { user }, body }) {
        const { passwordHash: base64, hashingAlgorithm: algorithm, ...change } = body
        const hash = base64 === undefined ? undefined : { algorithm, base64 }
        return declared((await putUser(accounts, user, { ...change, hash })).created)
      },
    }),
    route({
      method: 'delete',
      path: USER_PATH,
      tag,
      needs,
      summary: 'Delete a user with its permissions and API keys; its connections are closed',
      answers: DELETE_ANSWERS,
      async handle({ params: { user } }) {
        await deleteUser(accounts, user)
        return { status: 204 }
      },
    }),
  ]
}

const PERMISSION_PATH = '/v1/users/:user/permissions/:vhost'

function permissionRoutes(accounts: Accounts): Route[] {
  const { topology } = accounts
  const refusals = ['vhost_not_found', 'not_found'] as const
  return [
    route({
      method: 'get',
      path: '/v1/users/:user/permissions',
      tag,
      needs,
      summary: 'What a user may do, a vhost each',
      answers: { 200: { description: 'All of it.', body: z.array(UserPermission) } },
      refusals: ['not_found'],
      async handle({ params: { user } }) {
        await topology.refresh()
        const { table } = topology
        if (table.documents.get('user', '', user) === undefined) throw noUser(user)
        return { status: 200, body: permissionsOf(table, user) }
      },
    }),
    route({
      method: 'put',
      path: PERMISSION_PATH,
      tag,
      needs,
      summary: 'Let a user into a vhost: what it may configure, write to and read from',
      description: 'Regular expressions that are found in names; an empty one is for nothing.',
      body: PermissionDocument,
      answers: REPLACE_ANSWERS,
      refusals,
      handle: async ({ params: { user, vhost }, body }) =>
        declared((await putPermission(accounts, vhost, user, body)).created),
    }),
    route({
      method: 'delete',
      path: PERMISSION_PATH,
      tag,
      needs,
      summary: 'Keep a user out of a vhost; its connections there are closed',
      answers: DELETE_ANSWERS,
      refusals: ['vhost_not_found'],
      async handle({ params: { user, vhost } }) {
        await deletePermission(accounts, vhost, user)
        return { status: 204 }
      },
    }),
    route({
      method: 'put',
      path: '/v1/users/:user/topic-permissions/:vhost',
      tag,
      needs,
      summary: 'Limit routing keys by topic exchange; replaces what was set',
      description: 'In the patterns {username} and {vhost} stand for those of the connection.',
      body: TopicPermissionDocument,
      answers: { 204: { description: 'Set.' } },
      refusals,
      async handle({ params: { user, vhost }, body }) {
        await putTopicPermissions(accounts, vhost, user, body)
        return { status: 204 }
      },
    }),
  ]
}
