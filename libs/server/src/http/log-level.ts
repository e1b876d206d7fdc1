/** The level of the log, asked and changed at run time. */
import { z } from 'zod'
import type { Deps } from '../deps.ts'
import { askedLevel, LOG_LEVELS } from '../log-level.ts'
import { type Route, route } from './route.ts'

const FOR_MS_DEFAULT = 3_600_000
const FOR_MS_MAX = 7 * 24 * 3_600_000

const Level = z.object({
  level: z.enum(LOG_LEVELS),
  until: z.iso.datetime().optional().meta({ description: 'When it goes back to the setting.' }),
})

const Asked = z.strictObject({
  level: z.enum(LOG_LEVELS),
  forMs: z.int().min(1_000).max(FOR_MS_MAX).default(FOR_MS_DEFAULT).meta({
    description: 'Then each process goes back to its SLUICE_LOG_LEVEL.',
  }),
})

export function logRoutes({ log, store, topology }: Deps): Route[] {
  const nowMs = () => Date.now() + store.state.clockAheadMs
  const common = { path: '/v1/log-level', tag: 'operate' } as const
  const change = (level: z.infer<typeof Asked>['level'] | undefined, untilMs: number) =>
    topology.changeDocument('setting', '', 'log-level', () =>
      level === undefined ? null : { level, untilMs },
    )
  return [
    route({
      ...common,
      method: 'get',
      needs: 'monitoring',
      summary: 'The level of the log of this process',
      answers: { 200: { description: 'What is written, from this level on.', body: Level } },
      handle() {
        const asked = askedLevel(topology, nowMs())
        const until = asked && { until: new Date(asked.untilMs).toISOString() }
        return { status: 200, body: { level: log.level, ...until } }
      },
    }),
    route({
      ...common,
      method: 'put',
      needs: 'administrator',
      summary: 'Change the level of the log, of every process, for a while',
      body: Asked,
      answers: {
        200: { description: 'Every process follows within a second or so.', body: Level },
      },
      async handle({ body: { level, forMs }, principal }) {
        const untilMs = (await store.nowMs()) + forMs
        await change(level, untilMs)
        log.warn({ to: level, forMs, by: principal.name }, 'log level changed')
        return { status: 200, body: { level, until: new Date(untilMs).toISOString() } }
      },
    }),
    route({
      ...common,
      method: 'delete',
      needs: 'administrator',
      summary: 'Back to the level of the settings',
      answers: { 204: { description: 'Done.' } },
      async handle() {
        await change(undefined, 0)
        return { status: 204 }
      },
    }),
  ]
}
