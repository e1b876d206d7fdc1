/**
 * A data key: seals what a queue keeps (AES-256-GCM), and hides what the scripts compare.
 *
 * Sealed bytes: the key's id (u48), the sealer's salt (10 bytes), a counter (u48), the ciphertext,
 * the tag (16 bytes). Each process seals under a key of its own, HMAC-SHA-256 of its random salt,
 * and counts: so no nonce comes twice however many processes seal with one data key, and there is
 * no number of messages after which a random nonce would.
 *
 * Hot path where a queue is encrypted: no promise. Measured by test/bench/encryption.bench.ts.
 */
import assert from 'node:assert/strict'
import {
  createCipheriv,
  createDecipheriv,
  createHmac,
  createSecretKey,
  type KeyObject,
  randomBytes,
} from 'node:crypto'

const SALT_SIZE = 10
const COUNTER_SIZE = 6
const ID_SIZE = 6
/** Of an id in base64. */
const ID_TEXT_LENGTH = 8
const TAG_SIZE = 16
const HEAD_SIZE = ID_SIZE + SALT_SIZE + COUNTER_SIZE
/** What sealing adds. */
export const SEAL_BYTES = HEAD_SIZE + TAG_SIZE
/** A counter fills the end of GCM's nonce. */
const NONCE_SIZE = 12
const SECRET_SIZE = 32
/** Of a name that stands for another: nobody finds two texts with the same one. */
const PSEUDONYM_SIZE = 16
/** Salts whose keys are kept: as many processes have sealed lately. */
const SALTS_MAX = 64
const CIPHER = 'aes-256-gcm'

/** What a data key is made of, as it is wrapped. */
export const KEY_MATERIAL_SIZE = 2 * SECRET_SIZE

/**
 * What a new key is made of. Keys of one queue share the half that makes pseudonyms: so messages
 * of an ordering key follow each other, and duplicates are known, over a rotation.
 */
export function newKeyMaterial(before: DataKey | undefined): Buffer {
  return Buffer.concat([randomBytes(SECRET_SIZE), before?.blinding ?? randomBytes(SECRET_SIZE)])
}

export type Pseudonym = 'ordering key' | 'message id' | 'client' | 'request'

export class DataKey {
  /** 48 bits. */
  readonly id: number
  readonly vhost: string
  /** Whose messages it is for; '' = of the whole vhost. */
  readonly queue: string
  /** Of the keys of one scope the one with the highest seals. */
  readonly generation: number
  /** It was shredded, or is not to be had any more: what it sealed is stored again by who waits. */
  forgotten = false
  readonly #secret: Buffer
  readonly #blinding: Buffer
  readonly #bySalt = new Map<string, KeyObject>()
  readonly #salt = randomBytes(SALT_SIZE)
  #own: KeyObject | undefined
  #counter = 0

  /** @param material KEY_MATERIAL_SIZE bytes; a copy is kept until `forget`. */
  constructor(
    { id, vhost, queue, generation }: Pick<DataKey, 'id' | 'vhost' | 'queue' | 'generation'>,
    material: Buffer,
  ) {
    this.id = id
    this.vhost = vhost
    this.queue = queue
    this.generation = generation
    this.#secret = Buffer.from(material.subarray(0, SECRET_SIZE))
    this.#blinding = Buffer.from(material.subarray(SECRET_SIZE, KEY_MATERIAL_SIZE))
    this.#own = this.#derive(this.#salt)
  }

