/** Requests sent on as they came. Method: a server on a loopback socket says what it got. */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type TestContext, test } from 'node:test'
import { encodeProperties, type Table } from '@sluice/amqp'
import { openStore } from '@sluice/store'
import { withRedis } from '@sluice/testkit'
import { type HttpRequest, requestTable } from '@sluice/topology'
import type { Exchange } from './exchange.ts'
import { Guard } from './guard.ts'
import { answerKeeper, replayedPath } from './replay.ts'
import type { PushMessage } from './request.ts'
import { Endpoint } from './send.ts'
import { Subscription, type Verdict } from './subscription.ts'

const NEVER = new AbortController().signal
const REQUEST: HttpRequest = {
  ingest: 'shop',
  id: 'r-1',
  method: 'PATCH',
  path: '/orders/a%2Fb',
  query: 'x=%20y&z',
  headers: { 'x-many': ['1', '2'], 'content-type': 'text/plain; é', 'user-agent': 'shop/1' },
  keepMs: 60_000,
  keepBytes: 4,
}

interface Got {
  readonly method: string | undefined
  readonly url: string | undefined
  readonly rawHeaders: readonly string[]
  readonly body: string
}

const ok = (res: ServerResponse): void => {
  res.end('ok')
}

/** Pushes one message there; what came, and what was told of it. */
async function push(
  t: TestContext,
  headers: Table,
  { answer = ok, path = '/base/', endpoint = {}, rest = {}, body = 'body' } = {},
) {
  const got: Got[] = []
  const server = createServer(async (req: IncomingMessage, res) => {
    const chunks: Buffer[] = []
    for await (const chunk of req) chunks.push(chunk)
    const { method, url, rawHeaders } = req
    got.push({ method, url, rawHeaders, body: Buffer.concat(chunks).toString() })
    answer(res)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}${path}`
  const document = { queue: 'q', endpoint: { url, ...endpoint }, replay: true, ...rest }
  const told: { verdict: Verdict; exchange: Exchange }[] = []
  const sender = new Endpoint('/', 's', Subscription.parse(document), new Guard(['127.0.0.0/8']), {
    replayed: async (_, verdict, exchange) => {
      told.push({ verdict, exchange })
    },
  })
  t.after(() => {
    server.closeAllConnections()
    server.close()
    return sender.close()
  })
  const attempt = await sender.send(message(headers, body), NEVER)
  return { got: got[0], attempt, told }
}

function message(headers: Table, body: string): PushMessage {
  const properties = encodeProperties({ headers })
  const record = { exchange: '', routingKey: 'q', orderingKey: '', persistent: true, ttlMs: -1 }
  return {
    id: '0'.repeat(24),
    deliveryCount: 2,
    record: { ...record, timeMs: 0, expiresMs: 0, properties, body: Buffer.from(body) },
  }
}

function valuesOf({ rawHeaders }: Got, name: string): string[] {
  return rawHeaders.filter((_, i) => i % 2 === 1 && rawHeaders[i - 1]!.toLowerCase() === name)
}

test('method, path, query, headers and body arrive as they came', async (t) => {
  const { got, told } = await push(t, requestTable(REQUEST))
  assert.equal(got?.method, 'PATCH')
  assert.equal(got?.url, '/base/orders/a%2Fb?x=%20y&z')
  assert.equal(got?.body, 'body')
  assert.deepEqual(valuesOf(got!, 'x-many'), ['1', '2'])
  assert.deepEqual(valuesOf(got!, 'content-type'), ['text/plain; é'])
  assert.deepEqual(valuesOf(got!, 'user-agent'), ['shop/1'])
  assert.deepEqual(valuesOf(got!, 'sluice-request-id'), ['r-1'])
  assert.deepEqual(valuesOf(got!, 'sluice-delivery-count'), ['2'])
  assert.equal(told[0]?.verdict, 'ack')
  assert.equal(told[0]?.exchange.body.toString(), 'ok')
})

test('a GET without a body goes without one', async (t) => {
  const { got } = await push(t, requestTable({ ...REQUEST, method: 'GET' }), { body: '' })
  assert.equal(got?.method, 'GET')
  assert.deepEqual(valuesOf(got!, 'content-length'), [])
})

test('a header that the subscription says is not the sender’s to choose', async (t) => {
  const headers = { ...REQUEST.headers, 'x-key': 'mine', connection: 'close' }
  const { got } = await push(t, requestTable({ ...REQUEST, headers }), {
    endpoint: { headers: { 'X-Key': 'secret' } },
  })
  assert.deepEqual(valuesOf(got!, 'x-key'), ['secret'])
  assert.deepEqual(valuesOf(got!, 'connection'), ['keep-alive'])
})

test('without `replay`, and for other messages, it is pushed as usual', async (t) => {
  const usual = await push(t, requestTable(REQUEST), { rest: { replay: false } })
  const other = await push(t, { 'x-request-id': 'r-1' })
  for (const { got, told } of [usual, other]) {
    assert.equal(`${got?.method} ${got?.url}`, 'POST /base/')
    assert.deepEqual(told, [])
  }
})

test('headers that anybody may publish lead nowhere but below the endpoint', async (t) => {
  const hostile: readonly Table[] = [
    { 'x-http-path': '/../admin' },
    { 'x-http-path': '/%2E%2e/admin' },
    { 'x-http-path': '@evil.example/' },
    { 'x-http-path': '/a b' },
    { 'x-http-path': '/a\r\nX-Evil: 1' },
    { 'x-http-query': 'a\r\nX-Evil: 1' },
    { 'x-http-method': 'GET / HTTP/1.1\r\n' },
    { 'x-http-method': 7 },
  ]
  for (const table of hostile) {
    const { got } = await push(t, { ...requestTable(REQUEST), ...table })
    assert.equal(`${got?.method} ${got?.url}`, 'POST /base/', JSON.stringify(table))
  }
  const headers = { 'x-evil': 'a\r\nX-More: 1', 'bad name': 'x', good: 'yes' } as never
  const { got } = await push(t, requestTable({ ...REQUEST, headers }))
  assert.deepEqual(valuesOf(got!, 'good'), ['yes'])
  assert.deepEqual(valuesOf(got!, 'x-more'), [])
})

test('paths and queries are put together without a seam', () => {
  const at = (endpoint: string, path: string, query?: string) =>
    replayedPath(endpoint, { ...REQUEST, path, query })
  assert.equal(at('/', '/orders'), '/orders')
  assert.equal(at('/api', '/orders'), '/api/orders')
  assert.equal(at('/api/', '/orders', 'a=1'), '/api/orders?a=1')
  assert.equal(at('/api?key=1', '/orders', 'a=1'), '/api/orders?key=1&a=1')
  assert.equal(at('/api?key=1', '', ''), '/api?key=1&')
  assert.equal(at('/api', '//orders'), '/api//orders')
})

test('an answer is kept up to its limit, and that it was cut is told', async (t) => {
  const { url } = await withRedis(t)
  const report = (error: unknown) => assert.fail(String(error))
  const store = await openStore({ url, report })
  t.after(() => store.close())
  const keep = answerKeeper(store.requests, '/', () => undefined, report)
  const answering = (text: string, status: number) => (res: ServerResponse) => {
    res.writeHead(status, { 'X-Answer': 'yes', 'Keep-Alive': 'timeout=5' }).end(text)
  }
  const seen: unknown[] = []
  for (const [text, status] of [
    ['1234', 201],
    ['12345', 404],
    ['', 503],
  ] as const) {
    const request = { ...REQUEST, id: randomUUID() }
    const { told } = await push(t, requestTable(request), { answer: answering(text, status) })
    await keep(request, told[0]!.verdict, told[0]!.exchange)
    const { state, answer } = (await store.requests.find(request.id))!
    const names = answer!.headers.map(([name]) => name.toLowerCase())
    assert.ok(names.includes('x-answer') && !names.includes('keep-alive'), `${names}`)
    seen.push([state, answer!.status, answer!.body.toString(), answer!.truncated])
  }
  assert.deepEqual(seen, [
    ['delivered', 201, '1234', false],
    ['dead', 404, '1234', true],
    ['failed', 503, '', false],
  ])
})
