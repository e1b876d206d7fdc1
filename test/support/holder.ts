/**
 * A process that takes whatever a queue has under its own name and then does nothing, to be killed.
 * Arguments: Redis URL, vhost, queue, epoch. Prints its name and how many messages it holds.
 */
import { openStore, QUEUE_SETTINGS_DEFAULT } from '@sluice/store'

const [url, vhost, name, epoch] = process.argv.slice(2) as [string, string, string, string]
const store = await openStore({ url, report: (error) => console.error(error) })
const queue = store.queue(vhost, name, Number(epoch), QUEUE_SETTINGS_DEFAULT)
let held = 0
for (let found = true; found; ) {
  const { batches, messages } = await queue.take(100, 'never')
  found = batches.length + messages.length > 0
  held += messages.length
  for (const { records } of batches) held += records.length
}
console.log(JSON.stringify({ slot: store.slot.name, held }))
setInterval(() => {}, 60_000)
