/** What keeps the broker from its promises, found at the moment of asking, with the remedy. */
import type { Config } from '@sluice/config'
import { DEAD_LETTER_QUEUE } from '@sluice/core'
import { type Deps, type Route, route } from '@sluice/server'
import type { ServerState } from '@sluice/store'
import { z } from 'zod'

const Finding = z.object({
  level: z.enum(['ok', 'warn', 'bad']),
  what: z.string(),
  found: z.string(),
  remedy: z.string().optional(),
})
type Finding = z.output<typeof Finding>

/** Queues looked at, by name; with more, the metrics tell. */
const QUEUES_MAX = 500
const CLOCK_MS_MAX = 1_000
const MEMORY_WARN_SHARE = 0.7
const MIB = 1024 * 1024

export function doctorRoute({ store, topology }: Deps, config: Config): Route {
  return route({
    method: 'get',
    path: '/v1/doctor',
    tag: 'operate',
    needs: 'monitoring',
    summary: 'What keeps the broker from its promises, and what to change',
    answers: {
      200: {
        description: 'What was looked at.',
        body: z.object({ findings: z.array(Finding) }).meta({ id: 'Diagnosis' }),
      },
    },
    async handle() {
      await topology.refresh()
      const { table } = topology
      const entries = table.vhosts().flatMap((vhost) => table.queues(vhost))
      const queues = await Promise.all(entries.slice(0, QUEUES_MAX).map(readQueue))
      const findings = [
        ...ofServer(store.state),
        promise(config.durability, store.canPromise(config.durability), store.warnings()),
        ...ofQueues(queues),
      ]
      return { status: 200, body: { findings } }
    },
  })
}

const ok = (what: string, found: string): Finding => ({ level: 'ok', what, found })

function ofServer(state: ServerState): Finding[] {
  const { product, version, aof, fsync, snapshots, clockAheadMs, evictionPolicy } = state
  return [
    ok('Redis', `${product} ${version}, ${state.replicas} replicas`),
    persistence(aof, fsync, snapshots, state.persistenceFailing),
    memory(state),
    evictionPolicy === 'noeviction'
      ? ok('eviction', 'none')
      : {
          level: 'bad',
          what: 'eviction',
          found: evictionPolicy,
          remedy: 'Redis may delete messages: CONFIG SET maxmemory-policy noeviction',
        },
    Math.abs(clockAheadMs) <= CLOCK_MS_MAX
      ? ok('clocks', `Redis is ${clockAheadMs} ms ahead of this process`)
      : {
          level: 'warn',
          what: 'clocks',
          found: `Redis is ${clockAheadMs} ms ahead of this process`,
          remedy: 'run NTP on both; delays and leases go by the clock of Redis',
        },
  ]
}

function persistence(aof: boolean, fsync: string, snapshots: boolean, failing: boolean): Finding {
  const what = 'persistence'
  if (failing) {
    const remedy = 'Redis could not write its AOF or snapshot: look at its log and its disk'
    return { level: 'bad', what, found: 'the last write failed', remedy }
  }
  if (aof && fsync !== 'no') return ok(what, `AOF, appendfsync ${fsync || 'unknown'}`)
  const found = aof ? 'AOF, appendfsync no' : snapshots ? 'snapshots only' : 'none'
  const remedy = 'CONFIG SET appendonly yes, CONFIG SET appendfsync everysec, CONFIG REWRITE'
  return { level: aof ? 'warn' : 'bad', what, found, remedy }
}

function memory({ usedMemory, maxMemory }: ServerState): Finding {
  const what = 'memory'
  const used = `${Math.round(usedMemory / MIB)} MiB`
  if (maxMemory === 0) {
    const remedy = 'set maxmemory below what the machine has: else its end is the kernel’s choice'
    return { level: 'warn', what, found: `${used} used, without a limit`, remedy }
  }
  const found = `${used} of ${Math.round(maxMemory / MIB)} MiB used`
  if (usedMemory < maxMemory * MEMORY_WARN_SHARE) return ok(what, found)
  return { level: 'warn', what, found, remedy: 'consume, raise maxmemory, or limit queues' }
}

function promise(durability: string, kept: boolean, warnings: readonly string[]): Finding {
  const what = 'durability'
  if (kept) return ok(what, `${durability} is promised, and kept`)
  const remedy = warnings.at(-1) ?? 'see the settings of Redis'
  return { level: 'bad', what, found: `${durability} is promised and cannot be kept`, remedy }
}

interface Looked {
  readonly where: string
  readonly name: string
  readonly ready: number
  readonly consumers: number
}

async function readQueue(
  entry: ReturnType<Deps['topology']['table']['queues']>[number],
): Promise<Looked> {
  const { ready, consumers } = await entry.store.stats()
  const { name } = entry.definition
  return { where: `${name} in ${entry.vhost}`, name, ready, consumers }
}

function ofQueues(queues: readonly Looked[]): Finding[] {
  const dead = queues.filter(({ name, ready }) => name === DEAD_LETTER_QUEUE && ready > 0)
  const idle = queues.filter(
    ({ name, ready, consumers }) => name !== DEAD_LETTER_QUEUE && ready > 0 && consumers === 0,
  )
  const count = (some: readonly Looked[]) => some.reduce((sum, { ready }) => sum + ready, 0)
  const names = (some: readonly Looked[]) =>
    some
      .slice(0, 5)
      .map(({ where }) => where)
      .join(', ')
  return [
    dead.length === 0
      ? ok('dead letters', 'none')
      : {
          level: 'warn',
          what: 'dead letters',
          found: `${count(dead)}: ${names(dead)}`,
          remedy: 'sluice dead-letters shows why, sluice redrive sends them back',
        },
    idle.length === 0
      ? ok('consumers', 'wherever messages wait')
      : {
          level: 'warn',
          what: 'consumers',
          found: `none is attached where messages wait (${count(idle)}): ${names(idle)}`,
          remedy: 'start one, unless they lease over HTTP',
        },
  ]
}
