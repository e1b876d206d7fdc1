/** Push subscriptions as operators meet them: declared, shown, paused, tried out. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type TestContext, test } from 'node:test'
import { privateRedis, waitFor } from '@sluice/testkit'
import fc from 'fast-check'
import { type TestBroker, withBroker } from '../support/broker.ts'
import { deploy } from '../support/deployment.ts'

const KEY = `whsec_${Buffer.alloc(32, 1).toString('base64')}`
const OTHER_KEY = `whsec_${Buffer.alloc(32, 2).toString('base64')}`
const PATH = '/subscriptions/hook'
const ENDPOINT = { url: 'https://hooks.example/orders' }

async function brokerWithQueue(t: TestContext): Promise<TestBroker> {
  const { url } = await privateRedis(t, { aof: false }) // others' processes would push, too
  const env = { SLUICE_PUSH_ALLOW: '127.0.0.0/8' }
  const broker = await withBroker(t, { redisUrl: url, env })
  await broker.request('PUT', '/queues/orders', { body: {} })
  return broker
}

async function serve(t: TestContext, handle: RequestListener): Promise<string> {
  const server = createServer(handle)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** What is stored, secrets and all. */
function stored({ deps, vhost }: TestBroker) {
  // biome-ignore lint/suspicious/noExplicitAny: the test looks into it
  return deps.topology.table.documents.get('subscription', vhost, 'hook') as any
}

test('declared, shown, listed, replaced, deleted', async (t) => {
  const { request } = await brokerWithQueue(t)
  const body = { queue: 'orders', paused: true, endpoint: ENDPOINT }
  assert.equal((await request('GET', PATH)).json.title, 'subscription_not_found')
  assert.equal((await request('PUT', PATH, { body })).status, 201)
  assert.equal((await request('PUT', PATH, { body })).status, 200)

  const shown = (await request('GET', PATH)).json
  assert.equal(shown.name, 'hook')
  assert.equal(shown.endpoint.method, 'POST', 'defaults are filled in')
  const list = (await request('GET', '/subscriptions')).json
  assert.deepEqual([list.total, list.items[0].name], [1, 'hook'])
  assert.equal((await request('GET', '/subscriptions?name=other')).json.total, 0)

  assert.equal((await request('PUT', PATH, { body: { ...body, body: 'raw!' } })).status, 400)
  assert.equal((await request('DELETE', PATH)).status, 204)
  assert.equal((await request('DELETE', PATH)).status, 204)
  assert.equal((await request('GET', '/subscriptions')).json.total, 0)
})

test('paused and resumed', async (t) => {
  const { request } = await brokerWithQueue(t)
  const answer = await request('POST', `${PATH}/pause`)
  assert.deepEqual([answer.status, answer.json.title], [404, 'subscription_not_found'])
  await request('PUT', PATH, { body: { queue: 'orders', endpoint: ENDPOINT } })
  for (const [path, paused] of [
    ['pause', true],
    ['pause', true],
    ['resume', false],
  ] as const) {
    assert.equal((await request('POST', `${PATH}/${path}`)).status, 204)
    assert.equal((await request('GET', PATH)).json.paused, paused)
  }
})

test('refused: no vhost, no queue, an address that only this machine reaches', async (t) => {
  const broker = await brokerWithQueue(t)
  const { request } = broker
  const put = async (body: object, path = PATH) => (await request('PUT', path, { body })).json
  const queue = 'orders'
  assert.equal((await put({ queue: 'none', endpoint: ENDPOINT })).title, 'queue_not_found')
  const missing = '/v1/vhosts/none/subscriptions/hook'
  assert.equal((await put({ queue, endpoint: ENDPOINT }, missing)).title, 'vhost_not_found')
  const inner = await put({ queue, endpoint: { url: 'http://169.254.169.254/' } })
  assert.equal(inner.title, 'invalid_request')
  assert.match(inner.detail, /metadata.*SLUICE_PUSH_ALLOW/)
  const wrong = await put({ queue, endpoint: { url: 'x', headers: { Host: 'y' } } })
  assert.deepEqual(
    wrong.errors.map(({ at }: { at: string }) => at),
    ['body.endpoint.url', 'body.endpoint.headers.Host'],
  )
})

