/**
 * Arguments of queues and exchanges, and the policies' keys for them: one table of names, types and
 * bounds. Names and checks are RabbitMQ's (amqp-0-9-1, 31, 35, 44, 47, 69), and ours are
 * `x-ordering-key`, `x-dedup-window`, `x-retry`, `x-durability`, `x-trace-ratio` and `x-encryption`.
 * What a broker of another kind would understand (any other `x-...`) is kept and means nothing.
 *
 *   argument                  │ policy key              │ value
 *   ──────────────────────────┼─────────────────────────┼────────────────────────────────────────
 *   x-message-ttl             │ message-ttl             │ ms, 0 .. 10 years
 *   x-expires                 │ expires                 │ ms, 1 .. 10 years
 *   x-max-length              │ max-length              │ ready messages
 *   x-max-length-bytes        │ max-length-bytes        │ bytes of ready messages
 *   x-overflow                │ overflow                │ drop-head, reject-publish[-dlx]
 *   x-dead-letter-exchange    │ dead-letter-exchange    │ an exchange's name; '' is the default one
 *   x-dead-letter-routing-key │ dead-letter-routing-key │ a routing key
 *   x-dead-letter-strategy    │ dead-letter-strategy    │ at-most-once, at-least-once
 *   x-delivery-limit          │ delivery-limit          │ failed deliveries, -1 = no limit
 *   x-dedup-window            │ dedup-window            │ ms, 1 s .. 7 days
 *   x-retry                   │ retry                   │ { base, factor, max, jitter }, ms
 *   x-durability              │ durability              │ memory, fsync, replicas=n
 *   x-trace-ratio             │ trace-ratio             │ 0 .. 1: share of publishes traced
 *   x-encryption              │ encryption              │ true: sealed with a key of its own
 *   x-max-priority            │                         │ 0 .. 255; ten levels are told apart
 *   x-ordering-key            │                         │ true: messages of one key go one by one
 *   x-single-active-consumer  │                         │ boolean
 *   x-queue-type              │                         │ classic, quorum: both are the same here
 *   alternate-exchange        │ alternate-exchange      │ an exchange's name
 *
 * What has no policy key is how a queue keeps its messages, which cannot change while it has some.
 */
import { BrokerError, type Durability, limits, RETRY_DEFAULT, type RetryPolicy } from '@sluice/core'
import { QUEUE_SETTINGS_DEFAULT, type QueueSettings } from '@sluice/store'
import type { PolicyDefinition, QueueDefinition } from './definition.ts'
import { type Arguments, canonical, type ExchangeDefinition, type Json } from './definition.ts'

/** A de-duplication id costs ~100 bytes for as long as it is remembered. */
const DEDUP_WINDOW_MS_MIN = 1_000
const DEDUP_WINDOW_MS_MAX = 604_800_000
/** Arguments of one entity as JSON; what a policy or a queue needs is a hundredth of it. */
export const ARGUMENTS_BYTES_MAX = 16 * 1024

interface Rule {
  readonly of: 'queue' | 'exchange'
  /** The key under which a policy sets it. */
  readonly policy?: string
  /** What is wrong with a value, or undefined. */
  readonly check: (value: Json) => string | undefined
  /** Both a policy and an argument set it: the lower number counts. Else the argument does. */
  readonly lower?: true
}

