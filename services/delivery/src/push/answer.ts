/** What an answer means: for its message, for its endpoint, and until when (pure). */
import type { Pressure, Verdict } from './subscription.ts'

/** Longest that a Retry-After is obeyed, ms: a day. Beyond, it may be a mistake. */
const RETRY_AFTER_MS_MAX = 24 * 3_600_000

/** 4xx that say nothing about the message: RFC 9110, RFC 8470 (425), RFC 6585 (429). */
const RETRIED = new Set([408, 425, 429])

/** Where a subscription does not say. A redirect that is not followed is retried: pages move. */
export function usualVerdict(status: number): Verdict {
  if (status >= 200 && status < 300) return 'ack'
  return status >= 400 && status < 500 && !RETRIED.has(status) ? 'dead-letter' : 'retry'
}

export function pressureOf(status: number): Pressure {
  if (status === 429 || status === 503 || status === 504) return 'overload'
  return status === 502 ? 'down' : 'none'
}

const MONTHS = ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec']
/** IMF-fixdate and RFC 850's form, then asctime's (RFC 9110, 5.6.7). */
const FIXDATE = /^[a-z]{3,9}, (\d{2})[ -]([a-z]{3})[ -](\d{4}|\d{2}) (\d{2}):(\d{2}):(\d{2}) GMT$/i
const ASCTIME = /^[a-z]{3} ([a-z]{3}) ([ \d]\d) (\d{2}):(\d{2}):(\d{2}) (\d{4})$/i

/** Ms since 1970; undefined when it is no date. */
export function parseHttpDate(text: string, nowMs: number): number | undefined {
  const fix = FIXDATE.exec(text)
  const asc = ASCTIME.exec(text)
  const [day, month, year, ...time] = fix
    ? [fix[1], fix[2], fix[3], fix[4], fix[5], fix[6]]
    : [asc?.[2], asc?.[1], asc?.[6], asc?.[3], asc?.[4], asc?.[5]]
  if (day === undefined || month === undefined || year === undefined) return undefined
  const monthIndex = MONTHS.indexOf(month.toLowerCase())
  const [hour = 0, minute = 0, second = 0] = time.map(Number)
  const ms = Date.UTC(fullYear(year, nowMs), monthIndex, Number(day), hour, minute, second)
  return monthIndex < 0 || Number.isNaN(ms) ? undefined : ms
}

/** Two digits: not more than 50 years ahead (RFC 9110, 5.6.7). */
function fullYear(year: string, nowMs: number): number {
  if (year.length === 4) return Number(year)
  const thisYear = new Date(nowMs).getUTCFullYear()
  const near = thisYear - (thisYear % 100) + Number(year)
  return near > thisYear + 50 ? near - 100 : near
}

/**
 * How long an endpoint asks to be left alone, ms; undefined when it does not.
 *
 * A date is taken against the endpoint's own clock where it tells it (`Date`), else against ours:
 * its clock may be wrong, but not by how long it wants to wait.
 */
export function retryAfterMs(
  retryAfter: string | undefined,
  date: string | undefined,
  nowMs: number,
): number | undefined {
  const text = retryAfter?.trim() ?? ''
  if (/^\d{1,10}$/.test(text)) return Math.min(Number(text) * 1_000, RETRY_AFTER_MS_MAX)
  const untilMs = parseHttpDate(text, nowMs)
  if (untilMs === undefined) return undefined
  const sinceMs = (date !== undefined ? parseHttpDate(date.trim(), nowMs) : undefined) ?? nowMs
  return Math.min(Math.max(untilMs - sinceMs, 0), RETRY_AFTER_MS_MAX)
}
