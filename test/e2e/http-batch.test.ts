/** Batches over HTTP against a real broker, store and Redis. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decodeProperties } from '@sluice/amqp'
import { limits } from '@sluice/core'
import { type TestBroker, withBroker } from '../support/broker.ts'

const NDJSON = { 'Content-Type': 'application/x-ndjson' }

async function open(t: Parameters<typeof withBroker>[0], env: Record<string, string> = {}) {
  const broker = await withBroker(t, { services: ['router'], env })
  await broker.request('PUT', '/queues/in')
  const send = (body: unknown, headers: Record<string, string> = {}, query = 'routingKey=in') =>
    broker.request('POST', `/exchanges/amq.default/batch?${query}`, { body, headers })
  return { broker, send }
}

async function lease({ deps, vhost }: TestBroker, max = 100) {
  const entry = deps.topology.table.queue(vhost, 'in')
  assert.ok(entry)
  const leased = await entry.store.lease({ max, leaseMs: 30_000, waitMs: 0, consumer: 'test' })
  return leased.map(({ record }) => ({
    body: record.body.toString(),
    type: decodeProperties(record.properties).contentType,
  }))
}

test('an array of messages is published in order, each with its own fields', async (t) => {
  const { broker, send } = await open(t)
  const answer = await send([
    { body: 'text' },
    { body: { json: [1, null] } },
    { body: 7, contentType: 'x/number' },
    { bodyBase64: Buffer.from('bytes').toString('base64'), headers: { a: 1 } },
    { body: '', routingKey: 'nobody' },
  ])
  assert.equal(answer.status, 200, answer.text)
  assert.deepEqual(answer.json, {
    published: 4,
    duplicates: 0,
    unrouted: 1,
    failed: 0,
    queues: { in: 4 },
    failures: [],
  })
  assert.deepEqual(await lease(broker), [
    { body: 'text', type: undefined },
    { body: '{"json":[1,null]}', type: 'application/json' },
    { body: '7', type: 'x/number' },
    { body: 'bytes', type: undefined },
  ])
})

test('NDJSON publishes what fits and says which lines did not, and why', async (t) => {
  const { broker, send } = await open(t)
  const lines = [
    '{"body":"first"}',
    '{"body":',
    '',
    '{"body":"x","prority":1}',
    '[]',
    '{"bodyBase64":"%"}',
    '{}',
    '{"body":"x","routingKey":"nobody","mandatory":true}',
    '{"__proto__":{"body":"x"}}',
    '{"body":"last"}',
  ]
  const answer = await send(lines.join('\n'), NDJSON)
  assert.equal(answer.status, 422)
  const { title, published, failed, failures } = answer.json
  assert.deepEqual([title, published, failed], ['batch_incomplete', 2, 7])
  assert.deepEqual(
    failures.map(({ line, code }: { line: number; code: string }) => `${line} ${code}`),
    [
      '2 invalid_request',
      '4 invalid_request',
      '5 invalid_request',
      '6 invalid_request',
      '7 invalid_request',
      '8 unroutable',
      '9 invalid_request',
    ],
  )
  assert.deepEqual(
    (await lease(broker)).map(({ body }) => body),
    ['first', 'last'],
  )
})

test('with lines=bodies each line is a body, untouched', async (t) => {
  const { broker, send } = await open(t)
  const answer = await send('{"a": 1 }\r\nnot json\n', NDJSON, 'routingKey=in&lines=bodies')
  assert.equal(answer.status, 200, answer.text)
  assert.deepEqual(await lease(broker), [
    { body: '{"a": 1 }', type: 'application/json' },
    { body: 'not json', type: 'application/json' },
  ])
})

test('a stream much longer than what may be outstanding is published whole', async (t) => {
  const { broker, send } = await open(t)
  const count = 5 * limits.HTTP_BATCH_OUTSTANDING_MAX
  let next = 0
  const body = new ReadableStream({
    pull(controller) {
      const lines = Array.from({ length: 1_024 }, () => `{"body":"${next++}"}\n`)
      controller.enqueue(new TextEncoder().encode(lines.join('')))
      if (next >= count) controller.close()
    },
  })
  const answer = await send(body, NDJSON)
  assert.equal(answer.status, 200, answer.text)
  assert.deepEqual(answer.json.queues, { in: count })
  assert.deepEqual(
    (await lease(broker, 3)).map(({ body }) => body),
    ['0', '1', '2'],
  )
})

test('a line that is too long fails alone', async (t) => {
  const { broker, send } = await open(t, { SLUICE_MESSAGE_BYTES_MAX: '1000' })
  const long = 'x'.repeat(200_000)
  const answer = await send(
    `{"body":"a"}\n{"body":"${long}"}\n{"body":"${'x'.repeat(1_001)}"}\n{"body":"b"}`,
    NDJSON,
  )
  assert.equal(answer.status, 422)
  assert.deepEqual(
    answer.json.failures.map(({ line, code }: { line: number; code: string }) => [line, code]),
    [
      [2, 'message_too_large'],
      [3, 'message_too_large'],
    ],
  )
  assert.deepEqual(
    (await lease(broker)).map(({ body }) => body),
    ['a', 'b'],
  )
})

test('a batch that fails again and again is given up on, and says where', async (t) => {
  const { send } = await open(t)
  const answer = await send('nonsense\n'.repeat(limits.HTTP_BATCH_FAILURES_MAX + 500), NDJSON)
  assert.equal(answer.status, 422)
  assert.equal(answer.json.failed, limits.HTTP_BATCH_FAILURES_MAX)
  assert.equal(answer.json.failures.length, limits.HTTP_BATCH_FAILURES_LISTED_MAX)
  assert.equal(answer.json.stoppedAt, limits.HTTP_BATCH_FAILURES_MAX)
})

test('the same batch again with its keys answers duplicates', async (t) => {
  const { send } = await open(t)
  const batch = ['a', 'b'].map((key) => ({ body: key, idempotencyKey: key }))
  assert.equal((await send(batch)).json.duplicates, 0)
  const { published, duplicates } = (await send(batch)).json
  assert.deepEqual([published, duplicates], [2, 2])
})

test('a batch that is no batch, of another type, or for nobody is refused whole', async (t) => {
  const { broker, send } = await open(t)
  const codes = await Promise.all([
    send({ body: 'x' }),
    send('x', { 'Content-Type': 'text/plain' }),
    send('[]', { 'Content-Type': 'application/json', 'Content-Encoding': 'gzip' }),
    send('[', { 'Content-Type': 'application/json' }),
    send(`[${' '.repeat(limits.HTTP_BATCH_BYTES_MAX)}]`, { 'Content-Type': 'application/json' }),
    broker.request('POST', '/exchanges/none/batch', { body: [] }),
    send([], {}, 'lines=none'),
  ])
  assert.deepEqual(
    codes.map(({ status }) => status),
    [400, 415, 415, 400, 413, 404, 400],
  )
  assert.equal((await send([])).status, 200)
})

test('JSON nested a hundred thousand deep fails its line and nothing else', async (t) => {
  const { send } = await open(t)
  const deep = '['.repeat(100_000) + ']'.repeat(100_000)
  const answer = await send(`{"body":${deep}}\n{"headers":${deep},"body":1}\n{"body":1}`, NDJSON)
  assert.ok(answer.json.published >= 1, answer.text.slice(0, 500))
  assert.equal(answer.json.published + answer.json.failed, 3)
})

test('a process that stops ends a stream with draining, and what it took is published', async (t) => {
  const { broker, send } = await open(t)
  let push: ReadableStreamDefaultController | undefined
  const body = new ReadableStream({
    start(controller) {
      push = controller
      controller.enqueue(new TextEncoder().encode('{"body":"taken"}\n'))
    },
  })
  const answer = send(body, NDJSON)
  const { store } = broker.deps.topology.table.queue(broker.vhost, 'in')!
  while ((await store.stats()).ready === 0) await new Promise(setImmediate)
  const closed = broker.close()
  const { status, json } = await answer
  assert.deepEqual([status, json.title, json.published], [503, 'draining', 1])
  push?.close()
  await closed
})
