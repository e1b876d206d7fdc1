/**
 * What a schedule is: the document of kind `schedule`, when it is due, and the message that each
 * tick publishes. The router keeps them, the reapers carry them out.
 */
import { createHash } from 'node:crypto'
import { DEFAULT_EXCHANGE_ALIAS, limits, type Message } from '@sluice/core'
import { readDocument } from '@sluice/security'
import { nextTick, type TickTimes } from '@sluice/store'
import { z } from 'zod'
import { toMessage } from './publish/publish-fields.ts'
import { readMessage } from './publish/read-message.ts'

/** A document is held by every process. */
const MESSAGE_BYTES_MAX = 64 * 1024
const EVERY_MS_MIN = 1_000
const EVERY_MS_MAX = 366 * 86_400_000
const CRON_LENGTH_MAX = 256

export const SCHEDULES_MAX = 1_000

const fields = z.strictObject({
  at: z.iso.datetime({ offset: true }).optional().meta({
    description: 'Once, at this moment; the schedule goes when it has run.',
  }),
  everyMs: z.int().min(EVERY_MS_MIN).max(EVERY_MS_MAX).optional().meta({
    description:
      'Again and again, after this long; counted from 1970, so that restarts shift nothing.',
  }),
  cron: z.string().max(CRON_LENGTH_MAX).optional().meta({
    description: 'minute hour day month weekday, with seconds before them where there are six.',
  }),
  timeZone: z.string().max(64).default('UTC').meta({ description: 'Of cron, e.g. Europe/Berlin.' }),
  exchange: z.string().max(limits.NAME_BYTES_MAX).default(DEFAULT_EXCHANGE_ALIAS),
  message: z.record(z.string(), z.json()).meta({
    description: 'As in a batch: routingKey, body or bodyBase64, headers, properties.',
  }),
  missed: z.enum(['skip', 'once']).default('once').meta({
    description:
      'What becomes of ticks during which nobody could work: nothing, or one publish for all.',
  }),
  paused: z.boolean().default(false),
})

export const ScheduleBody = fields.superRefine((schedule, context) => {
  checkTimes(schedule, context)
  const { message } = schedule
  const refuse = (text: string) =>
    context.addIssue({ code: 'custom', path: ['message'], message: text })
  if (JSON.stringify(message).length > MESSAGE_BYTES_MAX) {
    refuse(`has at most ${MESSAGE_BYTES_MAX} bytes as JSON`)
  }
  try {
    readMessage(message, '')
  } catch (error) {
    refuse((error as Error).message)
  }
})
export type Schedule = z.output<typeof ScheduleBody>

/** With its message as a data key sealed it (sealed-schedule.ts). */
const SealedSchedule = fields
  .omit({ message: true })
  .extend({ sealed: z.string() })
  .superRefine((schedule, context) => checkTimes(schedule, context))
export type SealedSchedule = z.output<typeof SealedSchedule>

/** As the document is. */
export type KeptSchedule = Schedule | SealedSchedule
type Times = Pick<Schedule, 'at' | 'everyMs' | 'cron' | 'timeZone'>

function checkTimes({ at, everyMs, cron, timeZone }: Times, context: z.core.$RefinementCtx): void {
  const refuse = (path: string, text: string) =>
    context.addIssue({ code: 'custom', path: [path], message: text })
  if ([at, everyMs, cron].filter((one) => one !== undefined).length !== 1) {
    refuse('cron', 'give one of at, everyMs and cron')
  }
  if (!isTimeZone(timeZone)) refuse('timeZone', 'is no time zone that is known here')
  else if (cron !== undefined && nextTick({ cron, timeZone }, Date.now()) === undefined) {
    refuse('cron', 'is no cron expression that ever comes due')
  }
}

/** Undefined for a document of another shape, of a newer broker say. */
export function readSchedule(value: unknown): KeptSchedule | undefined {
  if (typeof value !== 'object' || value === null) return undefined
  return 'sealed' in value ? readDocument(SealedSchedule, value) : readDocument(ScheduleBody, value)
}

export function timesOf({ at, everyMs, cron, timeZone }: Times): TickTimes {
  if (at !== undefined) return { atMs: Date.parse(at) }
  return everyMs === undefined ? { cron: cron!, timeZone } : { everyMs }
}

/** The next moments at which it is due after `afterMs`, at most `count`; none while paused. */
export function nextRuns(schedule: KeptSchedule, afterMs: number, count: number): number[] {
  const runs: number[] = []
  for (let last = afterMs; runs.length < count && !schedule.paused; ) {
    const next = nextTick(timesOf(schedule), last)
    if (next === undefined) break
    runs.push(next)
    last = next
  }
  return runs
}

function isTimeZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: name })
    return true
  } catch {
    return false
  }
}

/**
 * The message of one tick. Its de-duplication id is that of the tick, so that a tick which two
 * reapers come to carry out is stored once.
 */
export function messageOf(
  { vhost, name }: { readonly vhost: string; readonly name: string },
  { message, exchange }: Schedule,
  tickMs: number,
): Message {
  const { draft, body } = readMessage(message, '')
  const tick = createHash('sha256')
    .update(JSON.stringify([vhost, name, tickMs]))
    .digest('base64url')
  draft.dedupId ||= `schedule:${tick}`
  draft.properties.timestamp ??= Math.floor(tickMs / 1_000)
  return toMessage(draft, exchange === DEFAULT_EXCHANGE_ALIAS ? '' : exchange, body, 0)
}
