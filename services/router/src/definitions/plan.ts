/**
 * What an import would change: each entity of a document held against the routing table, in the
 * order in which they must be made. Nothing is removed, and what is there just so is left alone, so
 * that the same import changes nothing twice.
 */
import { BrokerError, DEFAULT_EXCHANGE, RESERVED_PREFIX } from '@sluice/core'
import {
  importHash,
  PermissionDocument,
  readDocument,
  type Tag,
  TopicPermissionDocument,
  UserDocument,
} from '@sluice/security'
import {
  type Accounts,
  permissionsOf,
  putPermission,
  putTopicPermissions,
  putUser,
} from '@sluice/server'
import {
  type BindingDefinition,
  checkSameExchange,
  checkSameQueue,
  EXCHANGE_TYPES,
  type ExchangeType,
  isPolicyKey,
  type Json,
  type PolicyDefinition,
  parseExchange,
  parsePolicy,
  parseQueue,
  type RoutingTable,
  type VhostChange,
} from '@sluice/topology'
import type { z } from 'zod'
import { type DefinitionsDocument, VHOST_LIMITS, VhostLimits } from './document.ts'

/** What becomes of an entity. `ignored`: it has no equivalent here, and nothing is done. */
type Action = 'create' | 'change' | 'same' | 'refused' | 'ignored'

export interface Step {
  readonly action: Action
  /** e.g. queue, binding, user. */
  readonly kind: string
  /** '' for what belongs to the whole broker. */
  readonly vhost: string
  readonly name: string
  /** Why it is refused or ignored, or what of it is. */
  readonly detail?: string
  /** Makes it so; absent where there is nothing to do. */
  readonly run?: () => Promise<unknown>
}

type Target = Pick<Step, 'kind' | 'vhost' | 'name'>

/** Parts of a RabbitMQ's document that are not entities. */
const FACTS = [
  'rabbit_version',
  'rabbitmq_version',
  'product_name',
  'product_version',
  'rabbitmq_definition_format',
  'original_vhost_name',
  'explanation',
  'metadata',
  'default_queue_type',
  'original_cluster_name',
  'description',
  'tags',
  'name',
  'limits',
]

export function plan(
  document: DefinitionsDocument,
  table: RoutingTable,
  accounts: Accounts,
): Step[] {
  const draft = new Draft(document, table, accounts)
  return [
    ...document.vhosts.map((vhost) => draft.vhost(vhost)),
    ...document.users.map((user) => draft.user(user)),
    ...document.permissions.map((permission) => draft.permission(permission)),
    ...draft.topicPermissions(),
    ...document.exchanges.map((exchange) => draft.exchange(exchange)),
    ...document.queues.map((queue) => draft.queue(queue)),
    ...document.bindings.map((binding) => draft.binding(binding)),
    ...document.policies.map((policy) => draft.policy(policy)),
    ...document.parameters.map((parameter) => draft.parameter(parameter)),
    ...draft.rest(),
  ]
}

type Entity<K extends keyof DefinitionsDocument> =
  DefinitionsDocument[K] extends readonly (infer E)[] ? E : never

class Draft {
  readonly #document: DefinitionsDocument
  readonly #table: RoutingTable
  readonly #accounts: Accounts
  readonly #vhosts: ReadonlySet<string>
  readonly #users: ReadonlySet<string>
  /** Those that the document makes, as '<vhost> <name>'. */
  readonly #exchanges: ReadonlySet<string>
  readonly #queues: ReadonlySet<string>

  constructor(document: DefinitionsDocument, table: RoutingTable, accounts: Accounts) {
    this.#document = document
    this.#table = table
    this.#accounts = accounts
    this.#vhosts = new Set([...table.vhosts(), ...document.vhosts.map(({ name }) => name)])
    this.#users = new Set(document.users.map(({ name }) => name))
    const names = (entities: readonly { vhost: string; name: string }[]) =>
      new Set(entities.map(({ vhost, name }) => `${vhost} ${name}`))
    this.#exchanges = names(document.exchanges)
    this.#queues = names(document.queues)
  }

