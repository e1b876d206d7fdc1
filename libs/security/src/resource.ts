/** What permissions are about, and what a refusal says of it: RabbitMQ's words. */
import { DEFAULT_EXCHANGE, DEFAULT_EXCHANGE_ALIAS } from '@sluice/core'
import type { Operation, Principal } from './principal.ts'

export interface Resource {
  readonly kind: 'exchange' | 'queue'
  readonly name: string
}

/** The default exchange has no name; permissions are for the one it has elsewhere. */
export function nameOf({ kind, name }: Resource): string {
  return kind === 'exchange' && name === DEFAULT_EXCHANGE ? DEFAULT_EXCHANGE_ALIAS : name
}

/** What a refusal says, in RabbitMQ's words. */
export function refusalText(
  principal: Principal,
  vhost: string,
  operation: Operation,
  resource: Resource,
  routingKey?: string,
): string {
  const where = `${resource.kind} '${nameOf(resource)}' in vhost '${vhost}'`
  const what = routingKey === undefined ? where : `topic '${routingKey}' in ${where}`
  return `${operation} access to ${what} refused for user '${principal.name}'`
}
