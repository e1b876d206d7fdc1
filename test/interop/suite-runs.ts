/** Suites in processes of their own (worker.ts), several at a time. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { availableParallelism } from 'node:os'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { missing, SUITES } from './suites.ts'
import type { Result } from './worker.ts'

/** By suite, then by scenario. */
export type SuiteResults = Map<string, Map<string, Result>>

const WORKER = fileURLToPath(new URL('./worker.ts', import.meta.url))

export async function runSuites(
  url: string,
  suites: readonly string[],
  filter: string,
): Promise<SuiteResults> {
  const results: SuiteResults = new Map(suites.map((suite) => [suite, new Map()]))
  const waiting = [...suites]
  const lane = async () => {
    for (let suite = waiting.shift(); suite !== undefined; suite = waiting.shift()) {
      await runSuite(url, suite, filter, results.get(suite)!)
    }
  }
  // Most of the time they wait for time to pass.
  await Promise.all(Array.from({ length: Math.max(4, availableParallelism()) }, lane))
  return results
}

async function runSuite(
  url: string,
  name: string,
  filter: string,
  results: Map<string, Result>,
): Promise<void> {
  const suite = SUITES[name]
  if (suite === undefined) throw new Error(`there is no client ${name}`)
  const why = missing(suite)
  if (why !== undefined) {
    results.set('all', { scenario: 'all', ms: 0, skipped: why })
    return
  }
  const child = spawn(process.execPath, [WORKER, name, url, filter], {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, NODE_NO_WARNINGS: '1' },
  })
  let err = ''
  child.stderr.on('data', (chunk) => {
    err = (err + chunk).slice(-16_384)
  })
  for await (const line of createInterface({ input: child.stdout })) {
    const result = JSON.parse(line) as Result
    results.set(result.scenario, result)
    if (result.error !== undefined) process.stderr.write(`${name}: ${result.scenario}: FAILED\n`)
  }
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  if (child.exitCode !== 0) {
    results.set('all', { scenario: 'all', ms: 0, error: `the worker ended badly:\n${err}` })
  }
}
