/**
 * The admin credential: where it comes from, and whether a request carries it.
 *
 * A request proves it as `Basic user:password` or as `Bearer password`. Comparisons take the same
 * time whatever the guess: both sides are hashed under a key of this process first, so that not
 * even the length shows. The password never reaches a log or an error message.
 */
import { hash, randomBytes, timingSafeEqual } from 'node:crypto'
import { chmod, link, mkdir, readFile, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Principal } from './principal.ts'

const PASSWORD_FILE = 'admin-password'

/** 24 random bytes: 192 bits cannot be guessed, and 32 characters can be pasted. */
const PASSWORD_BYTES = 24

/** Longer ones are refused before they are hashed. */
const AUTHORIZATION_LENGTH_MAX = 1_024

export class Credentials {
  readonly #key = randomBytes(32).toString('hex')
  readonly #principal: Principal
  readonly #basic: Buffer
  readonly #bearer: Buffer

  constructor(user: string, password: string) {
    this.#principal = { name: user }
    this.#basic = this.#digest(`${user}:${password}`)
    this.#bearer = this.#digest(password)
  }

  /** Whom an Authorization header speaks for; undefined when it proves nothing. */
  authenticate(authorization: string | undefined): Principal | undefined {
    if (authorization === undefined || authorization.length > AUTHORIZATION_LENGTH_MAX)
      return undefined
    const space = authorization.indexOf(' ')
    const scheme = authorization.slice(0, Math.max(space, 0)).toLowerCase()
    const given = authorization.slice(space + 1).trim()
    if (scheme === 'basic') return this.#check(Buffer.from(given, 'base64').toString(), this.#basic)
    if (scheme === 'bearer') return this.#check(given, this.#bearer)
    return undefined
  }

  /** Whether there is a user of this name, for one whom a certificate has proven. */
  isUser(name: string): boolean {
    return name === this.#principal.name
  }

  #check(given: string, expected: Buffer): Principal | undefined {
    return timingSafeEqual(this.#digest(given), expected) ? this.#principal : undefined
  }

  #digest(text: string): Buffer {
    // Digests never leave the process, so a plain hash serves as well as an HMAC, at a tenth of its
    // cost: this runs for every request.
    return hash('sha256', this.#key + text, 'buffer')
  }
}

/**
 * The admin password kept in `<dataDir>/admin-password`, mode 0600; generated on the first start.
 * Two processes that start at once agree: the file appears whole or not at all, and who comes
 * second reads the first one's. Throws when the folder cannot be written or the file is empty.
 */
export async function keptPassword(dataDir: string): Promise<string> {
  const path = join(dataDir, PASSWORD_FILE)
  const kept = await readPassword(path)
  if (kept !== undefined) return kept

  await mkdir(dataDir, { recursive: true, mode: 0o700 })
  const draft = `${path}.${process.pid}.${randomBytes(6).toString('hex')}`
  await writeFile(draft, `${randomBytes(PASSWORD_BYTES).toString('base64url')}\n`, {
    mode: 0o600,
    flag: 'wx',
  })
  try {
    await link(draft, path) // fails when it exists, unlike rename
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  } finally {
    await unlink(draft)
  }
  const agreed = await readPassword(path)
  if (agreed === undefined) throw new Error(`${path} vanished while it was created`)
  return agreed
}

async function readPassword(path: string): Promise<string | undefined> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
  const password = text.trim()
  if (password === '') throw new Error(`${path} is empty: delete it, and a new password is made`)
  await chmod(path, 0o600) // a copy or a restore may have opened it to others
  return password
}
