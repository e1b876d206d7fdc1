/**
 * exchange.* and queue.*: AMQP's words for what libs/topology does. Answers are sent by the caller;
 * what goes wrong is thrown (numbers in comments are those of docs/amqp.md).
 */
import { randomBytes } from 'node:crypto'
import type { ChannelMethod, FieldValue, Table } from '@sluice/amqp'
import { BrokerError, DEFAULT_EXCHANGE, RESERVED_PREFIX } from '@sluice/core'
import type { Resource } from '@sluice/security'
import {
  type Arguments,
  EXCHANGE_TYPES,
  type ExchangeType,
  type Json,
  type QueueEntry,
} from '@sluice/topology'
import { locked, notFound, precondition, refused } from './reply.ts'
import type { Session } from './session.ts'

const NAME_PREFIX = 'x-name-prefix'
const NAME_PREFIX_BYTES_MAX = 64

type Method<N extends ChannelMethod['name']> = Extract<ChannelMethod, { name: N }>

export async function declareExchange(
  session: Session,
  method: Method<'exchange.declare'>,
): Promise<void> {
  const { type, durable, autoDelete, internal } = method
  const { topology } = session.context.deps
  const name = clean(method.exchange)
  checkNotDefault(name)
  if (method.passive) {
    requireAny(session, { kind: 'exchange', name })
    await topology.refresh()
    if (!topology.table.exchange(session.vhost, name)) throw noExchange(session, name)
    return
  }
  session.require('configure', { kind: 'exchange', name })
  const alternate = method.arguments['alternate-exchange']
  if (typeof alternate === 'string' && !topology.table.exchange(session.vhost, name)) {
    session.require('read', { kind: 'exchange', name }) // 35
    session.require('write', { kind: 'exchange', name: alternate })
  }
  if (!EXCHANGE_TYPES.includes(type as ExchangeType)) {
    throw precondition(`unknown exchange type '${type}'`) // 32
  }
  const { created, tolerated } = await topology.declareExchange(session.vhost, {
    name,
    type: type as ExchangeType,
    durable,
    autoDelete,
    internal,
    arguments: toArguments(method.arguments),
  })
  if (created) session.acted(method.name, { kind: 'exchange', name })
  noteTolerated(session, tolerated)
}

export async function deleteExchange(
  session: Session,
  { exchange, ifUnused }: Method<'exchange.delete'>,
): Promise<void> {
  const { vhost } = session
  const name = clean(exchange)
  checkNotDefault(name)
  session.require('configure', { kind: 'exchange', name })
  if (name.startsWith(RESERVED_PREFIX)) {
    throw refused(`deletion of system exchange '${name}' in vhost '${vhost}' not allowed`) // 30
  }
  const { topology } = session.context.deps
  const { deleted } = await topology.deleteExchange(vhost, name, { ifUnused })
  if (deleted) session.acted('exchange.delete', { kind: 'exchange', name })
}

export async function bindExchange(
  session: Session,
  method: Method<'exchange.bind'> | Method<'exchange.unbind'>,
): Promise<void> {
  const { destination, source, routingKey } = method
  session.require('write', { kind: 'exchange', name: destination })
  checkNotDefault(source)
  checkNotDefault(destination)
  requireSource(session, source, routingKey)
  const { topology } = session.context.deps
  const binding = {
    source,
    destination,
    destinationType: 'exchange' as const,
    routingKey,
    arguments: toArguments(method.arguments),
  }
  const changed =
    method.name === 'exchange.bind'
      ? (await topology.bind(session.vhost, binding)).created
      : (await topology.unbind(session.vhost, binding)).deleted
  if (changed) session.acted(method.name, { kind: 'exchange', name: destination })
}

/** Creates the queue or finds it; 40-44, 46. */
export async function declareQueue(
  session: Session,
  method: Method<'queue.declare'>,
): Promise<{ entry: QueueEntry; messages: number; consumers: number }> {
  const { topology } = session.context.deps
  const name = clean(method.queue)
  const entry = method.passive ? await passive(session, name) : await declare(session, method, name)
  if (method.exclusive && !method.passive) session.own(entry.definition.name)
  const { ready, consumers } = await entry.store.stats()
  await topology.refresh()
  return { entry, messages: ready, consumers }
}

async function passive(session: Session, name: string): Promise<QueueEntry> {
  requireAny(session, { kind: 'queue', name })
  await session.context.deps.topology.refresh()
  const entry = await session.queue(name)
  if (entry.settings.expiresMs >= 0) await entry.store.create() // 53: it counts as use
  return entry
}

async function declare(
  session: Session,
  method: Method<'queue.declare'>,
  name: string,
): Promise<QueueEntry> {
  const { topology } = session.context.deps
  if (method.exclusive) session.rooted = true
  const { vhost, id } = session
  const { [NAME_PREFIX]: prefix, ...args } = method.arguments
  // 41: also one that is there, by whatever name the server gave it.
  if (name.startsWith(RESERVED_PREFIX)) {
    throw refused(`queue name '${name}' contains reserved prefix 'amq.*'`)
  }
  const asked = name === '' && typeof prefix === 'string' ? prefixed(prefix) : name
  session.require('configure', { kind: 'queue', name: asked || `${RESERVED_PREFIX}gen-` })
  const known = topology.table.queue(vhost, name)
  if (!known) requireDeadLetters(session, asked, args)
  if (known) {
    session.checkAccess(known)
    // 44: an exclusive queue declared again as shared, or the other way round.
    if ((known.definition.exclusive !== '') !== method.exclusive) throw locked(name, vhost)
  }
  const declared = topology.declareQueue(vhost, {
    name: asked,
    durable: method.durable && !method.exclusive, // 46
    autoDelete: method.autoDelete,
    exclusive: method.exclusive ? id : '',
    arguments: toArguments(args),
  })
  const { definition, created, tolerated } = await declared.catch((error) => {
    if (method.exclusive) session.mayOwn() // it may have happened all the same
    throw error
  })
  if (created) session.acted('queue.declare', { kind: 'queue', name: definition.name })
  noteTolerated(session, tolerated)
  return session.queue(definition.name)
}

