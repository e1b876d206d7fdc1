/**
 * The named documents of a vhost over HTTP: what their kinds have in common. What one says, and
 * what it takes to put one, is of its kind.
 *
 * Reads show every change that was made, anywhere, before they were asked. A document that this
 * version cannot read, since a newer broker wrote it, is not shown; it may be replaced and deleted.
 */
import { BrokerError, type ErrorCode, limits } from '@sluice/core'
import type { Json, RoutingTable, Topology } from '@sluice/topology'
import type { z } from 'zod'
import { noVhost } from '../not-found.ts'
import { PageQuery, pageOf, pageOn } from './paging.ts'
import { type Call, type Reply, type Route, route } from './route.ts'

/** The answers of a PUT that replaces what is there, whatever it was. */
export const REPLACE_ANSWERS = {
  201: { description: 'Created.' },
  200: { description: 'It was there; it is now as the request says.' },
} as const
export const DELETE_ANSWERS = { 204: { description: 'It is not there.' } } as const

interface DocumentPath {
  readonly vhost: string
  readonly name: string
}

export interface DocumentSpec<D> {
  readonly kind: 'ingest' | 'schedule' | 'subscription'
  readonly tag: string
  readonly summaries: { readonly list: string; readonly show: string; readonly delete: string }
  /** In a vhost: every process holds all of them. */
  readonly countMax: number
  /** The code for one that is not there. */
  readonly absent: ErrorCode
  /** undefined for what this version cannot read. */
  readonly read: (value: Json, name: string) => D | undefined
  readonly shown: (path: DocumentPath, document: D) => object | Promise<object>
  /** Of what is shown. */
  readonly schema: z.ZodType
  /** Throws forbidden: before a document that is there is replaced, deleted, paused or resumed. */
  readonly mayChange: (call: Call<DocumentPath, unknown, unknown>, document: D | undefined) => void
}

/** List, show and delete. */
export function documentRoutes<D>(topology: Topology, spec: DocumentSpec<D>): Route[] {
  const { kind, tag, summaries, absent, schema, shown } = spec
  const needs = 'vhost'
  const list = `/v1/vhosts/:vhost/${kind}s` as const
  const path = `/v1/vhosts/:vhost/${kind}s/:name` as const
  return [
    route({
      method: 'get',
      path: list,
      needs,
      tag,
      summary: summaries.list,
      query: PageQuery,
      answers: { 200: { description: 'A page of them.', body: pageOf(schema) } },
      refusals: ['vhost_not_found'],
      async handle({ params: { vhost }, query }) {
        const all = (await documentsOf(topology, vhost)).list(kind, vhost)
        const page = pageOn(all, ({ name }) => name, query)
        const items = page.items.flatMap(({ name, value }) => {
          const document = spec.read(value, name)
          return document === undefined ? [] : [shown({ vhost, name }, document)]
        })
        return { status: 200, body: { ...page, items: await Promise.all(items) } }
      },
    }),
    route({
      method: 'get',
      path,
      needs,
      tag,
      summary: summaries.show,
      answers: { 200: { description: `The ${kind}.`, body: schema } },
      refusals: ['vhost_not_found', absent],
      async handle({ params }) {
        const document = await findDocument(topology, spec, params)
        return { status: 200, body: await shown(params, document) }
      },
    }),
    route({
      method: 'delete',
      path,
      needs,
      tag,
      summary: summaries.delete,
      answers: DELETE_ANSWERS,
      refusals: ['vhost_not_found', 'forbidden'],
      async handle(call) {
        const { vhost, name } = call.params
        await topology.changeDocument(kind, vhost, name, (value) => {
          if (value !== undefined) spec.mayChange(call, spec.read(value, name))
          return null
        })
        return { status: 204 }
      },
    }),
  ]
}

interface Texts {
  readonly summary: string
  readonly description?: string
}

/** POST .../pause and POST .../resume. */
export function pauseRoutes<D extends { readonly paused: boolean }>(
  topology: Topology,
  spec: DocumentSpec<D>,
  texts: { readonly pause: Texts; readonly resume: Texts },
): Route[] {
  const { kind, tag, absent } = spec
  const one = (what: 'pause' | 'resume') =>
    route({
      method: 'post',
      path: `/v1/vhosts/:vhost/${kind}s/:name/${what}` as const,
      needs: 'vhost',
      tag,
      ...texts[what],
      answers: { 204: { description: what === 'pause' ? 'It is paused.' : 'It runs.' } },
      refusals: ['vhost_not_found', absent, 'forbidden'],
      async handle(call) {
        const { vhost, name } = call.params
        await topology.changeDocument(kind, vhost, name, (value) => {
          const document = value === undefined ? undefined : spec.read(value, name)
          if (document === undefined) throw noDocument(spec, name)
          spec.mayChange(call, document)
          return { ...document, paused: what === 'pause' } as unknown as Json
        })
        return { status: 204 }
      },
    })
  return [one('pause'), one('resume')]
}

/** Throws vhost_not_found, and the code of its kind where there is none. */
export async function findDocument<D>(
  topology: Topology,
  spec: DocumentSpec<D>,
  { vhost, name }: DocumentPath,
): Promise<D> {
  const value = (await documentsOf(topology, vhost)).get(spec.kind, vhost, name)
  const document = value === undefined ? undefined : spec.read(value, name)
  if (document === undefined) throw noDocument(spec, name)
  return document
}

/**
 * What a PUT does: the document is what `decide` makes of the one that is there, if any. Throws
 * vhost_not_found, forbidden, and invalid_request where the vhost has as many as it may.
 *
 * @param decide pure: called again when somebody else changed the topology meanwhile.
 */
export async function putDocument<D extends object>(
  topology: Topology,
  spec: DocumentSpec<D>,
  call: Call<DocumentPath, unknown, unknown>,
  decide: (before: D | undefined, table: RoutingTable) => D,
): Promise<Reply> {
  const { kind, countMax } = spec
  const { vhost, name } = call.params
  const { before } = await topology.changeDocument(kind, vhost, name, (value, table) => {
    const known = value === undefined ? undefined : spec.read(value, name)
    if (value !== undefined) spec.mayChange(call, known)
    else if (table.documents.list(kind, vhost).length >= countMax) {
      throw new BrokerError('invalid_request', `A vhost has at most ${countMax} ${kind}s.`)
    }
    return decide(known, table) as unknown as Json
  })
  return { status: before === undefined ? 201 : 200 }
}

export function noDocument(
  { kind, absent }: Pick<DocumentSpec<unknown>, 'kind' | 'absent'>,
  name: string,
): BrokerError {
  const text = JSON.stringify(name.slice(0, limits.NAME_BYTES_MAX))
  return new BrokerError(absent, `There is no ${kind} ${text}.`)
}

async function documentsOf(topology: Topology, vhost: string) {
  await topology.refresh()
  if (!topology.table.hasVhost(vhost)) throw noVhost(vhost)
  return topology.table.documents
}
