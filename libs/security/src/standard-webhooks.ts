/**
 * Signatures of webhooks, as the Standard Webhooks specification has them: `webhook-signature`
 * signs `<webhook-id>.<webhook-timestamp>.<body>`.
 *
 *   scheme  │ secret, written                 │ signature           │ for receivers
 *   ────────┼─────────────────────────────────┼─────────────────────┼─────────────────────
 *   hmac    │ whsec_ + base64 of 24..64 bytes │ v1,  + HMAC-SHA256  │ the secret itself
 *   ed25519 │ whsk_ + base64 of 32 or 64      │ v1a, + ed25519      │ whpk_ + public key
 *
 * An ed25519 secret is the 32 bytes of the private key (RFC 8032), which some libraries keep with
 * the public key behind it. Several keys sign at once, a signature each: receivers accept any, so a
 * key is exchanged without a moment at which they would refuse.
 */
import {
  createHmac,
  createPrivateKey,
  createPublicKey,
  createSecretKey,
  hash,
  type KeyObject,
  sign,
} from 'node:crypto'

export const SIGNING_SCHEMES = ['hmac', 'ed25519'] as const
type SigningScheme = (typeof SIGNING_SCHEMES)[number]

const PREFIXES = { hmac: 'whsec_', ed25519: 'whsk_' } as const satisfies Record<
  SigningScheme,
  string
>
const PUBLIC_PREFIX = 'whpk_'

/** The specification's bounds of a symmetric secret. */
const HMAC_BYTES_MIN = 24
const HMAC_BYTES_MAX = 64
const ED25519_BYTES = 32

/** What PKCS #8 has around the 32 bytes of an ed25519 private key (RFC 8410, 7). */
const PKCS8_PREFIX = Buffer.from('302e020100300506032b657004220420', 'hex')

/** Digits of a fingerprint: enough to tell a few keys apart. */
const FINGERPRINT_LENGTH = 8

/** Why `key` is no secret of this scheme; undefined when it is one. Never holds the key. */
export function signingKeyError(scheme: SigningScheme, key: string): string | undefined {
  const prefix = PREFIXES[scheme]
  if (!key.startsWith(prefix)) return `starts with ${prefix}`
  const text = key.slice(prefix.length)
  const bytes = Buffer.from(text, 'base64')
  if (unpadded(bytes.toString('base64')) !== unpadded(text)) return 'is no base64'
  if (scheme === 'ed25519') return ed25519Error(bytes)
  return bytes.length >= HMAC_BYTES_MIN && bytes.length <= HMAC_BYTES_MAX
    ? undefined
    : `has ${HMAC_BYTES_MIN} to ${HMAC_BYTES_MAX} bytes`
}

function ed25519Error(bytes: Buffer): string | undefined {
  if (bytes.length !== ED25519_BYTES && bytes.length !== 2 * ED25519_BYTES) {
    return `has ${ED25519_BYTES} or ${2 * ED25519_BYTES} bytes`
  }
  const kept = bytes.subarray(ED25519_BYTES)
  return kept.length === 0 || kept.equals(publicBytes(privateKey(bytes)))
    ? undefined
    : 'has a public key that is not that of its private key'
}

function unpadded(base64: string): string {
  return base64.replace(/=+$/, '')
}

/** The value of webhook-signature. `timestampS`: seconds since 1970, as in webhook-timestamp. */
export type WebhookSigner = (id: string, timestampS: number, body: Uint8Array) => string

/**
 * Signs with every one of `keys`, in their order. An id that holds no full stop keeps one message
 * from passing as another. Throws when a key is none (signingKeyError tells why).
 */
export function webhookSigner(scheme: SigningScheme, keys: readonly string[]): WebhookSigner {
  const signers = keys.map((key) => (scheme === 'hmac' ? hmacSigner(key) : ed25519Signer(key)))
  return (id, timestampS, body) => {
    const head = `${id}.${timestampS}.`
    return signers.map((signer) => signer(head, body)).join(' ')
  }
}

type Signer = (head: string, body: Uint8Array) => string

function hmacSigner(key: string): Signer {
  // A key object made once: from bytes, each signature would cost six times as much.
  const secret = createSecretKey(secretOf('hmac', key))
  return (head, body) =>
    `v1,${createHmac('sha256', secret).update(head).update(body).digest('base64')}`
}

function ed25519Signer(key: string): Signer {
  const secret = privateKey(secretOf('ed25519', key))
  return (head, body) =>
    `v1a,${sign(null, Buffer.concat([Buffer.from(head), body]), secret).toString('base64')}`
}

function secretOf(scheme: SigningScheme, key: string): Buffer {
  const error = signingKeyError(scheme, key)
  if (error !== undefined) throw new Error(`A signing key ${error}.`)
  return Buffer.from(key.slice(PREFIXES[scheme].length), 'base64')
}

function privateKey(bytes: Buffer): KeyObject {
  const der = Buffer.concat([PKCS8_PREFIX, bytes.subarray(0, ED25519_BYTES)])
  return createPrivateKey({ key: der, format: 'der', type: 'pkcs8' })
}

function publicBytes(secret: KeyObject): Buffer {
  return createPublicKey(secret).export({ format: 'der', type: 'spki' }).subarray(-ED25519_BYTES)
}

/** What receivers verify with (whpk_), for an ed25519 secret. Throws when it is none. */
export function webhookPublicKey(key: string): string {
  return PUBLIC_PREFIX + publicBytes(privateKey(secretOf('ed25519', key))).toString('base64')
}

/** Tells keys apart without showing them: they are random, so nothing leads back. */
export function keyFingerprint(key: string): string {
  return hash('sha256', key).slice(0, FINGERPRINT_LENGTH)
}
