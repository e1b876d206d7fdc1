/**
 * A consumer's place in its queue: known to every process from `register` to `leave`, alone there
 * when it asked for that, and active once it is its turn where only one may be.
 */
import { BrokerError } from '@sluice/core'
import type { Deps } from '@sluice/server'
import type { QueueEntry } from '@sluice/topology'
import { insist } from './insist.ts'

/** How often a consumer that is not the active one asks whether it is: a hint may be lost. */
const ACTIVE_LOOK_MS = 1_000

export interface Place {
  /** Higher is served first while it has credit. */
  readonly priority: number
  readonly exclusive: boolean
  /** Only one consumer of the queue is active at a time. */
  readonly single: boolean
}

export interface Registration {
  readonly entry: QueueEntry
  /** Whether it may be handed messages right away; else `active` is called when it may. */
  readonly active: boolean
  /** Neither `active` nor `gone` is called any more. */
  stop(): void
  /** Stops; settles when the queue has forgotten the consumer, which may take as long as Redis. */
  leave(): Promise<void>
}

interface Hooks {
  /** It is its turn. */
  active(): void
  /** The queue was deleted. */
  gone(): void
}

type Parts = Pick<Deps, 'topology' | 'report' | 'stopping'>

/** Tells consumers apart that have the same name one after the other. */
let made = 0

/**
 * Takes a place; 'exclusive' when it cannot be had. Throws queue_not_found, store_unavailable.
 *
 * @param name of the consumer, unique over all processes among those at the same time.
 */
export async function register(
  parts: Parts,
  entry: QueueEntry,
  name: string,
  place: Place,
  hooks: Hooks,
): Promise<Registration | 'exclusive'> {
  const id = `${name}:${++made}`
  const { store } = entry
  const attached = await attach(parts, entry, id, place)
  if (attached.kind === 'exclusive') return 'exclusive'
  const stopAsking = attached.active ? () => {} : waitForTurn(parts, entry, id, place, hooks)
  const gone = () => hooks.gone()
  store.onForgotten.add(gone)
  const stop = () => {
    stopAsking()
    store.onForgotten.delete(gone)
  }
  const leave = () => {
    stop()
    return forget(parts, entry, id)
  }
  return { entry, active: attached.active, stop, leave }
}

async function attach(parts: Parts, entry: QueueEntry, id: string, place: Place) {
  try {
    return await entry.store.attach(id, place)
  } catch (error) {
    forget(parts, entry, id).catch(parts.report) // it may have happened all the same
    throw error
  }
}

/** Takes a consumer off its queue, as soon as Redis is there. */
async function forget(
  { topology, report, stopping }: Parts,
  { store, definition, vhost }: QueueEntry,
  id: string,
): Promise<void> {
  const { name, epoch, autoDelete } = definition
  try {
    const left = await insist(stopping, () => store.detach(id))
    if (left > 0 || !autoDelete) return
    // Its last consumer has left (docs/amqp.md, 52).
    await insist(stopping, () => topology.deleteQueue(vhost, name, { ifUnused: true, epoch }))
  } catch (error) {
    // Reapers do the same for a dead process; the queue may be gone, or in use again.
    if (!(error instanceof BrokerError)) report(error)
  }
}

/** Of a queue with a single active consumer, the others wait until they are it. */
function waitForTurn(
  { report }: Parts,
  { store }: QueueEntry,
  id: string,
  place: Place,
  hooks: Hooks,
): () => void {
  let stopped = false
  const ask = () => {
    store.attach(id, place).then(
      (attached) => {
        if (attached.kind !== 'ok' || !attached.active || stopped) return
        stop()
        hooks.active()
      },
      (error) => {
        if (!(error instanceof BrokerError)) report(error)
        else if (error.code === 'queue_not_found' && !stopped) hooks.gone()
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
