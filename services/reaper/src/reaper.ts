/**
 * Everything that time decides: lapsed leases, retries, delayed and expired messages, dead letters,
 * dead processes, unused queues.
 *
 * Any number of reapers may run, and none leads: each step is an atomic script that finds either
 * something to do or that another one did it.
 */
import type { Config } from '@sluice/config'
import type { Report, Start } from '@sluice/core'
import type { Deps, Service } from '@sluice/server'
import type { QueueEntry, RoutingTable, Topology } from '@sluice/topology'
import { Agenda } from './agenda.ts'
import { DeadLetters } from './dead-letter.ts'
import { every, sparsely } from './every.ts'
import { keyRotation } from './key-rotation.ts'
import { maintenance } from './maintenance.ts'
import { reclaimDeadSlots } from './reclaim.ts'
import { schedules } from './schedules.ts'
import { visitor } from './visit.ts'

/**
 * Queues that one pass of the round asks a visit for; with more, the round takes several passes.
 */
const ROUND_MAX = 512

export function reaper(deps: Deps, config: Config): Service {
  const report = sparsely(deps.report)
  const passes = deps.metrics.count('reaperPasses', {})
  const reclaim = async (signal: AbortSignal) => {
    await reclaimDeadSlots(deps, signal)
    passes.value++
  }
  const { reaperPassMs: passMs, reaperSweepMs: sweepMs, dataKeyRotationMs } = config
  return {
    name: 'reaper',
    routes: [],
    loops: [
      visits(deps, passMs, report),
      async (signal) => every(passMs, signal, () => reclaim(signal), report),
      maintenance(deps, { sweepMs }, report),
      schedules(deps, report),
      keyRotation(deps, { everyMs: sweepMs, maxAgeMs: dataKeyRotationMs }, report),
    ],
  }
}

/** Visits queues as hints and their own dates say, and each of them in turn besides. */
function visits(deps: Deps, passMs: number, report: Report): Start {
  return async (signal) => {
    const agenda = new Agenda(visitor(deps, new DeadLetters(deps)), report)
    const { closed } = agenda.run(signal)
    await deps.store.slot.onAgenda((base) => agenda.note(base, 0))
    const nextQueues = takeTurns(deps.topology)
    const round = every(
      passMs,
      signal,
      async () => {
        for (const { store } of nextQueues()) agenda.note(store.base, 0)
      },
      report,
    )
    return { closed: Promise.all([closed, round.closed]).then(() => {}) }
  }
}

/** Gives some of the queues at each call, all of them in turn. */
function takeTurns(topology: Topology): () => readonly QueueEntry[] {
  let table: RoutingTable | undefined
  let queues: readonly QueueEntry[] = []
  let next = 0
  return () => {
    if (table !== topology.table) {
      const current = topology.table
      table = current
      queues = current.vhosts().flatMap((vhost) => current.queues(vhost))
    }
    if (next >= queues.length) next = 0
    next += ROUND_MAX
    return queues.slice(next - ROUND_MAX, next)
  }
}
