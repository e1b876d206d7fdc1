/**
 * Scopes of a token, in the words of RabbitMQ's OAuth 2 plugin: `read:vhost/name`,
 * `write:vhost/name/routing-key`, `tag:administrator`. `*` stands for any characters; the parts are
 * percent-encoded, so that the vhost `/` is `%2F`.
 */
import { includedTags, type Operation, type ScopeGrant, type Tag } from './principal.ts'

/** Of one token; what comes behind them is not looked at. */
const SCOPES_MAX = 500
const OPERATIONS: readonly string[] = ['configure', 'write', 'read'] satisfies Operation[]

interface Scopes {
  readonly grants: readonly ScopeGrant[]
  readonly tags: ReadonlySet<Tag>
}

/** Scopes without the prefix are for others; what is malformed grants nothing. */
export function readScopes(scopes: readonly string[], prefix: string): Scopes {
  const grants: ScopeGrant[] = []
  const tags: string[] = []
  for (const scope of scopes.slice(0, SCOPES_MAX)) {
    if (!scope.startsWith(prefix)) continue
    const [operation, rest] = cut(scope.slice(prefix.length), ':')
    if (operation === 'tag') tags.push(rest)
    else if (OPERATIONS.includes(operation)) {
      const [vhost, name] = cut(rest, '/')
      const [resource, routingKey] = cut(name, '/')
      grants.push({
        operation: operation as Operation,
        vhost: wildcard(vhost),
        name: wildcard(resource || '*'),
        routingKey: wildcard(routingKey || '*'),
      })
    }
  }
  return { grants, tags: includedTags(tags) }
}

function cut(text: string, at: string): [string, string] {
  const index = text.indexOf(at)
  return index < 0 ? [text, ''] : [text.slice(0, index), text.slice(index + 1)]
}

/** In time that grows with the text alone: each piece is sought once, from where the last ended. */
function wildcard(source: string): (text: string) => boolean {
  let pieces: string[]
  try {
    pieces = source.split('*').map(decodeURIComponent)
  } catch {
    return () => false
  }
  const first = pieces[0]!
  const last = pieces.at(-1)!
  if (pieces.length === 1) return (text) => text === first
  const between = pieces.slice(1, -1)
  return (text) => {
    if (text.length < first.length + last.length) return false
    if (!text.startsWith(first) || !text.endsWith(last)) return false
    const end = text.length - last.length
    let at = first.length
    for (const piece of between) {
      const found = text.indexOf(piece, at)
      if (found < 0 || found + piece.length > end) return false
      at = found + piece.length
    }
    return true
  }
}
