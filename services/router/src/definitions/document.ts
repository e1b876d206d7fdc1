/**
 * Definitions as one JSON document, in the form of RabbitMQ's `definitions.json`: what RabbitMQ
 * exports goes in as it is, and what comes out of here RabbitMQ can read. Ours alone is `sluice` of
 * a vhost, its options.
 */
import { limits } from '@sluice/core'
import { z } from 'zod'

/** Of each kind. */
const ENTITIES_MAX = 100_000

const name = z.string().max(limits.NAME_BYTES_MAX)
const vhost = name.default('/')
const Arguments = z.record(z.string(), z.json()).default({})
const list = <S extends z.ZodType>(entity: S) => z.array(entity).max(ENTITIES_MAX).default([])

const most = z.int().min(-1).optional()
export const VhostLimits = z.object({ 'max-connections': most, 'max-queues': most })
const UserLimits = z.object({ 'max-connections': most, 'max-channels': most })

// What RabbitMQ adds to an entity in a newer version is let in: it is a document of another broker.
const Vhost = z.object({
  name,
  sluice: z
    .strictObject({
      tolerantRedeclare: z.boolean().optional(),
      holdEta: z.boolean().optional(),
      encryption: z.boolean().optional(),
    })
    .optional(),
  // RabbitMQ writes [] for none.
  limits: z.union([VhostLimits, z.array(z.unknown())]).default([]),
})
const User = z.object({
  name,
  password_hash: z.string().max(limits.NAME_BYTES_MAX).default(''),
  hashing_algorithm: z.string().default('rabbit_password_hashing_sha256'),
  tags: z.union([z.string(), z.array(z.string())]).default([]),
  limits: z.union([UserLimits, z.array(z.unknown())]).default([]),
})
const Permission = z.object({
  user: name,
  vhost,
  configure: z.string(),
  write: z.string(),
  read: z.string(),
})
const TopicPermission = z.object({
  user: name,
  vhost,
  exchange: name,
  write: z.string(),
  read: z.string(),
})
const Exchange = z.object({
  name,
  vhost,
  type: z.string(),
  durable: z.boolean().default(true),
  auto_delete: z.boolean().default(false),
  internal: z.boolean().default(false),
  arguments: Arguments,
})
const Queue = z.object({
  name,
  vhost,
  type: z.string().optional(),
  durable: z.boolean().default(true),
  auto_delete: z.boolean().default(false),
  arguments: Arguments,
})
const Binding = z.object({
  source: name,
  vhost,
  destination: name,
  destination_type: z.enum(['queue', 'exchange']).default('queue'),
  routing_key: name.default(''),
  arguments: Arguments,
})
const Policy = z.object({
  vhost,
  name,
  pattern: z.string(),
  'apply-to': z.string().default('all'),
  priority: z.int().default(0),
  definition: z.record(z.string(), z.json()),
})

/** The component of RabbitMQ that limits vhosts. */
export const VHOST_LIMITS = 'vhost-limits'

/** RabbitMQ keeps limits of a vhost as one of these; the others are of its plugins. */
const Parameter = z.looseObject({
  component: z.string().default(''),
  vhost: z.string().default(''),
  name: z.string().default(''),
  value: z.unknown(),
})

export const DefinitionsDocument = z
  .looseObject({
    vhosts: list(Vhost),
    users: list(User),
    permissions: list(Permission),
    topic_permissions: list(TopicPermission),
    exchanges: list(Exchange),
    queues: list(Queue),
    bindings: list(Binding),
    policies: list(Policy),
    parameters: list(Parameter),
  })
  .meta({ id: 'Definitions' })
export type DefinitionsDocument = z.output<typeof DefinitionsDocument>
