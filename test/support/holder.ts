/**
 * A process that takes whatever a queue has under its own name and then does nothing, to be killed.
 * Arguments: Redis URL, vhost, queue. Prints its name and how many messages it holds.
 */
import { openDeps } from '@sluice/server'
import { configFor } from './broker.ts'

const [url, vhost, name] = process.argv.slice(2) as [string, string, string]
const stopping = new AbortController().signal
const { store, topology } = await openDeps(configFor(url), { stopping })
const queue = topology.table.queue(vhost, name)!.store
let held = 0
for (let found = true; found; ) {
  const { batches, messages } = await queue.take(100, 'never')
  found = batches.length + messages.length > 0
  held += messages.length
  for (const { records } of batches) held += records.length
}
console.log(JSON.stringify({ slot: store.slot.name, held }))
setInterval(() => {}, 60_000)
