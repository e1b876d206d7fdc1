/**
 * Passwords as they are kept, and the proof that somebody knows one.
 *
 * Own hashes are scrypt (RFC 7914): memory-hard, in Node's thread pool, so that the event loop goes
 * on. RabbitMQ's salted SHA-256 and SHA-512 verify too, for users that were imported. A check costs
 * the same whether the user exists, and whichever hash it has.
 */
import { createHash, randomBytes, scrypt, timingSafeEqual } from 'node:crypto'
import { BrokerError } from '@sluice/core'

/** OWASP's choice for 32 MiB: some 0.2 s of one core. */
const COST = { N: 2 ** 15, r: 8, p: 3 } as const
const MEMORY_MAX = 64 * 1024 * 1024
const SALT_BYTES = 16
const HASH_BYTES = 32

/** Two threads of the four that the pool has; files and names are looked up by the others. */
const HASHING_MAX = 2
/** What waits for a thread; the wait is then some twenty seconds. */
const WAITING_MAX = 200

/** RabbitMQ's names of its hashes; each is 4 bytes of salt and the digest of salt and password. */
const IMPORTED = {
  rabbit_password_hashing_sha256: { digest: 'sha256', bytes: 32 },
  rabbit_password_hashing_sha512: { digest: 'sha512', bytes: 64 },
} as const
const IMPORTED_SALT_BYTES = 4

/** `scrypt$N$r$p$salt$hash`. */
export async function hashPassword(password: string): Promise<string> {
  const salt = randomBytes(SALT_BYTES)
  const hash = await derive(password, salt)
  const { N, r, p } = COST
  return ['scrypt', N, r, p, salt.toString('base64url'), hash.toString('base64url')].join('$')
}

/**
 * A hash made by RabbitMQ, or exported by Sluice, in the form that is kept: its algorithm, `$`, and
 * the rest. Throws invalid_request for another algorithm, or a hash of another form.
 */
export function importHash(algorithm: string, base64: string): string {
  if (algorithm === 'scrypt') return importScrypt(base64)
  const known = importedOf(algorithm)
  if (!known) {
    const names = Object.keys(IMPORTED).join(', ')
    throw new BrokerError('invalid_request', `The hash must be one of ${names}.`)
  }
  const bytes = Buffer.from(base64, 'base64')
  if (bytes.length !== IMPORTED_SALT_BYTES + known.bytes) {
    const text = `The hash must be base64 of ${IMPORTED_SALT_BYTES + known.bytes} bytes.`
    throw new BrokerError('invalid_request', text)
  }
  return `${algorithm}$${bytes.toString('base64')}`
}

const OWN = /^(\d+)\$(\d+)\$(\d+)\$([\w-]{22})\$([\w-]{43})$/

/** A hash that would cost more than ours does is nobody's: every login would pay for it. */
function importScrypt(text: string): string {
  const parts = OWN.exec(text)
  const cost = parts && costOf(parts.slice(1))
  if (!cost || cost.N !== COST.N || cost.r !== COST.r || cost.p !== COST.p) {
    throw new BrokerError('invalid_request', 'The hash is none that Sluice exports.')
  }
  return `scrypt$${text}`
}

/**
 * Whether the password is the one that was hashed. '' or undefined, for a user without a password
 * or none at all, takes as long and is never true. Throws too_many_requests when too many wait.
 */
export async function verifyPassword(kept: string | undefined, password: string): Promise<boolean> {
  const [algorithm = '', ...rest] = (kept ?? '').split('$')
  const known = algorithm === 'scrypt' && rest.length === 5
  const [salt, expected] = known ? [rest[3]!, rest[4]!] : ['', '']
  const cost = known ? costOf(rest) : COST
  const hash = await derive(password, Buffer.from(salt, 'base64url'), cost)
  const wanted = Buffer.from(expected, 'base64url')
  if (known) return wanted.length === hash.length && timingSafeEqual(hash, wanted)
  return verifyImported(algorithm, rest[0] ?? '', password)
}

function verifyImported(algorithm: string, base64: string, password: string): boolean {
  const known = importedOf(algorithm)
  if (!known) return false
  const bytes = Buffer.from(base64, 'base64')
  const salt = bytes.subarray(0, IMPORTED_SALT_BYTES)
  const given = createHash(known.digest).update(salt).update(password).digest()
  const expected = bytes.subarray(IMPORTED_SALT_BYTES)
  return expected.length === given.length && timingSafeEqual(given, expected)
}

function importedOf(algorithm: string) {
  if (!Object.hasOwn(IMPORTED, algorithm)) return undefined
  return IMPORTED[algorithm as keyof typeof IMPORTED]
}

type Cost = { readonly N: number; readonly r: number; readonly p: number }

function costOf([N, r, p]: readonly string[]): Cost {
  return { N: Number(N), r: Number(r), p: Number(p) }
}

let hashing = 0
const waiting: (() => void)[] = []

async function derive(password: string, salt: Buffer, cost: Cost = COST): Promise<Buffer> {
  if (hashing >= HASHING_MAX) {
    if (waiting.length >= WAITING_MAX) {
      throw new BrokerError('too_many_requests', 'Too many logins at once; try again.')
    }
    await new Promise<void>((resolve) => waiting.push(resolve))
  } else {
    hashing++
  }
  try {
    return await new Promise((resolve, reject) => {
      const options = { ...cost, maxmem: MEMORY_MAX }
      scrypt(password, salt, HASH_BYTES, options, (error, hash) => {
        if (error) reject(error)
        else resolve(hash)
      })
    })
  } finally {
    const next = waiting.shift() // it takes this one's place
    if (next) next()
    else hashing--
  }
}
