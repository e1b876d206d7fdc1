/**
 * Requests that nobody should send: each is answered with a problem, or with what it asked for, and
 * the process serves on.
 *
 * The second test draws them from a seed, for every operation that /openapi.json lists: `SEED=n`
 * replays it, SECONDS is how long (10).
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import { type TestContext, test } from 'node:test'
import { ERROR_CODES } from '@sluice/core'
import { privateRedis, type Random, randomFor, withRedis } from '@sluice/testkit'
import { deploy } from '../support/deployment.ts'
import { type Answer, type HttpClient, NoAnswer, PASSWORD } from '../support/http.ts'
import { type Operation, operationsOf, randomRequest } from './random-request.ts'

const CODES: ReadonlySet<string> = new Set(ERROR_CODES)

async function start(t: TestContext) {
  await withRedis(t) // skips where there is none
  const redis = await privateRedis(t, { aof: false })
  const deployment = await deploy(t, ['router delivery reaper'], { redisUrl: redis.url })
  const [client] = deployment.routers as [HttpClient]
  return { client, process: deployment.processes[0]! }
}

function assertProblem({ status, headers, json, text }: Answer, what: string): void {
  assert.equal(headers['content-type'], 'application/problem+json', `${what}: ${status} ${text}`)
  assert.equal(json?.status, status, what)
  assert.ok(CODES.has(json.title), `${what}: ${json.title} is no code`)
  assert.equal(json.type, `urn:sluice:error:${json.title}`, what)
}

/** Sends bytes as they are, and gives all that comes back until the other side hangs up. */
async function raw(http: string, bytes: string): Promise<string> {
  const socket = connect(Number(new URL(http).port), '127.0.0.1')
  let answer = ''
  socket.on('data', (chunk: Buffer) => {
    answer += chunk.toString()
  })
  socket.on('error', () => {}) // a reset is an answer, too
  socket.end(bytes)
  await once(socket, 'close')
  return answer
}

const authorization = `Authorization: Bearer ${PASSWORD}\r\n`

