/** When a subscription may send: weekly windows, each in a time zone of its own (pure). */
import type { Subscription } from './subscription.ts'

export type Window = Subscription['shape']['windows'][number]
type Day = Window['days'][number]

const DAYS: readonly Day[] = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat']
const DAY_MINUTES = 24 * 60

/** Making one costs some hundred times its use. Bounded by the number of time zones. */
const formats = new Map<string, Intl.DateTimeFormat>()

/** Whether any window is open at a time, ms since 1970; without windows it always is. */
export function isOpen(windows: readonly Window[], timeMs: number): boolean {
  return windows.length === 0 || windows.some((window) => isWithin(window, timeMs))
}

function isWithin({ days, from, to, timeZone }: Window, timeMs: number): boolean {
  const { day, minute } = localTime(timeZone, timeMs)
  const opens = minutes(from)
  const closes = minutes(to)
  const today = days.includes(DAYS[day]!)
  if (opens < closes) return today && minute >= opens && minute < closes
  const yesterday = days.includes(DAYS[(day + 6) % 7]!)
  return (today && minute >= opens) || (yesterday && minute < closes)
}

function minutes(time: string): number {
  const [hour, minute] = time.split(':').map(Number)
  return Math.min(hour! * 60 + minute!, DAY_MINUTES)
}

/** What a clock on the wall shows: day of the week, 0 = Sunday, and minute of the day. */
function localTime(timeZone: string, timeMs: number): { day: number; minute: number } {
  let format = formats.get(timeZone)
  if (!format) {
    const options = { weekday: 'short', hour: '2-digit', minute: '2-digit' } as const
    format = new Intl.DateTimeFormat('en-GB', { ...options, hourCycle: 'h23', timeZone })
    formats.set(timeZone, format)
  }
  let day = 0
  let minute = 0
  for (const { type, value } of format.formatToParts(timeMs)) {
    if (type === 'weekday') day = DAYS.indexOf(value.toLowerCase() as Day)
    else if (type === 'hour') minute += Number(value) * 60
    else if (type === 'minute') minute += Number(value)
  }
  return { day, minute }
}
