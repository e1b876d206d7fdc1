/**
 * What endpoints do, and what becomes of it. Method: real sockets on loopback, which answer byte by
 * byte as a test says.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createTls } from 'node:https'
import { type AddressInfo, createServer as createTcp, type Server, type Socket } from 'node:net'
import { type TestContext, test } from 'node:test'
import { encodeProperties, type Properties } from '@sluice/amqp'
import { waitFor } from '@sluice/testkit'
import { Guard } from './guard.ts'
import type { PushMessage } from './request.ts'
import { Endpoint } from './send.ts'
import { type Attempt, Subscription } from './subscription.ts'

const LOOPBACK = new Guard(['127.0.0.0/8'])
const TIMEOUT_MS = 500
/** How late a busy machine may be, ms. */
const LATE_MS = 2_000
const NEVER = new AbortController().signal

function message(body: string, properties: Properties = {}): PushMessage {
  return {
    id: '0'.repeat(24),
    deliveryCount: 1,
    record: {
      timeMs: 1_700_000_000_000,
      expiresMs: 0,
      exchange: '',
      routingKey: 'orders',
      orderingKey: '',
      persistent: true,
      ttlMs: -1,
      properties: encodeProperties(properties),
      body: Buffer.from(body),
    },
  }
}

interface Fields {
  readonly [name: string]: unknown
}

function endpointAt(
  t: TestContext,
  url: string,
  {
    guard = LOOPBACK,
    fields = {},
    rest = {},
  }: { guard?: Guard; fields?: Fields; rest?: Fields } = {},
): Endpoint {
  const document = { queue: 'orders', endpoint: { url, timeoutMs: TIMEOUT_MS, ...fields }, ...rest }
  const endpoint = new Endpoint('/', 'hook', Subscription.parse(document), guard)
  t.after(() => endpoint.close())
  return endpoint
}

async function listen(t: TestContext, server: Server): Promise<number> {
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.on('error', () => {}).on('close', () => sockets.delete(socket))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return (server.address() as AddressInfo).port
}

/** An HTTP server; its base URL. */
async function web(t: TestContext, handle: (req: IncomingMessage, res: ServerResponse) => void) {
  return `http://127.0.0.1:${await listen(t, createServer(handle))}`
}

/** A server that answers each request's first bytes as told; its base URL. */
async function raw(t: TestContext, answer: (socket: Socket) => void) {
  const server = createTcp((socket) => socket.once('data', () => answer(socket)))
  return `http://127.0.0.1:${await listen(t, server)}`
}

const HEAD = 'HTTP/1.1 200 OK\r\n'
const every = (socket: Socket, ms: number, write: () => void) => {
  const timer = setInterval(write, ms)
  socket.on('close', () => clearInterval(timer))
}

interface Hostile {
  readonly what: string
  readonly answer: (socket: Socket) => void
  readonly status?: number
  readonly verdict: Attempt['verdict']
  readonly says: RegExp
}

