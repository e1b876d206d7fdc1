/**
 * When a schedule is due (pure): once, at multiples of an interval since 1970, or by a cron
 * expression of five fields, or six with seconds first, in an IANA time zone. What a clock change
 * skips or repeats is done as cron-parser does it.
 */
import { CronExpressionParser } from 'cron-parser'

export interface TickTimes {
  /** Once, ms since 1970. */
  readonly atMs?: number
  readonly everyMs?: number
  readonly cron?: string
  /** Of cron. */
  readonly timeZone?: string
}

/** cron-parser fills in what is missing; here it is missing. */
const FIELDS = /^\S+(?: +\S+){4,5}$/

/** The first moment after `afterMs`; undefined when there is none, or cron is no expression. */
export function nextTick(times: TickTimes, afterMs: number): number | undefined {
  const { atMs, everyMs, cron, timeZone } = times
  if (atMs !== undefined) return atMs > afterMs ? atMs : undefined
  if (everyMs !== undefined) return (Math.floor(afterMs / everyMs) + 1) * everyMs
  if (cron === undefined || !FIELDS.test(cron)) return undefined
  const options = { currentDate: new Date(afterMs), ...(timeZone && { tz: timeZone }) }
  try {
    return CronExpressionParser.parse(cron, options).next().getTime()
  } catch {
    return undefined
  }
}

/** Ends of BullMQ's arithmetic: a scheduler's pattern is its times as JSON. */
export const TICK_SETTINGS = {
  repeatStrategy: (afterMs: number, { pattern }: { pattern?: string }) =>
    nextTick(JSON.parse(pattern ?? '{}') as TickTimes, afterMs),
}
