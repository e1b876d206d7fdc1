/**
 * What a principal may do: the one decision of every door (`allowed`), and when it changes.
 *
 * It is decided on the documents that this process has at the moment, which follow every change
 * within a second. `Grants` remembers decisions until something changes, so that a message costs two
 * look-ups; whoever lives longer than a request follows its principal (`follow`) and ends, or asks
 * again, when told.
 */
import type { Pattern } from '@sluice/core'
import {
  ApiKeyDocument,
  compileRule,
  type Directory,
  fillIn,
  PermissionDocument,
  readDocument,
  TopicPermissionDocument,
  UserDocument,
} from './documents.ts'
import { Grants } from './grants.ts'
import { includedTags, type Operation, type Principal, type Tag } from './principal.ts'
import { nameOf, type Resource } from './resource.ts'

export interface AccessOptions {
  /** The administrator of the settings. */
  readonly administrator: string
  /** The newest documents. */
  readonly directory: () => Directory
  /** Redis's clock, ms. */
  readonly nowMs: () => number
}

/** setTimeout's own bound is 24 days. */
const TIMER_MS_MAX = 86_400_000
const PATTERNS_MAX = 10_000

export class Access {
  readonly #options: AccessOptions
  readonly #followers = new Set<() => void>()
  readonly #grants = new WeakMap<Principal, Map<string, Grants>>()
  readonly #patterns = new Map<string, Pattern>()
  #version = 0

  constructor(options: AccessOptions) {
    this.#options = options
  }

  /** Grows whenever a decision may have changed. */
  get version(): number {
    return this.#version
  }

  get administrator(): string {
    return this.#options.administrator
  }

