/**
 * Who somebody is: the one place where credentials are proven, for HTTP and AMQP alike.
 *
 * What proves: the administrator's password of the settings, the password of a user, an API key, a
 * token of the OpenID provider, or a client certificate that the listener has verified. A key or a
 * token is sent as bearer, or as the password of any user name.
 *
 * Hot path: a request carries its credential each time, so what was verified a moment ago is known
 * again by a hash of it under a key of this process. Neither the time of a comparison nor that of a
 * refusal tells a stranger anything: unknown users cost what known ones do (passwords.ts).
 */
import { hash, randomBytes, timingSafeEqual } from 'node:crypto'
import { Access } from './access.ts'
import { provesApiKey, readApiKey } from './api-keys.ts'
import { FailedLogins } from './failed-logins.ts'
import { verifyPassword } from './passwords.ts'
import type { Principal } from './principal.ts'
import { looksLikeToken, type Tokens } from './tokens.ts'

/** Longer ones are refused before they are hashed: room for a token with many scopes. */
const AUTHORIZATION_LENGTH_MAX = 16 * 1_024

/** Credentials remembered: one that is forgotten is verified again. */
const VERIFIED_MAX = 10_000
/** So long what was verified needs no proof again: the provider may have withdrawn a key. */
const VERIFIED_MS_MAX = 60_000

interface Verified {
  readonly principal: Principal
  readonly until: number
  version: number
}

interface CredentialsOptions {
  readonly access?: Access
  /** The OpenID provider's; undefined = there is none. */
  readonly tokens?: Tokens
  /** Failed logins heard a minute and address; 0 = all. */
  readonly failuresPerMinute?: number
  /** Hears why the provider could not be asked. */
  readonly report?: (error: unknown) => void
}

type Proven = Principal | undefined

export class Credentials {
  readonly access: Access
  readonly #options: CredentialsOptions
  readonly #key = randomBytes(32).toString('hex')
  readonly #administrator: Principal
  readonly #basic: Buffer
  readonly #bearer: Buffer
  readonly #failures: FailedLogins
  readonly #verified = new Map<string, Verified>()
  readonly #verifying = new Map<string, Promise<Proven>>()

  /** The administrator's name and password; with nothing else there are no other users. */
  constructor(user: string, password: string, options: CredentialsOptions = {}) {
    this.#options = options
    this.access = options.access ?? administratorAlone(user)
    this.#administrator = { kind: 'administrator', name: user }
    this.#basic = this.#digest(`${user}:${password}`)
    this.#bearer = this.#digest(password)
    this.#failures = new FailedLogins(options.failuresPerMinute ?? 0)
  }

  /**
   * Whom an Authorization header speaks for; undefined when it proves nothing. A promise when that
   * takes time. Throws or rejects with too_many_requests when this address has failed too often.
   */
  authenticate(authorization: string | undefined, address = ''): Proven | Promise<Proven> {
    if (authorization === undefined || authorization.length > AUTHORIZATION_LENGTH_MAX)
      return undefined
    const space = authorization.indexOf(' ')
    const scheme = authorization.slice(0, Math.max(space, 0)).toLowerCase()
    const given = authorization.slice(space + 1).trim()
    if (scheme === 'bearer') return this.#find(undefined, given, address)
    if (scheme !== 'basic') return undefined
    const text = Buffer.from(given, 'base64').toString()
    const colon = text.indexOf(':')
    if (colon < 0) return undefined
    return this.#find(text.slice(0, colon), text.slice(colon + 1), address)
  }

  /** The same for a name and a password as such. */
  login(user: string, password: string, address = ''): Proven | Promise<Proven> {
    if (user.length + password.length > AUTHORIZATION_LENGTH_MAX) return undefined
    return this.#find(user, password, address)
  }

  /** The name, if it is a user's; '' for any other: somebody may have typed a password there. */
  known(name: string): string {
    return name === this.#administrator.name || this.access.user(name) ? name : ''
  }

  /** The user whom an Authorization header failed to prove; '' where it names none. */
  claimed(authorization: string | undefined): string {
    const [, given] = /^basic +(\S{1,1024})$/i.exec(authorization ?? '') ?? []
    const name = given && Buffer.from(given, 'base64').toString().split(':', 1)[0]
    return name ? this.known(name) : ''
  }

