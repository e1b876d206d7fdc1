/** Dead letters, a rule at a time (amqp-0-9-1, 77-82). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decodeProperties, encodeProperties, type Properties } from '@sluice/amqp'
import type { MessageRecord } from '@sluice/store'
import {
  type DeadLetterTarget,
  type Death,
  deadLetter,
  deathHistory,
  isCycle,
  originalQueue,
} from './dead-letter.ts'

const TIME = 1_700_000_000_000

function record(properties: Properties = {}, fields: Partial<MessageRecord> = {}): MessageRecord {
  return {
    timeMs: TIME,
    expiresMs: 0,
    exchange: 'orders',
    routingKey: 'eu.new',
    orderingKey: 'c1',
    persistent: true,
    ttlMs: 5_000,
    properties: encodeProperties(properties),
    body: Buffer.from('body'),
    ...fields,
  }
}

function dies(fields: Partial<Death> = {}): Death {
  const rest = { timeMs: TIME, deliveryCount: 1, error: '', holder: '', attempts: [] }
  return { queue: 'q', reason: 'rejected', ...rest, ...fields }
}

const toDlx: DeadLetterTarget = { exchange: 'dlx', routingKey: undefined }

function letter(from: MessageRecord, death = dies(), target = toDlx) {
  const { message, history } = deadLetter(from, death, target, 'move-1')
  return { message, history, properties: decodeProperties(message.properties) }
}

/** The record that a published dead letter becomes in the queue it reached. */
function stored({ message }: ReturnType<typeof letter>): MessageRecord {
  const { exchange, routingKey, persistent, properties, body } = message
  const orderingKey = message.orderingKey ?? ''
  return record({}, { exchange, routingKey, orderingKey, persistent, ttlMs: -1, properties, body })
}

test('the exchange is the dead letter exchange; key, body and the rest stay', () => {
  const { message, properties } = letter(
    record({ contentType: 'text/plain', priority: 3, headers: { mine: 'x' } }),
  )
  const { properties: _bytes, body, ...rest } = message
  assert.deepEqual(rest, {
    exchange: 'dlx',
    routingKey: 'eu.new',
    orderingKey: 'c1',
    persistent: true,
    priority: 3,
    ttlMs: -1,
    delayMs: 0,
    dedupId: 'move-1',
    durability: null,
  })
  assert.equal(body.toString(), 'body')
  assert.equal(properties.contentType, 'text/plain')
  assert.equal(properties.headers!['mine'], 'x')
})

test('a first death writes one x-death entry', () => {
  const { properties } = letter(record({ headers: { CC: ['copy'] } }))
  assert.deepEqual(properties.headers!['x-death'], [
    {
      count: 1,
      reason: 'rejected',
      queue: 'q',
      time: new Date(TIME),
      exchange: 'orders',
      'routing-keys': ['eu.new', 'copy'],
    },
  ])
})

test('the count is written as a long', () => {
  const { message } = letter(record())
  assert(message.properties.includes(Buffer.from('\x05countl', 'latin1')))
})

test('no. 78: entries of one queue and reason are one, each without a count counts once', () => {
  const death = (queue: string, rest = {}) => ({ queue, reason: 'expired', ...rest })
  const deaths = [death('q'), death('r'), death('q', { count: 4n }), death('q')]
  const { properties } = letter(record({ headers: { 'x-death': deaths } }), dies({ queue: 's' }))
  assert.deepEqual(
    deathHistory(properties.headers).deaths.map(({ queue, count }) => `${queue} ${count}`),
    ['s 1', 'q 6', 'r 1'],
  )
})

test('integers of headers stay as wide as their publisher wrote them', () => {
  const { message } = letter(record({ headers: { long: 7n, int: 7 } }))
  assert(message.properties.includes(Buffer.from('\x04longl', 'latin1')))
  assert(message.properties.includes(Buffer.from('\x03intI', 'latin1')))
})

test('a second death for the same reason in the same queue is counted, its first time kept', () => {
  const first = letter(record({ expiration: '5000' }))
  const second = letter(stored(first), dies({ timeMs: TIME + 60_000 }))
  const { deaths } = deathHistory(second.properties.headers)
  assert.deepEqual(deaths, [
    {
      queue: 'q',
      reason: 'rejected',
      count: 2,
      timeMs: TIME,
      exchange: 'orders',
      routingKeys: ['eu.new'],
      originalExpiration: '5000',
    },
  ])
})

test('deaths elsewhere or for another reason are entries of their own, newest first', () => {
  let from = record()
  for (const death of [
    dies(),
    dies({ reason: 'expired' }),
    dies({ queue: 'r', reason: 'maxlen' }),
    dies(),
  ]) {
    from = stored(letter(from, death))
  }
  const { deaths } = deathHistory(decodeProperties(from.properties).headers)
  assert.deepEqual(
    deaths.map(({ queue, reason, count }) => `${queue} ${reason} ${count}`),
    ['q rejected 2', 'r maxlen 1', 'q expired 1'],
  )
})

