/** The dead letter that a request names. */
import { BrokerError } from '@sluice/core'
import type { LeasedMessage, QueueStore } from '@sluice/store'
import { readLetter } from '@sluice/topology'
import { findMessage } from './http-messages.ts'

/** Longer than an append of its copy may take; a crash holds it back for as long. */
const PICKED_MS = 15_000

/** Throws message_not_found, and invalid_request for what never died. */
export async function findLetter(store: QueueStore, id: string) {
  const { state, message } = await findMessage(store, id)
  const { record, ref } = message
  const letter = record.unreadable === undefined ? readLetter(record) : undefined
  if (letter) return { state, message, letter }
  throw new BrokerError('invalid_request', `Message ${ref} is no dead letter, or cannot be read.`)
}

/** Leases it for `holder`. Throws in_use. */
export async function pickLetter(
  store: QueueStore,
  id: string,
  holder: string,
): Promise<LeasedMessage> {
  const leased = await store.pick(id, PICKED_MS, holder)
  if (leased) return leased
  throw new BrokerError('in_use', `Somebody holds message ${id}, or it is gone.`)
}
