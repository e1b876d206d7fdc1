/** Method: what is written is read back by CloudEvents' own library, and by Node's parser. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { connect } from 'node:net'
import { test } from 'node:test'
import { gzipSync } from 'node:zlib'
import { encodeProperties, type Properties } from '@sluice/amqp'
import { webhookSigner } from '@sluice/security'
import { type CloudEvent, HTTP } from 'cloudevents'
import fc from 'fast-check'
import { type PushMessage, type PushRequest, RequestWriter } from './request.ts'
import { Subscription } from './subscription.ts'

const NOW_MS = 1_700_000_000_999
const STORED_MS = 1_700_000_000_000

function message(
  body: string | Buffer,
  properties: Properties = {},
  record: Partial<PushMessage['record']> = {},
): PushMessage {
  return {
    id: 'f'.repeat(24),
    deliveryCount: 3,
    record: {
      timeMs: STORED_MS,
      expiresMs: 0,
      exchange: '',
      routingKey: '',
      orderingKey: '',
      persistent: true,
      ttlMs: -1,
      properties: encodeProperties(properties),
      body: Buffer.from(body),
      ...record,
    },
  }
}

function write(
  message: PushMessage,
  { endpoint = {}, ...rest }: { readonly [name: string]: unknown; endpoint?: object } = {},
  { vhost = '/', name = 'hook' } = {},
): PushRequest {
  const url = 'https://example.org/hook/a?b=c'
  const document = { queue: 'orders', endpoint: { url, ...endpoint }, ...rest }
  return new RequestWriter(vhost, name, Subscription.parse(document)).write(message, NOW_MS)
}

/** By name in lower case, as UTF-8. */
function headersOf({ headers }: PushRequest): Record<string, string> {
  const pairs: [string, string][] = []
  for (let i = 0; i < headers.length; i += 2) {
    pairs.push([headers[i]!.toLowerCase(), Buffer.from(headers[i + 1]!, 'latin1').toString()])
  }
  assert.equal(new Set(pairs.map(([name]) => name)).size, pairs.length, 'each is there once')
  return Object.fromEntries(pairs)
}

const eventOf = (request: PushRequest) =>
  HTTP.toEvent({ headers: headersOf(request), body: request.body.toString() }) as CloudEvent

test('a message says of itself what its publisher said, under the same names', () => {
  const request = write(
    message(
      'Grüße',
      {
        contentType: 'text/plain',
        contentEncoding: 'identity',
        messageId: 'm-1',
        correlationId: 'c-1',
        replyTo: 'r-1',
        type: 't-1',
        appId: 'a-1',
        userId: 'u-1',
        timestamp: 1_600_000_000,
        priority: 0,
        expiration: '60000',
        headers: { Region: 'eü', n: 1, big: 2n ** 60n, flag: true, list: [1, { a: null }] },
      },
      { exchange: 'amq.topic', routingKey: 'orders.größe', orderingKey: 'k' },
    ),
    { endpoint: { method: 'PUT', headers: { 'X-Key': 's3cret' } } },
  )
  assert.deepEqual([request.method, request.path], ['PUT', '/hook/a?b=c'])
  assert.equal(request.body.toString(), 'Grüße')
  const { 'webhook-id': id = '', ...headers } = headersOf(request)
  assert.match(id, /^msg_[\w-]{22}$/)
  assert.deepEqual(headers, {
    'x-key': 's3cret',
    'user-agent': 'Sluice',
    'sluice-subscription': 'hook',
    'sluice-delivery-count': '3',
    'content-type': 'text/plain',
    'content-encoding': 'identity',
    'sluice-exchange': 'amq.topic',
    'sluice-routing-key': 'orders.größe',
    'sluice-ordering-key': 'k',
    'sluice-message-id': 'm-1',
    'sluice-correlation-id': 'c-1',
    'sluice-reply-to': 'r-1',
    'sluice-type': 't-1',
    'sluice-app-id': 'a-1',
    'sluice-user-id': 'u-1',
    'sluice-timestamp': '1600000000',
    'sluice-priority': '0',
    'sluice-ttl': '60000',
    'sluice-header-region': 'eü',
    'sluice-header-n': '1',
    'sluice-header-big': '"1152921504606846976"',
    'sluice-header-flag': 'true',
    'sluice-header-list': '[1,{"a":null}]',
  })
})

