/** What is said over HTTP of names that nothing has. */
import { BrokerError } from '@sluice/core'

export function noVhost(vhost: string): BrokerError {
  return new BrokerError('vhost_not_found', `There is no vhost ${JSON.stringify(vhost)}.`)
}

export function noExchange(exchange: string): BrokerError {
  return new BrokerError('exchange_not_found', `There is no exchange ${JSON.stringify(exchange)}.`)
}

export function noQueue(queue: string): BrokerError {
  return new BrokerError('queue_not_found', `There is no queue ${JSON.stringify(queue)}.`)
}

export function noUser(user: string): BrokerError {
  return new BrokerError('not_found', `There is no user ${JSON.stringify(user)}.`)
}
