export {
  checkSameExchange,
  checkSameQueue,
  isPolicyKey,
} from './arguments.ts'
export { parseExchange, parsePolicy, parseQueue } from './checks.ts'
export {
  type DeadLetterTarget,
  type Death,
  type DeathEntry,
  type DeathHistory,
  deadLetter,
  deadLetterTarget,
  isCycle,
} from './dead-letter.ts'
export { type DeadLetterFilter, type Letter, matcher, readLetter } from './dead-letter-filter.ts'
export {
  type Arguments,
  type BindingDefinition,
  EXCHANGE_TYPES,
  type ExchangeDefinition,
  type ExchangeType,
  type Json,
  type PolicyDefinition,
  type QueueDefinition,
  type VhostChange,
  type VhostOptions,
} from './definition.ts'
export type {
  DocumentKind,
  Documents,
  NamedDocument,
} from './documents.ts'
export {
  CONNECTION_HEADERS,
  climbs,
  type HttpRequest,
  readRequest,
  requestOf,
  requestTable,
} from './http-request.ts'
export { type Published, Publisher, type PublishReply } from './publish.ts'
export {
  appendTo,
  foresee,
  type Redriven,
  type RedriveTarget,
  redrive,
} from './redrive.ts'
export { type QueueEntry, type Route, RoutingTable } from './routing-table.ts'
export { openTopology, type Topology, type TopologyOptions } from './topology.ts'
export { carriedContext } from './trace.ts'
