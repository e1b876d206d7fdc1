/**
 * Schedules over HTTP: put, shown with their next runs, paused, resumed and deleted. The reapers
 * carry them out (services/reaper/src/schedules.ts).
 */
import { BrokerError, DEFAULT_EXCHANGE_ALIAS, parseName } from '@sluice/core'
import {
  type Call,
  type Deps,
  type DocumentSpec,
  documentRoutes,
  type KeptSchedule,
  keepSchedule,
  nextRuns,
  openSchedule,
  pauseRoutes,
  putDocument,
  REPLACE_ANSWERS,
  type Route,
  readSchedule,
  route,
  SCHEDULES_MAX,
  ScheduleBody,
  type SealedSchedule,
} from '@sluice/server'
import { z } from 'zod'

const NEXT_SHOWN = 5

const ShownSchedule = z
  .object({
    ...ScheduleBody.shape,
    message: ScheduleBody.shape.message.optional(),
    unreadable: z.enum(['locked', 'shredded']).optional().meta({
      description: 'Why its message is not shown (docs/encryption.md).',
    }),
    name: z.string(),
    next: z.array(z.string()).meta({ description: 'The next runs, the first five.' }),
  })
  .meta({ id: 'Schedule' })

export function scheduleRoutes(deps: Deps): Route[] {
  const { topology, store } = deps
  const spec: DocumentSpec<KeptSchedule> = {
    kind: 'schedule',
    tag: 'schedules',
    summaries: {
      list: 'List schedules with their next runs',
      show: 'Show a schedule with its next runs',
      delete: 'Delete a schedule',
    },
    countMax: SCHEDULES_MAX,
    absent: 'not_found',
    read: readSchedule,
    async shown(path, kept) {
      const nowMs = Date.now() + store.state.clockAheadMs
      const next = nextRuns(kept, nowMs, NEXT_SHOWN).map((ms) => new Date(ms).toISOString())
      const { name } = path
      const opened = await openSchedule(deps, path, kept)
      if (typeof opened === 'object') return { name, ...opened, next }
      const { sealed: _, ...rest } = kept as SealedSchedule
      return { name, ...rest, unreadable: opened, next }
    },
    schema: ShownSchedule,
    mayChange: (call, schedule) => schedule && requireWrite(call, schedule),
  }
  return [
    ...documentRoutes(topology, spec),
    putRoute(deps, spec),
    ...pauseRoutes(topology, spec, {
      pause: { summary: 'Publish nothing until it is resumed' },
      resume: { summary: 'Go on with the next run' },
    }),
  ]
}

function putRoute(deps: Deps, spec: DocumentSpec<KeptSchedule>): Route {
  return route({
    method: 'put',
    path: '/v1/vhosts/:vhost/schedules/:name',
    needs: 'vhost',
    tag: spec.tag,
    summary: 'Create or replace a schedule: a message published at a time, or again and again',
    description: 'The caller must be allowed to write to its exchange. Times are those of UTC.',
    body: ScheduleBody,
    answers: REPLACE_ANSWERS,
    refusals: ['vhost_not_found', 'forbidden', 'encryption_unavailable'],
    async handle(call) {
      const { params, body } = call
      parseName('schedule', params.name)
      requireWrite(call, body)
      if (body.at !== undefined && Date.parse(body.at) <= Date.now()) {
        throw new BrokerError('invalid_request', 'at is a moment that is to come.')
      }
      const kept = await keepSchedule(deps, params, body)
      return putDocument(deps.topology, spec, call, () => kept)
    },
  })
}

/** Who may publish there by hand may have it done by the clock. */
function requireWrite(
  call: Call<object, unknown, unknown>,
  { exchange }: Pick<KeptSchedule, 'exchange'>,
): void {
  const name = exchange === DEFAULT_EXCHANGE_ALIAS ? '' : exchange
  call.require('write', { kind: 'exchange', name })
}
