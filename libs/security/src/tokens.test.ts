/**
 * Tokens of an OpenID provider: a real one on a port of its own, whose keys rotate.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type TestContext, test } from 'node:test'
import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import { Credentials } from './credentials.ts'
import { type TokenOptions, Tokens } from './tokens.ts'

const AUDIENCE = 'sluice'

async function keyPair(kid: string) {
  const { privateKey, publicKey } = await generateKeyPair('ES256')
  return { kid, privateKey, jwk: { ...(await exportJWK(publicKey)), kid, alg: 'ES256' } }
}
type Pair = Awaited<ReturnType<typeof keyPair>>

async function provider(t: TestContext) {
  const pair = await keyPair('first')
  let keys = [pair.jwk]
  let asked = 0
  const server = createServer((req, res) => {
    asked++
    const path = req.url === '/keys' ? { keys } : { jwks_uri: `${issuer}/keys` }
    res.setHeader('Content-Type', 'application/json').end(JSON.stringify(path))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close().closeAllConnections())
  const issuer = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const sign = (claims: Record<string, unknown>, { privateKey, kid }: Pair = pair) =>
    new SignJWT({ sub: 'ann', scope: 'read:*/*', ...claims })
      .setProtectedHeader({ alg: 'ES256', kid })
      .setIssuer((claims['iss'] as string) ?? issuer)
      .setAudience((claims['aud'] as string) ?? AUDIENCE)
      .setExpirationTime((claims['exp'] as number) ?? '1h')
      .sign(privateKey)
  const tokens = (options: Partial<TokenOptions> = {}) =>
    new Tokens({
      issuer,
      jwksUrl: undefined,
      audience: AUDIENCE,
      nameClaim: 'sub',
      scopeClaim: 'scope',
      scopePrefix: '',
      nowMs: Date.now,
      ...options,
    })
  return {
    sign,
    tokens,
    asked: () => asked,
    rotate: (next: Pair) => {
      keys = [next.jwk]
    },
    stop: () => server.close().closeAllConnections(),
  }
}

test('a token of the provider proves its subject, until it expires', async (t) => {
  const { sign, tokens, asked } = await provider(t)
  const verifier = tokens()
  const expiresAt = Math.floor(Date.now() / 1_000) + 60
  const principal = await verifier.verify(await sign({ exp: expiresAt }))
  assert.equal(principal?.name, 'ann')
  assert.equal(principal?.expiresAt, expiresAt * 1_000)
  assert.equal(principal?.grants.length, 1)
  for (let i = 0; i < 10; i++) await verifier.verify(await sign({}))
  assert.equal(asked(), 2, 'the discovery document and the keys, once')
})

test('a token for others, of others, too old, unsigned or with a shared secret proves nothing', async (t) => {
  const { sign, tokens } = await provider(t)
  const verifier = tokens()
  const good = await sign({})
  const [, payload] = good.split('.')
  const none = Buffer.from('{"alg":"none"}').toString('base64url')
  const shared = await new SignJWT({ sub: 'ann' })
    .setProtectedHeader({ alg: 'HS256' })
    .sign(Buffer.from('a shared secret of some length..'))
  const bad = {
    'another audience': await sign({ aud: 'others' }),
    'another issuer': await sign({ iss: 'https://others.example' }),
    expired: await sign({ exp: Math.floor(Date.now() / 1_000) - 60 }),
    'a key that the provider does not have': await sign({}, await keyPair('first')),
    unsigned: `${none}.${payload}.x`,
    'a shared secret': shared,
    'without a name': await sign({ sub: '' }),
    'no token': 'eyJhbGciOi.eyJ.x',
  }
  for (const [what, token] of Object.entries(bad)) {
    assert.equal(await verifier.verify(token), undefined, what)
  }
})

test('keys rotate: one that is new is fetched, once the last fetch is a few seconds old', async (t) => {
  const { sign, tokens, rotate, asked } = await provider(t)
  const verifier = tokens()
  assert.ok(await verifier.verify(await sign({})))
  const next = await keyPair('second')
  rotate(next)
  const before = asked()
  const token = await sign({}, next)
  assert.equal(await verifier.verify(token), undefined, 'not asked again at once')
  assert.equal(asked(), before)
  t.mock.timers.enable({ apis: ['Date'], now: Date.now() + 6_000 })
  assert.ok(await verifier.verify(token))
})

test('claims may have other names, and scopes may be a list', async (t) => {
  const { sign, tokens } = await provider(t)
  const verifier = tokens({ nameClaim: 'user_name', scopeClaim: 'roles', scopePrefix: 'mq.' })
  const roles = ['mq.write:a/*', 'read:*/*', 'mq.tag:administrator']
  const principal = await verifier.verify(await sign({ user_name: 'bob', roles }))
  assert.equal(principal?.name, 'bob')
  assert.equal(principal?.grants.length, 1)
  assert.ok(principal?.tags.has('administrator'))
})

test('a token is bearer or password of any name; while the provider is away nobody comes in by one', async (t) => {
  const { sign, tokens, stop } = await provider(t)
  const token = await sign({})
  const reported: unknown[] = []
  const report = (error: unknown) => reported.push(error)
  const open = () => new Credentials('admin', 'open sesame', { tokens: tokens(), report })
  const credentials = open()
  assert.equal((await credentials.authenticate(`Bearer ${token}`))?.name, 'ann')
  assert.equal((await credentials.login('whoever', token))?.name, 'ann')
  stop()
  assert.equal((await credentials.authenticate(`Bearer ${token}`))?.name, 'ann', 'it is known')
  assert.equal(await open().authenticate(`Bearer ${token}`), undefined)
  assert.equal(reported.length, 1)
  assert.doesNotMatch(String(reported[0]), /eyJ/)
})