  vhost({ name, sluice = {}, limits }: Entity<'vhosts'>): Step {
    return this.#options({ kind: 'vhost', vhost: '', name }, name, {
      ...sluice,
      ...(Array.isArray(limits) ? {} : limitsOf(limits)),
    })
  }

  parameter({ component, vhost, name, value }: Entity<'parameters'>): Step {
    const kind = component === '' ? 'parameters' : `parameters (${component})`
    const { success, data } = VhostLimits.safeParse(value)
    const target = { kind: 'limits', vhost, name }
    if (component !== VHOST_LIMITS || !success) return ignored({ ...target, kind }, NOTHING_LIKE_IT)
    return this.#try(target, () => {
      this.#requireVhost(vhost)
      return this.#options(target, vhost, limitsOf(data))
    })
  }

  #options(target: Target, vhost: string, options: VhostChange): Step {
    const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value != null))
    const run = () => this.#accounts.topology.declareVhost(vhost, given)
    if (!this.#table.hasVhost(vhost)) return { ...target, action: 'create', run }
    const now = { ...this.#table.vhostOptions(vhost) }
    return differsFrom(target, now, { ...now, ...given }, run)
  }

  user({ name, password_hash, hashing_algorithm, tags, limits }: Entity<'users'>): Step {
    const target = { kind: 'user', vhost: '', name }
    const { administrator } = this.#accounts
    if (name === administrator) {
      return ignored(target, 'this administrator is kept in the settings of the broker')
    }
    const list = typeof tags === 'string' ? tags.split(',') : tags
    const wanted = list.map((tag) => tag.trim()).filter((tag) => tag !== '') as Tag[]
    return this.#try(target, () => {
      const algorithm = hashing_algorithm
      const passwordHash = password_hash === '' ? '' : importHash(algorithm, password_hash)
      const most = Array.isArray(limits) ? {} : limits
      const { 'max-connections': maxConnections, 'max-channels': maxChannels } = most
      const run = () =>
        putUser(this.#accounts, name, {
          ...{ tags: wanted, maxConnections, maxChannels },
          ...(passwordHash !== '' && { hash: { algorithm, base64: password_hash } }),
        })
      const now = readDocument(UserDocument, this.#table.documents.get('user', '', name))
      if (!now) return { ...target, action: 'create', run }
      const then = {
        ...{ passwordHash: passwordHash || now.passwordHash, tags: wanted },
        maxConnections: maxConnections ?? now.maxConnections,
        maxChannels: maxChannels ?? now.maxChannels,
      }
      return differsFrom(target, { ...now }, then, run)
    })
  }

  permission({ user, vhost, ...patterns }: Entity<'permissions'>): Step {
    const target = { kind: 'permission', vhost, name: user }
    return this.#try(target, () => {
      this.#requireVhost(vhost)
      if (!this.#knowsUser(user)) return ignored(target, 'its user is not in the document')
      const permission = PermissionDocument.parse(patterns)
      const run = () => putPermission(this.#accounts, vhost, user, permission)
      const value = this.#table.documents.get('permission', vhost, user)
      const now = readDocument(PermissionDocument, value)
      if (!now) return { ...target, action: 'create', run }
      return differsFrom(target, { ...now }, { ...permission }, run)
    })
  }

  /** Those of one user in one vhost are one document. */
  topicPermissions(): Step[] {
    const groups = Map.groupBy(this.#document.topic_permissions, ({ user, vhost }) =>
      JSON.stringify([user, vhost]),
    )
    return [...groups.values()].map((group) => {
      const { user, vhost } = group[0]!
      const target = { kind: 'topic permission', vhost, name: user }
      return this.#try(target, () => {
        this.#requireVhost(vhost)
        if (!this.#knowsUser(user)) return ignored(target, 'its user is not in the document')
        const rules = TopicPermissionDocument.parse(
          group.map(({ exchange, write, read }) => ({ exchange, write, read })),
        )
        const run = () => putTopicPermissions(this.#accounts, vhost, user, rules)
        const had = permissionsOf(this.#table, user).find((one) => one.vhost === vhost)
        const now = had?.topics ?? []
        if (now.length === 0) return { ...target, action: 'create', run }
        return differsFrom(
          target,
          now.map((rule) => ({ ...rule })),
          rules.map((rule) => ({ ...rule })),
          run,
        )
      })
    })
  }

  exchange({ name, vhost, type, auto_delete, ...rest }: Entity<'exchanges'>): Step {
    const target = { kind: 'exchange', vhost, name }
    return this.#try(target, () => {
      this.#requireVhost(vhost)
      if (!EXCHANGE_TYPES.includes(type as ExchangeType)) {
        return refused(target, `there is no exchange type '${type}' here`)
      }
      const { durable, internal, arguments: args } = rest
      const wanted = parseExchange(vhost, {
        ...{ name, type: type as ExchangeType, durable, internal },
        ...{ autoDelete: auto_delete, arguments: args as Record<string, Json> },
      })
      const now = this.#table.exchange(vhost, name)
      if (now) checkSameExchange(vhost, now, wanted)
      if (now) return { ...target, action: 'same' }
      const { topology } = this.#accounts
      return { ...target, action: 'create', run: () => topology.declareExchange(vhost, wanted) }
    })
  }

  queue({ name, vhost, type, durable, auto_delete, arguments: args }: Entity<'queues'>): Step {
    const target = { kind: 'queue', vhost, name }
    return this.#try(target, () => {
      this.#requireVhost(vhost)
      if (type === 'stream' || args['x-queue-type'] === 'stream') {
        return refused(target, 'there are no streams here')
      }
      const wanted = parseQueue(vhost, {
        ...{ name, durable, autoDelete: auto_delete, exclusive: '' },
        arguments: args as Record<string, Json>,
      })
      const now = this.#table.queue(vhost, name)?.definition
      if (now) checkSameQueue(vhost, now, wanted)
      if (now) return { ...target, action: 'same' }
      const { topology } = this.#accounts
      return { ...target, action: 'create', run: () => topology.declareQueue(vhost, wanted) }
    })
  }

  binding({ vhost, destination_type, routing_key, ...rest }: Entity<'bindings'>): Step {
    const { source, destination, arguments: args } = rest
    const key = routing_key === '' ? '' : ` (${routing_key})`
    const target = { kind: 'binding', vhost, name: `${source} -> ${destination}${key}` }
    return this.#try(target, () => {
      this.#requireVhost(vhost)
      // RabbitMQ exports those of the default exchange, which are there without being made.
      if (source === DEFAULT_EXCHANGE) return { ...target, action: 'same' }
      const binding: BindingDefinition = {
        ...{ source, destination, destinationType: destination_type, routingKey: routing_key },
        arguments: args as Record<string, Json>,
      }
      if (this.#table.hasVhost(vhost) && this.#table.hasBinding(vhost, binding)) {
        return { ...target, action: 'same' }
      }
      if (!this.#knowsExchange(vhost, source)) return refused(target, `no exchange '${source}'`)
      const known =
        destination_type === 'queue'
          ? this.#queues.has(`${vhost} ${destination}`) || this.#table.queue(vhost, destination)
          : this.#knowsExchange(vhost, destination)
      if (!known) return refused(target, `no ${destination_type} '${destination}'`)
      const { topology } = this.#accounts
      return { ...target, action: 'create', run: () => topology.bind(vhost, binding) }
    })
  }

  policy({ vhost, name, pattern, priority, definition, ...rest }: Entity<'policies'>): Step {
    const target = { kind: 'policy', vhost, name }
    return this.#try(target, () => {
      this.#requireVhost(vhost)
      const applyTo = APPLY_TO[rest['apply-to']]
      if (!applyTo) return ignored(target, `there is nothing like ${rest['apply-to']} here`)
      const keys = Object.keys(definition)
      const unknown = keys.filter((key) => !isPolicyKey(key, applyTo))
      if (keys.length > 0 && unknown.length === keys.length) {
        return ignored(target, `none of its keys means anything here: ${unknown.join(', ')}`)
      }
      const wanted: PolicyDefinition = {
        ...{ name, pattern, applyTo, priority },
        definition: Object.fromEntries(
          Object.entries(definition).filter(([key]) => !unknown.includes(key)),
        ) as Record<string, Json>,
      }
      if (this.#table.hasVhost(vhost)) parsePolicy(this.#table, vhost, wanted)
      const { topology } = this.#accounts
      const run = () => topology.putPolicy(vhost, wanted)
      const note = unknown.length > 0 ? { detail: `without ${unknown.join(', ')}` } : {}
      const now = this.#table.policy(vhost, name)
      if (!now) return { ...target, ...note, action: 'create', run }
      return { ...differsFrom(target, { ...now }, { ...wanted }, run), ...note }
    })
  }

  /** What RabbitMQ has and Sluice has not. */
  rest(): Step[] {
    const known = new Set<string>([...KINDS, ...FACTS])
    return Object.entries(this.#document).flatMap(([kind, value]) => {
      if (known.has(kind)) return []
      const entities = Array.isArray(value) ? value : [value]
      return entities.map((entity) => {
        const { name = '', vhost = '', component = '' } = (entity ?? {}) as Record<string, string>
        const what = component === '' ? kind : `${kind} (${component})`
        return ignored({ kind: what, vhost, name }, NOTHING_LIKE_IT)
      })
    })
  }

  #try(target: Target, draft: () => Step): Step {
    if (target.name.startsWith(RESERVED_PREFIX) && target.kind !== 'binding') {
      return ignored(target, `names that begin with ${RESERVED_PREFIX} are the broker's own`)
    }
    try {
      return draft()
    } catch (error) {
      if (error instanceof BrokerError) return refused(target, error.message)
      if (error instanceof Error && error.name === 'ZodError') {
        return refused(target, 'a pattern is no regular expression that is understood here')
      }
      throw error
    }
  }

  #requireVhost(vhost: string): void {
    if (!this.#vhosts.has(vhost)) {
      throw new BrokerError('vhost_not_found', `no vhost '${vhost}', here or in the document`)
    }
  }

  #knowsUser(name: string): boolean {
    return this.#users.has(name) || this.#table.documents.get('user', '', name) !== undefined
  }

  #knowsExchange(vhost: string, name: string): boolean {
    if (this.#exchanges.has(`${vhost} ${name}`)) return true
    return name.startsWith(RESERVED_PREFIX) || this.#table.exchange(vhost, name) !== undefined
  }
}