test('secrets are written and never read; a mask stands for the one that is kept', async (t) => {
  const broker = await brokerWithQueue(t)
  const { request } = broker
  const headers = { Authorization: 'Bearer t0p', 'X-Plain': 'v4lue' }
  const body = {
    queue: 'orders',
    paused: true,
    endpoint: { ...ENDPOINT, headers },
    signing: { scheme: 'hmac', keys: [KEY] },
  }
  await request('PUT', PATH, { body })
  const first = await request('GET', PATH)
  const all = first.text + (await request('GET', '/subscriptions')).text
  for (const secret of ['t0p', 'v4lue', KEY, KEY.slice('whsec_'.length)]) {
    assert.ok(!all.includes(secret))
  }
  const { name: _, state: __, ...shown } = first.json
  assert.match(shown.signing.keys[0], /^\*\*\*[\da-f]{8}$/)

  shown.endpoint.timeoutMs = 5_000
  shown.endpoint.headers['authorization'] = '***'
  delete shown.endpoint.headers['Authorization']
  shown.signing.keys.unshift(OTHER_KEY)
  assert.equal((await request('PUT', PATH, { body: shown })).status, 200)
  assert.deepEqual(stored(broker).endpoint.headers, {
    authorization: 'Bearer t0p',
    'X-Plain': 'v4lue',
  })
  assert.deepEqual(stored(broker).signing.keys, [OTHER_KEY, KEY])

  for (const [change, at] of [
    [{ endpoint: { ...ENDPOINT, headers: { New: '***' } } }, 'endpoint.headers.New'],
    [{ signing: { scheme: 'hmac', keys: ['***00000000'] } }, 'signing.keys.0'],
  ] as const) {
    const refused = await request('PUT', PATH, {
      body: { queue: 'orders', endpoint: ENDPOINT, ...change },
    })
    assert.deepEqual([refused.status, refused.json.at], [400, at])
  }
})

test('public keys of ed25519 are shown', async (t) => {
  const { request } = await brokerWithQueue(t)
  // RFC 8032, 7.1, test 1.
  const seed = '9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60'
  const key = `whsk_${Buffer.from(seed, 'hex').toString('base64')}`
  const signing = { scheme: 'ed25519', keys: [key] }
  await request('PUT', PATH, { body: { queue: 'orders', endpoint: ENDPOINT, signing } })
  const { json, text } = await request('GET', PATH)
  assert.deepEqual(json.publicKeys, ['whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo='])
  assert.ok(!text.includes(key.slice('whsk_'.length)))
})

test('a test-fire shows the full exchange, with secrets masked', async (t) => {
  const broker = await brokerWithQueue(t)
  const url = await serve(t, (req, res) => {
    const at = req.url === '/moved' ? { Location: '/hook?a=b' } : undefined
    if (at) res.writeHead(307, at).end()
    else req.resume().on('end', () => res.writeHead(422, { 'X-Why': 'ünfit' }).end('no thanks'))
  })
  const body = {
    queue: 'orders',
    paused: true,
    endpoint: { url: `${url}/moved`, redirects: 1, headers: { 'X-Key': 'h1dden' } },
    body: 'cloudevents-binary',
    signing: { scheme: 'hmac', keys: [KEY] },
  }
  await broker.request('PUT', PATH, { body })
  const message = { body: { order: 17 }, headers: { region: 'eu' }, messageId: 'm-1' }
  const fired = await broker.request('POST', `${PATH}/test`, { body: { message } })
  assert.equal(fired.status, 200, fired.text)
  const { exchanges, timings, verdict } = fired.json
  assert.equal(verdict, 'dead-letter')
  assert.equal(exchanges.length, 2)
  const [moved, last] = exchanges
  assert.equal(moved.request.line, 'POST /moved HTTP/1.1')
  assert.equal(moved.answer.status, 307)
  assert.equal(last.request.line, 'POST /hook?a=b HTTP/1.1')
  assert.equal(last.request.body, '{"order":17}')
  for (const line of ['X-Key: ***', 'Sluice-Header-region: eu', 'ce-id: m-1']) {
    assert.ok(last.request.headers.includes(line), `${line} in ${last.request.headers}`)
  }
  const names = last.request.headers.map((line: string) => line.split(':')[0])
  for (const name of ['Host', 'webhook-id', 'webhook-timestamp', 'webhook-signature']) {
    assert.ok(names.includes(name), name)
  }
  assert.ok(!fired.text.includes('h1dden'))
  assert.equal(last.answer.body, 'no thanks')
  assert.ok(last.answer.headers.includes('X-Why: ünfit'))
  assert.ok(timings.connectMs <= timings.headMs && timings.headMs <= timings.totalMs)
})

