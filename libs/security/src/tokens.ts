/**
 * JSON Web Tokens of an OpenID provider: who they speak for, and what their scopes allow.
 *
 * The provider's keys are fetched when they are first needed and kept; a token with a key that is
 * not among them has them fetched again, at most every few seconds, which is how keys rotate.
 */
import { createRemoteJWKSet, type JWTPayload, type JWTVerifyGetKey, jwtVerify } from 'jose'
import type { Principal } from './principal.ts'
import { readScopes } from './scopes.ts'

/** Only signatures that the provider alone can make: no shared secrets, no `none`. */
const ALGORITHMS = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'EdDSA']
/** How far the provider's clock may be from Redis's. */
const CLOCK_TOLERANCE_S = 5
const KEYS_FETCH_MS_MAX = 5_000
/** Unknown keys are asked for no more often than this. */
const KEYS_COOLDOWN_MS = 5_000
/** A key that the provider withdrew is forgotten after this. */
const KEYS_AGE_MS_MAX = 600_000
const NAME_LENGTH_MAX = 255

export interface TokenOptions {
  readonly issuer: string
  /** undefined: the one that the issuer's discovery document names. */
  readonly jwksUrl: string | undefined
  readonly audience: string
  /** The claim with the name of the user. */
  readonly nameClaim: string
  /** The claim with the scopes: a text with spaces between them, or an array. */
  readonly scopeClaim: string
  /** What scopes for this broker begin with. */
  readonly scopePrefix: string
  readonly nowMs: () => number
}

export class Tokens {
  readonly #options: TokenOptions
  #keys: Promise<JWTVerifyGetKey> | undefined

  constructor(options: TokenOptions) {
    this.#options = options
  }

  /** Undefined for a token that proves nothing. Throws when the provider does not answer. */
  async verify(token: string): Promise<Extract<Principal, { kind: 'token' }> | undefined> {
    const { issuer, audience, nowMs } = this.#options
    const keys = await this.#findKeys()
    try {
      const { payload } = await jwtVerify(token, keys, {
        issuer,
        audience,
        algorithms: ALGORITHMS,
        clockTolerance: CLOCK_TOLERANCE_S,
        currentDate: new Date(nowMs()),
        requiredClaims: ['exp'],
      })
      return this.#principal(payload)
    } catch (error) {
      // jose names its errors by code; what has none, or a time-out, is the provider's silence.
      const code = (error as { code?: string }).code ?? ''
      if (!code.startsWith('ERR_J') || code === 'ERR_JWKS_TIMEOUT') throw error
      return undefined
    }
  }

  #principal(payload: JWTPayload): Extract<Principal, { kind: 'token' }> | undefined {
    const { nameClaim, scopeClaim, scopePrefix } = this.#options
    const name = payload[nameClaim]
    if (typeof name !== 'string' || name === '' || name.length > NAME_LENGTH_MAX) return undefined
    const claim = payload[scopeClaim]
    const scopes = typeof claim === 'string' ? claim.split(' ') : claim
    const words = Array.isArray(scopes) ? scopes.filter((word) => typeof word === 'string') : []
    const expiresAt = payload.exp! * 1_000
    return { kind: 'token', name, expiresAt, ...readScopes(words, scopePrefix) }
  }

  #findKeys(): Promise<JWTVerifyGetKey> {
    this.#keys ??= this.#openKeys().catch((error: unknown) => {
      this.#keys = undefined // asked again by the next token
      throw error
    })
    return this.#keys
  }

  async #openKeys(): Promise<JWTVerifyGetKey> {
    const url = this.#options.jwksUrl ?? (await this.#discover())
    return createRemoteJWKSet(new URL(url), {
      timeoutDuration: KEYS_FETCH_MS_MAX,
      cooldownDuration: KEYS_COOLDOWN_MS,
      cacheMaxAge: KEYS_AGE_MS_MAX,
    })
  }

  async #discover(): Promise<string> {
    const { issuer } = this.#options
    const url = `${issuer.replace(/\/$/, '')}/.well-known/openid-configuration`
    const response = await fetch(url, { signal: AbortSignal.timeout(KEYS_FETCH_MS_MAX) })
    if (!response.ok) throw new Error(`${url} answered ${response.status}`)
    const { jwks_uri: found } = (await response.json()) as { jwks_uri?: unknown }
    if (typeof found !== 'string') throw new Error(`${url} names no jwks_uri`)
    return found
  }
}

/** Whether a text has the form of a token: three parts of base64url. */
export function looksLikeToken(text: string): boolean {
  return /^eyJ[\w-]*\.[\w-]+\.[\w-]+$/.test(text)
}
