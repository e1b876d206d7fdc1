export {
  ARGUMENTS_BYTES_MAX,
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
  VHOST_OPTIONS_DEFAULT,
  type VhostChange,
  type VhostOptions,
} from './definition.ts'
export {
  DOCUMENT_KINDS,
  type DocumentKind,
  type Documents,
  type NamedDocument,
} from './documents.ts'
export { climbs, type HttpRequest, readRequest, requestOf, requestTable } from './http-request.ts'
export { type Published, Publisher, type PublishReply } from './publish.ts'
export {
  appendTo,
  foresee,
  type Redriven,
  type RedriveTarget,
  redrive,
} from './redrive.ts'
export { type QueueEntry, type Route, RoutingTable } from './routing-table.ts'
export { openTopology, TOPOLOGY_DEFAULTS, type Topology, type TopologyOptions } from './topology.ts'
export { carriedContext } from './trace.ts'
