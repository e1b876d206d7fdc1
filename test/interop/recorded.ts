/**
 * What RabbitMQ answered: recorded.json, written by `npm run interop -- --record`, so that Sluice is
 * held to it where no RabbitMQ can run. Suites that saw the same share an entry.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import type { Json } from './client.ts'

const FILE = new URL('./recorded.json', import.meta.url)

/** By scenario. */
type Recorded = Record<string, { readonly suites: string[]; readonly outcome: Json }[]>

const recorded: Recorded = existsSync(FILE) ? JSON.parse(readFileSync(FILE, 'utf8')) : {}

export function recordedOutcome(suite: string, scenario: string): Json | undefined {
  return recorded[scenario]?.find(({ suites }) => suites.includes(suite))?.outcome
}

/** Replaces what is recorded of these scenarios of these suites. */
export function record(
  outcomes: readonly { suite: string; scenario: string; outcome: Json }[],
): void {
  for (const { suite, scenario, outcome } of outcomes) {
    const others = (recorded[scenario] ?? [])
      .map(({ suites, ...rest }) => ({ ...rest, suites: suites.filter((name) => name !== suite) }))
      .filter(({ suites }) => suites.length > 0)
    const same = others.find((entry) => JSON.stringify(entry.outcome) === JSON.stringify(outcome))
    if (same) same.suites.push(suite)
    else others.push({ suites: [suite], outcome })
    recorded[scenario] = others
  }
  const sorted = Object.fromEntries(Object.entries(recorded).sort(([a], [b]) => (a < b ? -1 : 1)))
  for (const entries of Object.values(sorted)) for (const { suites } of entries) suites.sort()
  writeFileSync(FILE, `${JSON.stringify(sorted, null, 2)}\n`)
}
