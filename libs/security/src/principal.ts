/** Who is calling, once that is proven, and by what. */

/**
 * What somebody may do besides messages, as RabbitMQ's user tags; each includes others (INCLUDES).
 * `impersonator` may publish with the user-id of somebody else.
 */
export const TAGS = [
  'administrator',
  'monitoring',
  'policymaker',
  'management',
  'impersonator',
] as const
export type Tag = (typeof TAGS)[number]

const INCLUDES: Readonly<Record<Tag, readonly Tag[]>> = {
  administrator: ['administrator', 'monitoring', 'policymaker', 'management'],
  monitoring: ['monitoring', 'management'],
  policymaker: ['policymaker', 'management'],
  management: ['management'],
  impersonator: ['impersonator'],
}

/** Everything that these tags allow; words that are no tag allow nothing. */
export function includedTags(tags: Iterable<string>): ReadonlySet<Tag> {
  return new Set([...tags].flatMap((tag) => (isTag(tag) ? INCLUDES[tag] : [])))
}

const isTag = (word: string): word is Tag => Object.hasOwn(INCLUDES, word)

/** What a token allows by itself: one scope, such as `read:vhost/name/routing`. */
export interface ScopeGrant {
  readonly operation: Operation
  readonly vhost: (name: string) => boolean
  readonly name: (name: string) => boolean
  readonly routingKey: (key: string) => boolean
}

export type Operation = 'configure' | 'write' | 'read'

interface Named {
  /** The user's, for logs, limits and a message's user-id. */
  readonly name: string
}

export type Principal =
  /** The credential of the settings: may do everything. */
  | (Named & { readonly kind: 'administrator' })
  | (Named & {
      readonly kind: 'user'
      /** The hash that proved the password; '' for a certificate, which proves the name alone. */
      readonly proof: string
    })
  /** Acts for its owner, whose name it has, and within its own limits. */
  | (Named & { readonly kind: 'api-key'; readonly key: string; readonly proof: string })
  | (Named & {
      readonly kind: 'token'
      readonly expiresAt: number
      readonly tags: ReadonlySet<Tag>
      readonly grants: readonly ScopeGrant[]
    })

/** The principal in a word, for the audit log. */
export function describePrincipal(principal: Principal): string {
  if (principal.kind === 'api-key') return `${principal.name} by key ${principal.key}`
  return principal.kind === 'token' ? `${principal.name} by token` : principal.name
}
