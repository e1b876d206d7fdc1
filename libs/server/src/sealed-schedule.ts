/**
 * Messages of schedules, sealed where what they publish will be.
 *
 * A data key of the vhost seals them, also where only some of its queues are encrypted: a schedule
 * outlives the queues that its message goes to. Whether it is sealed is decided when it is put, and
 * reapers set right what changed since (services/reaper/src/schedules.ts).
 */
import { decodeProperties } from '@sluice/amqp'
import { BrokerError } from '@sluice/core'
import { openText, placeOf, sealText, type TickData, textSealedBy } from '@sluice/store'
import type { Topology } from '@sluice/topology'
import type { Deps } from './deps.ts'
import { noVhost } from './not-found.ts'
import { type KeptSchedule, messageOf, type Schedule } from './schedule.ts'

type Needs = Pick<Deps, 'encryption' | 'store' | 'topology'>

/**
 * A schedule as it is kept. Throws vhost_not_found, encryption_unavailable, store_unavailable,
 * memory_high.
 */
export async function keepSchedule(
  { encryption, topology }: Needs,
  which: TickData,
  schedule: Schedule,
): Promise<KeptSchedule> {
  await topology.refresh()
  if (!topology.table.hasVhost(which.vhost)) throw noVhost(which.vhost)
  if (!isEncrypted(topology, which, schedule)) return schedule
  const key = await encryption.keyOf(which.vhost)
  const { message, ...rest } = schedule
  return { ...rest, sealed: sealText(key, boundTo(which), JSON.stringify(message)) }
}

/** locked: its key cannot be had at the moment; shredded: nobody will read it. */
export async function openSchedule(
  { store }: Pick<Needs, 'store'>,
  which: TickData,
  kept: KeptSchedule,
): Promise<Schedule | 'locked' | 'shredded'> {
  if (!('sealed' in kept)) return kept
  const { sealed, ...rest } = kept
  const by = textSealedBy(sealed)
  if (!store.keys.get(by) && (await store.keys.missing(which.vhost, new Set([by]))).size > 0) {
    return 'locked'
  }
  const text = openText(store.keys.get(by), boundTo(which), sealed)
  return text === undefined ? 'shredded' : { ...rest, message: JSON.parse(text) }
}

/** Whether it is to be kept anew: open, and encrypted where it goes; or sealed by an older key. */
export function isOutdated({ store, topology }: Needs, which: TickData, kept: KeptSchedule) {
  if (!('sealed' in kept)) return isEncrypted(topology, which, kept)
  return textSealedBy(kept.sealed) !== store.keys.newest(which.vhost, '')?.id
}

/** Whether some queue that its message reaches is encrypted, as things are. */
function isEncrypted({ table }: Topology, which: TickData, schedule: Schedule): boolean {
  const { vhost } = which
  if (table.vhostOptions(vhost).encryption) return true
  const message = messageOf(which, schedule, 0)
  const { exchange, routingKey, furtherKeys } = message
  const headers = () => decodeProperties(message.properties).headers ?? {}
  try {
    const { queues } = table.route(vhost, exchange, routingKey, headers, furtherKeys)
    return queues.some(({ settings }) => settings.encryption !== 'none')
  } catch (error) {
    if (error instanceof BrokerError) return false // there is no such exchange yet
    throw error
  }
}

function boundTo({ vhost, name }: TickData): Buffer[] {
  return [placeOf(vhost, ''), Buffer.from('schedule'), Buffer.from(name)]
}
