/** Ingests over HTTP: declared, shown, listed and deleted. What goes through them: intake.ts. */
import { BrokerError, limits, parseName } from '@sluice/core'
import { type Call, type Deps, PageQuery, pageOf, pageOn, type Route, route } from '@sluice/server'
import type { Json, RoutingTable } from '@sluice/topology'
import { DELETE_ANSWERS, declared, noVhost, PUT_ANSWERS } from '../http-topology.ts'
import { INGEST_NAME, type Ingest, IngestBody, readIngest, ShownIngest } from './ingest.ts'

const tag = 'ingest'
const list = '/v1/vhosts/:vhost/ingests'
const path = '/v1/vhosts/:vhost/ingests/:name'

export function ingestRoutes(deps: Deps): Route[] {
  return [...reads(deps), ...writes(deps)]
}

function reads({ topology }: Deps): Route[] {
  const current = async (vhost: string) => {
    await topology.refresh()
    if (!topology.table.hasVhost(vhost)) throw noVhost(vhost)
    return topology.table.documents
  }
  return [
    route({
      method: 'get',
      path: list,
      needs: 'vhost',
      tag,
      summary: 'List ingests',
      query: PageQuery,
      answers: { 200: { description: 'A page of them.', body: pageOf(ShownIngest) } },
      refusals: ['vhost_not_found'],
      async handle({ params: { vhost }, query }) {
        const all = (await current(vhost)).list('ingest', vhost)
        const page = pageOn(all, ({ name }) => name, query)
        const items = page.items.flatMap(({ name, value }) => shown(name, readIngest(name, value)))
        return { status: 200, body: { ...page, items } }
      },
    }),
    route({
      method: 'get',
      path,
      needs: 'vhost',
      tag,
      summary: 'Show an ingest',
      answers: { 200: { description: 'The ingest.', body: ShownIngest } },
      refusals: ['vhost_not_found', 'ingest_not_found'],
      async handle({ params: { vhost, name } }) {
        const value = (await current(vhost)).get('ingest', vhost, name)
        const [body] = value === undefined ? [] : shown(name, readIngest(name, value))
        if (body === undefined) throw noIngest(name)
        return { status: 200, body }
      },
    }),
  ]
}

function writes(deps: Deps): Route[] {
  const { topology } = deps
  return [
    route({
      method: 'put',
      path,
      needs: 'vhost',
      tag,
      summary: 'Declare or change an ingest: requests below /ingest/{name} become messages',
      description:
        'Its name is unique in the whole broker. The queue is declared, durable, when it is not there.',
      body: IngestBody,
      answers: PUT_ANSWERS,
      refusals: ['vhost_not_found', 'declaration_conflict', 'forbidden'],
      async handle(call) {
        const { vhost, name } = call.params
        checkName(name)
        const ingest: Ingest = { ...call.body, queue: call.body.queue ?? name }
        require(call, ingest.queue)
        await declareQueue(deps, vhost, ingest.queue)
        const { before } = await topology.changeDocument('ingest', vhost, name, (_, table) => {
          checkUnique(table, vhost, name)
          return ingest as unknown as Json
        })
        return declared(before === undefined)
      },
    }),
    route({
      method: 'delete',
      path,
      needs: 'vhost',
      tag,
      summary: 'Delete an ingest; its queue stays, with what waits in it',
      answers: DELETE_ANSWERS,
      refusals: ['vhost_not_found', 'forbidden'],
      async handle(call) {
        const { vhost, name } = call.params
        await topology.refresh()
        const value = topology.table.documents.get('ingest', vhost, name)
        if (value !== undefined) require(call, readIngest(name, value)?.queue ?? name)
        await topology.changeDocument('ingest', vhost, name, () => null)
        return { status: 204 }
      },
    }),
  ]
}

/** Who may configure and write the queue may have requests put into it. */
function require(call: Call<object, unknown, unknown>, queue: string): void {
  for (const operation of ['configure', 'write'] as const) {
    call.require(operation, { kind: 'queue', name: queue })
  }
}

async function declareQueue({ topology }: Deps, vhost: string, queue: string): Promise<void> {
  parseName('queue', queue)
  await topology.refresh()
  if (topology.table.queue(vhost, queue)) return
  await topology.declareQueue(vhost, {
    name: queue,
    durable: true,
    autoDelete: false,
    exclusive: '',
    arguments: {},
  })
}

function checkName(name: string): void {
  if (INGEST_NAME.test(name)) return
  throw new BrokerError(
    'invalid_request',
    'The name of an ingest has 1 to 128 letters, digits, dots, tildes, dashes and underscores, and begins with a letter or digit.',
  )
}

function checkUnique(table: RoutingTable, vhost: string, name: string): void {
  for (const other of table.vhosts()) {
    if (other !== vhost && table.documents.get('ingest', other, name) !== undefined) {
      throw new BrokerError('declaration_conflict', 'Another vhost has an ingest of this name.')
    }
  }
}

function shown(name: string, ingest: Ingest | undefined) {
  return ingest === undefined ? [] : [{ name, ...ingest, url: `/ingest/${name}/` }]
}

export function noIngest(name: string): BrokerError {
  const text = JSON.stringify(name.slice(0, limits.NAME_BYTES_MAX))
  return new BrokerError('ingest_not_found', `There is no ingest ${text}.`)
}