test('the id is of the message in its queue: the same again, and no other’s', () => {
  const idOf = (...args: Parameters<typeof write>) => headersOf(write(...args))['webhook-id']
  const id = idOf(message('a'))
  assert.equal(idOf({ ...message('b'), deliveryCount: 9 }, {}, { name: 'other' }), id)
  assert.notEqual(idOf({ ...message('a'), id: 'e'.repeat(24) }), id)
  assert.notEqual(idOf(message('a'), {}, { vhost: 'v' }), id)
  assert.notEqual(idOf(message('a'), { queue: 'bills' }), id)
})

test('a configured content type is for messages without one, a configured agent for all', () => {
  const endpoint = { headers: { 'content-type': 'application/json', 'USER-AGENT': 'me' } }
  const without = headersOf(write(message('1'), { endpoint }))
  assert.deepEqual([without['content-type'], without['user-agent']], ['application/json', 'me'])
  const typed = headersOf(write(message('1', { contentType: 'text/csv' }), { endpoint }))
  assert.equal(typed['content-type'], 'text/csv')
})

test('GET sends no body, and signs none', () => {
  const keys = [`whsec_${Buffer.alloc(32, 7).toString('base64')}`]
  const signing = { scheme: 'hmac', keys }
  const request = write(message('a'), { endpoint: { method: 'GET' }, signing })
  assert.equal(request.body.length, 0)
  const { 'webhook-id': id = '', 'webhook-signature': signature } = headersOf(request)
  const expected = webhookSigner('hmac', keys)(id, 1_700_000_000, Buffer.alloc(0))
  assert.equal(signature, expected)
})

test('the body is signed as it is sent, whatever form it has', () => {
  const keys = [7, 8].map((byte) => `whsec_${Buffer.alloc(32, byte).toString('base64')}`)
  for (const body of ['raw', 'cloudevents-structured']) {
    const request = write(message('{"a":1}'), { body, signing: { scheme: 'hmac', keys } })
    const headers = headersOf(request)
    assert.equal(headers['webhook-timestamp'], '1700000000')
    assert.equal(
      headers['webhook-signature'],
      webhookSigner('hmac', keys)(headers['webhook-id']!, 1_700_000_000, request.body),
    )
  }
})

test('malformed properties do not hold up the message', () => {
  const request = write(message('a', {}, { properties: Buffer.from([0xff, 0xff, 1]) }))
  assert.equal(request.body.toString(), 'a')
})

for (const body of ['cloudevents-binary', 'cloudevents-structured']) {
  test(`${body}: what the message says, and defaults for what it does not`, () => {
    const headers = {
      'cloudEvents:specversion': '1.0',
      'cloudEvents:id': 'e-1',
      cloudEvents_source: '/shop',
      'cloudEvents:type': 'order.created',
      'cloudEvents:subject': 'grüße, %',
      'cloudEvents:time': new Date('2026-01-02T03:04:05Z'),
      'cloudEvents:count': 7,
      Region: 'eu',
    }
    const contentType = 'application/json'
    const request = write(message('{"n":1}', { contentType, headers }), { body })
    const event = eventOf(request)
    assert.deepEqual(event.data, { n: 1 })
    const { id, source, type, subject, time, specversion, datacontenttype } = event
    assert.deepEqual(
      { id, source, type, subject, time, specversion, datacontenttype },
      {
        id: 'e-1',
        source: '/shop',
        type: 'order.created',
        // The library leaves headers encoded.
        subject: body === 'cloudevents-binary' ? 'gr%C3%BC%C3%9Fe,%20%25' : 'grüße, %',
        time: '2026-01-02T03:04:05.000Z',
        specversion: '1.0',
        datacontenttype: 'application/json',
      },
    )
    assert.equal(String(event['count']), '7')
    assert.equal(headersOf(request)['sluice-header-region'], 'eu')
    assert.equal(headersOf(request)['sluice-header-cloudEvents_source'], undefined)

    const plain = write(message('hi', { contentType: 'text/plain' }), { body }, { vhost: 'shop' })
    const least = eventOf(plain)
    assert.equal(least.data, 'hi')
    assert.equal(least.id, 'f'.repeat(24))
    assert.equal(least.source, '/v1/vhosts/shop/queues/orders')
    assert.equal(least.type, 'sluice.message')
    assert.equal(least.time, new Date(STORED_MS).toISOString())
  })
}

