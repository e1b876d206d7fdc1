/**
 * Exchanges, queues, bindings and policies as they are declared, and as fields of the one hash that
 * keeps them (libs/store/src/definitions.ts): a field per entity, its name in the field.
 */
import { createHash } from 'node:crypto'

export type Json =
  | string
  | number
  | boolean
  | null
  | readonly Json[]
  | { readonly [name: string]: Json }
export type Arguments = { readonly [name: string]: Json }

export const EXCHANGE_TYPES = ['direct', 'fanout', 'topic', 'headers'] as const
export type ExchangeType = (typeof EXCHANGE_TYPES)[number]

export interface ExchangeDefinition {
  readonly name: string
  readonly type: ExchangeType
  readonly durable: boolean
  readonly autoDelete: boolean
  /** Only other exchanges publish to it. */
  readonly internal: boolean
  readonly arguments: Arguments
}

export interface QueueDefinition {
  readonly name: string
  readonly durable: boolean
  readonly autoDelete: boolean
  /** Its owner's name; '' = none. */
  readonly exclusive: string
  readonly arguments: Arguments
  /** The topology version that created it: tells a queue from a later one of the same name. */
  readonly epoch: number
}

export interface BindingDefinition {
  readonly source: string
  readonly destination: string
  readonly destinationType: 'queue' | 'exchange'
  readonly routingKey: string
  readonly arguments: Arguments
}

export interface PolicyDefinition {
  readonly name: string
  /** A regular expression that finds the names it applies to (pattern.ts). */
  readonly pattern: string
  readonly applyTo: 'queues' | 'exchanges' | 'all'
  /** Of those that match, the one with the highest applies. */
  readonly priority: number
  readonly definition: Arguments
}

/** What a vhost does differently from RabbitMQ, for clients that need it, and what it may have. */
export interface VhostOptions {
  /** Declaring what is there differently is a warning in the log instead of a refusal. */
  readonly tolerantRedeclare: boolean
  /** An AMQP message with a header `eta` (a time, ISO 8601) is delivered at that time. */
  readonly holdEta: boolean
  /** AMQP connections, over all processes; -1 = any number. */
  readonly maxConnections: number
  /** Queues, beside its `amq.dead-letters`; -1 = any number. What is there stays. */
  readonly maxQueues: number
  /** Everything that is stored in its queues is sealed with the vhost's data key. */
  readonly encryption: boolean
}

export const VHOST_OPTIONS_DEFAULT: VhostOptions = {
  tolerantRedeclare: false,
  holdEta: false,
  maxConnections: -1,
  maxQueues: -1,
  encryption: false,
}

/** What to set; what is undefined stays as it is. */
export type VhostChange = {
  readonly [Option in keyof VhostOptions]?: VhostOptions[Option] | undefined
}

export interface VhostDefinition extends Partial<VhostOptions> {
  readonly name: string
}

/** One field of the hash set (value) or removed (null). */
export type Change = readonly [field: string, value: string | null]

/** Half a surrogate pair, which no declared name holds, finds nothing rather than throw. */
const enc = (name: string) => encodeURIComponent(name.toWellFormed())

export const vhostField = (vhost: string) => `vhost/${enc(vhost)}`
export const exchangeField = (vhost: string, name: string) => `exchange/${enc(vhost)}/${enc(name)}`
export const queueField = (vhost: string, name: string) => `queue/${enc(vhost)}/${enc(name)}`
export const policyField = (vhost: string, name: string) => `policy/${enc(vhost)}/${enc(name)}`

/** Bindings differ by source, destination, routing key and arguments. */
export function bindingField(vhost: string, binding: BindingDefinition): string {
  const { source, destinationType, destination, routingKey } = binding
  const id = [source, destinationType, destination, routingKey].map(enc).join('/')
  const facts = canonical(binding.arguments)
  const hash = facts === '{}' ? '' : createHash('sha256').update(facts).digest('base64url')
  return `binding/${enc(vhost)}/${id}/${hash}`
}

/** A JSON text that is the same for equal values, whatever the order of their keys. */
export function canonical(value: Json): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`
  if (typeof value !== 'object' || value === null) return JSON.stringify(value)
  const fields = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))
  return `{${fields.map(([name, field]) => `${JSON.stringify(name)}:${canonical(field)}`).join(',')}}`
}

/** A changed entity; its definition is undefined when it was removed. */
type EntityChange = { readonly vhost: string } & (
  | { readonly kind: 'vhost'; readonly definition: VhostDefinition | undefined }
  | {
      readonly kind: 'exchange'
      readonly name: string
      readonly definition: ExchangeDefinition | undefined
    }
  | {
      readonly kind: 'queue'
      readonly name: string
      readonly definition: QueueDefinition | undefined
    }
  | {
      readonly kind: 'policy'
      readonly name: string
      readonly definition: PolicyDefinition | undefined
    }
  | {
      readonly kind: 'binding'
      readonly ends: Pick<BindingDefinition, 'source' | 'destination' | 'destinationType'>
      readonly definition: BindingDefinition | undefined
    }
)

/** Reads a changed field; undefined for a kind that only a newer version of the broker knows. */
export function parseChange(field: string, value: string | null): EntityChange | undefined {
  const [kind, vhost = '', ...rest] = field.split('/').map(decodeURIComponent)
  const definition = value === null ? undefined : JSON.parse(value)
  const [name = '', destinationType, destination = ''] = rest
  switch (kind) {
    case 'vhost':
      return { kind, vhost, definition }
    case 'exchange':
    case 'queue':
    case 'policy':
      return { kind, vhost, name, definition }
    case 'binding': {
      const type = destinationType === 'exchange' ? 'exchange' : 'queue'
      return { kind, vhost, ends: { source: name, destinationType: type, destination }, definition }
    }
    default:
      return undefined
  }
}
