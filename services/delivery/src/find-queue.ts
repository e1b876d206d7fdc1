/** The queue that a request names, which may have been declared or deleted elsewhere just now. */
import { BrokerError } from '@sluice/core'
import { noQueue, noVhost } from '@sluice/server'
import type { QueueEntry, Topology } from '@sluice/topology'

/**
 * The queue of a request. One that this process has not heard of may have been declared elsewhere a
 * moment ago, so the topology is read again before queue_not_found or vhost_not_found is thrown.
 */
export async function findQueue(
  topology: Topology,
  { vhost, queue }: { vhost: string; queue: string },
): Promise<QueueEntry> {
  const known = topology.table.queue(vhost, queue)
  if (known) return known
  await topology.refresh()
  const entry = topology.table.queue(vhost, queue)
  if (entry) return entry
  throw topology.table.hasVhost(vhost) ? noQueue(queue) : noVhost(vhost)
}

/**
 * `use(queue)`, and again with the queue that has its name since, when it turns out to be deleted.
 * Throws as findQueue does.
 */
export async function onQueue<T>(
  topology: Topology,
  path: { vhost: string; queue: string },
  use: (entry: QueueEntry) => Promise<T>,
): Promise<T> {
  const entry = await findQueue(topology, path)
  try {
    return await use(entry)
  } catch (error) {
    if (!(error instanceof BrokerError) || error.code !== 'queue_not_found') throw error
    await topology.refresh()
    const next = await findQueue(topology, path)
    if (next.definition.epoch === entry.definition.epoch) throw error
    return use(next)
  }
}