const NOTHING_LIKE_IT = 'there is nothing like it here'

const limitsOf = (value: z.output<typeof VhostLimits>): VhostChange => ({
  maxConnections: value['max-connections'],
  maxQueues: value['max-queues'],
})

const KINDS = [
  'vhosts',
  'users',
  'permissions',
  'topic_permissions',
  'exchanges',
  'queues',
  'bindings',
  'policies',
  'parameters',
]

const APPLY_TO: Readonly<Record<string, PolicyDefinition['applyTo']>> = {
  all: 'all',
  queues: 'queues',
  exchanges: 'exchanges',
  classic_queues: 'queues',
  quorum_queues: 'queues',
}

const refused = (target: Target, detail: string): Step => ({ ...target, action: 'refused', detail })
const ignored = (target: Target, detail: string): Step => ({ ...target, action: 'ignored', detail })

/** The order of keys makes no difference. */
function differsFrom(target: Target, now: Json, then: Json, run: NonNullable<Step['run']>): Step {
  return sorted(now) === sorted(then)
    ? { ...target, action: 'same' }
    : { ...target, action: 'change', run }
}

function sorted(value: Json): string {
  return JSON.stringify(value, (_, field: Json) =>
    typeof field === 'object' && field !== null && !Array.isArray(field)
      ? Object.fromEntries(Object.entries(field).sort(([a], [b]) => (a < b ? -1 : 1)))
      : field,
  )
}
