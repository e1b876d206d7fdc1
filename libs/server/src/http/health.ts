/**
 * What operators ask a process: is it alive, does it work, what has it done.
 *
 * Alive and ready are open, since probes carry no credential, and say nothing but yes or no. Ready
 * means it: a round trip to Redis, shared by all who ask at once, so that asking is no load.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { BrokerError } from '@sluice/core'
import { z } from 'zod'
import { type Route, route } from './route.ts'

/** Redis that answers later than this is away, as far as clients can tell. */
const READY_MS_MAX = 2_000

const Health = z.object({ status: z.string() })

interface HealthOptions {
  /** Settles once Redis has answered; rejects when it does not. */
  readonly roundTrip: () => Promise<unknown>
  readonly metricsText: () => Promise<string>
  readonly stopping: AbortSignal
}

export function healthRoutes({ roundTrip, metricsText, stopping }: HealthOptions): Route[] {
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
      summary: 'Whether this process can serve: 503 while Redis is away, or while it stops',
      needs: 'nothing',
      answers: { 200: { description: 'It can.', body: Health } },
      async handle() {
        if (stopping.aborted) throw new BrokerError('draining', 'This process is stopping.')
        asking ??= ask()
        await asking
        return { status: 200, body: { status: 'ready' } }
      },
    }),
    route({
      method: 'get',
      path: '/metrics',
      tag: 'operate',
      needs: 'monitoring',
      summary: 'Metrics of this process in Prometheus’s text format',
      answers: {
        200: { description: 'See docs/metrics.md.', body: z.string(), type: 'text/plain' },
      },
      async handle({ res }) {
        const text = await metricsText()
        res.setHeader('Content-Type', 'text/plain; version=0.0.4; charset=utf-8')
        res.end(text)
        return undefined
      },
    }),
  ]
}