test('what is no request is answered with a problem, and the process serves on', async (t) => {
  const { client, process } = await start(t)
  const head = `Host: x\r\n${authorization}`
  const cases: [bytes: string, status: number][] = [
    ['nonsense\r\n\r\n', 400],
    ['\x16\x03\x01\x02\x00\x01\x00\x01', 400], // a TLS hello
    ['AMQP\x00\x00\x09\x01', 400],
    [`GET / HTTP/1.1\r\n${'x'.repeat(70_000)}: y\r\n\r\n`, 431],
    [`GET /${'x'.repeat(20_000)} HTTP/1.1\r\n${head}\r\n`, 414],
    [`GET /v1/vhosts/%zz/queues HTTP/1.1\r\n${head}\r\n`, 400],
    [`GET /v1/vhosts/%FF/queues HTTP/1.1\r\n${head}\r\n`, 400],
    [`POST /v1/vhosts HTTP/1.1\r\n${head}Content-Length: 5\r\n\r\nhello`, 405],
    [`GET /v1/vhosts HTTP/1.1\r\nHost: x\r\n\r\n`, 401],
    [`PUT /v1/vhosts/v HTTP/1.1\r\n${head}Content-Length: x\r\n\r\n`, 400],
    [
      `PUT /v1/vhosts/v HTTP/1.1\r\n${head}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
      400,
    ],
    [`GET /v1/vhosts HTTP/1.1\r\n${head}${'A: b\r\n'.repeat(300)}\r\n`, 431],
  ]
  for (const [bytes, status] of cases) {
    const sent =
      bytes.startsWith('\x16') || bytes.startsWith('AMQP')
        ? bytes
        : bytes.replace(/\r\n\r\n$/, '\r\nConnection: close\r\n\r\n')
    const answer = await raw(process.http, sent)
    const what = JSON.stringify(bytes.slice(0, 60))
    assert.match(answer, new RegExp(`^HTTP/1.1 ${status} `), `${what}: ${answer.slice(0, 200)}`)
    assert.match(answer, /application\/problem\+json/, what)
  }
  assert.equal((await client.request('GET', '/readyz')).status, 200)
})

const JSON_BODY = { 'Content-Type': 'application/json' }
const LEASES = '/v1/vhosts/v/queues/q/leases'
const SETTLEMENTS = '/v1/vhosts/v/queues/q/settlements'
const PUBLISH = '/v1/vhosts/v/queues/q/messages'
const WRONG: [method: string, path: string, options: object, status: number, code: string][] = [
  ['POST', LEASES, { body: '{', headers: JSON_BODY }, 400, 'invalid_request'],
  ['POST', LEASES, { body: '[]', headers: JSON_BODY }, 400, 'invalid_request'],
  ['POST', LEASES, { body: 'null', headers: JSON_BODY }, 400, 'invalid_request'],
  ['POST', LEASES, { body: { max: 0 } }, 400, 'invalid_request'],
  ['POST', LEASES, { body: { max: 1e9 } }, 400, 'invalid_request'],
  ['POST', LEASES, { body: { wait: 5 } }, 400, 'invalid_request'],
  [
    'POST',
    LEASES,
    { body: 'max=1', headers: { 'Content-Type': 'text/plain' } },
    415,
    'unsupported_media_type',
  ],
  [
    'POST',
    LEASES,
    { body: `{"consumer":"${'x'.repeat(2 ** 20)}"}`, headers: JSON_BODY },
    413,
    'message_too_large',
  ],
  [
    'POST',
    LEASES,
    { body: `${'['.repeat(50_000)}${']'.repeat(50_000)}`, headers: JSON_BODY },
    400,
    'invalid_request',
  ],
  ['POST', SETTLEMENTS, { body: {} }, 400, 'invalid_request'],
  [
    'POST',
    SETTLEMENTS,
    { body: { settlements: [{ token: 'x', outcome: 'eat' }] } },
    400,
    'invalid_request',
  ],
  ['POST', PUBLISH, { headers: { 'Sluice-Delay': '-1' } }, 400, 'invalid_request'],
  ['POST', PUBLISH, { headers: { 'Sluice-Delai': '1' } }, 400, 'invalid_request'],
  ['POST', PUBLISH, { headers: { 'Sluice-Priority': '256' } }, 400, 'invalid_request'],
  ['POST', PUBLISH, { headers: { 'Idempotency-Key': 'x'.repeat(256) } }, 400, 'invalid_request'],
  [
    'POST',
    PUBLISH,
    { headers: { 'Sluice-Durability': 'replicas=3' } },
    503,
    'durability_unavailable',
  ],
  ['GET', '/v1/vhosts/nope/queues', {}, 404, 'vhost_not_found'],
  ['GET', '/v1/vhosts/v/queues/nope', {}, 404, 'queue_not_found'],
  ['GET', '/v1/vhosts/v/queues?page=0', {}, 400, 'invalid_request'],
  ['GET', '/v1/vhosts/v/queues?pattern=(', {}, 400, 'invalid_request'],
  ['GET', `${PUBLISH}?after=elsewhere`, {}, 400, 'invalid_request'],
  ['GET', `${PUBLISH}?id=${'0'.repeat(24)}`, {}, 404, 'message_not_found'],
  ['PATCH', PUBLISH, {}, 405, 'method_not_allowed'],
  ['GET', '/v2', {}, 404, 'not_found'],
  ['GET', '/v1/vhosts', { headers: { Authorization: 'Bearer wrong' } }, 401, 'unauthenticated'],
  ['GET', '/v1/vhosts', { headers: { Authorization: 'Basic !!!' } }, 401, 'unauthenticated'],
]

test('wrong bodies, types, values and tokens are refused with their code', async (t) => {
  const { client } = await start(t)
  await client.request('PUT', '/v1/vhosts/v')
  await client.request('PUT', '/v1/vhosts/v/queues/q')
  for (const [method, path, options, status, code] of WRONG) {
    const answer = await client.request(method, path, options)
    const what = `${method} ${path} ${JSON.stringify(options).slice(0, 100)}`
    assert.deepEqual([answer.status, answer.json?.title], [status, code], `${what} ${answer.text}`)
    assertProblem(answer, what)
  }
  const odd = { settlements: [{ token: 'odd', outcome: 'ack' }] }
  assert.deepEqual((await client.request('POST', SETTLEMENTS, { body: odd })).json.outcomes, [
    'stale',
  ])
})

test('random requests to every operation never meet a 500 or end the process', async (t) => {
  const { client, process } = await start(t)
  const dice = randomFor(t)
  const operations = operationsOf((await client.request('GET', '/openapi.json')).json)
  assert.ok(operations.length > 25, `${operations.length} operations`)
  const until = performance.now() + Number(globalThis.process.env['SECONDS'] ?? 10) * 1_000
  const statuses = new Map<string, number>()
  const lane = async (random: Random) => {
    for (let turn = 0; performance.now() < until; turn++) {
      if (turn % 50 === 0) await furnish(client)
      const operation = random.pick(operations)
      const answered = await ask(client, operation, random)
      if (answered) statuses.set(answered, (statuses.get(answered) ?? 0) + 1)
    }
  }
  await Promise.all(Array.from({ length: 8 }, () => lane(dice)))
  assert.equal((await client.request('GET', '/readyz')).status, 200)
  assert.doesNotMatch(process.log, /"level":"(error|fatal)"/)
  t.diagnostic(JSON.stringify(Object.fromEntries([...statuses].sort())))
})

/** What random names may hit. */
async function furnish(client: HttpClient): Promise<void> {
  await client.request('PUT', '/v1/vhosts/v')
  await client.request('PUT', '/v1/vhosts/v/queues/q')
  await client.request('PUT', '/v1/vhosts/v/exchanges/x', { body: { type: 'topic' } })
  const binding = { source: 'x', destination: 'q', routingKey: '#' }
  await client.request('PUT', '/v1/vhosts/v/bindings', { body: binding })
}

async function ask(
  client: HttpClient,
  operation: Operation,
  random: Random,
): Promise<string | undefined> {
  const { path, options } = randomRequest(operation, random)
  const { method } = operation
  const what = `${method} ${path} ${JSON.stringify(options).slice(0, 500)}`
  let answer: Answer
  try {
    answer = await client.request(method, path, { ...options, timeoutMs: 3_000 })
  } catch (error) {
    // A refused body may cost the connection before the answer is read; a long poll takes longer.
    assert.ok(error instanceof NoAnswer, what)
    return undefined
  }
  const { status } = answer
  assert.notEqual(status, 500, `${what}: ${answer.text}`)
  if (status >= 400) assertProblem(answer, what)
  if (status !== 404 && status !== 405) {
    assert.ok(operation.statuses.has(String(status)), `${what}: ${status} is not documented`)
  }
  return String(status)
}
