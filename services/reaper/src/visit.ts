/**
 * One look at one queue: what is due is released, what expired or overflowed or died goes its way,
 * a queue that nobody uses any more is deleted (x-expires).
 *
 * Any number of reapers may visit the same queue at once: every step is an atomic script.
 */
import type { Deps } from '@sluice/server'
import { parseQueueBase } from '@sluice/store'
import type { QueueEntry, Topology } from '@sluice/topology'
import type { Visit } from './agenda.ts'
import type { DeadLetters } from './dead-letter.ts'

/** Steps of one visit: a queue with more to do gets its next turn after the others. */
const STEPS_MAX = 16

export function visitor(
  { topology }: Pick<Deps, 'topology'>,
  deadLetters: Pick<DeadLetters, 'move'>,
): Visit {
  return async (base) => {
    const entry = await findByBase(topology, base)
    return entry && visit(topology, entry, deadLetters)
  }
}

async function visit(
  topology: Topology,
  entry: QueueEntry,
  deadLetters: Pick<DeadLetters, 'move'>,
): Promise<number | undefined> {
  const { store, vhost, definition } = entry
  for (let step = 0; step < STEPS_MAX; step++) {
    const swept = await store.sweep()
    if (swept.kind !== 'ok') {
      // Declared and not created, or dropped and not removed: somebody died midway.
      if (swept.kind === 'missing' && (await store.create())) continue
      await topology.finishDelete(vhost, definition.name, definition.epoch)
      return undefined
    }
    const { nextMs, dead, unusedMs } = swept
    const expiresMs = entry.settings.expiresMs
    if (dead === 0 && expiresMs >= 0 && unusedMs >= expiresMs) {
      const { kind } = await store.drop({ unusedMs: expiresMs })
      if (kind !== 'in-use') {
        await topology.finishDelete(vhost, definition.name, definition.epoch)
        return undefined
      }
    }
    const moved = dead > 0 ? await deadLetters.move(entry) : 0
    if (moved === 0 && nextMs !== 0) {
      const expiresInMs = expiresMs < 0 ? -1 : Math.max(1, expiresMs - unusedMs)
      return sooner(nextMs, expiresInMs)
    }
  }
  return 0
}

/** The smaller of two times, -1 = never. */
function sooner(a: number, b: number): number | undefined {
  if (a < 0) return b < 0 ? undefined : b
  return b < 0 ? a : Math.min(a, b)
}

async function findByBase(topology: Topology, base: string): Promise<QueueEntry | undefined> {
  const place = parseQueueBase(base)
  if (!place) return undefined
  const known = topology.table.queue(place.vhost, place.name)
  if (known) return known
  await topology.refresh()
  return topology.table.queue(place.vhost, place.name)
}
