/**
 * The whole topology as one document, out and in (document.ts): for administrators.
 *
 * An import says first what it would do. Where something in it cannot be done, nothing is, unless
 * the request puts up with that.
 */
import { BrokerError } from '@sluice/core'
import { type Deps, type Route, route } from '@sluice/server'
import { z } from 'zod'
import { DefinitionsDocument } from './document.ts'
import { exportDefinitions } from './export.ts'
import { plan, type Step } from './plan.ts'

const DOCUMENT_BYTES_MAX = 16 * 1024 * 1024
/** An answer names so many of the entities that are not there just so. */
const STEPS_SHOWN_MAX = 1_000
/** A refusal names the first ones; a dry run names them all. */
const REFUSED_NAMED_MAX = 5

const flag = z.stringbool().default(false)
const ACTIONS = ['create', 'change', 'same', 'refused', 'ignored'] as const

const Report = z
  .object({
    applied: z.boolean().meta({ description: 'Whether anything was done: not by a dry run.' }),
    counts: z.record(z.enum(ACTIONS), z.int()),
    steps: z
      .array(
        z.object({
          action: z.enum(ACTIONS),
          kind: z.string(),
          vhost: z.string(),
          name: z.string(),
          detail: z.string().optional(),
        }),
      )
      .meta({ description: 'All that is not there just so; the first thousand.' }),
  })
  .meta({ id: 'DefinitionsReport' })

export function definitionRoutes({ topology, access }: Deps): Route[] {
  const accounts = { topology, administrator: access.administrator }
  return [
    route({
      method: 'get',
      path: '/v1/definitions',
      tag: 'topology',
      needs: 'administrator',
      summary: 'Export vhosts, users, permissions, exchanges, queues, bindings and policies',
      description: 'In the form of RabbitMQ’s definitions.json. It holds password hashes.',
      query: z.strictObject({ vhost: z.string().optional() }),
      answers: { 200: { description: 'The document.', body: DefinitionsDocument } },
      refusals: ['vhost_not_found'],
      async handle({ query: { vhost } }) {
        await topology.refresh()
        return { status: 200, body: exportDefinitions(topology.table, vhost) }
      },
    }),
    route({
      method: 'post',
      path: '/v1/definitions',
      tag: 'topology',
      needs: 'administrator',
      summary: 'Import definitions, those of a RabbitMQ too',
      description:
        'Creates and changes; removes nothing. Where something cannot be done, nothing is, and 409 names it.',
      query: z.strictObject({
        dryRun: flag.meta({ description: 'Say what would change, and change nothing.' }),
        skipRefused: flag.meta({ description: 'Do all the rest where something cannot be done.' }),
      }),
      body: DefinitionsDocument,
      bodyBytesMax: DOCUMENT_BYTES_MAX,
      answers: { 200: { description: 'What was done.', body: Report } },
      refusals: ['declaration_conflict', 'forbidden'],
      async handle({ query: { dryRun, skipRefused }, body }) {
        await topology.refresh()
        const steps = plan(body, topology.table, accounts)
        if (dryRun) return { status: 200, body: { applied: false, ...report(steps) } }
        const refused = steps.filter(({ action }) => action === 'refused')
        if (!skipRefused && refused.length > 0) throw refusal(refused)
        for (const { run } of steps) await run?.()
        return { status: 200, body: { applied: true, ...report(steps) } }
      },
    }),
  ]
}

function refusal(refused: readonly Step[]): BrokerError {
  const named = refused.slice(0, REFUSED_NAMED_MAX).map(({ kind, vhost, name, detail }) => {
    const where = vhost === '' ? '' : ` in vhost '${vhost}'`
    return `${kind} '${name}'${where}: ${detail}`
  })
  const rest = refused.length > named.length ? ' ...' : ''
  const text = `Nothing was changed, since this cannot be done: ${named.join('; ')}${rest}`
  return new BrokerError('declaration_conflict', text, { details: { refused: refused.length } })
}

function report(steps: readonly Step[]) {
  const counts = { create: 0, change: 0, same: 0, refused: 0, ignored: 0 }
  for (const { action } of steps) counts[action]++
  const shown = steps.filter(({ action }) => action !== 'same').slice(0, STEPS_SHOWN_MAX)
  return { counts, steps: shown.map(({ run: _, ...step }) => step) }
}
