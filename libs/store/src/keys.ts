/** Every key name, in one place; the names behind a queue's base are in lua/prelude.lua. */

/** Topology keys start with this: one hash slot. */
export const TOPOLOGY_BASE = 'sluice:{topology}:'

/** Keys of the audit log: one hash slot. */
export const AUDIT_BASE = 'sluice:{audit}:'

/** Slots (processes) and their heartbeats: one hash slot. */
export const SLOTS_BASE = 'sluice:{slots}:'

/**
 * Channel on which a slot hears that one of its queues has something; payload: the queue's base.
 */
export const wakeChannel = (slot: string): string => `sluice:wake:${slot}`

/** Channel on which a process hears of messages for one of its addresses (direct reply-to). */
export const directChannel = (slot: string): string => `sluice:direct:${slot}`

/** Channel on which reapers hear of the next time something happens in a queue: 'base ms'. */
export const AGENDA_CHANNEL = 'sluice:agenda'

/** All keys of a queue start with this. Encoded, so that no name can break the hash tag. */
export function queueBase(vhost: string, queue: string): string {
  return `sluice:{${encodeURIComponent(vhost)}/${encodeURIComponent(queue)}}:`
}

/** All keys of what a subscription's processes share start with this; never a queue's. */
export function endpointBase(vhost: string, subscription: string): string {
  return `sluice:{push/${encodeURIComponent(vhost)}/${encodeURIComponent(subscription)}}:`
}

/** How many characters of a request's id name its group. */
export const REQUEST_GROUP_LENGTH = 8

/** Requests accepted together share a hash slot: their group's. Never a queue's base. */
export function requestGroupBase(id: string): string {
  return `sluice:{request/r/${id.slice(0, REQUEST_GROUP_LENGTH)}}:`
}

/** All keys of a request that an ingest accepted start with this. */
export function requestBase(id: string): string {
  return `${requestGroupBase(id)}${id}:`
}

/** The queue that a base belongs to. */
export function parseQueueBase(base: string): { vhost: string; name: string } | undefined {
  const match = /^sluice:\{([^/{}]*)\/([^/{}]*)\}:$/.exec(base)
  if (!match) return undefined
  return { vhost: decodeURIComponent(match[1]!), name: decodeURIComponent(match[2]!) }
}
