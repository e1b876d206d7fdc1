/**
 * The edge that every request passes, driven through real sockets by supertest and by hand-written
 * bytes. No Redis: routes here only echo.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import { type TestContext, test } from 'node:test'
import { BrokerError, limits } from '@sluice/core'
import { Credentials } from '@sluice/security'
import request from 'supertest'
import { z } from 'zod'
import { httpApp } from './app.ts'
import { readBody } from './body.ts'
import { healthRoutes } from './health.ts'
import { listenHttp } from './listen.ts'
import { type Reply, type Route, route } from './route.ts'

const AUTH = 'Bearer open sesame'
const credentials = new Credentials('admin', 'open sesame')
const answers = { 200: { description: 'The echo.' } }

const echo = route({
  method: 'post',
  path: '/v1/echo/:name',
  tag: 'test',
  needs: 'login',
  summary: 'Echo',
  query: z.strictObject({ count: z.coerce.number().int().max(9).default(1) }),
  body: z.strictObject({ text: z.string().max(5).default('none') }),
  bodyBytesMax: 100,
  answers,
  handle: ({ params, query, body, principal }) => ({
    status: 200,
    body: { params, query, body, principal },
  }),
})

const raw = route({
  method: 'post',
  path: '/v1/raw',
  tag: 'test',
  needs: 'login',
  summary: 'Length',
  body: { raw: true, description: 'Anything.', types: { '*/*': undefined } },
  answers,
  async handle({ req, res }): Promise<Reply> {
    const body = await readBody(req, res, 1_000)
    return { status: 200, body: { size: body.length } }
  },
})

const failing = (error: unknown) =>
  route({
    method: 'get',
    path: '/v1/failing',
    tag: 'test',
    needs: 'login',
    summary: 'Fails',
    answers,
    handle: () => Promise.reject(error),
  })

function app(routes: readonly Route[] = [echo, raw], stopping?: AbortSignal) {
  const reported: unknown[] = []
  const report = (error: unknown) => reported.push(error)
  return { reported, app: httpApp({ routes, credentials, report, ...(stopping && { stopping }) }) }
}

const post = (path: string) => request(app().app).post(path).set('Authorization', AUTH)

const LISTENER = { host: '127.0.0.1', connections: () => {}, upgrades: [] }

async function listen(t: TestContext): Promise<number> {
  const stop = new AbortController()
  const options = { ...LISTENER, port: 0, connectionsMax: 10 }
  const { app: served, reported } = app()
  const { url, closed } = await listenHttp(served, options, stop.signal)
  t.after(async () => {
    stop.abort()
    await closed
    assert.deepEqual(reported, [])
  })
  return Number(new URL(url).port)
}

/** Sends bytes as they are; resolves with all that came back once the server has closed. */
async function exchange(port: number, ...parts: string[]): Promise<string> {
  const socket = connect(port, '127.0.0.1')
  let answer = ''
  socket.on('data', (chunk) => {
    answer += chunk.toString()
  })
  socket.on('error', () => {})
  await once(socket, 'connect')
  for (const part of parts) socket.write(part)
  await once(socket, 'close')
  return answer
}

function assertProblem(res: request.Response, status: number, code: string) {
  assert.equal(res.status, status, res.text)
  assert.equal(res.type, 'application/problem+json')
  const problem = JSON.parse(res.text)
  assert.equal(problem.type, `urn:sluice:error:${code}`)
  assert.equal(problem.title, code)
  assert.equal(problem.status, status)
}

test('a route gets its path, query and body checked and defaulted, and knows who calls', async () => {
  const res = await post('/v1/echo/a%2Fb?count=3').send({ text: 'hi' })
  assert.equal(res.status, 200)
  assert.deepEqual(res.body, {
    params: { name: 'a/b' },
    query: { count: 3 },
    body: { text: 'hi' },
    principal: { kind: 'administrator', name: 'admin' },
  })
  assert.deepEqual((await post('/v1/echo/x')).body.body, { text: 'none' })
})

