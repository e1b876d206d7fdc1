/**
 * What a route needs of its caller, said where the route is declared, and checked before its body
 * is read: the HTTP side of the one decision in libs/security.
 */
import { BrokerError, DEFAULT_EXCHANGE } from '@sluice/core'
import {
  type Access,
  type Operation,
  type Principal,
  type Resource,
  refusalText,
  type Tag,
} from '@sluice/security'

/**
 * - `nothing`: anyone may call it, without a credential
 * - `login`: any credential
 * - a tag: of the user, and in a route of a vhost, that it may enter the vhost
 * - `vhost`: that it may enter the vhost of the path; to look, `monitoring` will do
 * - operations: on the exchange or queue that the path names; all of them
 *
 * What the body names is for the handler to ask about: `Call.require`.
 */
export type Needs = 'nothing' | 'login' | 'vhost' | Tag | OperationNeeds

type OperationNeeds = {
  readonly [O in Operation]?: Resource['kind'] | 'default exchange'
}

export interface Asked {
  readonly method: string
  readonly params: Readonly<Record<string, string | undefined>>
}

/**
 * The refusal of a caller whose Authorization header proves nothing. One text for whatever is wrong
 * with it: a stranger learns of no user.
 */
export function unauthenticated(authorization: string | undefined): BrokerError {
  const text =
    authorization === undefined
      ? 'Send a credential: Basic or Bearer.'
      : 'The credential is not valid.'
  return new BrokerError('unauthenticated', text)
}

/** Why the caller may not; undefined when it may. */
export function missing(
  access: Access,
  principal: Principal,
  needs: Needs,
  { method, params }: Asked,
): string | undefined {
  if (principal.kind === 'administrator' || needs === 'nothing' || needs === 'login') {
    return undefined
  }
  const vhost = params['vhost']
  if (typeof needs === 'object') return missingOperation(access, principal, needs, params)
  const tags = access.tags(principal)
  const noVhost = vhost !== undefined && !access.enters(principal, vhost)
  const refusal = `access to vhost '${vhost}' refused for user '${principal.name}'`
  if (needs === 'vhost') {
    return noVhost && !(tags.has('monitoring') && method === 'get') ? refusal : undefined
  }
  if (!tags.has(needs)) return `user '${principal.name}' needs the tag '${needs}'`
  return noVhost && !tags.has('administrator') && !tags.has('monitoring') ? refusal : undefined
}

function missingOperation(
  access: Access,
  principal: Principal,
  needs: OperationNeeds,
  params: Asked['params'],
): string | undefined {
  const vhost = params['vhost'] ?? ''
  const grants = access.grants(principal, vhost)
  for (const [operation, what] of Object.entries(needs) as [Operation, OperationNeeds['read']][]) {
    const kind = what === 'queue' ? 'queue' : 'exchange'
    const name = what === 'default exchange' ? DEFAULT_EXCHANGE : (params[kind] ?? '')
    if (!grants.allows(operation, kind, name)) {
      return refusalText(principal, vhost, operation, { kind, name })
    }
  }
  return undefined
}
