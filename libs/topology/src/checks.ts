/** What callers declare, checked and brought into the form that is kept. */
import {
  BrokerError,
  compilePattern,
  DEFAULT_EXCHANGE,
  limits,
  parseName,
  RESERVED_PREFIX,
} from '@sluice/core'
import type { Store } from '@sluice/store'
import {
  checkExchangeArguments,
  checkPolicyDefinition,
  checkQueueArguments,
  checkSize,
} from './arguments.ts'
import {
  type BindingDefinition,
  EXCHANGE_TYPES,
  type ExchangeDefinition,
  type PolicyDefinition,
  type QueueDefinition,
} from './definition.ts'
import { exchangeNotFound, type RoutingTable } from './routing-table.ts'

/** Every queue's name is matched with every policy of its vhost when they change. */
const POLICIES_MAX = 1_000
/** RabbitMQ's words for how a headers binding matches; none of them is the same as `all`. */
const X_MATCH = ['all', 'any', 'all-with-x', 'any-with-x']

export function parseExchange(vhost: string, exchange: ExchangeDefinition): ExchangeDefinition {
  checkNotDefault(exchange.name)
  const name = parseName('exchange', exchange.name)
  const { type, durable, autoDelete, internal, arguments: args } = exchange
  if (!EXCHANGE_TYPES.includes(type)) {
    throw new BrokerError('invalid_request', `unknown exchange type '${type}'`)
  }
  checkExchangeArguments(vhost, name, args)
  return { name, type, durable, autoDelete, internal, arguments: args }
}

export function parseQueue(
  vhost: string,
  queue: Omit<QueueDefinition, 'epoch'>,
): Omit<QueueDefinition, 'epoch'> {
  const name = parseName('queue', queue.name)
  const { durable, autoDelete, exclusive, arguments: args } = queue
  checkQueueArguments(vhost, name, args)
  return { name, durable, autoDelete, exclusive, arguments: args }
}

/** Throws also when one of its ends is not there. */
export function parseBinding(
  table: RoutingTable,
  vhost: string,
  binding: BindingDefinition,
): BindingDefinition {
  const { source, destination, destinationType, routingKey, arguments: args } = binding
  checkNotDefault(source)
  const exchange = table.exchange(vhost, source)
  if (!exchange) throw exchangeNotFound(vhost, source)
  if (destinationType === 'exchange') {
    checkNotDefault(destination)
    if (!table.exchange(vhost, destination)) throw exchangeNotFound(vhost, destination)
  } else if (!table.queue(vhost, destination)) {
    throw new BrokerError('queue_not_found', `no queue '${destination}' in vhost '${vhost}'`, {
      details: { vhost, queue: destination },
    })
  }
  if (Buffer.byteLength(routingKey) > limits.NAME_BYTES_MAX || !routingKey.isWellFormed()) {
    throw new BrokerError(
      'invalid_request',
      `A routing key has at most ${limits.NAME_BYTES_MAX} bytes of UTF-8.`,
    )
  }
  checkSize(args)
  const mode = args['x-match']
  if (exchange.type === 'headers' && mode !== undefined && !X_MATCH.includes(String(mode))) {
    throw new BrokerError('invalid_request', `x-match is one of ${X_MATCH.join(', ')}`)
  }
  return { source, destination, destinationType, routingKey, arguments: args }
}

export function parsePolicy(
  table: RoutingTable,
  vhost: string,
  policy: PolicyDefinition,
): PolicyDefinition {
  const name = parseName('policy', policy.name)
  const { pattern, applyTo, priority, definition } = policy
  compilePattern(pattern)
  checkPolicyDefinition(policy)
  if (!Number.isSafeInteger(priority)) {
    throw new BrokerError('invalid_request', 'A policy has an integer as its priority.')
  }
  if (!table.policy(vhost, name) && table.policies(vhost).length >= POLICIES_MAX) {
    throw new BrokerError('invalid_request', `A vhost has at most ${POLICIES_MAX} policies.`)
  }
  return { name, pattern, applyTo, priority, definition }
}

/**
 * How a declaration differs from what is there, `tolerated`; thrown unless the vhost
 * tolerates it. An exchange of another type routes differently, and an exclusive queue is somebody
 * else's: those two are always refused.
 */
export function differs(
  table: RoutingTable,
  vhost: string,
  check: () => void,
): { tolerated?: string } {
  try {
    check()
    return {}
  } catch (error) {
    const tolerant = table.vhostOptions(vhost).tolerantRedeclare
    if (!tolerant || !(error instanceof BrokerError)) throw error
    const { argument } = error.details
    if (argument === 'type' || argument === 'exclusive') throw error
    return { tolerated: error.message }
  }
}

/** Throws forbidden for the default exchange (amqp-0-9-1, 29). */
export function checkNotDefault(exchange: string): void {
  if (exchange === DEFAULT_EXCHANGE) {
    throw new BrokerError('forbidden', 'operation not permitted on the default exchange')
  }
}

/** Throws forbidden for names that are the broker's own (amqp-0-9-1, 30 and 41). */
export function checkNewName(kind: 'exchange' | 'queue', name: string): void {
  if (name.startsWith(RESERVED_PREFIX)) {
    throw new BrokerError(
      'forbidden',
      `${kind} name '${name}' contains reserved prefix '${RESERVED_PREFIX}*'`,
    )
  }
}

/** `amq.dead-letters`, which a vhost always has. */
const OWN_QUEUES = 1

/** Throws invalid_request where a vhost has as many queues as it may. */
export function checkRoom(table: RoutingTable, vhost: string, queue: string): void {
  const { maxQueues } = table.vhostOptions(vhost)
  if (maxQueues < 0 || table.queueCount(vhost) - OWN_QUEUES < maxQueues) return
  throw new BrokerError(
    'invalid_request',
    `cannot declare queue '${queue}': queue limit in vhost '${vhost}' (${maxQueues}) is reached`,
  )
}

/** Throws encryption_unavailable where it is asked for and there is nothing to do it with. */
export function checkEncryption({ keys }: Pick<Store, 'keys'>, encryption: unknown): void {
  if (encryption !== true || keys.able) return
  throw new BrokerError(
    'encryption_unavailable',
    'There is no key to encrypt with: give every process SLUICE_ENCRYPTION_KEY_FILE, ' +
      'SLUICE_ENCRYPTION_KEY or SLUICE_ENCRYPTION_KMS_URL.',
  )
}
