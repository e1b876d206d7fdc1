/** An attempt as it stays with its message, in Redis and in a dead letter: a short JSON text. */
import { z } from 'zod'
import type { Attempt } from './subscription.ts'

export const KeptAttempt = z
  .object({
    at: z.iso.datetime().meta({ description: 'When it began.' }),
    durationMs: z.number(),
    status: z.int().optional().meta({ description: 'Absent: there was no answer.' }),
    error: z.string().optional(),
    answer: z.string().optional().meta({ description: 'The first bytes of the answer.' }),
  })
  .meta({ id: 'PushAttempt' })
export type KeptAttempt = z.output<typeof KeptAttempt>

export function attemptText({ timeMs, durationMs, status, error, answer }: Attempt): string {
  const kept: KeptAttempt = {
    at: new Date(timeMs).toISOString(),
    durationMs: Math.round(durationMs),
    ...(status !== undefined && { status }),
    ...(error !== undefined && { error }),
    ...(answer !== '' && { answer }),
  }
  return JSON.stringify(kept)
}

/** undefined: whoever published the message wrote something else there. */
export function parseAttempt(text: string): KeptAttempt | undefined {
  try {
    return KeptAttempt.safeParse(JSON.parse(text)).data
  } catch {
    return undefined
  }
}

/** One line that says how it went, for the message's last error. */
export function summary({ status, error, durationMs, answer }: Attempt): string {
  const what = [status === undefined ? 'no answer' : `HTTP ${status}`, error].filter(Boolean)
  const said = answer === '' ? '' : `: ${answer}`
  return `${what.join(', ')} after ${Math.round(durationMs)} ms${said}`
}