const RULES: Readonly<Record<string, Rule>> = {
  'x-message-ttl': {
    of: 'queue',
    policy: 'message-ttl',
    check: integer(0, limits.DURATION_MS_MAX),
    lower: true,
  },
  'x-expires': {
    of: 'queue',
    policy: 'expires',
    check: integer(1, limits.DURATION_MS_MAX),
    lower: true,
  },
  'x-max-length': { of: 'queue', policy: 'max-length', check: integer(0), lower: true },
  'x-max-length-bytes': { of: 'queue', policy: 'max-length-bytes', check: integer(0), lower: true },
  'x-overflow': {
    of: 'queue',
    policy: 'overflow',
    check: oneOf('drop-head', 'reject-publish', 'reject-publish-dlx'),
  },
  'x-dead-letter-exchange': { of: 'queue', policy: 'dead-letter-exchange', check: name },
  'x-dead-letter-routing-key': { of: 'queue', policy: 'dead-letter-routing-key', check: name },
  'x-dead-letter-strategy': {
    of: 'queue',
    policy: 'dead-letter-strategy',
    check: oneOf('at-most-once', 'at-least-once'),
  },
  'x-delivery-limit': { of: 'queue', policy: 'delivery-limit', check: integer(-1), lower: true },
  'x-dedup-window': {
    of: 'queue',
    policy: 'dedup-window',
    check: integer(DEDUP_WINDOW_MS_MIN, DEDUP_WINDOW_MS_MAX),
  },
  'x-retry': { of: 'queue', policy: 'retry', check: retry },
  'x-durability': { of: 'queue', policy: 'durability', check: durability },
  'x-trace-ratio': { of: 'queue', policy: 'trace-ratio', check: share },
  'x-encryption': { of: 'queue', policy: 'encryption', check: boolean },
  'x-max-priority': { of: 'queue', check: integer(0, 255) },
  'x-ordering-key': { of: 'queue', check: boolean },
  'x-single-active-consumer': { of: 'queue', check: boolean },
  'x-queue-type': { of: 'queue', check: oneOf('classic', 'quorum') },
  'x-queue-mode': { of: 'queue', check: oneOf('default', 'lazy') },
  'x-max-age': { of: 'queue', check: ofStreams },
  'x-stream-max-segment-size-bytes': { of: 'queue', check: ofStreams },
  'x-stream-filter-size-bytes': { of: 'queue', check: ofStreams },
  'alternate-exchange': { of: 'exchange', policy: 'alternate-exchange', check: name },
}

/** The rule behind a policy's key. */
const POLICY_RULES = new Map(
  Object.values(RULES).flatMap((rule) => (rule.policy ? [[rule.policy, rule] as const] : [])),
)

/** Throws invalid_request, with RabbitMQ's text, for an argument that a queue cannot have. */
export function checkQueueArguments(vhost: string, queue: string, args: Arguments): void {
  check('queue', vhost, queue, args)
  if (args['x-dead-letter-routing-key'] !== undefined && !has(args, 'x-dead-letter-exchange')) {
    throw new BrokerError(
      'invalid_request',
      `invalid arg 'x-dead-letter-routing-key' for queue '${queue}' in vhost '${vhost}': ` +
        'routing_key_but_no_dlx_defined',
      { details: { argument: 'x-dead-letter-routing-key' } },
    )
  }
}

export function checkExchangeArguments(vhost: string, exchange: string, args: Arguments): void {
  check('exchange', vhost, exchange, args)
}

const has = (args: Arguments, argument: string) => args[argument] !== undefined

function check(of: Rule['of'], vhost: string, entity: string, args: Arguments): void {
  checkSize(args)
  for (const [argument, value] of Object.entries(args)) {
    const rule = Object.hasOwn(RULES, argument) ? RULES[argument]! : undefined
    const wrong = rule?.of === of ? rule.check(value) : undefined
    if (wrong === undefined) continue
    throw new BrokerError(
      'invalid_request',
      `invalid arg '${argument}' for ${of} '${entity}' in vhost '${vhost}': ${wrong}`,
      { details: { argument } },
    )
  }
}

/** Throws invalid_request for arguments that are too large to keep. */
export function checkSize(args: Arguments): void {
  if (Buffer.byteLength(JSON.stringify(args)) > ARGUMENTS_BYTES_MAX) {
    throw new BrokerError(
      'invalid_request',
      `Arguments have at most ${ARGUMENTS_BYTES_MAX} bytes as JSON.`,
    )
  }
}

/** Throws invalid_request for a key that is no policy's, or not of what the policy applies to. */
export function checkPolicyDefinition(policy: PolicyDefinition): void {
  const { applyTo, definition } = policy
  checkSize(definition)
  for (const [key, value] of Object.entries(definition)) {
    const rule = POLICY_RULES.get(key)
    const wrong = isPolicyKey(key, applyTo)
      ? rule!.check(value)
      : `unknown to policies for ${applyTo}`
    if (wrong === undefined) continue
    throw new BrokerError('invalid_request', `invalid key '${key}' in policy: ${wrong}`, {
      details: { argument: key },
    })
  }
}

/** Whether a policy for these can set this key at all. */
export function isPolicyKey(key: string, applyTo: PolicyDefinition['applyTo']): boolean {
  const rule = POLICY_RULES.get(key)
  return rule !== undefined && (applyTo === 'all' || applyTo === `${rule.of}s`)
}

