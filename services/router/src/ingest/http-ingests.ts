/** Ingests over HTTP: declared, shown, listed and deleted. What goes through them: intake.ts. */
import { BrokerError, parseName } from '@sluice/core'
import {
  type Call,
  type Deps,
  type DocumentSpec,
  documentRoutes,
  noDocument,
  putDocument,
  REPLACE_ANSWERS,
  type Route,
  route,
} from '@sluice/server'
import type { RoutingTable } from '@sluice/topology'
import { INGEST_NAME, type Ingest, IngestBody, readIngest, ShownIngest } from './ingest.ts'

/** Of a vhost: every process holds them all. */
const INGESTS_MAX = 10_000

const spec: DocumentSpec<Ingest> = {
  kind: 'ingest',
  tag: 'ingest',
  summaries: {
    list: 'List ingests',
    show: 'Show an ingest',
    delete: 'Delete an ingest; its queue stays, with what waits in it',
  },
  countMax: INGESTS_MAX,
  absent: 'ingest_not_found',
  read: readIngest,
  shown: ({ name }, ingest) => ({ name, ...ingest, url: `/ingest/${name}/` }),
  schema: ShownIngest,
  mayChange: (call, ingest) => require(call, ingest?.queue ?? call.params.name),
}

export function ingestRoutes(deps: Deps): Route[] {
  return [...documentRoutes(deps.topology, spec), putRoute(deps)]
}

function putRoute(deps: Deps): Route {
  const { topology } = deps
  return route({
    method: 'put',
    path: '/v1/vhosts/:vhost/ingests/:name',
    needs: 'vhost',
    tag: spec.tag,
    summary: 'Declare or change an ingest: requests below /ingest/{name} become messages',
    description:
      'Its name is unique in the whole broker. The queue is declared, durable, when it is not there.',
    body: IngestBody,
    answers: REPLACE_ANSWERS,
    refusals: ['vhost_not_found', 'declaration_conflict', 'forbidden'],
    async handle(call) {
      const { vhost, name } = call.params
      checkName(name)
      const ingest: Ingest = { ...call.body, queue: call.body.queue ?? name }
      require(call, ingest.queue)
      await declareQueue(deps, vhost, ingest.queue)
      return putDocument(topology, spec, call, (_, table) => {
        checkUnique(table, vhost, name)
        return ingest
      })
    },
  })
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

export const noIngest = (name: string): BrokerError => noDocument(spec, name)
