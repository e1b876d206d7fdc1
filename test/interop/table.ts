/** Results as a table: a row a scenario, a column a client. */
import type { SuiteResults } from './suite-runs.ts'
import type { Result } from './worker.ts'

export function table(results: SuiteResults): string {
  const suites = [...results.keys()]
  const scenarios = new Set([...results.values()].flatMap((one) => [...one.keys()]))
  const width = Math.max(...[...scenarios].map((name) => name.length), 8)
  const notes: string[] = []
  const cell = (suite: string, scenario: string) => {
    const result = results.get(suite)!.get(scenario)
    if (result === undefined) return ''
    return word(result, (why) => {
      const note = `${suite} ${why}`
      if (!notes.includes(note)) notes.push(note)
      return `skipped ${notes.indexOf(note) + 1}`
    })
  }
  const line = (first: string, cells: readonly string[]) =>
    [first.padEnd(width), ...cells.map((text, n) => text.padEnd(Math.max(suites[n]!.length, 10)))]
      .join('  ')
      .trimEnd()
  const rows = [...scenarios].map((scenario) =>
    line(
      scenario,
      suites.map((suite) => cell(suite, scenario)),
    ),
  )
  const legend = notes.map((note, n) => `  ${n + 1}  ${note}`)
  return [line('', suites), ...rows, ...(legend.length > 0 ? ['', ...legend] : [])].join('\n')
}

function word(result: Result, skipped: (why: string) => string): string {
  if (result.error !== undefined) return 'FAILED'
  return result.skipped === undefined ? 'ok' : skipped(result.skipped)
}