/** The value that counts: the argument's or the policy's; undefined when neither sets it. */
export function effective(
  argument: string,
  args: Arguments,
  policy: Arguments | undefined,
): Json | undefined {
  const { policy: key = '', lower } = RULES[argument]!
  const own = args[argument]
  const theirs = policy?.[key]
  if (own === undefined || theirs === undefined) return own ?? theirs
  if (!lower) return own
  const bound = (value: Json) => (value === -1 ? Number.POSITIVE_INFINITY : Number(value))
  return bound(theirs) < bound(own) ? theirs : own
}

/**
 * What a queue does, by its arguments and the policy that applies to it; `encrypted` says whether
 * its vhost is.
 */
export function queueSettings(
  args: Arguments,
  policy: Arguments | undefined,
  { isDeadLetterQueue = false, encrypted = false } = {},
): QueueSettings {
  const number = (argument: string, fallback: number): number =>
    Number(effective(argument, args, policy) ?? fallback)
  const settings = QUEUE_SETTINGS_DEFAULT
  const deadLetterExchange = effective('x-dead-letter-exchange', args, policy)
  return {
    maxLength: number('x-max-length', settings.maxLength),
    maxBytes: number('x-max-length-bytes', settings.maxBytes),
    overflow: (effective('x-overflow', args, policy) ??
      settings.overflow) as QueueSettings['overflow'],
    dedupWindowMs: number('x-dedup-window', settings.dedupWindowMs),
    deduplicates: effective('x-dedup-window', args, policy) !== undefined,
    ttlMs: number('x-message-ttl', settings.ttlMs),
    levels: Math.min(Number(args['x-max-priority'] ?? 0) + 1, limits.PRIORITY_LEVELS_MAX),
    ordered: args['x-ordering-key'] === true,
    deliveryLimit: number('x-delivery-limit', settings.deliveryLimit),
    // The queue where the dead end keeps what its own consumers give up on from going in circles.
    deadLetters:
      deadLetterExchange !== undefined ? 'exchange' : isDeadLetterQueue ? 'none' : 'queue',
    retry: retryPolicy(effective('x-retry', args, policy)),
    expiresMs: number('x-expires', settings.expiresMs),
    durability: (effective('x-durability', args, policy) ?? settings.durability) as Durability,
    traceRatio: number('x-trace-ratio', settings.traceRatio),
    encryption:
      effective('x-encryption', args, policy) === true ? 'queue' : encrypted ? 'vhost' : 'none',
  }
}

/** The policy that applies: the one of highest priority, of equals the first by name. */
export function strongestPolicy(
  matching: readonly PolicyDefinition[],
): PolicyDefinition | undefined {
  return matching.reduce<PolicyDefinition | undefined>((best, policy) => {
    if (!best || policy.priority > best.priority) return policy
    return policy.priority === best.priority && policy.name < best.name ? policy : best
  }, undefined)
}

type Declared = Omit<QueueDefinition, 'epoch'>

/** Throws declaration_conflict unless a queue may be declared again this way. */
export function checkSameQueue(vhost: string, current: Declared, received: Declared): void {
  const where = `queue '${current.name}' in vhost '${vhost}'`
  if (current.exclusive !== received.exclusive) {
    throw new BrokerError(
      'declaration_conflict',
      `cannot obtain exclusive access to locked ${where}. It could be originally declared on ` +
        'another connection or the exclusive property value does not match that of the original ' +
        'declaration.',
      { details: { argument: 'exclusive' } },
    )
  }
  same('durable', where, current.durable, received.durable)
  same('auto_delete', where, current.autoDelete, received.autoDelete)
  for (const [argument, { of }] of Object.entries(RULES)) {
    if (of === 'queue') sameArgument(argument, where, current.arguments, received.arguments)
  }
}

/** Throws declaration_conflict unless an exchange may be declared again this way. */
export function checkSameExchange(
  vhost: string,
  current: ExchangeDefinition,
  received: ExchangeDefinition,
): void {
  const where = `exchange '${current.name}' in vhost '${vhost}'`
  same('type', where, current.type, received.type)
  same('durable', where, current.durable, received.durable)
  same('auto_delete', where, current.autoDelete, received.autoDelete)
  same('internal', where, current.internal, received.internal)
  sameArgument('alternate-exchange', where, current.arguments, received.arguments)
}