  /** Users, keys or permissions are not what they were. */
  changed(): void {
    this.#version++
    for (const follower of [...this.#followers]) follower()
  }

  /**
   * Calls back when what this principal may do has changed, or has ended by itself, until the
   * returned function is called.
   */
  follow(principal: Principal, changed: () => void): () => void {
    this.#followers.add(changed)
    let timer: NodeJS.Timeout | undefined
    const wait = () => {
      const leftMs = this.#expiresAt(principal) - this.#options.nowMs()
      if (leftMs === Number.POSITIVE_INFINITY) return
      // The clock is Redis's as it is known here, and may have been set back a little meanwhile.
      const late = () => (this.#expiresAt(principal) > this.#options.nowMs() ? wait() : changed())
      timer = setTimeout(late, Math.min(Math.max(leftMs + 1, 0), TIMER_MS_MAX))
      timer.unref()
    }
    wait()
    return () => {
      this.#followers.delete(changed)
      clearTimeout(timer)
    }
  }

  /** Why the principal is no longer who it was, in a few words; undefined while it is. */
  ended(principal: Principal): string | undefined {
    if (this.#expiresAt(principal) <= this.#options.nowMs()) return 'credential expired'
    if (principal.kind === 'administrator' || principal.kind === 'token') return undefined
    const { name, proof } = principal
    if (principal.kind === 'api-key') {
      const key = this.apiKey(principal.key)
      if (key === undefined || key.hash !== proof) return `API key '${principal.key}' was deleted`
      return this.#hasUser(key.owner) ? undefined : `user '${name}' was deleted`
    }
    const user = this.user(name)
    if (!user) return this.#isAdministrator(name) ? undefined : `user '${name}' was deleted`
    return proof === '' || proof === user.passwordHash
      ? undefined
      : `the password of user '${name}' was changed`
  }

  /** The decision of every door. An exchange named '' is the default one. */
  allowed(
    principal: Principal,
    vhost: string,
    operation: Operation,
    resource: Resource,
    routingKey?: string,
  ): boolean {
    const name = nameOf(resource)
    switch (principal.kind) {
      case 'administrator':
        return true
      case 'user':
        return this.#userMay(principal.name, vhost, operation, name, routingKey)
      case 'token':
        return principal.grants.some(
          (grant) =>
            grant.operation === operation &&
            grant.vhost(vhost) &&
            grant.name(name) &&
            (routingKey === undefined || grant.routingKey(routingKey)),
        )
      case 'api-key': {
        const key = this.apiKey(principal.key)
        if (!key || !this.#userMay(key.owner, vhost, operation, name, routingKey)) return false
        if (key.permissions === undefined) return true
        const own = key.permissions.find((permission) => permission.vhost === vhost)
        return own !== undefined && this.#compiled(own[operation])(name)
      }
    }
  }

  /** Whether routing keys count at this exchange: without topic permissions they do not. */
  countsRoutingKeys(principal: Principal, vhost: string, exchange: string): boolean {
    if (principal.kind === 'token') return true
    if (principal.kind === 'administrator') return false
    return this.#topicRule(principal.name, vhost, exchange) !== undefined
  }

  /** Whether the principal may do anything in a vhost. */
  enters(principal: Principal, vhost: string): boolean {
    switch (principal.kind) {
      case 'administrator':
        return true
      case 'user':
        return this.#userEnters(principal.name, vhost)
      case 'token':
        return principal.grants.some((grant) => grant.vhost(vhost))
      case 'api-key': {
        const key = this.apiKey(principal.key)
        if (!key || !this.#userEnters(key.owner, vhost)) return false
        return key.permissions?.some((permission) => permission.vhost === vhost) ?? true
      }
    }
  }

  tags(principal: Principal): ReadonlySet<Tag> {
    switch (principal.kind) {
      case 'administrator':
        return EVERY_TAG
      case 'token':
        return principal.tags
      case 'user':
        return this.#userTags(principal.name)
      case 'api-key': {
        const key = this.apiKey(principal.key)
        if (!key) return NO_TAG
        const owners = this.#userTags(key.owner)
        return new Set([...includedTags(key.tags)].filter((tag) => owners.has(tag)))
      }
    }
  }

  /** What the principal may do in one vhost, remembered. */
  grants(principal: Principal, vhost: string): Grants {
    let byVhost = this.#grants.get(principal)
    if (!byVhost) {
      byVhost = new Map()
      this.#grants.set(principal, byVhost)
    }
    let grants = byVhost.get(vhost)
    if (!grants) {
      if (byVhost.size >= VHOSTS_REMEMBERED_MAX) byVhost.clear()
      grants = new Grants(this, principal, vhost)
      byVhost.set(vhost, grants)
    }
    return grants
  }

  user(name: string): UserDocument | undefined {
    return readDocument(UserDocument, this.#options.directory().get('user', '', name))
  }

  apiKey(id: string): ApiKeyDocument | undefined {
    return readDocument(ApiKeyDocument, this.#options.directory().get('api-key', '', id))
  }

  #expiresAt(principal: Principal): number {
    if (principal.kind === 'token') return principal.expiresAt
    if (principal.kind !== 'api-key') return Number.POSITIVE_INFINITY
    return this.apiKey(principal.key)?.expiresAt ?? Number.POSITIVE_INFINITY
  }

  #isAdministrator(name: string): boolean {
    return name === this.#options.administrator
  }

  #hasUser(name: string): boolean {
    return this.#isAdministrator(name) || this.user(name) !== undefined
  }

  #userTags(name: string): ReadonlySet<Tag> {
    return this.#isAdministrator(name) ? EVERY_TAG : includedTags(this.user(name)?.tags ?? [])
  }

  #userEnters(name: string, vhost: string): boolean {
    return this.#isAdministrator(name) || this.#permission(name, vhost) !== undefined
  }

  #permission(user: string, vhost: string): PermissionDocument | undefined {
    const found = this.#options.directory().get('permission', vhost, user)
    return this.user(user) && readDocument(PermissionDocument, found)
  }

  #userMay(
    user: string,
    vhost: string,
    operation: Operation,
    name: string,
    routingKey: string | undefined,
  ): boolean {
    if (this.#isAdministrator(user)) return true
    const rule = this.#permission(user, vhost)
    if (!rule || !this.#compiled(rule[operation])(name)) return false
    if (routingKey === undefined || operation === 'configure') return true
    const topic = this.#topicRule(user, vhost, name)
    if (!topic) return true
    const source = fillIn(topic[operation], (variable) => (variable === 'vhost' ? vhost : user))
    return this.#compiled(source)(routingKey)
  }

  #topicRule(user: string, vhost: string, exchange: string) {
    const found = this.#options.directory().get('topic-permission', vhost, user)
    return readDocument(TopicPermissionDocument, found)?.find((rule) => rule.exchange === exchange)
  }

  #compiled(source: string): Pattern {
    let pattern = this.#patterns.get(source)
    if (!pattern) {
      if (this.#patterns.size >= PATTERNS_MAX) this.#patterns.clear()
      pattern = compile(source)
      this.#patterns.set(source, pattern)
    }
    return pattern
  }
}

const EVERY_TAG: ReadonlySet<Tag> = new Set([...includedTags(['administrator', 'impersonator'])])
const NO_TAG: ReadonlySet<Tag> = new Set()
/** A principal that works in more than these has its decisions made again. */
const VHOSTS_REMEMBERED_MAX = 100

/** A rule that a user's name made too long is for nothing. */
function compile(source: string): Pattern {
  try {
    return compileRule(source)
  } catch {
    return () => false
  }
}
