import assert from 'node:assert/strict'
import { createPublicKey, verify } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import {
  keyFingerprint,
  SIGNING_SCHEMES,
  signingKeyError,
  webhookPublicKey,
  webhookSigner,
} from './standard-webhooks.ts'

interface Vector {
  readonly key: string
  readonly publicKey?: string
  readonly id: string
  readonly timestamp: number
  readonly payload: string
  readonly signature: string
}

const vectors = JSON.parse(
  readFileSync(new URL('standard-webhooks.vectors.json', import.meta.url), 'utf8'),
) as {
  hmac: Vector[]
  ed25519: Vector[]
  several: (Omit<Vector, 'key'> & { keys: string[] })[]
}

for (const scheme of SIGNING_SCHEMES) {
  for (const { key, id, timestamp, payload, signature } of vectors[scheme]) {
    test(`${scheme} signs ${id} of ${payload.length} characters as the vector has it`, () => {
      assert.equal(webhookSigner(scheme, [key])(id, timestamp, Buffer.from(payload)), signature)
    })
  }
}

test('several keys sign at once, in their order', () => {
  for (const { keys, id, timestamp, payload, signature } of vectors.several) {
    assert.equal(webhookSigner('hmac', keys)(id, timestamp, Buffer.from(payload)), signature)
  }
})

test('what ed25519 signed is verified with the public key that is shown', () => {
  const spki = Buffer.from('302a300506032b6570032100', 'hex')
  for (const { key, publicKey, id, timestamp, payload, signature } of vectors.ed25519) {
    assert.equal(webhookPublicKey(key), publicKey)
    const der = Buffer.concat([spki, Buffer.from(publicKey!.slice('whpk_'.length), 'base64')])
    const shown = createPublicKey({ key: der, format: 'der', type: 'spki' })
    const given = Buffer.from(signature.slice('v1a,'.length), 'base64')
    assert.ok(verify(null, Buffer.from(`${id}.${timestamp}.${payload}`), shown, given))
  }
})

const base64 = (size: number) => Buffer.alloc(size, 7).toString('base64')
const [{ key: HMAC_KEY = '' } = {}] = vectors.hmac
const [{ key: SEED = '' } = {}] = vectors.ed25519

for (const [scheme, key, says] of [
  ['hmac', base64(32), /whsec_/],
  ['hmac', SEED, /whsec_/],
  ['hmac', `whsec_${base64(23)}`, /24 to 64/],
  ['hmac', `whsec_${base64(65)}`, /24 to 64/],
  ['hmac', `whsec_${base64(32)} `, /base64/],
  ['hmac', 'whsec_', /24 to 64/],
  ['ed25519', HMAC_KEY, /whsk_/],
  ['ed25519', `whsk_${base64(33)}`, /32 or 64/],
  ['ed25519', `whsk_${base64(64)}`, /public key/],
] as const) {
  test(`${scheme} refuses ${key.slice(0, 12)} of ${key.length} characters`, () => {
    const error = signingKeyError(scheme, key) ?? assert.fail('it was taken')
    assert.match(error, says)
    assert.ok(!error.includes(key) || key.length < 7, 'and does not repeat it')
    assert.throws(() => webhookSigner(scheme, [key]), says)
  })
}

test('base64 may lack its padding', () => {
  assert.equal(signingKeyError('hmac', `whsec_${base64(25).replace(/=+$/, '')}`), undefined)
})

test('a fingerprint tells keys apart and shows nothing of them', () => {
  assert.match(keyFingerprint(HMAC_KEY), /^[\da-f]{8}$/)
  assert.notEqual(keyFingerprint(HMAC_KEY), keyFingerprint(SEED))
})
