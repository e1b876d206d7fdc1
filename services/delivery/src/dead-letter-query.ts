/** A dead letter filter as a request gives it: in a query, or in a redrive's body. */
import { limits } from '@sluice/core'
import type { DeadLetterFilter } from '@sluice/topology'
import { z } from 'zod'

const name = z.string().max(limits.NAME_BYTES_MAX)

export const FilterFields = {
  reason: z.enum(['rejected', 'expired', 'maxlen', 'delivery_limit']).optional().meta({
    description: 'Why it died last.',
  }),
  diedIn: name.optional().meta({ description: 'The queue in which it died last.' }),
  since: z.iso.datetime({ offset: true }).optional().meta({
    description: 'It became a dead letter of this queue then or later.',
  }),
  until: z.iso.datetime({ offset: true }).optional().meta({
    description: 'It became a dead letter of this queue before.',
  }),
  header: z
    .string()
    .max(2_048)
    .regex(/^[^=]+/, 'is name or name=value')
    .optional()
    .meta({ description: 'name, or name=value. It has this header.' }),
  exchange: name.optional().meta({ description: 'Where it was first published.' }),
  routingKey: name.optional().meta({ description: 'By which it was first published.' }),
  text: z.string().min(1).max(1_024).optional().meta({
    description: 'The body has these bytes, as UTF-8.',
  }),
}

export const Filter = z.strictObject(FilterFields).meta({ id: 'DeadLetterFilter' })

export function readFilter(fields: z.output<typeof Filter>): DeadLetterFilter {
  const { reason, diedIn, since, until, header, exchange, routingKey, text } = fields
  return {
    reason,
    queue: diedIn,
    sinceMs: since === undefined ? undefined : Date.parse(since),
    untilMs: until === undefined ? undefined : Date.parse(until),
    header: header === undefined ? undefined : readHeader(header),
    exchange,
    routingKey,
    text,
  }
}

function readHeader(header: string): DeadLetterFilter['header'] {
  const at = header.indexOf('=')
  return at < 0 ? { name: header } : { name: header.slice(0, at), value: header.slice(at + 1) }
}