const HOSTILE: readonly Hostile[] = [
  { what: 'never answers', answer: () => {}, verdict: 'retry', says: /no answer within 500 ms/ },
  {
    what: 'drips its headers',
    answer(socket) {
      socket.write(HEAD)
      every(socket, 20, () => socket.write('X-A: b\r\n'))
    },
    verdict: 'retry',
    says: /no answer within 500 ms/,
  },
  {
    what: 'drips its body',
    answer(socket) {
      socket.write(`${HEAD}Transfer-Encoding: chunked\r\n\r\n`)
      every(socket, 20, () => socket.write('1\r\nx\r\n'))
    },
    status: 200,
    verdict: 'retry',
    says: /did not end within 500 ms/,
  },
  {
    what: 'promises more than it sends',
    answer: (socket) => socket.write(`${HEAD}Content-Length: 10\r\n\r\nabc`),
    status: 200,
    verdict: 'retry',
    says: /did not end/,
  },
  {
    what: 'breaks off its body',
    answer: (socket) => socket.end(`${HEAD}Content-Length: 10\r\n\r\nabc`),
    status: 200,
    verdict: 'retry',
    says: /closed before/,
  },
  {
    what: 'breaks its chunking',
    answer: (socket) => socket.write(`${HEAD}Transfer-Encoding: chunked\r\n\r\n5\r\nab\r\nzz\r\n`),
    status: 200,
    verdict: 'retry',
    says: /./,
  },
  {
    what: 'never ends a chunk extension',
    answer(socket) {
      socket.write(`${HEAD}Transfer-Encoding: chunked\r\n\r\n5;`)
      every(socket, 1, () => socket.write('x'.repeat(10_000)))
    },
    status: 200,
    verdict: 'retry',
    says: /./,
  },
  {
    what: 'floods trailers',
    answer(socket) {
      socket.write(`${HEAD}Transfer-Encoding: chunked\r\n\r\n0\r\n`)
      every(socket, 1, () => socket.write(`X-T: ${'x'.repeat(10_000)}\r\n`))
    },
    status: 200,
    verdict: 'retry',
    says: /too large/,
  },
  {
    what: 'floods headers',
    answer(socket) {
      socket.write(HEAD)
      every(socket, 1, () => socket.write(`X-H: ${'x'.repeat(10_000)}\r\n`))
    },
    verdict: 'retry',
    says: /too large/,
  },
  {
    what: 'sends one endless header',
    answer(socket) {
      socket.write(`${HEAD}X-H: `)
      every(socket, 1, () => socket.write('x'.repeat(10_000)))
    },
    verdict: 'retry',
    says: /too large/,
  },
  {
    what: 'sends interim answers only',
    answer: (socket) =>
      every(socket, 5, () => socket.write('HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n')),
    verdict: 'retry',
    says: /no answer within 500 ms/,
  },
  {
    what: 'switches protocols',
    answer: (socket) =>
      socket.write('HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n'),
    verdict: 'retry',
    says: /./,
  },
  {
    what: 'speaks no HTTP',
    answer: (socket) => socket.write('220 mail.example ESMTP\r\n'),
    verdict: 'retry',
    says: /./,
  },
  {
    what: 'says its length twice',
    answer: (socket) => socket.write(`${HEAD}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab`),
    verdict: 'retry',
    says: /./,
  },
  { what: 'hangs up', answer: (socket) => socket.end(), verdict: 'retry', says: /closed/ },
  {
    what: 'resets',
    answer: (socket) => socket.resetAndDestroy(),
    verdict: 'retry',
    says: /reset|closed/,
  },
]

for (const { what, answer, status, verdict, says } of HOSTILE) {
  test(`an endpoint that ${what}: an attempt with its reason, within its time`, async (t) => {
    const endpoint = endpointAt(t, await raw(t, answer))
    const attempt = await endpoint.send(message('x'), NEVER)
    assert.equal(attempt.status, status)
    assert.equal(attempt.verdict, verdict)
    assert.match(attempt.error ?? '', says)
    assert.ok(attempt.durationMs < TIMEOUT_MS + LATE_MS, `${attempt.durationMs} ms`)
    assert.ok(Buffer.byteLength(attempt.answer) <= 1024)
  })
}

test('an answer of 10 GB counts by its status, and is cut off after a moment', async (t) => {
  let sent = 0
  const url = await raw(t, (socket) => {
    socket.write(`${HEAD}Content-Length: 10000000000\r\n\r\n`)
    const block = Buffer.alloc(1024 * 1024, 'x')
    const more = () => {
      do sent += block.length
      while (!socket.destroyed && socket.write(block))
    }
    socket.on('drain', more)
    more()
  })
  const endpoint = endpointAt(t, url)
  const attempt = await endpoint.send(message('x'), NEVER)
  assert.equal(attempt.verdict, 'ack')
  assert.match(attempt.error ?? '', /longer than 65536 bytes/)
  assert.equal(attempt.answer, 'x'.repeat(1024))
  assert.ok(sent < 32 * 1024 * 1024, `${sent} bytes`)
})