function same(property: string, where: string, current: Json, received: Json): void {
  if (current !== received) {
    throw inequivalent(property, where, `'${received}'`, `'${current}'`)
  }
}

function sameArgument(argument: string, where: string, a: Arguments, b: Arguments): void {
  const [current, received] = [defaulted(argument, a), defaulted(argument, b)]
  if (canonical(current) === canonical(received)) return
  throw inequivalent(argument, where, described(received), described(current))
}

/** `x-queue-type: classic` is the same as none. */
function defaulted(argument: string, args: Arguments): Json {
  const value = args[argument] ?? null
  return argument === 'x-queue-type' && value === 'classic' ? null : value
}

function described(value: Json): string {
  if (value === null) return 'none'
  const kind = { string: 'longstr', number: 'long', boolean: 'bool' }[typeof value as string]
  const text = typeof value === 'string' ? value : canonical(value)
  return `the value '${text}' of type '${kind ?? 'table'}'`
}

function inequivalent(argument: string, where: string, received: string, current: string) {
  return new BrokerError(
    'declaration_conflict',
    `inequivalent arg '${argument}' for ${where}: received ${received} but current is ${current}`,
    { details: { argument } },
  )
}

function integer(min: number, max = Number.MAX_SAFE_INTEGER) {
  return (value: Json): string | undefined => {
    if (typeof value !== 'number' || !Number.isSafeInteger(value)) return 'not an integer'
    if (value < min) return `at least ${min} is allowed`
    return value > max ? `at most ${max} is allowed` : undefined
  }
}

function oneOf(...words: string[]) {
  return (value: Json): string | undefined =>
    typeof value === 'string' && words.includes(value)
      ? undefined
      : `one of ${words.join(', ')} is allowed`
}

function name(value: Json): string | undefined {
  if (typeof value !== 'string') return 'not a string'
  return Buffer.byteLength(value) > limits.NAME_BYTES_MAX || !value.isWellFormed()
    ? `at most ${limits.NAME_BYTES_MAX} bytes of UTF-8 are allowed`
    : undefined
}

function boolean(value: Json): string | undefined {
  return typeof value === 'boolean' ? undefined : 'not a boolean'
}

function durability(value: Json): string | undefined {
  return typeof value === 'string' && /^(memory|fsync|replicas=[1-9]\d?)$/.test(value)
    ? undefined
    : 'one of memory, fsync, replicas=n is allowed'
}

function share(value: Json): string | undefined {
  return typeof value === 'number' && value >= 0 && value <= 1
    ? undefined
    : 'a number from 0 to 1 is allowed'
}

function ofStreams(): string {
  return 'stream queues alone have it'
}

/** Bounds of what `x-retry` may hold; all are optional. */
const RETRY_FIELDS: Readonly<Record<string, readonly [min: number, max: number]>> = {
  base: [0, limits.DURATION_MS_MAX],
  factor: [1, 100],
  max: [0, limits.DURATION_MS_MAX],
  jitter: [0, 1],
}

function retry(value: Json): string | undefined {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return 'not a table'
  for (const [field, number] of Object.entries(value)) {
    const bounds = Object.hasOwn(RETRY_FIELDS, field) ? RETRY_FIELDS[field] : undefined
    if (!bounds) return `${Object.keys(RETRY_FIELDS).join(', ')} are allowed`
    const [min, max] = bounds
    if (typeof number !== 'number' || !(number >= min && number <= max)) {
      return `${field} is a number from ${min} to ${max}`
    }
  }
  return undefined
}

function retryPolicy(value: Json | undefined): RetryPolicy {
  const fields = (value ?? {}) as { base?: number; factor?: number; max?: number; jitter?: number }
  const baseMs = fields.base ?? RETRY_DEFAULT.baseMs
  return {
    baseMs,
    factor: fields.factor ?? RETRY_DEFAULT.factor,
    // A base above the default maximum means a constant delay, not a shorter one.
    maxMs: fields.max ?? Math.max(RETRY_DEFAULT.maxMs, baseMs),
    jitter: fields.jitter ?? RETRY_DEFAULT.jitter,
  }
}