test('structured: JSON goes in byte by byte, what is no text as base64', () => {
  const structured = (body: string | Buffer, contentType?: string, contentEncoding?: string) => {
    const properties = {
      ...(contentType && { contentType }),
      ...(contentEncoding && { contentEncoding }),
    }
    const request = write(message(body, properties), { body: 'cloudevents-structured' })
    assert.match(headersOf(request)['content-type']!, /^application\/cloudevents\+json/)
    assert.equal(headersOf(request)['content-encoding'], undefined)
    return request.body.toString()
  }
  const exact = '{ "n": 12345678901234567890.10 }'
  assert.ok(structured(exact, 'application/json').endsWith(`,"data":${exact}}`))
  const base64 = (text: string | Buffer) => Buffer.from(text).toString('base64')
  const parsed = (...args: Parameters<typeof structured>) => JSON.parse(structured(...args))
  assert.equal(parsed('{"broken"', 'application/json').data_base64, base64('{"broken"'))
  assert.equal(
    parsed(Buffer.from([0xff, 0]), 'text/plain').data_base64,
    base64(Buffer.from([0xff, 0])),
  )
  const gzip = gzipSync('{}')
  const zipped = parsed(gzip, 'application/json', 'gzip')
  assert.deepEqual([zipped.data_base64, zipped.contentencoding], [base64(gzip), 'gzip'])
  assert.ok(!('data' in parsed('')) && !('data_base64' in parsed('')))
})

test('an event in structured mode stays one, and is taken apart for binary mode', () => {
  const contentType = 'application/cloudevents+json; charset=utf-8'
  const inner = { specversion: '1.0', id: '1', source: '/s', type: 't', region: 'eu' }
  const published = (event: object) => message(JSON.stringify(event), { contentType })
  const stays = write(published({ ...inner, data: { a: 1 } }), { body: 'cloudevents-structured' })
  assert.deepEqual(JSON.parse(stays.body.toString()), { ...inner, data: { a: 1 } })

  const binary = (event: object) => write(published(event), { body: 'cloudevents-binary' })
  const opened = binary({ ...inner, data: { a: 1 } })
  assert.equal(opened.body.toString(), '{"a":1}')
  assert.equal(headersOf(opened)['content-type'], 'application/json')
  assert.equal(eventOf(opened)['region'], 'eu')
  const bytes = binary({ ...inner, datacontenttype: 'image/png', data_base64: 'AAE=' })
  assert.deepEqual(bytes.body, Buffer.from([0, 1]))
  const text = binary({ ...inner, datacontenttype: 'text/plain', data: 'x' })
  assert.equal(text.body.toString(), 'x')
  for (const strange of [
    { ...inner, id: undefined },
    { ...inner, UP: 1 },
    { ...inner, x: {} },
    [],
  ]) {
    assert.equal(headersOf(binary(strange))['content-type'], contentType, 'it is sent as it came')
  }
})

test('no message breaks out of its headers, whatever it says', async (t) => {
  const seen: { headers: NodeJS.Dict<string | string[]>; size: number }[] = []
  const server = createServer({ maxHeaderSize: 1024 * 1024 }, (req, res) => {
    let size = 0
    req.on('data', (chunk: Buffer) => {
      size += chunk.length
    })
    req.on('end', () => {
      seen.push({ headers: req.headers, size })
      res.end()
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  const { port } = server.address() as { port: number }

  const text = fc.string({ unit: 'binary', maxLength: 20 })
  const value = fc.oneof(text, fc.integer(), fc.boolean(), fc.constant(null), fc.array(text))
  const headers = fc.dictionary(text, value, { maxKeys: 5 })
  const form = fc.constantFrom('raw', 'cloudevents-binary', 'cloudevents-structured')
  await fc.assert(
    fc.asyncProperty(headers, text, form, text, async (table, key, body, name) => {
      const fields = { contentType: key, messageId: key, headers: table }
      const request = write(message('x', fields, { routingKey: key }), { body }, { name })
      const socket = connect(port, '127.0.0.1')
      const lines = [`POST / HTTP/1.1`, 'Host: a', `Content-Length: ${request.body.length}`]
      for (let i = 0; i < request.headers.length; i += 2) {
        lines.push(`${request.headers[i]}: ${request.headers[i + 1]}`)
      }
      socket.end(
        Buffer.concat([Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1'), request.body]),
      )
      let answer = ''
      for await (const chunk of socket) answer += chunk
      assert.match(answer, /^HTTP\/1.1 200/)
      const { headers: got, size } = seen.pop()!
      assert.equal(size, request.body.length)
      assert.match(String(got['webhook-id']), /^msg_/)
    }),
    { numRuns: 200 },
  )
})
