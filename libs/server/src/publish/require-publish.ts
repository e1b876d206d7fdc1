/** Whether a caller may publish a message: for every door but AMQP, which has words of its own. */
import { BrokerError, DEFAULT_EXCHANGE, type Message } from '@sluice/core'
import type { Grants } from '@sluice/security'
import type { RoutingTable } from '@sluice/topology'

type Target = Pick<Message, 'exchange' | 'furtherKeys'> & { readonly routingKey?: string }

/**
 * Throws forbidden unless the exchange may be written to, and with these routing keys, if any,
 * where it is a topic exchange; also for one that only other exchanges publish to.
 */
export function requirePublish(table: RoutingTable, grants: Grants, message: Target): void {
  const { exchange: name, routingKey, furtherKeys } = message
  refuse(grants.refusal('write', { kind: 'exchange', name }))
  if (name === DEFAULT_EXCHANGE) return
  const exchange = table.exchange(grants.vhost, name)
  if (exchange?.internal) refuse('This exchange is internal: only exchanges publish to it.')
  if (exchange?.type !== 'topic') return
  const resource = { kind: 'exchange', name } as const
  refuse(grants.refusal('write', resource, routingKey))
  for (const key of furtherKeys ?? []) refuse(grants.refusal('write', resource, key))
}

function refuse(why: string | undefined): void {
  if (why !== undefined) throw new BrokerError('forbidden', why)
}