test('nothing is answered without the credential, not even that a path does not exist', async () => {
  for (const path of ['/v1/echo/x', '/v1/nothing', '/docs', '/openapi.json', '/metrics']) {
    const res = await request(app().app).get(path)
    assertProblem(res, 401, 'unauthenticated')
    assert.match(res.headers['www-authenticate'] ?? '', /^Basic .*Bearer/)
  }
})

test('a credential that proves nothing is called so, whatever is wrong with it', async () => {
  const details = new Set<string>()
  const basic = (login: string) => `Basic ${Buffer.from(login).toString('base64')}`
  for (const wrong of [
    'Bearer guess',
    basic('admin:guess'),
    basic('nobody:guess'),
    'Basic !',
    '',
  ]) {
    const res = await request(app().app).get('/docs').set('Authorization', wrong)
    assertProblem(res, 401, 'unauthenticated')
    details.add(JSON.parse(res.text).detail)
  }
  assert.deepEqual([...details], ['The credential is not valid.'])
})

test('a browser on another site cannot use a credential that the browser remembers', async () => {
  assertProblem(await post('/v1/echo/x').set('Sec-Fetch-Site', 'cross-site'), 403, 'forbidden')
})

test('unknown fields, unknown and repeated query parameters are refused, and where is said', async () => {
  const field = await post('/v1/echo/x').send({ text: 'a', txet: 'b' })
  assertProblem(field, 400, 'invalid_request')
  assert.match(JSON.stringify(JSON.parse(field.text).errors), /txet/)
  assertProblem(await post('/v1/echo/x?coutn=1').send({}), 400, 'invalid_request')
  assertProblem(await post('/v1/echo/x?count=1&count=2').send({}), 400, 'invalid_request')
  assertProblem(await post('/v1/raw?a=1').send({}), 400, 'invalid_request')
  const type = await post('/v1/echo/x?count=many').send({})
  assert.equal(JSON.parse(type.text).errors[0].at, 'query.count')
})

test('__proto__ in a body or a query is a field like any other unknown one', async () => {
  const body = await post('/v1/echo/x').type('json').send('{"__proto__":{"text":"x"}}')
  assertProblem(body, 400, 'invalid_request')
  assertProblem(await post('/v1/echo/x?__proto__=1&constructor=1').send({}), 400, 'invalid_request')
  assert.equal(({} as { text?: string }).text, undefined)
})

test('a path that is not there is 404, a method that is not there is 405 with Allow', async () => {
  assertProblem(await post('/v1/nothing'), 404, 'not_found')
  assertProblem(await post('/v1/echo/x/'), 404, 'not_found')
  assertProblem(await post('/V1/echo/x'), 404, 'not_found')
  const unescaped = await post('/v1/vhosts///queues/q')
  assertProblem(unescaped, 404, 'not_found')
  assert.match(JSON.parse(unescaped.text).detail, /vhost \/ is written %2F/)
  const res = await request(app().app).delete('/v1/echo/x').set('Authorization', AUTH)
  assertProblem(res, 405, 'method_not_allowed')
  assert.equal(res.headers['allow'], 'POST')
})

test('bodies that are no JSON are 400 or 415', async () => {
  const json = (text: string | Buffer) => post('/v1/echo/x').type('json').send(text)
  assertProblem(await json('{"text":'), 400, 'invalid_request')
  assertProblem(await json('[1]'), 400, 'invalid_request')
  const depth = limits.JSON_DEPTH_MAX + 1
  assertProblem(await json(`${'['.repeat(depth)}${']'.repeat(depth)}`), 400, 'invalid_request')
  assertProblem(
    await post('/v1/echo/x').type('text/plain').send('{}'),
    415,
    'unsupported_media_type',
  )
  assertProblem(
    await post('/v1/echo/x').type('json').set('Content-Encoding', 'gzip').send('{}'),
    415,
    'unsupported_media_type',
  )
  assertProblem(
    await post('/v1/echo/x').set('Content-Type', 'application/json; charset=utf-16').send('{}'),
    415,
    'unsupported_media_type',
  )
})