test('a hundred hostile answers at once leave no memory behind', async (t) => {
  const url = await raw(t, (socket) => {
    socket.write(`${HEAD}Transfer-Encoding: chunked\r\n\r\n`)
    every(socket, 1, () => socket.write(`10000\r\n${'x'.repeat(65_536)}\r\n`))
  })
  const endpoint = endpointAt(t, url, { fields: { timeoutMs: 10_000 } })
  const before = process.memoryUsage.rss()
  for (let round = 0; round < 3; round++) {
    const all = Array.from({ length: 100 }, () => endpoint.send(message('x'), NEVER))
    assert.ok((await Promise.all(all)).every(({ verdict }) => verdict === 'ack'))
  }
  const grown = process.memoryUsage.rss() - before
  assert.ok(grown < 150 * 1024 * 1024, `${grown} bytes`)
})

test('nobody listens: an attempt that says so', async (t) => {
  const server = createTcp()
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  const attempt = await endpointAt(t, `http://127.0.0.1:${port}/`).send(message('x'), NEVER)
  assert.match(attempt.error ?? '', /refused/)
  assert.equal(attempt.pressure, 'down')
  assert.equal(attempt.status, undefined)
})

test('a connection that is never made ends in time', async (t) => {
  const guard = new Guard(['127.0.0.0/8'], () => new Promise(() => {}))
  const endpoint = endpointAt(t, 'http://silent.example/', { guard })
  const attempt = await endpoint.send(message('x'), NEVER)
  assert.match(attempt.error ?? '', /no connection within 500 ms/)
  assert.equal(attempt.pressure, 'overload')
})

const TLS = (name: string) =>
  readFileSync(new URL(`../../../../test/support/tls/${name}`, import.meta.url), 'utf8')

test('TLS: a stranger is refused, a known authority and a client certificate are not', async (t) => {
  const server = createTls(
    {
      cert: TLS('server.pem'),
      key: TLS('server-key.pem'),
      ca: TLS('ca.pem'),
      requestCert: true,
      rejectUnauthorized: false,
    },
    (req, res) => res.end((req.socket as unknown as { authorized: boolean }).authorized + ''),
  )
  const url = `https://127.0.0.1:${await listen(t, server)}/`
  const send = (tls?: object) =>
    endpointAt(t, url, { fields: { timeoutMs: 2_000, ...(tls && { tls }) } }).send(
      message('x'),
      NEVER,
    )
  const stranger = await send()
  assert.match(stranger.error ?? '', /^TLS failed: .*certificate/)
  assert.deepEqual([stranger.verdict, stranger.pressure], ['retry', 'down'])

  const ca = TLS('ca.pem')
  const misnamed = await send({ ca, servername: 'elsewhere.example' })
  assert.match(misnamed.error ?? '', /^TLS failed: .*elsewhere\.example/)
  assert.equal((await send({ ca })).answer, 'false')
  assert.equal((await send({ rejectUnauthorized: false })).answer, 'false')
  const known = { ca, cert: TLS('client.pem'), key: TLS('client-key.pem') }
  assert.equal((await send(known)).answer, 'true')
})

test('TLS: an endpoint that does not speak it', async (t) => {
  const url = (await raw(t, (socket) => socket.end('HTTP/1.1 400 Bad\r\n\r\n'))).replace(
    'http',
    'https',
  )
  const attempt = await endpointAt(t, url).send(message('x'), NEVER)
  assert.match(attempt.error ?? '', /^TLS failed/)
})

test('what only this machine can reach is not asked, by address or by name', async (t) => {
  let asked = 0
  const url = await web(t, (_req, res) => res.end(String(asked++)))
  const guard = new Guard([], async () => [{ address: '127.0.0.1', family: 4 }])
  for (const at of [url, url.replace('127.0.0.1', 'hooks.example')]) {
    const attempt = await endpointAt(t, at, { guard }).send(message('x'), NEVER)
    assert.match(attempt.error ?? '', /loopback.*SLUICE_PUSH_ALLOW/)
    assert.deepEqual([attempt.verdict, attempt.pressure], ['retry', 'down'])
  }
  assert.equal(asked, 0)
})