test('the first death stays in its headers, the last is replaced', () => {
  const second = letter(stored(letter(record())), dies({ queue: 'r', reason: 'delivery_limit' }))
  const { headers } = second.properties
  assert.equal(headers!['x-first-death-queue'], 'q')
  assert.equal(headers!['x-first-death-reason'], 'rejected')
  assert.equal(headers!['x-first-death-exchange'], 'orders')
  assert.equal(headers!['x-last-death-queue'], 'r')
  assert.equal(headers!['x-last-death-reason'], 'delivery_limit')
  assert.equal(headers!['x-last-death-exchange'], 'dlx')
  assert.equal(originalQueue(headers), 'r')
})

test('the expiration moves into the history', () => {
  const { properties } = letter(record({ expiration: '5000' }), dies({ reason: 'expired' }))
  assert.equal(properties.expiration, undefined)
  assert.equal(deathHistory(properties.headers).deaths[0]!.originalExpiration, '5000')
})

test('a configured key replaces the message’s own and its CC; BCC never goes along', () => {
  const from = record({ headers: { CC: ['a'], BCC: ['b'] } })
  const kept = letter(from)
  assert.deepEqual(kept.properties.headers!['CC'], ['a'])
  assert.equal(kept.properties.headers!['BCC'], undefined)
  const { message, properties } = letter(from, dies(), { exchange: 'dlx', routingKey: 'dead' })
  assert.equal(message.routingKey, 'dead')
  assert.equal(properties.headers!['CC'], undefined)
  assert.deepEqual(deathHistory(properties.headers).deaths[0]!.routingKeys, ['eu.new', 'a'])
})

test('error, holder and deliveries of the last death are told, and of the last alone', () => {
  const first = letter(record(), dies({ error: 'boom', holder: 'worker-1', deliveryCount: 21 }))
  const { error, holder, deliveryCount } = deathHistory(first.properties.headers)
  assert.deepEqual(
    { error, holder, deliveryCount },
    {
      error: 'boom',
      holder: 'worker-1',
      deliveryCount: 21,
    },
  )
  const second = letter(stored(first), dies({ reason: 'expired', deliveryCount: 0 }))
  const history = deathHistory(second.properties.headers)
  assert.equal(history.error, undefined)
  assert.equal(history.holder, undefined)
  assert.equal(history.deliveryCount, 0)
})

test('a circle without a rejection is one, with a rejection it is not', () => {
  const expired = letter(record(), dies({ reason: 'expired' }))
  assert.equal(isCycle(expired.history, 'q'), true)
  assert.equal(isCycle(expired.history, 'other'), false)

  const onward = letter(stored(expired), dies({ queue: 'r', reason: 'maxlen' }))
  assert.equal(isCycle(onward.history, 'q'), true)

  const rejected = letter(stored(expired), dies({ queue: 'r', reason: 'rejected' }))
  assert.equal(isCycle(rejected.history, 'q'), false)
  assert.equal(isCycle(letter(record(), dies()).history, 'q'), false)
})

test('an x-death that a client made up is gone on from, as far as it is one', () => {
  const from = record({
    headers: { 'x-death': ['odd', { queue: 'q', reason: 'rejected', count: 'many' }, null, 7] },
  })
  const { deaths } = deathHistory(letter(from).properties.headers)
  assert.equal(deaths.length, 1)
  assert.equal(deaths[0]!.count, 2)
  assert.deepEqual(deathHistory({ 'x-death': 5 }).deaths, [])
  assert.deepEqual(deathHistory(undefined).deaths, [])
  assert.equal(originalQueue({}), undefined)
})

test('a count that a client drove to its end stays there', () => {
  const count = 2n ** 63n - 1n
  const from = record({ headers: { 'x-death': [{ queue: 'q', reason: 'rejected', count }] } })
  const { properties } = letter(from)
  assert.equal(deathHistory(properties.headers).deaths[0]!.count, Number(count))
})

test('a history is bounded, in entries and in bytes', () => {
  let from = record()
  for (let i = 0; i < 100; i++) from = stored(letter(from, dies({ queue: `q${i}` })))
  assert.equal(deathHistory(decodeProperties(from.properties).headers).deaths.length, 64)

  const carbons = Array.from({ length: 500 }, (_, i) => `${i}`.padEnd(200, 'x'))
  from = record({ headers: { CC: carbons } })
  for (let i = 0; i < 8; i++) from = stored(letter(from, dies({ queue: `q${i}` })))
  const { deaths } = deathHistory(decodeProperties(from.properties).headers)
  assert.equal(deaths[0]!.queue, 'q7')
})

test('a message whose properties nobody can read is not lost', () => {
  const bytes = Buffer.from('80', 'hex')
  const { properties } = letter(record({}, { properties: bytes }))
  assert.deepEqual(properties.headers!['x-sluice-malformed-properties'], bytes)
  assert.equal(deathHistory(properties.headers).deaths[0]!.queue, 'q')
  assert(letter(record({}, { properties: Buffer.alloc(5_000_000, 1) })).properties.headers)
})