/** 41: a name by the server that begins as the client wants. */
function prefixed(prefix: string): string {
  const start = clean(prefix)
  if (Buffer.byteLength(start) > NAME_PREFIX_BYTES_MAX) {
    throw precondition(`Queue name prefix '${start.slice(0, 64)}' exceeds the 64-byte limit`)
  }
  if (start.startsWith(RESERVED_PREFIX)) {
    throw refused(`queue name '${start}' contains reserved prefix 'amq.*'`)
  }
  return `${start}-${randomBytes(16).toString('base64url')}`
}

/** 44: the client goes on with what is there; the operator hears of it. */
function noteTolerated({ vhost, context, connection }: Session, difference: string | undefined) {
  if (difference === undefined) return
  const { log, metrics } = context.deps
  metrics.count('toleratedRedeclares', {}).value++
  log.warn({ vhost, client: connection.clientName }, difference)
}

export async function bindQueue(
  session: Session,
  method: Method<'queue.bind'> | Method<'queue.unbind'>,
  queue: string,
  routingKey: string,
): Promise<void> {
  const { topology } = session.context.deps
  const { vhost } = session
  session.require('write', { kind: 'queue', name: queue })
  checkNotDefault(method.exchange)
  requireSource(session, method.exchange, routingKey)
  const binding = {
    source: method.exchange,
    destination: queue,
    destinationType: 'queue' as const,
    routingKey,
    arguments: toArguments(method.arguments),
  }
  if (method.name === 'queue.unbind') {
    const known = topology.table.queue(vhost, queue)
    if (known) session.checkAccess(known)
    const { deleted } = await topology.unbind(vhost, binding) // 51: a missing one is no error
    if (deleted) session.acted('queue.unbind', { kind: 'queue', name: queue })
    return
  }
  await session.queue(queue)
  const { created } = await topology.bind(vhost, binding)
  if (created) session.acted('queue.bind', { kind: 'queue', name: queue })
}

export async function purgeQueue(session: Session, queue: string): Promise<number> {
  session.require('read', { kind: 'queue', name: queue })
  const purged = await (await session.queue(queue)).store.purge()
  session.acted('queue.purge', { kind: 'queue', name: queue })
  return purged
}

/** 49: deleting a queue that is not there succeeds. */
export async function deleteQueue(
  session: Session,
  { ifUnused, ifEmpty }: Method<'queue.delete'>,
  queue: string,
): Promise<number> {
  session.require('configure', { kind: 'queue', name: queue })
  const { topology } = session.context.deps
  await topology.refresh()
  const entry = topology.table.queue(session.vhost, queue)
  if (!entry) return 0
  session.checkAccess(entry)
  const { messages } = await topology.deleteQueue(session.vhost, queue, { ifUnused, ifEmpty })
  session.acted('queue.delete', { kind: 'queue', name: queue })
  session.disown(queue)
  return messages
}

/** 43: to see that something is there, one permission on it will do. */
function requireAny(session: Session, resource: Resource): void {
  const { grants } = session
  const { kind, name } = resource
  if (grants.allows('write', kind, name) || grants.allows('read', kind, name)) return
  session.require('configure', resource)
}

/** 84: to bind from an exchange is to read from it; where it is a topic exchange, by the key. */
function requireSource(session: Session, source: string, routingKey: string): void {
  const { topology } = session.context.deps
  const topic = topology.table.exchange(session.vhost, source)?.type === 'topic'
  const resource = { kind: 'exchange', name: source } as const
  session.require('read', resource, topic ? routingKey : undefined)
}

/** 48: who makes a queue send its dead letters on must be able to read and to send them. */
function requireDeadLetters(session: Session, name: string, args: Table): void {
  const exchange = args['x-dead-letter-exchange']
  if (typeof exchange !== 'string') return
  session.require('read', { kind: 'queue', name: name || `${RESERVED_PREFIX}gen-` })
  session.require('write', { kind: 'exchange', name: exchange })
}

/** 29. */
function checkNotDefault(exchange: string): void {
  if (exchange === DEFAULT_EXCHANGE || exchange === 'amq.default') {
    throw refused('operation not permitted on the default exchange')
  }
}

function noExchange(session: Session, name: string): Error {
  return notFound(`no exchange '${name}' in vhost '${session.vhost}'`)
}

/** 38. */
const clean = (name: string) => name.replace(/[\r\n]/g, '')

/** A table as arguments are kept: as JSON. */
function toArguments(table: Table): Arguments {
  return Object.fromEntries(Object.entries(table).map(([name, value]) => [name, toJson(value)]))
}

function toJson(value: FieldValue): Json {
  if (typeof value === 'bigint') {
    const number = Number(value)
    if (Number.isSafeInteger(number)) return number
    throw new BrokerError('invalid_request', `an argument is out of range: ${value}`)
  }
  if (Buffer.isBuffer(value)) return value.toString('utf8')
  if (value instanceof Date) return value.toISOString()
  if (Array.isArray(value)) return value.map(toJson)
  if (typeof value === 'object' && value !== null) return toArguments(value)
  return value
}