test('a test-fire of nothing sends a sample; one that fails says why', async (t) => {
  const broker = await brokerWithQueue(t)
  const url = await serve(t, (req, res) => req.pipe(res))
  const put = (url: string) =>
    broker.request('PUT', PATH, { body: { queue: 'orders', endpoint: { url } } })
  assert.equal((await broker.request('POST', `${PATH}/test`)).status, 404)
  await put(url)
  const fired = await broker.request('POST', `${PATH}/test`)
  assert.equal(fired.json.exchanges[0].answer.body, '{"test":true}')
  assert.equal(fired.json.verdict, 'ack')
  await put('http://127.0.0.1:9/')
  const failed = await broker.request('POST', `${PATH}/test`, { body: {} })
  assert.equal(failed.status, 200)
  assert.equal(failed.json.exchanges[0].answer, undefined)
  assert.match(failed.json.error, /refused/)
  const wrong = await broker.request('POST', `${PATH}/test`, {
    body: { message: { body: 1, x: 1 } },
  })
  assert.equal(wrong.status, 400)
})

test('documents at random are taken as they are shown, or refused; none is an error', async (t) => {
  const { request } = await brokerWithQueue(t)
  const text = fc.oneof(fc.string({ unit: 'binary' }), fc.constantFrom('***', KEY, 'orders', '1'))
  const value = fc.letrec<{ any: unknown }>((tie) => ({
    any: fc.oneof(
      { maxDepth: 3 },
      text,
      fc.double(),
      fc.integer({ min: -1, max: 100_000 }),
      fc.constantFrom(true, false, null),
      fc.array(tie('any'), { maxLength: 3 }),
      fc.dictionary(text, tie('any'), { maxKeys: 3 }),
    ),
  })).any
  const part = (...names: string[]) => fc.dictionary(fc.constantFrom(...names), value)
  const headers = fc.dictionary(text, text, { maxKeys: 3 })
  const endpoint = fc.record(
    { url: fc.oneof(fc.webUrl(), text), headers, timeoutMs: value, method: value, tls: value },
    { requiredKeys: ['url'] },
  )
  const document = fc.record(
    {
      queue: fc.constant('orders'),
      paused: fc.constant(true),
      endpoint: fc.oneof(endpoint, fc.constant(ENDPOINT)),
      shape: part('perSecond', 'burst', 'concurrencyMax', 'windows', 'rampUpMs'),
      onStatus: fc.dictionary(fc.constantFrom('200', '404', '99', 'x'), text),
      breaker: part('failures', 'probeMs'),
      signing: part('scheme', 'keys'),
      body: value,
      adaptive: value,
    },
    { requiredKeys: ['queue', 'paused', 'endpoint'] },
  )
  await fc.assert(
    fc.asyncProperty(document, async (body) => {
      const { status, text } = await request('PUT', PATH, { body })
      assert.ok([200, 201, 400].includes(status), text)
      if (status === 400) return
      const { name: _, state: __, publicKeys: ___, ...shown } = (await request('GET', PATH)).json
      assert.equal((await request('PUT', PATH, { body: shown })).status, 200)
    }),
    { numRuns: 150 },
  )
})

test('no secret of a subscription is logged, at any level', async (t) => {
  const url = await serve(t, (_req, res) => res.writeHead(500).end())
  const env = { SLUICE_LOG_LEVEL: 'trace', SLUICE_PUSH_ALLOW: '127.0.0.1' }
  const deployment = await deploy(t, ['router delivery reaper'], { env })
  const vhost = await deployment.vhost()
  await vhost.queue('orders')
  const headers = { 'X-Key': 'h1dden' }
  const subscription = {
    queue: 'orders',
    endpoint: { url, headers },
    signing: { scheme: 'hmac', keys: [KEY] },
  }
  const put = await vhost.delivery('PUT', PATH, { body: subscription })
  assert.equal(put.status, 201, put.text)
  const wrong = { ...subscription, signing: { scheme: 'ed25519', keys: [KEY] } }
  const refused = await vhost.delivery('PUT', PATH, { body: wrong })
  assert.equal(refused.status, 400)
  assert.equal((await vhost.delivery('POST', `${PATH}/test`)).status, 200)
  await vhost.send('orders', 'x')
  await waitFor(async () => (await vhost.counts('orders'))['delayed'] === 1, { what: 'an attempt' })
  const [process] = deployment.processes
  await process!.stop()
  assert.match(process!.log, /"level"/)
  for (const secret of ['h1dden', KEY.slice('whsec_'.length)]) {
    assert.ok(!process!.log.includes(secret) && !refused.text.includes(secret), secret)
  }
})
