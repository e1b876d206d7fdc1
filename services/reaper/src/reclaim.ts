/**
 * Takes back what dead processes held.
 *
 * A process's name is dead once its heartbeat is gone; then every queue in which it may have left
 * something is looked through, by any reaper, in bounded passes (reclaim.lua). What was exclusive
 * to its connections is deleted, and so are auto-delete queues that lost their last consumer with
 * it.
 */
import { BrokerError } from '@sluice/core'
import type { Deps } from '@sluice/server'
import type { QueueEntry } from '@sluice/topology'

type Needs = Pick<Deps, 'store' | 'topology' | 'metrics'>

/** One pass over all dead names. Stops between two steps when the signal aborts. */
export async function reclaimDeadSlots(deps: Needs, signal: AbortSignal): Promise<void> {
  const { store, topology } = deps
  const dead = await store.deadSlots()
  if (dead.length === 0) return
  await topology.refresh() // a queue that is not in the table after this is deleted
  await deleteExclusive(topology, new Set(dead.map(({ slot }) => slot)))
  for (const { slot, queues } of dead) {
    for (const { vhost, name, base } of queues) {
      const entry = topology.table.queue(vhost, name)
      if (entry && !(await reclaimFrom(deps, entry, slot, signal))) return
      if (entry?.definition.autoDelete) await deleteUnused(topology, entry)
      await store.slot.forget(slot, [base])
    }
    if (queues.length === 0) await store.slot.forget(slot, [])
  }
}

/** Owners of exclusive queues are `slot:number`, a connection each. */
async function deleteExclusive(
  topology: Deps['topology'],
  dead: ReadonlySet<string>,
): Promise<void> {
  for (const vhost of topology.table.vhosts()) {
    for (const { definition } of topology.table.queues(vhost)) {
      const { name, exclusive } = definition
      const [slot = ''] = exclusive.split(':', 1)
      if (exclusive !== '' && dead.has(slot)) await topology.deleteQueue(vhost, name)
    }
  }
}

async function deleteUnused(
  topology: Deps['topology'],
  { vhost, definition, store }: QueueEntry,
): Promise<void> {
  const { attached, consumers } = await store.stats()
  if (attached === 0 || consumers > 0) return
  try {
    await topology.deleteQueue(vhost, definition.name, { ifUnused: true })
  } catch (error) {
    // Somebody began to consume it meanwhile.
    if (!(error instanceof BrokerError && error.code === 'in_use')) throw error
  }
}

/** Takes back what a dead name holds of one queue. False when the signal stopped it. */
export async function reclaimFrom(
  { metrics }: Pick<Deps, 'metrics'>,
  { store }: QueueEntry,
  slot: string,
  signal: AbortSignal,
): Promise<boolean> {
  const reclaimed = metrics.count('reclaimed', {})
  while (!signal.aborted) {
    const { more, messages } = await store.reclaim(slot, { dead: true })
    reclaimed.value += messages
    if (!more) return true
  }
  return false
}