  /** The user that a certificate names, once the listener has verified it. */
  certified(name: string): Proven {
    if (name === this.#administrator.name) return this.#administrator
    return this.access.user(name) && { kind: 'user', name, proof: '' }
  }

  /** @param user undefined for a bearer. */
  #find(user: string | undefined, secret: string, address: string): Proven | Promise<Proven> {
    const whole = user === undefined ? secret : `${user}:${secret}`
    const digest = this.#digest(whole)
    const expected = user === undefined ? this.#bearer : this.#basic
    const id = `${user === undefined ? 'bearer' : 'basic'} ${digest.toString('base64')}`
    const known = this.#known(id)
    if (known) return known
    if (this.#guessable(secret)) this.#failures.check(address, user ?? '')
    if (timingSafeEqual(digest, expected)) return this.#remember(id, this.#administrator)
    return this.#verifying.get(id) ?? this.#verify(id, user, secret, address)
  }

  #verify(
    id: string,
    user: string | undefined,
    secret: string,
    address: string,
  ): Proven | Promise<Proven> {
    const proving = this.#prove(user, secret)
    const failed = () => {
      if (this.#guessable(secret)) this.#failures.failed(address, user ?? '')
    }
    if (!(proving instanceof Promise)) return this.#conclude(id, proving, failed)
    // Requests that come with the same credential meanwhile wait for the one answer.
    const verifying = proving
      .then((principal) => this.#conclude(id, principal, failed))
      .finally(() => this.#verifying.delete(id))
    this.#verifying.set(id, verifying)
    return verifying
  }

  #prove(user: string | undefined, secret: string): Proven | Promise<Proven> {
    const parts = readApiKey(secret)
    const key = parts && this.access.apiKey(parts.id)
    if (parts && key) {
      if (!provesApiKey(key, parts.secret)) return undefined
      return { kind: 'api-key', name: key.owner, key: parts.id, proof: key.hash }
    }
    const { tokens } = this.#options
    if (tokens && looksLikeToken(secret)) return this.#proveToken(tokens, secret)
    return user === undefined ? undefined : this.#proveUser(user, secret)
  }

  async #proveToken(tokens: Tokens, token: string): Promise<Proven> {
    try {
      return await tokens.verify(token)
    } catch (error) {
      this.#options.report?.(new Error('the OpenID provider was of no help', { cause: error }))
      return undefined
    }
  }

  async #proveUser(name: string, password: string): Promise<Proven> {
    const kept = this.access.user(name)?.passwordHash
    if (!(await verifyPassword(kept, password)) || kept === undefined) return undefined
    return { kind: 'user', name, proof: kept }
  }

  #conclude(id: string, principal: Proven, failed: () => void): Proven {
    if (principal && this.access.ended(principal) === undefined) {
      return this.#remember(id, principal)
    }
    failed()
    return undefined
  }

  /**
   * Keys and tokens cannot be guessed: one that has expired, sent again and again, must not shut
   * out the others of its address, nor others' guesses those who have one.
   */
  #guessable(secret: string): boolean {
    const { tokens } = this.#options
    return readApiKey(secret) === undefined && !(tokens && looksLikeToken(secret))
  }

  #known(id: string): Proven {
    const verified = this.#verified.get(id)
    if (!verified) return undefined
    const { principal } = verified
    const { version } = this.access
    if (verified.until < performance.now()) this.#verified.delete(id)
    else if (verified.version === version && !expires(principal)) return principal
    else if (this.access.ended(principal) === undefined) {
      verified.version = version
      return principal
    } else this.#verified.delete(id)
    return undefined
  }

  #remember(id: string, principal: Principal): Principal {
    if (this.#verified.size >= VERIFIED_MAX) {
      const [oldest] = this.#verified.keys()
      this.#verified.delete(oldest!)
    }
    const until = performance.now() + VERIFIED_MS_MAX
    this.#verified.set(id, { principal, until, version: this.access.version })
    return principal
  }

  #digest(text: string): Buffer {
    // Digests never leave the process, so a plain hash serves as well as an HMAC, at a tenth of its
    // cost: this runs for every request.
    return hash('sha256', this.#key + text, 'buffer')
  }
}

/** Whether it may end although no document changes. */
const expires = ({ kind }: Principal) => kind === 'token' || kind === 'api-key'

function administratorAlone(administrator: string): Access {
  return new Access({
    administrator,
    directory: () => ({ get: () => undefined }),
    nowMs: Date.now,
  })
}
