/** Lists over HTTP: filtered by name, and a page at a time. */
import { compilePattern, PATTERN_LENGTH_MAX } from '@sluice/core'
import { z } from 'zod'

const PAGE_SIZE_MAX = 500

export const PageQuery = z.strictObject({
  page: z.coerce.number<string>().int().min(1).max(1_000_000).default(1).meta({
    description: 'Counts from 1.',
  }),
  pageSize: z.coerce.number<string>().int().min(1).max(PAGE_SIZE_MAX).default(100),
  name: z.string().max(255).default('').meta({ description: 'Only names that contain this.' }),
  pattern: z.string().max(PATTERN_LENGTH_MAX).default('').meta({
    description: 'Only names in which this regular expression is found (docs/queues.md).',
  }),
})
export type PageQuery = z.output<typeof PageQuery>

/** The schema of a page, for the OpenAPI document. */
export const pageOf = (item: z.ZodType) =>
  z.object({
    items: z.array(item),
    page: z.int(),
    pageSize: z.int(),
    total: z.int().meta({ description: 'Items that pass the filter, on all pages.' }),
  })

export interface Page<T> {
  readonly items: readonly T[]
  readonly page: number
  readonly pageSize: number
  readonly total: number
}

/** The asked page of `all`. Throws invalid_request for a pattern that is none. */
export function pageOn<T>(
  all: readonly T[],
  nameOf: (item: T) => string,
  { page, pageSize, name, pattern }: PageQuery,
): Page<T> {
  let found = all
  if (name !== '') found = found.filter((item) => nameOf(item).includes(name))
  if (pattern !== '') {
    const matches = compilePattern(pattern)
    found = found.filter((item) => matches(nameOf(item)))
  }
  const items = found.slice((page - 1) * pageSize, page * pageSize)
  return { items, page, pageSize, total: found.length }
}
