/** What died in a queue goes its way before the queue is deleted with all that it holds. */
import { setTimeout as sleep } from 'node:timers/promises'
import { BrokerError } from '@sluice/core'
import type { QueueStore } from '@sluice/store'

/** Reapers hear of dead letters at once; without any, or a target, a deletion must not hang, ms. */
const WAIT_MS_MAX = 2_000
const LOOK_MS = 20

/**
 * Returns once reapers have moved the queue's dead letters, or after two seconds. RabbitMQ moves
 * them as they die, so that who rejects a message and deletes its queue finds it moved.
 */
export async function lettersOut(store: QueueStore): Promise<void> {
  const until = performance.now() + WAIT_MS_MAX
  while ((await deadIn(store)) > 0 && performance.now() < until) await sleep(LOOK_MS)
}

async function deadIn(store: QueueStore): Promise<number> {
  try {
    return (await store.stats()).dead
  } catch (error) {
    if (error instanceof BrokerError) return 0 // the deletion that follows says what is wrong
    throw error
  }
}