test('a redirect is an answer like others unless redirects are followed', async (t) => {
  const url = await web(t, (_req, res) => res.writeHead(307, { Location: '/there' }).end())
  const attempt = await endpointAt(t, url).send(message('x'), NEVER)
  assert.deepEqual([attempt.status, attempt.verdict], [307, 'retry'])
})

test('a redirect repeats the request; to strangers without what is configured', async (t) => {
  const seen: [string, string | undefined, string][] = []
  const read = (req: IncomingMessage, res: ServerResponse, location?: string) => {
    const chunks: Buffer[] = []
    req.on('data', (chunk: Buffer) => chunks.push(chunk))
    req.on('end', () => {
      const body = Buffer.concat(chunks).toString()
      seen.push([`${req.method} ${req.url}`, req.headers['x-key'] as string, body])
      if (location) res.writeHead(308, { Location: location })
      res.end('done')
    })
  }
  const other = await web(t, read)
  const url = await web(t, (req, res) => read(req, res, req.url === '/a' ? '/b?c' : `${other}/d?e`))
  const endpoint = endpointAt(t, `${url}/a`, {
    fields: { redirects: 2, headers: { 'X-Key': 'k' } },
  })
  const attempt = await endpoint.send(message('body'), NEVER)
  assert.deepEqual([attempt.verdict, attempt.answer], ['ack', 'done'])
  assert.deepEqual(seen, [
    ['POST /a', 'k', 'body'],
    ['POST /b?c', 'k', 'body'],
    ['POST /d?e', undefined, 'body'],
  ])
})

for (const [what, location, says] of [
  ['to a private address', 'http://10.0.0.1/', /private.*SLUICE_PUSH_ALLOW/],
  ['to metadata', 'http://169.254.169.254/latest/', /metadata/],
  ['to a disguised address', 'http://2852039166/', /metadata/],
  ['to another scheme', 'file:///etc/passwd', /not http/],
  ['to what is no URL', 'http://', /no URL/],
  ['in a circle', '/', /more than 3 times/],
] as const) {
  test(`a redirect ${what} is not followed`, async (t) => {
    const url = await web(t, (_req, res) => res.writeHead(302, { Location: location }).end())
    const attempt = await endpointAt(t, url, { fields: { redirects: 3 } }).send(message('x'), NEVER)
    assert.match(attempt.error ?? '', says)
    assert.equal(attempt.verdict, 'retry')
  })
}

test('a redirect from https to http is not followed', async (t) => {
  let asked = 0
  const plain = await web(t, (_req, res) => res.end(String(asked++)))
  const pem = { cert: TLS('server.pem'), key: TLS('server-key.pem') }
  const server = createTls(pem, (_req, res) => res.writeHead(302, { Location: plain }).end())
  const url = `https://127.0.0.1:${await listen(t, server)}/`
  const fields = { redirects: 3, tls: { ca: TLS('ca.pem') } }
  const attempt = await endpointAt(t, url, { fields }).send(message('x'), NEVER)
  assert.match(attempt.error ?? '', /from https to http/)
  assert.equal(asked, 0)
})

test('redirects have no more time together than one request', async (t) => {
  const url = await web(t, (_req, res) => {
    setTimeout(() => res.writeHead(302, { Location: '/' }).end(), 120)
  })
  const attempt = await endpointAt(t, url, { fields: { redirects: 5 } }).send(message('x'), NEVER)
  assert.match(attempt.error ?? '', /no answer within/)
  assert.ok(attempt.durationMs < TIMEOUT_MS + LATE_MS)
})

