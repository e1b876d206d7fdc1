/**
 * Keys that encrypt data keys: those of the settings, and a KMS behind an HTTP hook.
 *
 * A data key is wrapped for its context (whose it is), and opens in no other. The key material
 * leaves this process to the KMS alone, and neither it nor what wraps it is in any error.
 */
import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto'

/** A data key that is wrapped, and by which key. */
export interface Wrapped {
  readonly kek: string
  readonly wrapped: string
}

export interface KeyEncryptionKey {
  /** Names it beside what it wrapped. */
  readonly id: string
  /** Rejects with what is wrong, for the log. */
  wrap(material: Buffer, context: string): Promise<Wrapped>
  /** undefined: it did not wrap this, for this context. */
  unwrap(wrapped: string, context: string): Promise<Buffer | undefined>
}

const KEK_SIZE = 32
const NONCE_SIZE = 12
const TAG_SIZE = 16
const CIPHER = 'aes-256-gcm'
/** Of a key's hash, in hex. */
const ID_LENGTH = 12

/** A key that this process has. */
export class LocalKey implements KeyEncryptionKey {
  readonly id: string
  readonly #secret: Buffer

  constructor(secret: Buffer) {
    this.#secret = secret
    const hash = createHash('sha256').update('sluice key encryption key').update(secret)
    this.id = hash.digest('hex').slice(0, ID_LENGTH)
  }

  async wrap(material: Buffer, context: string): Promise<Wrapped> {
    const nonce = randomBytes(NONCE_SIZE)
    const cipher = createCipheriv(CIPHER, this.#secret, nonce).setAAD(Buffer.from(context))
    const bytes = Buffer.concat([nonce, cipher.update(material), cipher.final()])
    return {
      kek: this.id,
      wrapped: Buffer.concat([bytes, cipher.getAuthTag()]).toString('base64url'),
    }
  }

  async unwrap(wrapped: string, context: string): Promise<Buffer | undefined> {
    const bytes = Buffer.from(wrapped, 'base64url')
    const end = bytes.length - TAG_SIZE
    if (end < NONCE_SIZE) return undefined
    const decipher = createDecipheriv(CIPHER, this.#secret, bytes.subarray(0, NONCE_SIZE))
    decipher.setAAD(Buffer.from(context)).setAuthTag(bytes.subarray(end))
    const material = decipher.update(bytes.subarray(NONCE_SIZE, end))
    try {
      decipher.final()
    } catch {
      return undefined
    }
    return material
  }
}

/** 32 bytes in hex or base64; undefined for anything else. */
function parseKey(text: string): Buffer | undefined {
  if (/^[\da-f]{64}$/i.test(text)) return Buffer.from(text, 'hex')
  if (!/^[\w+/-]{43}=?$/.test(text)) return undefined
  const bytes = Buffer.from(text, 'base64')
  return bytes.length === KEK_SIZE ? bytes : undefined
}

/**
 * Keys with commas or white space between them, 32 bytes in hex or base64 each. Throws an Error
 * that says which one is none, and nothing of it.
 */
export function parseKeys(text: string): LocalKey[] {
  const words = text.split(/[\s,]+/).filter((word) => word !== '')
  return words.map((word, i) => {
    const secret = parseKey(word)
    if (secret === undefined) throw new Error(`key ${i + 1} is not 32 bytes in hex or base64`)
    return new LocalKey(secret)
  })
}
