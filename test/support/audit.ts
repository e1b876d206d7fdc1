/** What is in Redis, held to the invariant once nobody works on it any more. */
import { audit, openStore } from '@sluice/store'
import { openTopology } from '@sluice/topology'

/** A sentence for each way in which a queue of the vhost is not as its counters say. */
export async function auditAll(url: string, vhost: string): Promise<string[]> {
  const wrong: string[] = []
  const report = (error: unknown) => wrong.push(`reported: ${error}`)
  const store = await openStore({ url, report })
  const topology = await openTopology(store, report)
  for (const { definition, store: queue } of topology.table.queues(vhost)) {
    for (const line of await audit(store, queue)) wrong.push(`${definition.name}: ${line}`)
  }
  await topology.close()
  await store.close()
  return wrong
}
