import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import fc from 'fast-check'
import { Subscription } from './subscription.ts'

const LEAST = { queue: 'orders', endpoint: { url: 'https://example.org/hook' } }
const CA = readFileSync(new URL('../../../../test/support/tls/ca.pem', import.meta.url), 'utf8')
const HMAC_KEY = `whsec_${Buffer.alloc(24, 1).toString('base64')}`

const endpoint = (fields: object) => ({ ...LEAST, endpoint: { ...LEAST.endpoint, ...fields } })
const signing = (scheme: string, ...keys: string[]) => ({ ...LEAST, signing: { scheme, keys } })

test('a queue and a URL are enough', () => {
  assert.deepEqual(Subscription.parse(LEAST), {
    ...LEAST,
    paused: false,
    endpoint: { ...LEAST.endpoint, method: 'POST', headers: {}, timeoutMs: 30_000, redirects: 0 },
    body: 'raw',
    shape: { concurrencyMax: 32, windows: [], rampUpMs: 10_000 },
    onStatus: {},
    replay: false,
    adaptive: true,
    breaker: { failures: 10, probeMs: 5_000 },
  })
})

test('what was parsed is parsed again as itself', () => {
  const all = Subscription.parse({
    ...endpoint({ headers: { 'X-Key': 'é' }, tls: { ca: CA }, redirects: 2, method: 'PUT' }),
    shape: { perSecond: 0.5, windows: [{ from: '22:00', to: '06:00', timeZone: 'Europe/Berlin' }] },
    onStatus: { 404: 'ack', 503: 'dead-letter' },
    signing: { scheme: 'hmac', keys: [HMAC_KEY] },
  })
  assert.deepEqual(Subscription.parse(JSON.parse(JSON.stringify(all))), all)
})

const REFUSED: readonly (readonly [what: string, document: unknown, at: string, says: RegExp])[] = [
  ['no queue', { ...LEAST, queue: '' }, 'queue', /./],
  ['an unknown field', { ...LEAST, que: 1 }, '', /que/],
  ['no URL', endpoint({ url: 'orders' }), 'endpoint.url', /no URL/],
  ['another scheme', endpoint({ url: 'file:///etc/passwd' }), 'endpoint.url', /http/],
  ['credentials in a URL', endpoint({ url: 'http://a:b@c/' }), 'endpoint.url', /header/],
  ['a fragment', endpoint({ url: 'http://c/#x' }), 'endpoint.url', /fragment/],
  ['a long URL', endpoint({ url: `http://c/${'x'.repeat(2_048)}` }), 'endpoint.url', /2048/],
  ['a header of ours', endpoint({ headers: { Host: 'x' } }), 'endpoint.headers.Host', /broker/],
  [
    'a header that frames',
    endpoint({ headers: { 'transfer-ENCODING': 'chunked' } }),
    'endpoint.headers.transfer-ENCODING',
    /broker/,
  ],
  ['no header name', endpoint({ headers: { 'a b': '' } }), 'endpoint.headers.a b', /name/],
  ['a header twice', endpoint({ headers: { a: '', A: '' } }), 'endpoint.headers.A', /twice/],
  ['a line break', endpoint({ headers: { a: 'b\r\nc: d' } }), 'endpoint.headers.a', /control/],
  ['no timeout', endpoint({ timeoutMs: 0 }), 'endpoint.timeoutMs', /100/],
  ['no certificate', endpoint({ tls: { ca: 'x' } }), 'endpoint.tls.ca', /PEM/],
  ['a certificate without key', endpoint({ tls: { cert: CA } }), 'endpoint.tls', /together/],
  ['many redirects', endpoint({ redirects: 6 }), 'endpoint.redirects', /5/],
  ['no rate', { ...LEAST, shape: { perSecond: 0 } }, 'shape.perSecond', /0.001/],
  [
    'no time of day',
    { ...LEAST, shape: { windows: [{ from: '24:30', to: '6' }] } },
    'shape.windows.0.from',
    /08:30/,
  ],
  [
    'no time zone',
    { ...LEAST, shape: { windows: [{ from: '00:00', to: '24:00', timeZone: 'Mars/X' }] } },
    'shape.windows.0.timeZone',
    /Berlin/,
  ],
  ['no status', { ...LEAST, onStatus: { 99: 'ack' } }, 'onStatus.99', /./],
  ['no verdict', { ...LEAST, onStatus: { 404: 'drop' } }, 'onStatus.404', /./],
  ['no key', signing('hmac'), 'signing.keys', /./],
  ['a key of another scheme', signing('ed25519', HMAC_KEY), 'signing.keys.0', /whsk_/],
  ['a short key', signing('hmac', 'whsec_YQ=='), 'signing.keys.0', /24 to 64/],
  ['a key that is no base64', signing('hmac', 'whsec_!'), 'signing.keys.0', /base64/],
]

for (const [what, document, at, says] of REFUSED) {
  test(`refused, naming the place: ${what}`, () => {
    const { error } = Subscription.safeParse(document)
    const found = error?.issues.find(({ path }) => path.join('.') === at)
    assert.ok(found, JSON.stringify(error?.issues))
    assert.match(found.message, says)
  })
}

test('whatever a document holds, it is parsed or refused, and never throws', () => {
  const leaf = fc.oneof(fc.jsonValue({ maxDepth: 3 }), fc.constantFrom(...Object.values(LEAST)))
  const names = [...Object.keys(Subscription.shape), '__proto__', 'constructor']
  const fields = fc.dictionary(fc.constantFrom(...names), leaf)
  fc.assert(
    fc.property(fields, (document) => {
      const parsed = Subscription.safeParse({ ...LEAST, ...document })
      if (parsed.success) assert.deepEqual(Subscription.parse(parsed.data), parsed.data)
    }),
    { numRuns: 300 },
  )
})
