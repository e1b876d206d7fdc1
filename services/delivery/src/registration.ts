/**
 * A consumer's place in its queue: known to every process from `register` to `leave`, alone there
 * when it asked for that, and active once it is its turn where only one may be.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { BrokerError } from '@sluice/core'
import type { Deps } from '@sluice/server'
import type { QueueStore } from '@sluice/store'
import type { QueueEntry } from '@sluice/topology'

/** How often a consumer that is not the active one asks whether it is: a hint may be lost. */
const ACTIVE_LOOK_MS = 1_000

/** A consumer that left is forgotten as soon as Redis is back, if that is within ten minutes. */
const FORGET_ATTEMPTS = 1_200
const FORGET_EVERY_MS = 500

export interface Place {
  readonly priority: number
  readonly exclusive: boolean
  /** Only one consumer of the queue is active at a time. */
  readonly single: boolean
}

export interface Registration {
  /** Neither `active` nor `gone` is called any more. */
  stop(): void
  /** Stops, and settles when the queue has forgotten the consumer. Never rejects. */
  leave(): Promise<void>
}

/**
 * Takes a place; 'exclusive' when it cannot be had. Throws queue_not_found.
 *
 * @param id unique over all processes.
 * @param on.active called once, when the consumer may be handed messages; perhaps at once.
 * @param on.gone called when the queue is deleted.
 */
export async function register(
  { topology, report }: Pick<Deps, 'topology' | 'report'>,
  entry: QueueEntry,
  id: string,
  place: Place,
  on: { active(): void; gone(): void },
): Promise<Registration | 'exclusive'> {
  const { store, vhost, definition } = entry
  const attached = await store.attach(id, place)
  if (attached.kind === 'exclusive') return 'exclusive'
  const stopAsking = attached.active ? () => {} : waitForTurn(store, id, place, on, report)
  store.onForgotten.add(on.gone)
  const stop = () => {
    stopAsking()
    store.onForgotten.delete(on.gone)
  }
  const leave = async () => {
    stop()
    try {
      const left = await forget(store, id)
      if (left === 0 && definition.autoDelete) {
        await topology.deleteQueue(vhost, definition.name, { ifUnused: true })
      }
    } catch (error) {
      // A reaper forgets the consumers of a dead process; the queue may be gone.
      if (!(error instanceof BrokerError)) report(error)
    }
  }
  if (attached.active) on.active()
  return { stop, leave }
}

function waitForTurn(
  store: QueueStore,
  id: string,
  place: Place,
  on: { active(): void; gone(): void },
  report: Deps['report'],
): () => void {
  let stopped = false
  const ask = () => {
    store.attach(id, place).then(
      (attached) => {
        if (attached.kind !== 'ok' || !attached.active || stopped) return
        stop()
        on.active()
      },
      (error) => {
        if (!(error instanceof BrokerError)) report(error)
        else if (error.code === 'queue_not_found' && !stopped) on.gone()
      },
    )
  }
  const timer = setInterval(ask, ACTIVE_LOOK_MS)
  const unwatch = store.watch(() => {
    ask()
    return false // the hint may be about a message, which is not for this one yet
  })
  const stop = () => {
    stopped = true
    clearInterval(timer)
    unwatch()
  }
  return stop
}

/**
 * Takes a consumer off its queue; tries again while Redis is away, since one that stays registered
 * would keep an exclusive queue taken, or be the active one for ever.
 */
async function forget(store: QueueStore, id: string): Promise<number> {
  for (let left = FORGET_ATTEMPTS; ; left--) {
    try {
      return await store.detach(id)
    } catch (error) {
      const away = error instanceof BrokerError && error.code === 'store_unavailable'
      if (!away || left === 0) throw error
      await sleep(FORGET_EVERY_MS)
    }
  }
}