test('a body over the limit is 413, whether it says its length or not', async (t) => {
  assertProblem(await post('/v1/echo/x').send({ text: 'x'.repeat(200) }), 413, 'message_too_large')
  const port = await listen(t)
  const head = `POST /v1/raw HTTP/1.1\r\nHost: x\r\nAuthorization: ${AUTH}\r\n`
  const chunk = `400\r\n${'x'.repeat(1_024)}\r\n`
  const chunked = await exchange(port, `${head}Transfer-Encoding: chunked\r\n\r\n`, chunk)
  assert.match(chunked, /^HTTP\/1.1 413 /)
  const announced = await exchange(port, `${head}Content-Length: 1000000000\r\n\r\n`, 'x')
  assert.match(announced, /^HTTP\/1.1 413 .*Connection: close.*"bytesMax":1000/s)
})

test('a client that asks first is told to go on only if its body is wanted', async (t) => {
  const port = await listen(t)
  const ask = (length: number) =>
    `POST /v1/raw HTTP/1.1\r\nHost: x\r\nAuthorization: ${AUTH}\r\nConnection: close\r\n` +
    `Expect: 100-continue\r\nContent-Length: ${length}\r\n\r\n`
  assert.match(await exchange(port, ask(3), 'abc'), /^HTTP\/1.1 100 .*HTTP\/1.1 200 .*"size":3/s)
  assert.match(await exchange(port, ask(3_000)), /^HTTP\/1.1 413 /)
})

test('clients that leave in the middle of a body break nothing', async (t) => {
  const port = await listen(t)
  for (const path of ['/v1/raw', '/v1/echo/x']) {
    const socket = connect(port, '127.0.0.1')
    const head = `POST ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: ${AUTH}\r\n`
    const type = 'Content-Type: application/json\r\nContent-Length: 90\r\n\r\n{'
    socket.write(head + type, () => socket.destroy())
    await once(socket, 'close')
  }
  const good = `POST /v1/raw HTTP/1.1\r\nHost: x\r\nAuthorization: ${AUTH}\r\nConnection: close\r\n\r\n`
  assert.match(await exchange(port, good), /^HTTP\/1.1 200 /)
})

test('a connection serves on after a refusal whose body was small', async (t) => {
  const port = await listen(t)
  const bad = `POST /v1/nothing HTTP/1.1\r\nHost: x\r\nAuthorization: ${AUTH}\r\n\r\n`
  const good = `POST /v1/raw HTTP/1.1\r\nHost: x\r\nAuthorization: ${AUTH}\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi`
  assert.match(await exchange(port, bad, good), /404 .*HTTP\/1.1 200 .*"size":2/s)
})

test('long URLs, many headers, large headers and bytes that are no HTTP are refused as problems', async (t) => {
  assertProblem(
    await post(`/v1/echo/${'x'.repeat(limits.HTTP_URL_BYTES_MAX)}`),
    414,
    'uri_too_long',
  )
  assertProblem(await post('/v1/echo/%zz'), 400, 'invalid_request')
  assertProblem(await post('/v1/echo/%ff'), 400, 'invalid_request')
  const port = await listen(t)
  const start = 'GET /v1/x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n'
  const many = 'a: b\r\n'.repeat(limits.HTTP_HEADERS_MAX)
  assert.match(await exchange(port, `${start}${many}\r\n`), /^HTTP\/1.1 431 .*headers_too_large/s)
  const large = `a: ${'b'.repeat(limits.HTTP_HEADER_BYTES_MAX)}\r\n`
  assert.match(await exchange(port, `${start}${large}\r\n`), /^HTTP\/1.1 431 .*headers_too_large/s)
  assert.match(await exchange(port, 'AMQP\0\0\x09\x01'), /^HTTP\/1.1 400 .*invalid_request/s)
  const smuggle = `${start}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`
  assert.match(await exchange(port, smuggle), /^HTTP\/1.1 400 /)
})