for (const [status, onStatus, verdict, pressure] of [
  [200, {}, 'ack', 'none'],
  [204, {}, 'ack', 'none'],
  [304, {}, 'retry', 'none'],
  [400, {}, 'dead-letter', 'none'],
  [404, {}, 'dead-letter', 'none'],
  [408, {}, 'retry', 'none'],
  [425, {}, 'retry', 'none'],
  [429, {}, 'retry', 'overload'],
  [500, {}, 'retry', 'none'],
  [502, {}, 'retry', 'down'],
  [503, {}, 'retry', 'overload'],
  [599, {}, 'retry', 'none'],
  [404, { 404: 'ack' }, 'ack', 'none'],
  [410, { 410: 'retry' }, 'retry', 'none'],
  [501, { 501: 'dead-letter' }, 'dead-letter', 'none'],
  [202, { 202: 'retry' }, 'retry', 'none'],
] as const) {
  test(`${status} with ${JSON.stringify(onStatus)}: ${verdict}`, async (t) => {
    const url = await web(t, (_req, res) => res.writeHead(status).end())
    const attempt = await endpointAt(t, url, { rest: { onStatus } }).send(message('x'), NEVER)
    assert.deepEqual(
      [attempt.status, attempt.verdict, attempt.pressure],
      [status, verdict, pressure],
    )
    assert.equal(attempt.error, undefined)
  })
}

test('Retry-After: seconds, and a date by the endpoint’s own clock', async (t) => {
  const answers = [
    { 'Retry-After': '7' },
    { 'Retry-After': 'Sun, 06 Nov 1994 08:49:37 GMT', Date: 'Sun, 06 Nov 1994 08:49:07 GMT' },
    { 'Retry-After': 'soon' },
  ]
  const url = await web(t, (_req, res) => res.writeHead(503, answers.shift()).end())
  const endpoint = endpointAt(t, url)
  const waits: (number | undefined)[] = []
  while (answers.length > 0) waits.push((await endpoint.send(message('x'), NEVER)).retryAfterMs)
  assert.deepEqual(waits, [7_000, 30_000, undefined])
})

test('connections are kept alive, as many as there are requests at a time', async (t) => {
  const sockets = new Set<unknown>()
  const url = await web(t, (req, res) => {
    sockets.add(req.socket)
    res.end()
  })
  const endpoint = endpointAt(t, url, { fields: { timeoutMs: 5_000 } })
  for (const atOnce of [1, 1, 5, 5, 3, 5]) {
    await Promise.all(Array.from({ length: atOnce }, () => endpoint.send(message('x'), NEVER)))
  }
  assert.equal(sockets.size, 5)
})

test('what is given up before it is sent is not sent', async (t) => {
  const asked: (string | undefined)[] = []
  const url = await web(t, (req, res) => {
    asked.push(req.headers['content-type'])
    res.end()
  })
  const endpoint = endpointAt(t, url)
  await endpoint.send(message('x', { contentType: 'text/first' }), NEVER)
  const attempt = await endpoint.send(message('x'), AbortSignal.abort())
  assert.deepEqual([attempt.verdict, attempt.pressure], ['retry', 'none'])
  await endpoint.send(message('x', { contentType: 'text/last' }), NEVER)
  assert.deepEqual(asked, ['text/first', 'text/last'])
})

test('a closed endpoint ends what is under way, and its connections', async (t) => {
  let open = 0
  const url = await raw(t, (socket) => {
    open++
    socket.on('close', () => open--)
  })
  const endpoint = endpointAt(t, url, { fields: { timeoutMs: 60_000 } })
  const sending = endpoint.send(message('x'), NEVER)
  await waitFor(() => open === 1)
  const stop = new AbortController()
  const given = endpointAt(t, url, { fields: { timeoutMs: 60_000 } }).send(
    message('x'),
    stop.signal,
  )
  await waitFor(() => open === 2)
  stop.abort()
  assert.match((await given).error ?? '', /given up/)
  await endpoint.close()
  assert.equal((await sending).verdict, 'retry')
  assert.equal((await endpoint.send(message('x'), NEVER)).verdict, 'retry')
  assert.equal((await endpoint.send(message('x'), stop.signal)).verdict, 'retry')
  await waitFor(() => open === 0, { what: 'the connections to be closed' })
})
