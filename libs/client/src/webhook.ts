/** Verifying webhooks that the broker pushes: Standard Webhooks, symmetric (v1) and not (v1a). */
import { fromBase64, utf8 } from './bytes.ts'
import { SluiceError } from './errors.ts'

const SECRET_PREFIX = 'whsec_'
const PUBLIC_PREFIX = 'whpk_'
const PRIVATE_PREFIX = 'whsk_'
const SIGNATURES_MAX = 20

/** How a webhook is verified. */
export interface VerifyOptions {
  /** How old, or how far ahead, its timestamp may be, seconds. Default 300. */
  readonly toleranceS?: number
  /** The time, ms since 1970. Default: this machine's. */
  readonly nowMs?: number
}

/** What was verified. */
export interface VerifiedWebhook {
  /** The same for every attempt to deliver the message. */
  readonly id: string
  /** When this attempt was signed. */
  readonly timestamp: Date
}

/**
 * Checks that a request was signed with one of the keys, a short while ago. Throws SluiceError
 * `signature_invalid` otherwise. Several keys are for the time in which one replaces another.
 *
 *     const body = new Uint8Array(await request.arrayBuffer())
 *     await verifyWebhook(body, request.headers, ['whsec_...'])
 *
 * `body` is the body as it came, before anything parses it. `keys`: secrets (`whsec_...`, HMAC), or
 * public keys (`whpk_...`, ed25519).
 */
export async function verifyWebhook(
  body: string | Uint8Array,
  headers: Headers | Readonly<Record<string, string | string[] | undefined>>,
  keys: string | readonly string[],
  { toleranceS = 300, nowMs = Date.now() }: VerifyOptions = {},
): Promise<VerifiedWebhook> {
  const read = (name: string) => {
    const value = headers instanceof Headers ? headers.get(name) : headers[name]
    return typeof value === 'string' && value !== '' ? value : invalid(`There is no ${name}.`)
  }
  const id = read('webhook-id')
  const timestamp = read('webhook-timestamp')
  const signatures = read('webhook-signature').split(' ').slice(0, SIGNATURES_MAX)
  if (!/^\d{1,12}$/.test(timestamp)) invalid('webhook-timestamp is no time.')
  const timeMs = Number(timestamp) * 1_000
  if (Math.abs(nowMs - timeMs) > toleranceS * 1_000) invalid('It was signed too long ago.')

  const bytes = typeof body === 'string' ? utf8(body) : body
  const head = utf8(`${id}.${timestamp}.`)
  const signed = new Uint8Array(head.length + bytes.length)
  signed.set(head)
  signed.set(bytes, head.length)
  for (const key of typeof keys === 'string' ? [keys] : keys) {
    const { scheme, verify } = await verifier(key)
    for (const signature of signatures) {
      const comma = signature.indexOf(',')
      if (signature.slice(0, comma) !== scheme) continue
      const given = decoded(signature.slice(comma + 1))
      if (given && (await verify(given, signed))) return { id, timestamp: new Date(timeMs) }
    }
  }
  return invalid('No signature fits.')
}

interface Verifier {
  readonly scheme: 'v1' | 'v1a'
  readonly verify: (signature: Bytes, signed: Bytes) => Promise<boolean>
}

type Bytes = Uint8Array<ArrayBuffer>

async function verifier(key: string): Promise<Verifier> {
  const { subtle } = crypto
  if (key.startsWith(PUBLIC_PREFIX)) {
    const bytes = keyBytes(key.slice(PUBLIC_PREFIX.length))
    const imported = await subtle.importKey('raw', bytes, 'Ed25519', false, ['verify'])
    return {
      scheme: 'v1a',
      verify: (given, signed) => subtle.verify('Ed25519', imported, given, signed),
    }
  }
  if (key.startsWith(PRIVATE_PREFIX)) throw new TypeError('Verify with the public key, whpk_.')
  const bytes = keyBytes(key.startsWith(SECRET_PREFIX) ? key.slice(SECRET_PREFIX.length) : key)
  const algorithm = { name: 'HMAC', hash: 'SHA-256' }
  const imported = await subtle.importKey('raw', bytes, algorithm, false, ['verify'])
  // WebCrypto compares in constant time.
  return { scheme: 'v1', verify: (given, signed) => subtle.verify('HMAC', imported, given, signed) }
}

function keyBytes(base64: string): Bytes {
  const bytes = decoded(base64)
  if (bytes && bytes.length > 0) return bytes
  throw new TypeError('A key is whsec_ or whpk_, and base64.')
}

function decoded(base64: string): Bytes | undefined {
  try {
    return fromBase64(base64)
  } catch {
    return undefined
  }
}

function invalid(why: string): never {
  throw new SluiceError('signature_invalid', why)
}