test('a refusal answers its code and facts, a bug answers 500 without a word, and is reported', async () => {
  const full = new BrokerError('queue_full', 'Full.', { details: { queue: 'q' } })
  const refused = app([failing(full)])
  const res = await request(refused.app).get('/v1/failing').set('Authorization', AUTH)
  assertProblem(res, 429, 'queue_full')
  assert.equal(res.headers['retry-after'], '1')
  assert.equal(JSON.parse(res.text).queue, 'q')
  assert.deepEqual(refused.reported, [])

  const bug = new TypeError('secret: hush')
  const broken = app([failing(bug)])
  const answer = await request(broken.app).get('/v1/failing').set('Authorization', AUTH)
  assert.equal(answer.status, 500)
  assert.doesNotMatch(answer.text, /hush/)
  assert.deepEqual(broken.reported, [bug])
})

test('a process that stops refuses what comes over open connections, and says it is not ready', async () => {
  const stop = new AbortController()
  const none = () => []
  const away = { roundTrip: async () => {}, broken: none, impaired: none, stopping: stop.signal }
  const { app: stopping } = app([echo, ...healthRoutes(away)], stop.signal)
  assert.equal((await request(stopping).get('/readyz')).status, 200)
  stop.abort()
  const res = await request(stopping).post('/v1/echo/x').set('Authorization', AUTH)
  assertProblem(res, 503, 'draining')
  assert.equal(res.headers['connection'], 'close')
  assertProblem(await request(stopping).get('/readyz'), 503, 'draining')
  assert.equal((await request(stopping).get('/healthz')).status, 200)
})

test('not ready while Redis does not answer or a promise is broken, ready again after', async () => {
  let redis: () => Promise<void> = () => Promise.reject(new Error('away'))
  const { signal } = new AbortController()
  let broken: string[] = []
  const routes = healthRoutes({
    roundTrip: () => redis(),
    broken: () => broken,
    impaired: () => [],
    stopping: signal,
  })
  const { app: probed, reported } = app(routes)
  assertProblem(await request(probed).get('/readyz'), 503, 'store_unavailable')
  redis = async () => {}
  assert.equal((await request(probed).get('/readyz')).status, 200)
  broken = ['Durability fsync cannot be had.']
  assertProblem(await request(probed).get('/readyz'), 503, 'durability_unavailable')
  broken = []
  assert.equal((await request(probed).get('/readyz')).status, 200)
  assert.deepEqual(reported, [])
})

test('the OpenAPI document and the page list every route', async () => {
  const get = (path: string) => request(app().app).get(path).set('Authorization', AUTH)
  const { body } = await get('/openapi.json')
  assert.equal(body.openapi, '3.1.0')
  const operation = body.paths['/v1/echo/{name}'].post
  assert.deepEqual(
    operation.parameters.map(
      ({ in: place, name }: { in: string; name: string }) => `${place} ${name}`,
    ),
    ['path name', 'query count'],
  )
  assert.equal(operation.requestBody.content['application/json'].schema.additionalProperties, false)
  assert.deepEqual(operation.responses['413'].content['application/problem+json'].schema, {
    $ref: '#/components/schemas/Problem',
  })
  const page = await get('/docs')
  assert.match(page.headers['content-security-policy'] ?? '', /default-src 'none'/)
  assert.match(page.text, /\/v1\/echo\/\{name\}.*\/v1\/raw.*id="schema-Problem"/s)
  assert.doesNotMatch(page.text, /<script|https?:\/\/(?!127)/)
})

test('a port that is taken is one error that names the setting', async (t) => {
  const port = await listen(t)
  const { signal } = new AbortController()
  await assert.rejects(
    listenHttp(app().app, { ...LISTENER, port, connectionsMax: 1 }, signal),
    new RegExp(`port ${port} on 127.0.0.1 is taken.*SLUICE_HTTP_PORT`),
  )
})
