/**
 * Decisions about one principal in one vhost, remembered until permissions change.
 *
 * Hot path: a publish asks here, and finds the answer by the exchange's name and, where topic
 * permissions count routing keys, by the key. Nothing is allocated for what is known. Measured by
 * test/bench/amqp.bench.ts.
 */
import type { Access } from './access.ts'
import type { Operation, Principal } from './principal.ts'
import { type Resource, refusalText } from './resource.ts'

/** Names remembered for each operation; a publisher uses a few. */
const NAMES_MAX = 1_000

type Decisions = Map<string, boolean>
/** By exchange; undefined where routing keys do not count. */
type Topics = Map<string, Decisions | undefined>

export class Grants {
  readonly principal: Principal
  readonly vhost: string
  readonly #access: Access
  #version = -1
  #exchanges = remembered<Decisions>()
  #queues = remembered<Decisions>()
  #topics = remembered<Topics>()

  constructor(access: Access, principal: Principal, vhost: string) {
    this.#access = access
    this.principal = principal
    this.vhost = vhost
  }

  allows(operation: Operation, kind: Resource['kind'], name: string): boolean {
    if (this.principal.kind === 'administrator') return true
    this.#refresh()
    const known = (kind === 'exchange' ? this.#exchanges : this.#queues)[operation]
    let decision = known.get(name)
    if (decision === undefined) {
      decision = this.#access.allowed(this.principal, this.vhost, operation, { kind, name })
      remember(known, name, decision)
    }
    return decision
  }

  /** For a routing key of a topic exchange, once `allows` has said yes to the exchange. */
  allowsTopic(operation: 'write' | 'read', exchange: string, routingKey: string): boolean {
    if (this.principal.kind === 'administrator') return true
    this.#refresh()
    const topics = this.#topics[operation]
    let keys = topics.get(exchange)
    if (keys === undefined) {
      if (topics.has(exchange)) return true
      const counts = this.#access.countsRoutingKeys(this.principal, this.vhost, exchange)
      keys = counts ? new Map() : undefined
      remember(topics, exchange, keys)
      if (keys === undefined) return true
    }
    let decision = keys.get(routingKey)
    if (decision === undefined) {
      const resource = { kind: 'exchange', name: exchange } as const
      decision = this.#access.allowed(this.principal, this.vhost, operation, resource, routingKey)
      remember(keys, routingKey, decision)
    }
    return decision
  }

  /** Why not, in RabbitMQ's words; undefined when it is allowed. Not for every message. */
  refusal(operation: Operation, resource: Resource, routingKey?: string): string | undefined {
    const { kind, name } = resource
    if (!this.allows(operation, kind, name)) {
      return refusalText(this.principal, this.vhost, operation, resource)
    }
    if (routingKey === undefined || operation === 'configure') return undefined
    if (this.allowsTopic(operation, name, routingKey)) return undefined
    return refusalText(this.principal, this.vhost, operation, resource, routingKey)
  }

  #refresh(): void {
    if (this.#version === this.#access.version) return
    this.#version = this.#access.version
    this.#exchanges = remembered()
    this.#queues = remembered()
    this.#topics = remembered()
  }
}

function remembered<T extends Decisions | Topics>(): Record<Operation, T> {
  const [configure, write, read] = [new Map(), new Map(), new Map()] as [T, T, T]
  return { configure, write, read }
}

function remember<T>(known: Map<string, T>, name: string, value: T): void {
  if (known.size >= NAMES_MAX) known.clear()
  known.set(name, value)
}
