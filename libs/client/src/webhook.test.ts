/** Verification against the vectors that the broker signs by, and what must not pass. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { SluiceError } from './errors.ts'
import { verifyWebhook } from './webhook.ts'

interface Vector {
  readonly key: string
  readonly publicKey?: string
  readonly id: string
  readonly timestamp: number
  readonly payload: string
  readonly signature: string
}

const VECTORS = JSON.parse(
  readFileSync(
    new URL('../../security/src/standard-webhooks.vectors.json', import.meta.url),
    'utf8',
  ),
) as { hmac: Vector[]; ed25519: Vector[] }
const ALL = [...VECTORS.hmac, ...VECTORS.ed25519]

const headersOf = ({ id, timestamp, signature }: Vector) => ({
  'webhook-id': id,
  'webhook-timestamp': String(timestamp),
  'webhook-signature': signature,
})
const keyOf = ({ key, publicKey }: Vector) => publicKey ?? key
const at = ({ timestamp }: Vector) => ({ nowMs: timestamp * 1_000 })

const refused = (error: unknown) =>
  error instanceof SluiceError && error.code === 'signature_invalid'

test('every vector is verified, as text and as bytes, from both kinds of headers', async () => {
  for (const vector of ALL) {
    const { id, timestamp, payload } = vector
    const expected = { id, timestamp: new Date(timestamp * 1_000) }
    for (const body of [payload, new TextEncoder().encode(payload)]) {
      for (const headers of [headersOf(vector), new Headers(headersOf(vector))]) {
        const verified = await verifyWebhook(body, headers, keyOf(vector), at(vector))
        assert.deepEqual(verified, expected)
      }
    }
  }
})

test('one of several keys, and one of several signatures, is enough', async () => {
  const [one, other] = [VECTORS.hmac[0]!, VECTORS.ed25519[0]!]
  const keys = [keyOf(other), 'whsec_AAAA', keyOf(one)]
  const signature = `v1,AAAA v1a,${'A'.repeat(86)}== v2,x ${one.signature} nonsense`
  const headers = headersOf({ ...one, signature })
  await verifyWebhook(one.payload, headers, keys, at(one))
})

test('whatever is changed, or too old, or missing, is refused', async () => {
  for (const vector of ALL) {
    const { payload } = vector
    const headers = headersOf(vector)
    const refuse = (
      body: string,
      changed: Record<string, string>,
      key = keyOf(vector),
      nowMs = at(vector).nowMs,
    ) => assert.rejects(verifyWebhook(body, { ...headers, ...changed }, key, { nowMs }), refused)
    await refuse(`${payload}x`, {})
    await refuse(payload, { 'webhook-id': `${vector.id}x` })
    await refuse(payload, { 'webhook-timestamp': `${vector.timestamp + 1}` })
    await refuse(payload, { 'webhook-timestamp': 'soon' })
    await refuse(payload, { 'webhook-signature': '' })
    await refuse(payload, { 'webhook-signature': vector.signature.replace(',', ',A') })
    await refuse(payload, { 'webhook-signature': `v1,` })
    await refuse(payload, {}, 'whsec_bm90IHRoZSBrZXk=')
    await refuse(payload, {}, keyOf(vector), at(vector).nowMs + 301_000)
    await refuse(payload, {}, keyOf(vector), at(vector).nowMs - 301_000)
  }
})

test('a key that is none is a mistake of the program', async () => {
  const [vector] = VECTORS.hmac
  for (const key of ['', 'whsec_', 'whsec_*', 'whpk_AAAA', 'whsk_AAAA']) {
    await assert.rejects(
      verifyWebhook('x', headersOf(vector!), key, at(vector!)),
      (error) => !refused(error),
      key,
    )
  }
})
