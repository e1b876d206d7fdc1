/**
 * The level of the log, changed at run time for every process, for a while: a document that all
 * follow. When its time is over each goes back to what its settings say, so that no debug level is
 * forgotten.
 */
import type { Logger } from '@sluice/telemetry'
import type { Topology } from '@sluice/topology'
import { z } from 'zod'

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const

const Document = z.object({ level: z.enum(LOG_LEVELS), untilMs: z.int() })
type LogLevel = z.infer<typeof Document>

/** Longest time that a timer takes. */
const TIMER_MS_MAX = 2 ** 31 - 1

/** What was asked for, while it counts; undefined = what the settings say. */
export function askedLevel({ table }: Topology, nowMs: number): LogLevel | undefined {
  const parsed = Document.safeParse(table.documents.get('setting', '', 'log-level'))
  return parsed.success && parsed.data.untilMs > nowMs ? parsed.data : undefined
}

/** Keeps `log` at what is asked for; returns what ends that. @param nowMs Redis's clock. */
export function followLogLevel(
  log: Pick<Logger, 'level'>,
  topology: Topology,
  nowMs: () => number,
): () => void {
  const own = log.level
  let timer: NodeJS.Timeout | undefined
  let documents: unknown
  const look = () => {
    documents = topology.table.documents
    clearTimeout(timer)
    const asked = askedLevel(topology, nowMs())
    log.level = asked?.level ?? own
    if (asked === undefined) return
    timer = setTimeout(look, Math.min(asked.untilMs - nowMs() + 1, TIMER_MS_MAX))
    timer.unref()
  }
  const unwatch = topology.watch(() => {
    if (topology.table.documents !== documents) look()
  })
  look()
  return () => {
    clearTimeout(timer)
    unwatch()
  }
}
