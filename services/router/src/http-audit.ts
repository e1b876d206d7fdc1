/** The audit log over HTTP: exported as it is kept, for whoever keeps it longer. */
import { once } from 'node:events'
import { type Deps, type Route, route } from '@sluice/server'
import { z } from 'zod'

const ENTRIES_MAX = 100_000
const PAGE = 500

const Query = z.strictObject({
  after: z.coerce.number<string>().int().min(0).default(0).meta({
    description: 'Only entries with a higher number.',
  }),
  limit: z.coerce.number<string>().int().min(1).max(ENTRIES_MAX).default(10_000),
})

const Entry = z
  .object({
    number: z.int(),
    at: z.iso.datetime(),
    who: z.string().meta({ description: 'Empty: nobody was proven.' }),
    from: z.string().meta({ description: 'The address.' }),
    what: z.string(),
    outcome: z.string().meta({ description: 'done, or refused.' }),
    count: z.int().meta({ description: 'How often, within about a second.' }),
    hash: z.string().meta({ description: 'Of this entry and all before it.' }),
  })
  .meta({ id: 'AuditEntry' })

export function auditRoute({ audit }: Deps): Route {
  return route({
    method: 'get',
    path: '/v1/audit',
    tag: 'access',
    needs: 'administrator',
    summary: 'Export the audit log, oldest first',
    query: Query,
    answers: {
      200: { description: 'An entry a line.', type: 'application/x-ndjson', body: Entry },
    },
    async handle({ res, query: { after, limit }, signal }) {
      await audit.flush()
      res.setHeader('Content-Type', 'application/x-ndjson')
      let [number, left] = [after, limit]
      while (left > 0 && !signal.aborted) {
        const entries = await audit.read(number, Math.min(left, PAGE))
        if (entries.length === 0) break
        const text = entries.map((entry) => `${JSON.stringify(entry)}\n`).join('')
        number = entries.at(-1)!.number
        left -= entries.length
        if (!res.write(text)) await once(res, 'drain', { signal })
      }
      res.end()
      return undefined
    },
  })
}
