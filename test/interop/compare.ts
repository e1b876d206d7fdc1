/** Outcomes beside each other: where they differ, and whether that was said beforehand. */
import type { Json } from './client.ts'
import { DIFFERENCES } from './differences.ts'

export interface Difference {
  /** Where in the outcome, e.g. `closed.text`; '' = all of it. */
  readonly at: string
  readonly expected: string
  readonly seen: string
  /** The reason, where the difference is a declared one. */
  readonly why: string | undefined
}

export function differences(
  suite: string,
  scenario: string,
  expected: Json,
  seen: Json,
): readonly Difference[] {
  const [one, other] = [flat(expected), flat(seen)]
  const paths = new Set([...one.keys(), ...other.keys()])
  return [...paths]
    .filter((at) => one.get(at) !== other.get(at))
    .map((at) => ({
      at,
      expected: one.get(at) ?? 'nothing',
      seen: other.get(at) ?? 'nothing',
      why: declared(suite, scenario, at),
    }))
}

function declared(suite: string, scenario: string, at: string): string | undefined {
  return DIFFERENCES.find(
    (one) =>
      one.scenario === scenario &&
      (one.suites?.includes(suite) ?? true) &&
      (one.at === undefined || one.at.test(at)),
  )?.why
}

/** Every leaf by its path. */
function flat(value: Json, at = '', into = new Map<string, string>()): Map<string, string> {
  const entries = value !== null && typeof value === 'object' ? Object.entries(value as object) : []
  if (entries.length === 0) return into.set(at, JSON.stringify(value))
  for (const [name, inner] of entries) flat(inner as Json, at === '' ? name : `${at}.${name}`, into)
  return into
}
