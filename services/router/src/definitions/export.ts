/** All definitions of a routing table as one document (pure). */
import { DEFAULT_EXCHANGE, RESERVED_PREFIX } from '@sluice/core'
import {
  PermissionDocument,
  readDocument,
  TopicPermissionDocument,
  UserDocument,
} from '@sluice/security'
import { readEach } from '@sluice/server'
import type { RoutingTable } from '@sluice/topology'
import { VHOST_LIMITS } from './document.ts'

/** @param only this vhost, without users; all of them with their users where undefined. */
export function exportDefinitions(table: RoutingTable, only: string | undefined) {
  const vhosts = only === undefined ? table.vhosts() : [only]
  const users = only === undefined ? readEach(UserDocument, table.documents.list('user', '')) : []
  return {
    product_name: 'Sluice',
    vhosts: vhosts.map((name) => {
      const { tolerantRedeclare, holdEta, encryption } = table.vhostOptions(name)
      return { name, sluice: { tolerantRedeclare, holdEta, encryption } }
    }),
    parameters: vhosts.flatMap((vhost) => limitsOf(table, vhost)),
    users: users.map(({ name, passwordHash, tags, maxConnections, maxChannels }) => ({
      ...{ name, ...hashOf(passwordHash), tags },
      limits: given({ 'max-connections': maxConnections, 'max-channels': maxChannels }),
    })),
    permissions: vhosts.flatMap((vhost) => permissionsIn(table, vhost)),
    topic_permissions: vhosts.flatMap((vhost) => topicPermissionsIn(table, vhost)),
    exchanges: vhosts.flatMap((vhost) => exchangesIn(table, vhost)),
    queues: vhosts.flatMap((vhost) => queuesIn(table, vhost)),
    bindings: vhosts.flatMap((vhost) => bindingsIn(table, vhost)),
    policies: vhosts.flatMap((vhost) => policiesIn(table, vhost)),
  }
}

/** As RabbitMQ keeps them. */
function limitsOf(table: RoutingTable, vhost: string) {
  const { maxConnections, maxQueues } = table.vhostOptions(vhost)
  const value = given({ 'max-connections': maxConnections, 'max-queues': maxQueues })
  if (Object.keys(value).length === 0) return []
  return [{ component: VHOST_LIMITS, vhost, name: 'limits', value }]
}

function given(limits: Readonly<Record<string, number>>) {
  return Object.fromEntries(Object.entries(limits).filter(([, most]) => most >= 0))
}

/** Every queue is exported but those that go with a connection. */
function queuesIn(table: RoutingTable, vhost: string) {
  return table
    .queues(vhost)
    .map(({ definition }) => definition)
    .filter(({ name, exclusive }) => exclusive === '' && !isReserved(name))
    .map(({ name, durable, autoDelete, arguments: args }) => ({
      ...{ name, vhost, durable, auto_delete: autoDelete },
      arguments: args,
    }))
}

function exchangesIn(table: RoutingTable, vhost: string) {
  return table
    .exchanges(vhost)
    .filter(({ name }) => name !== DEFAULT_EXCHANGE && !isReserved(name))
    .map(({ name, type, durable, autoDelete, internal, arguments: args }) => ({
      ...{ name, vhost, type, durable, auto_delete: autoDelete, internal },
      arguments: args,
    }))
}

function bindingsIn(table: RoutingTable, vhost: string) {
  return table
    .bindings(vhost)
    .filter(({ destination, destinationType }) => {
      const queue = destinationType === 'queue' ? table.queue(vhost, destination) : undefined
      return queue === undefined || queue.definition.exclusive === ''
    })
    .map(({ source, destination, destinationType, routingKey, arguments: args }) => ({
      ...{ source, vhost, destination, destination_type: destinationType },
      ...{ routing_key: routingKey, arguments: args },
    }))
    .sort((a, b) => (JSON.stringify(a) < JSON.stringify(b) ? -1 : 1))
}

function policiesIn(table: RoutingTable, vhost: string) {
  return table.policies(vhost).map(({ name, pattern, applyTo, priority, definition }) => ({
    ...{ vhost, name, pattern, 'apply-to': applyTo, priority, definition },
  }))
}

function permissionsIn(table: RoutingTable, vhost: string) {
  const documents = readEach(PermissionDocument, table.documents.list('permission', vhost))
  return documents.map(({ name: user, ...patterns }) => ({ user, vhost, ...patterns }))
}

function topicPermissionsIn(table: RoutingTable, vhost: string) {
  return table.documents.list('topic-permission', vhost).flatMap(({ name: user, value }) => {
    const rules = readDocument(TopicPermissionDocument, value) ?? []
    return rules.map((rule) => ({ user, vhost, ...rule }))
  })
}

const isReserved = (name: string) => name.startsWith(RESERVED_PREFIX)

/** A hash as it is kept, under the name of its algorithm; '' = no password. */
function hashOf(passwordHash: string) {
  const at = passwordHash.indexOf('$')
  return { password_hash: passwordHash.slice(at + 1), hashing_algorithm: passwordHash.slice(0, at) }
}
