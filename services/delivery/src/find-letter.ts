/** The dead letter that a request names. */
import { BrokerError } from '@sluice/core'
import type { LeasedMessage, Peeked, QueueStore } from '@sluice/store'
import { type Letter, readLetter } from '@sluice/topology'
import { findMessage } from './http-messages.ts'

/** Longer than an append of its copy may take; a crash holds it back for as long. */
const PICKED_MS = 15_000

/** Throws message_not_found, and as `letterOf` does. */
export async function findLetter(store: QueueStore, id: string) {
  const { state, message } = await findMessage(store, id)
  return { state, message, letter: letterOf(message) }
}

/** Throws invalid_request for what never died, or cannot be read. */
export function letterOf({ record, ref }: Peeked): Letter {
  const letter = record.unreadable === undefined ? readLetter(record) : undefined
  if (letter) return letter
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