  /** For the next key of its scope, and for wrapping it anew. */
  get blinding(): Buffer {
    return this.#blinding
  }
  get material(): Buffer {
    return Buffer.concat([this.#secret, this.#blinding])
  }

  /** Seals `plain` for what `bound` says, which must be said again when it is opened. */
  seal(bound: readonly Buffer[], plain: Buffer): readonly [Buffer, Buffer, Buffer] {
    const head = Buffer.allocUnsafe(HEAD_SIZE)
    head.writeUIntBE(this.id, 0, ID_SIZE)
    this.#salt.copy(head, ID_SIZE)
    head.writeUIntBE(++this.#counter, ID_SIZE + SALT_SIZE, COUNTER_SIZE)
    assert(this.#own, 'a key that was forgotten seals nothing')
    const cipher = createCipheriv(CIPHER, this.#own, nonceOf(head))
    cipher.setAAD(boundTo(bound))
    const sealed = cipher.update(plain)
    cipher.final()
    return [head, sealed, cipher.getAuthTag()]
  }

  /** undefined: it was not sealed by this key for this place, or is not the same to the bit. */
  open(bound: readonly Buffer[], sealed: Buffer): Buffer | undefined {
    const end = sealed.length - TAG_SIZE
    if (end < HEAD_SIZE || this.forgotten) return undefined
    const key = this.#keyOf(sealed.subarray(ID_SIZE, ID_SIZE + SALT_SIZE))
    const decipher = createDecipheriv(CIPHER, key, nonceOf(sealed))
    decipher.setAAD(boundTo(bound))
    decipher.setAuthTag(sealed.subarray(end))
    const plain = decipher.update(sealed.subarray(HEAD_SIZE, end))
    try {
      decipher.final()
    } catch {
      return undefined
    }
    return plain
  }

  /** The same for the same text, and says nothing of it to who lacks the key; 22 characters. */
  pseudonym(of: Pseudonym, text: string): string {
    const hmac = createHmac('sha256', this.#blinding).update(`${of}\0${text}`)
    return hmac.digest().toString('base64url', 0, PSEUDONYM_SIZE)
  }

  /** Nothing can be sealed or opened any more. */
  forget(): void {
    this.forgotten = true
    this.#own = undefined
    this.#secret.fill(0)
    this.#blinding.fill(0)
    this.#bySalt.clear()
  }

  #keyOf(salt: Buffer): KeyObject {
    if (this.#own && salt.equals(this.#salt)) return this.#own
    const name = salt.toString('latin1')
    let key = this.#bySalt.get(name)
    if (key === undefined) {
      key = this.#derive(salt)
      if (this.#bySalt.size >= SALTS_MAX) this.#bySalt.clear()
      this.#bySalt.set(name, key)
    }
    return key
  }

  #derive(salt: Buffer): KeyObject {
    return createSecretKey(createHmac('sha256', this.#secret).update(salt).digest())
  }
}

/** A text, sealed, in base64: for what is kept as text. */
export function sealText(key: DataKey, bound: readonly Buffer[], text: string): string {
  return Buffer.concat(key.seal(bound, Buffer.from(text))).toString('base64')
}

/** undefined without the key, or where `DataKey.open` says so. */
export function openText(
  key: DataKey | undefined,
  bound: readonly Buffer[],
  sealed: string,
): string | undefined {
  return key?.open(bound, Buffer.from(sealed, 'base64'))?.toString()
}

/** The id of the key that sealed this text. */
export function textSealedBy(sealed: string): number {
  const id = Buffer.from(sealed.slice(0, ID_TEXT_LENGTH), 'base64')
  return id.length < ID_SIZE ? -1 : id.readUIntBE(0, ID_SIZE)
}

/** The id of the key that sealed these bytes. */
export const sealedBy = (sealed: Buffer): number =>
  sealed.length < SEAL_BYTES ? -1 : sealed.readUIntBE(0, ID_SIZE)

/** One for all: a cipher copies it, and nothing waits in between. */
const NONCE = Buffer.alloc(NONCE_SIZE)

function nonceOf(sealed: Buffer): Buffer {
  sealed.copy(NONCE, NONCE_SIZE - COUNTER_SIZE, ID_SIZE + SALT_SIZE, HEAD_SIZE)
  return NONCE
}

/** Each with its size in front, so that no two lists make the same bytes. */
function boundTo(parts: readonly Buffer[]): Buffer {
  const bytes = Buffer.allocUnsafe(parts.reduce((size, part) => size + 4 + part.length, 0))
  let at = 0
  for (const part of parts) {
    at = bytes.writeUInt32BE(part.length, at)
    at += part.copy(bytes, at)
  }
  return bytes
}
