/**
 * The slow sweep, run by one reaper at a time: what the fast paths leave behind when processes die
 * at the wrong moment.
 *
 *   holders without heartbeat   a process that was paused, declared dead, and took something under
 *                               its old name before it noticed
 *   keys without definition     a deletion that stopped between the definition and the keys
 */
import type { Deps } from '@sluice/server'
import { QUEUE_SETTINGS_DEFAULT, queueHolders, storedQueues } from '@sluice/store'
import { reclaimFrom } from './reclaim.ts'

type Needs = Pick<Deps, 'store' | 'topology' | 'metrics'>

/** Queues looked at between two readings of who is alive. */
const PAGE = 64

export async function sweep(deps: Needs, signal: AbortSignal): Promise<void> {
  await reclaimOrphans(deps, signal)
  await dropLeftovers(deps, signal)
}

/** Takes back what names hold that have no heartbeat, whether or not they are registered. */
export async function reclaimOrphans(deps: Needs, signal: AbortSignal): Promise<void> {
  const { store, topology } = deps
  await topology.refresh()
  const { table } = topology
  const queues = table.vhosts().flatMap((vhost) => table.queues(vhost))
  for (let at = 0; at < queues.length && !signal.aborted; at += PAGE) {
    const page = queues.slice(at, at + PAGE)
    const holders = await Promise.all(page.map((entry) => queueHolders(store.redis, entry.store)))
    // In this order: who holds something and is not alive afterwards is dead.
    const alive = new Set(await store.slot.alive())
    for (const [index, entry] of page.entries()) {
      for (const slot of holders[index]!) {
        if (!alive.has(slot)) await reclaimFrom(deps, entry, slot, signal)
      }
    }
  }
}

/** Deletes the keys of queues that no definition names. */
export async function dropLeftovers(
  { store, topology }: Needs,
  signal: AbortSignal,
): Promise<void> {
  for await (const page of storedQueues(store.redis)) {
    if (signal.aborted) return
    // In this order: a definition is always committed before its keys are made.
    await topology.refresh()
    for (const { vhost, name, epoch } of page) {
      if (topology.table.queue(vhost, name)) continue
      const queue = store.queue(vhost, name, epoch, QUEUE_SETTINGS_DEFAULT)
      await queue.drop({})
      store.forget(queue)
    }
  }
}
