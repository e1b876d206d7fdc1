/**
 * What probes ask a process: is it alive, does it work. Open, since probes carry no credential.
 *
 * Ready means it: a round trip to Redis, shared by all who ask at once so that asking is no load,
 * and every promise kept. A shortage of memory does not count: publishes are refused, but consumers
 * must be let in, or it would never end. Nor does a key of encryption that is away: whatever is not
 * sealed with it is served, and all processes would leave at once; it is told as `impaired`.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { BrokerError } from '@sluice/core'
import { z } from 'zod'
import { type Route, route } from './route.ts'

/** Redis that answers later than this is away, as far as clients can tell. */
const READY_MS_MAX = 2_000

const Health = z.object({ status: z.string() })
const Readiness = z.object({
  status: z.string(),
  impaired: z.array(z.string()).optional().meta({
    description: 'What cannot be served at the moment, while all else is: encrypted messages.',
  }),
})

interface HealthOptions {
  /** Settles once Redis has answered; rejects when it does not. */
  readonly roundTrip: () => Promise<unknown>
  /** Promises that cannot be kept at the moment; a sentence each. */
  readonly broken: () => readonly string[]
  /** What cannot be served though all else can; a sentence each. */
  readonly impaired: () => readonly string[]
  readonly stopping: AbortSignal
}

export function healthRoutes(options: HealthOptions): Route[] {
  const { roundTrip, broken, impaired, stopping } = options
  let asking: Promise<void> | undefined

  async function ask(): Promise<void> {
    const timeout = new AbortController()
    const late = sleep(READY_MS_MAX, undefined, { signal: timeout.signal, ref: false }).then(() => {
      throw new Error(`Redis did not answer within ${READY_MS_MAX} ms`)
    })
    try {
      await Promise.race([roundTrip(), late])
    } catch (cause) {
      throw new BrokerError('store_unavailable', 'Redis is away.', { cause })
    } finally {
      timeout.abort()
      late.catch(() => {}) // the abort itself
      asking = undefined
    }
  }

  return [
    route({
      method: 'get',
      path: '/healthz',
      tag: 'operate',
      summary: 'Whether this process runs',
      needs: 'nothing',
      answers: { 200: { description: 'It does.', body: Health } },
      handle: () => ({ status: 200, body: { status: 'ok' } }),
    }),
    route({
      method: 'get',
      path: '/readyz',
      tag: 'operate',
      summary:
        'Whether this process can serve: 503 while Redis is away, while a promise cannot be kept, or while it stops',
      needs: 'nothing',
      answers: { 200: { description: 'It can.', body: Readiness } },
      async handle() {
        if (stopping.aborted) throw new BrokerError('draining', 'This process is stopping.')
        asking ??= ask()
        await asking
        const [why] = broken()
        if (why !== undefined) throw new BrokerError('durability_unavailable', why)
        const lacks = impaired()
        return {
          status: 200,
          body: { status: 'ready', ...(lacks.length > 0 && { impaired: [...lacks] }) },
        }
      },
    }),
  ]
}
