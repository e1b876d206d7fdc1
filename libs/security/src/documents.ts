/**
 * Users, API keys and permissions as they are kept: documents of the topology, so that every
 * process follows their changes. This file knows their shapes; who may change them is for the
 * routes.
 */
import { BrokerError, compilePattern, limits, type Pattern, parseName } from '@sluice/core'
import { z } from 'zod'
import { TAGS } from './principal.ts'

/** Of a user's, in one vhost. */
const TOPIC_RULES_MAX = 100
const TAGS_MAX = 16

export type AccessKind = 'user' | 'api-key' | 'permission' | 'topic-permission'
export const ACCESS_KINDS = ['user', 'api-key', 'permission', 'topic-permission'] as const

/** Where documents are looked up; those of the whole broker have the vhost ''. */
export interface Directory {
  get(kind: AccessKind, vhost: string, name: string): unknown
}

/** A regular expression that is found in the names it is for; '' is for none. */
const pattern = z
  .string()
  .refine(compiles, 'is no regular expression that is understood here (docs/queues.md)')

export const PermissionDocument = z.strictObject({
  configure: pattern,
  write: pattern,
  read: pattern,
})
export type PermissionDocument = z.output<typeof PermissionDocument>

const exchange = z.string().max(limits.NAME_BYTES_MAX)
/** The same, with what stands for the user's name and the vhost's. */
const topicPattern = z
  .string()
  .refine((source) => compiles(fillIn(source, () => 'x')), 'is no pattern of routing keys')
export const TopicRule = z.strictObject({ exchange, write: topicPattern, read: topicPattern })
export const TopicPermissionDocument = z.array(TopicRule).max(TOPIC_RULES_MAX)
export type TopicPermissionDocument = z.output<typeof TopicPermissionDocument>

/** Words besides the known ones are kept, as RabbitMQ keeps them, and mean nothing. */
export const Tags = z.array(z.string().regex(/^[\w-]{1,64}$/)).max(TAGS_MAX)

export const UserDocument = z.strictObject({
  /** As `hashPassword` writes it; '' = no password proves this user. */
  passwordHash: z.string(),
  tags: Tags,
  /** AMQP connections and channels, over all processes; -1 = any number. */
  maxConnections: z.int().min(-1).default(-1),
  maxChannels: z.int().min(-1).default(-1),
})
export type UserDocument = z.output<typeof UserDocument>

const KEY_VHOSTS_MAX = 100

export const KeyPermission = PermissionDocument.extend({ vhost: exchange })
export const ApiKeyDocument = z.strictObject({
  /** SHA-256 of the secret, base64url: 256 random bits need no slow hash. */
  hash: z.string(),
  owner: z.string(),
  description: z.string().max(limits.NAME_BYTES_MAX),
  /** What it may do at most; absent: all that its owner may. */
  permissions: z.array(KeyPermission).max(KEY_VHOSTS_MAX).optional(),
  tags: z.array(z.enum(TAGS)).max(TAGS_MAX),
  createdAt: z.number(),
  /** ms since 1970; absent: never. */
  expiresAt: z.number().optional(),
})
export type ApiKeyDocument = z.output<typeof ApiKeyDocument>

/** A data key of a vhost or queue, by its id in 12 hex digits. */
export const DataKeyDocument = z.strictObject({
  /** '' = of the whole vhost. */
  queue: z.string(),
  /** Counts the keys of a queue or vhost: the highest seals. */
  generation: z.int(),
  createdAt: z.number(),
  /** Which key wrapped it. */
  kek: z.string(),
  wrapped: z.string(),
})
export type DataKeyDocument = z.output<typeof DataKeyDocument>

/** A document of this shape; undefined when it is absent, or of a newer broker's shape. */
export function readDocument<S extends z.ZodType>(
  schema: S,
  value: unknown,
): z.output<S> | undefined {
  if (value === undefined || value === null) return undefined
  const known = parsed.get(value)
  if (known !== undefined) return known as z.output<S>
  const { success, data } = schema.safeParse(value)
  if (!success) return undefined
  parsed.set(value, data as object)
  return data
}

/** Documents are immutable, and read far more often than changed. All of them are objects. */
const parsed = new WeakMap<object, object>()

/** The name of a user that may be created. Throws invalid_request. */
export function parseUserName(name: string): string {
  const kept = parseName('user', name)
  if (kept.includes(':')) {
    throw new BrokerError('invalid_request', 'A user name must not hold a colon.')
  }
  return kept
}

function compiles(source: string): boolean {
  try {
    compilePattern(source)
    return true
  } catch {
    return false
  }
}

const VARIABLE = /\{(username|vhost)\}/g

/** A topic rule's pattern with its variables' values, taken literally. */
export function fillIn(source: string, fill: (variable: string) => string): string {
  return source.replaceAll(VARIABLE, (_, variable: string) =>
    fill(variable).replaceAll(/[\\^$.*+?()[\]{}|]/g, '\\$&'),
  )
}

/** '' matches the empty name alone, as RabbitMQ has it. */
export function compileRule(source: string): Pattern {
  return source === '' ? (name) => name === '' : compilePattern(source)
}
