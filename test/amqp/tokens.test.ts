/** Tokens of an OpenID provider at the AMQP door: as password, by scopes, until they expire. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type TestContext, test } from 'node:test'
import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import { withAmqp } from '../support/amqp-broker.ts'
import { confirming, get } from './methods.ts'

const AUDIENCE = 'sluice'

/** A broker that trusts a provider of the test's own, and how that one signs. */
async function trusting(t: TestContext) {
  const { privateKey, publicKey } = await generateKeyPair('RS256')
  const key = { ...(await exportJWK(publicKey)), kid: 'k', alg: 'RS256' }
  const provider = createServer((_, res) => {
    res.setHeader('Content-Type', 'application/json').end(JSON.stringify({ keys: [key] }))
  }).listen(0, '127.0.0.1')
  await once(provider, 'listening')
  t.after(() => provider.close().closeAllConnections())
  const issuer = `http://127.0.0.1:${(provider.address() as AddressInfo).port}`
  const broker = await withAmqp(t, {
    env: {
      SLUICE_OIDC_ISSUER: issuer,
      SLUICE_OIDC_JWKS_URL: `${issuer}/keys`,
      SLUICE_OIDC_AUDIENCE: AUDIENCE,
      SLUICE_OIDC_SCOPE_PREFIX: 'mq.',
    },
  })
  const sign = (scopes: readonly string[], lastsMs = 60_000, subject = 'ann') =>
    new SignJWT({ scope: scopes.map((scope) => `mq.${scope}`).join(' ') })
      .setProtectedHeader({ alg: 'RS256', kid: 'k' })
      .setSubject(subject)
      .setIssuer(issuer)
      .setAudience(AUDIENCE)
      .setExpirationTime(Math.ceil((Date.now() + lastsMs) / 1_000))
      .sign(privateKey)
  return { ...broker, sign }
}

test('a token as password: its scopes are the permissions, by name and by routing key', async (t) => {
  const { client, sign, vhost } = await trusting(t)
  const scopes = [`configure:${vhost}/q`, `read:${vhost}/q`, `write:${vhost}/amq.topic/ann.*`]
  const peer = await client({ user: 'ignored', password: await sign(scopes) })
  await peer.queue('q')
  await confirming(peer)
  peer.publish(1, 'amq.topic', 'ann.1', 'x')
  await peer.expect('basic.ack', 1)
  const other = await peer.refusal(() => peer.publish(1, 'amq.topic', 'bob.1', 'x'))
  assert.match(other, /write access to topic 'bob\.1' in exchange 'amq\.topic' .* for user 'ann'/)
  await peer.call(1, get('q'), 'basic.get-empty')
  assert.match(await peer.refused(get('other')), /read access to queue 'other'/)
})

test('no. 16, 17: a connection ends when its token expires, unless a new one of the same user comes', async (t) => {
  const { client, sign, vhost } = await trusting(t)
  const scopes = [`read:${vhost}/*`]
  const short = () => sign(scopes, 2_000)
  const first = await client({ password: await short() })
  const second = await client({ password: await short() })
  const update = async (secret: string) =>
    ({ name: 'connection.update-secret', newSecret: Buffer.from(secret), reason: 'test' }) as const
  await second.call(0, await update(await sign(scopes)), 'connection.update-secret-ok')
  const { replyCode, replyText } = await first.expect('connection.close', 0)
  assert.deepEqual([replyCode, replyText], [320, 'CONNECTION_FORCED - credential expired'])
  await second.call(1, { name: 'channel.flow', active: true }, 'channel.flow-ok')
  const strangers = await update(await sign(scopes, 60_000, 'bob'))
  second.method(0, strangers)
  assert.equal((await second.expect('connection.close', 0)).replyCode, 530)
})
