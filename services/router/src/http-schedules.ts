/**
 * Schedules over HTTP: put, shown with their next runs, paused, resumed and deleted. The reapers
 * carry them out (services/reaper/src/schedules.ts).
 */
import { BrokerError, DEFAULT_EXCHANGE_ALIAS, parseName } from '@sluice/core'
import {
  type Call,
  type Deps,
  nextRuns,
  PageQuery,
  pageOf,
  pageOn,
  type Route,
  readSchedule,
  route,
  SCHEDULES_MAX,
  type Schedule,
  ScheduleBody,
} from '@sluice/server'
import type { Json } from '@sluice/topology'
import { z } from 'zod'
import { DELETE_ANSWERS, declared, noVhost, PUT_ANSWERS } from './http-topology.ts'

const NEXT_SHOWN = 5

const ShownSchedule = z
  .object({
    ...ScheduleBody.shape,
    name: z.string(),
    next: z.array(z.string()).meta({ description: 'The next runs, the first five.' }),
  })
  .meta({ id: 'Schedule' })

const tag = 'schedules'
const list = '/v1/vhosts/:vhost/schedules'
const path = '/v1/vhosts/:vhost/schedules/:name'

export function scheduleRoutes(deps: Deps): Route[] {
  return [...reads(deps), ...writes(deps), pausing(deps, 'pause'), pausing(deps, 'resume')]
}

function reads({ topology, store }: Deps): Route[] {
  const current = async (vhost: string) => {
    await topology.refresh()
    if (!topology.table.hasVhost(vhost)) throw noVhost(vhost)
    return topology.table.documents
  }
  const shown = (name: string, value: unknown) => {
    const schedule = readSchedule(value)
    if (!schedule) return []
    const nowMs = Date.now() + store.state.clockAheadMs
    const next = nextRuns(schedule, nowMs, NEXT_SHOWN).map((ms) => new Date(ms).toISOString())
    return [{ name, ...schedule, next }]
  }
  return [
    route({
      method: 'get',
      path: list,
      needs: 'vhost',
      tag,
      summary: 'List schedules with their next runs',
      query: PageQuery,
      answers: { 200: { description: 'A page of them.', body: pageOf(ShownSchedule) } },
      refusals: ['vhost_not_found'],
      async handle({ params: { vhost }, query }) {
        const all = (await current(vhost)).list('schedule', vhost)
        const page = pageOn(all, ({ name }) => name, query)
        const items = page.items.flatMap(({ name, value }) => shown(name, value))
        return { status: 200, body: { ...page, items } }
      },
    }),
    route({
      method: 'get',
      path,
      needs: 'vhost',
      tag,
      summary: 'Show a schedule with its next runs',
      answers: { 200: { description: 'The schedule.', body: ShownSchedule } },
      refusals: ['vhost_not_found', 'not_found'],
      async handle({ params: { vhost, name } }) {
        const [body] = shown(name, (await current(vhost)).get('schedule', vhost, name))
        if (body === undefined) throw noSchedule(name)
        return { status: 200, body }
      },
    }),
  ]
}

function writes({ topology }: Deps): Route[] {
  return [
    route({
      method: 'put',
      path,
      needs: 'vhost',
      tag,
      summary: 'Create or replace a schedule: a message published at a time, or again and again',
      description: 'The caller must be allowed to write to its exchange. Times are those of UTC.',
      body: ScheduleBody,
      answers: PUT_ANSWERS,
      refusals: ['vhost_not_found', 'forbidden'],
      async handle(call) {
        const { vhost, name } = call.params
        parseName('schedule', name)
        requireWrite(call, call.body)
        if (call.body.at !== undefined && Date.parse(call.body.at) <= Date.now()) {
          throw new BrokerError('invalid_request', 'at is a moment that is to come.')
        }
        const { before } = await topology.changeDocument('schedule', vhost, name, (now, table) => {
          const count = table.documents.list('schedule', vhost).length
          if (now === undefined && count >= SCHEDULES_MAX) {
            const text = `A vhost has at most ${SCHEDULES_MAX} schedules.`
            throw new BrokerError('invalid_request', text)
          }
          return call.body as unknown as Json
        })
        return declared(before === undefined)
      },
    }),
    route({
      method: 'delete',
      path,
      needs: 'vhost',
      tag,
      summary: 'Delete a schedule',
      answers: DELETE_ANSWERS,
      refusals: ['vhost_not_found', 'forbidden'],
      async handle(call) {
        const { vhost, name } = call.params
        await topology.refresh()
        const schedule = readSchedule(topology.table.documents.get('schedule', vhost, name))
        if (schedule) requireWrite(call, schedule)
        await topology.changeDocument('schedule', vhost, name, () => null)
        return { status: 204 }
      },
    }),
  ]
}

function pausing({ topology }: Deps, what: 'pause' | 'resume'): Route {
  return route({
    method: 'post',
    path: `/v1/vhosts/:vhost/schedules/:name/${what}`,
    needs: 'vhost',
    tag,
    summary: what === 'pause' ? 'Publish nothing until it is resumed' : 'Go on with the next run',
    answers: { 204: { description: 'Done, or it was so.' } },
    refusals: ['vhost_not_found', 'not_found', 'forbidden'],
    async handle(call) {
      const { vhost, name } = call.params
      await topology.changeDocument('schedule', vhost, name, (value) => {
        const schedule = readSchedule(value)
        if (!schedule) throw noSchedule(name)
        requireWrite(call, schedule)
        return { ...schedule, paused: what === 'pause' } as unknown as Json
      })
      return { status: 204 }
    },
  })
}

/** Who may publish there by hand may have it done by the clock. */
function requireWrite(call: Call<object, unknown, unknown>, { exchange }: Schedule): void {
  const name = exchange === DEFAULT_EXCHANGE_ALIAS ? '' : exchange
  call.require('write', { kind: 'exchange', name })
}

function noSchedule(name: string): BrokerError {
  return new BrokerError('not_found', `There is no schedule ${JSON.stringify(name)}.`)
}
