/** Arguments and policies: what is accepted, what counts, and what may be declared again. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BrokerError, type ErrorCode, RETRY_DEFAULT } from '@sluice/core'
import {
  ARGUMENTS_BYTES_MAX,
  checkExchangeArguments,
  checkPolicyDefinition,
  checkQueueArguments,
  checkSameExchange,
  checkSameQueue,
  effective,
  queueSettings,
  strongestPolicy,
} from './arguments.ts'
import type { Arguments, ExchangeDefinition, PolicyDefinition } from './definition.ts'

const refusal = (code: ErrorCode, message: RegExp) => (error: unknown) =>
  error instanceof BrokerError && error.code === code && message.test(error.message)

const fit: Arguments[] = [
  { 'x-message-ttl': 0 },
  { 'x-message-ttl': 315_360_000_000 },
  { 'x-expires': 1 },
  { 'x-max-length': 0, 'x-max-length-bytes': 0 },
  { 'x-max-priority': 255 },
  { 'x-overflow': 'reject-publish-dlx' },
  { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': 'k' },
  { 'x-dead-letter-strategy': 'at-least-once' },
  { 'x-delivery-limit': -1 },
  { 'x-ordering-key': true },
  { 'x-dedup-window': 1_000 },
  { 'x-retry': { base: 100, factor: 1.5, max: 5_000, jitter: 0 } },
  { 'x-retry': {} },
  { 'x-durability': 'replicas=2' },
  { 'x-single-active-consumer': true },
  { 'x-queue-type': 'quorum' },
  { 'x-some-other-broker': { any: ['thing'] } },
]
for (const args of fit) {
  test(`a queue may have ${JSON.stringify(args)}`, () => {
    checkQueueArguments('/', 'q', args)
  })
}

const unfit: Arguments[] = [
  { 'x-message-ttl': -1 },
  { 'x-message-ttl': '60000' },
  { 'x-message-ttl': 315_360_000_001 },
  { 'x-expires': 0 },
  { 'x-max-length': -1 },
  { 'x-max-length': 1.5 },
  { 'x-max-length-bytes': -1 },
  { 'x-max-priority': 256 },
  { 'x-overflow': 'drop' },
  { 'x-dead-letter-exchange': 1 },
  { 'x-dead-letter-routing-key': 'k' },
  { 'x-dead-letter-strategy': 'always' },
  { 'x-delivery-limit': -2 },
  { 'x-ordering-key': 1 },
  { 'x-ordering-key': 'customer' },
  { 'x-dedup-window': 0 },
  { 'x-retry': 5 },
  { 'x-retry': { delay: 1 } },
  { 'x-retry': { base: -1 } },
  { 'x-retry': { jitter: 2 } },
  { 'x-durability': 'replicas=0' },
  { 'x-durability': 'disk' },
  { 'x-single-active-consumer': 'yes' },
  { 'x-queue-type': 'stream' },
  { 'x-max-age': '7D' },
]
for (const args of unfit) {
  test(`a queue cannot have ${JSON.stringify(args)}`, () => {
    const argument = Object.keys(args)[0]
    assert.throws(
      () => checkQueueArguments('/', 'q', args),
      refusal(
        'invalid_request',
        new RegExp(`^invalid arg '${argument}' for queue 'q' in vhost '/'`),
      ),
    )
  })
}

test('an alternate exchange is a name', () => {
  checkExchangeArguments('/', 'e', { 'alternate-exchange': 'other' })
  assert.throws(
    () => checkExchangeArguments('/', 'e', { 'alternate-exchange': 1 }),
    refusal('invalid_request', /alternate-exchange/),
  )
})

test('arguments have a size limit', () => {
  assert.throws(
    () => checkQueueArguments('/', 'q', { 'x-foreign': 'x'.repeat(ARGUMENTS_BYTES_MAX) }),
    refusal('invalid_request', /bytes/),
  )
})

function policy(fields: Partial<PolicyDefinition>): PolicyDefinition {
  return { name: 'p', pattern: '', applyTo: 'queues', priority: 0, definition: {}, ...fields }
}

test('a policy has the keys of what it applies to, with the same bounds', () => {
  checkPolicyDefinition(policy({ definition: { 'message-ttl': 5, retry: { base: 1 } } }))
  checkPolicyDefinition(
    policy({ applyTo: 'all', definition: { 'alternate-exchange': 'a', 'max-length': 1 } }),
  )
  for (const definition of [
    { 'message-ttl': -1 },
    { 'x-message-ttl': 1 },
    { 'max-priority': 1 },
    { 'ordering-key': true },
    { 'single-active-consumer': true },
    { 'alternate-exchange': 'a' },
  ] as Arguments[]) {
    assert.throws(
      () => checkPolicyDefinition(policy({ definition })),
      refusal('invalid_request', /invalid key/),
    )
  }
})

test('of two numeric limits the lower counts, of anything else the argument', () => {
  assert.equal(effective('x-max-length', { 'x-max-length': 5 }, { 'max-length': 3 }), 3)
  assert.equal(effective('x-max-length', { 'x-max-length': 3 }, { 'max-length': 5 }), 3)
  assert.equal(effective('x-max-length', {}, { 'max-length': 5 }), 5)
  assert.equal(effective('x-max-length', {}, undefined), undefined)
  assert.equal(
    effective('x-delivery-limit', { 'x-delivery-limit': -1 }, { 'delivery-limit': 7 }),
    7,
  )
  assert.equal(
    effective('x-delivery-limit', { 'x-delivery-limit': 7 }, { 'delivery-limit': -1 }),
    7,
  )
  assert.equal(
    effective('x-overflow', { 'x-overflow': 'drop-head' }, { overflow: 'reject-publish' }),
    'drop-head',
  )
  assert.equal(effective('x-dedup-window', { 'x-dedup-window': 9e3 }, { 'dedup-window': 1e3 }), 9e3)
})

test('a queue without arguments and policy has the defaults', () => {
  const settings = queueSettings({}, undefined)
  assert.equal(settings.deliveryLimit, 20)
  assert.equal(settings.levels, 1)
  assert.equal(settings.deadLetters, 'queue')
  assert.deepEqual(settings.retry, RETRY_DEFAULT)
})

test('arguments and policy become settings', () => {
  const settings = queueSettings(
    { 'x-max-priority': 4, 'x-ordering-key': true, 'x-retry': { base: 100_000 } },
    { 'dead-letter-exchange': 'dlx', 'message-ttl': 10, durability: 'fsync' },
  )
  assert.equal(settings.levels, 5)
  assert.equal(settings.ordered, true)
  assert.equal(settings.deadLetters, 'exchange')
  assert.equal(settings.ttlMs, 10)
  assert.equal(settings.durability, 'fsync')
  assert.deepEqual(settings.retry, { ...RETRY_DEFAULT, baseMs: 100_000, maxMs: 100_000 })
  assert.equal(queueSettings({ 'x-max-priority': 255 }, undefined).levels, 10)
  assert.equal(queueSettings({ 'x-ordering-key': false }, undefined).ordered, false)
})

test('what dies in the dead letter queue goes nowhere', () => {
  assert.equal(queueSettings({}, undefined, { isDeadLetterQueue: true }).deadLetters, 'none')
  const policied = queueSettings({}, { 'dead-letter-exchange': 'x' }, { isDeadLetterQueue: true })
  assert.equal(policied.deadLetters, 'exchange')
})

test('the policy of the highest priority applies, of equals the first by name', () => {
  const a = policy({ name: 'a', priority: 1 })
  const b = policy({ name: 'b', priority: 2 })
  const c = policy({ name: 'c', priority: 2 })
  assert.equal(strongestPolicy([a, c, b]), b)
  assert.equal(strongestPolicy([]), undefined)
})

const queue = { name: 'q', durable: true, autoDelete: false, exclusive: '', arguments: {} }

test('a queue is declared again the same way, or not at all', () => {
  const current = { ...queue, arguments: { 'x-max-length': 5, 'x-foreign': 1 } }
  checkSameQueue('/', current, { ...current, arguments: { 'x-foreign': 2, 'x-max-length': 5 } })
  assert.throws(
    () => checkSameQueue('/', current, { ...current, durable: false }),
    refusal(
      'declaration_conflict',
      /^inequivalent arg 'durable' for queue 'q' in vhost '\/': received 'false' but current is 'true'$/,
    ),
  )
  assert.throws(
    () => checkSameQueue('/', current, { ...current, arguments: { 'x-max-length': 6 } }),
    refusal(
      'declaration_conflict',
      /received the value '6' of type 'long' but current is the value '5' of type 'long'$/,
    ),
  )
  assert.throws(
    () => checkSameQueue('/', current, queue),
    refusal('declaration_conflict', /received none but current is the value '5'/),
  )
  assert.throws(
    () => checkSameQueue('/', queue, { ...queue, exclusive: 'me' }),
    refusal('declaration_conflict', /cannot obtain exclusive access to locked queue 'q'/),
  )
})

test('the classic queue type is the same as none', () => {
  checkSameQueue('/', queue, { ...queue, arguments: { 'x-queue-type': 'classic' } })
  assert.throws(
    () => checkSameQueue('/', queue, { ...queue, arguments: { 'x-queue-type': 'quorum' } }),
    refusal('declaration_conflict', /x-queue-type/),
  )
})

test('of an exchange the alternate exchange is compared and no other argument', () => {
  const current: ExchangeDefinition = {
    name: 'e',
    type: 'topic',
    durable: true,
    autoDelete: false,
    internal: false,
    arguments: { 'alternate-exchange': 'a' },
  }
  checkSameExchange('/', current, {
    ...current,
    arguments: { 'alternate-exchange': 'a', 'x-foreign': 1 },
  })
  for (const change of [
    { type: 'direct' as const },
    { durable: false },
    { autoDelete: true },
    { internal: true },
    { arguments: {} },
  ]) {
    assert.throws(
      () => checkSameExchange('/', current, { ...current, ...change }),
      refusal('declaration_conflict', /^inequivalent arg '.*' for exchange 'e' in vhost '\/'/),
    )
  }
})
