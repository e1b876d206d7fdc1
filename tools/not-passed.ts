/**
 * A reporter of node:test for the end of a long output: each test that was skipped, with the
 * reason, and each that failed, with the error.
 */
import { relative } from 'node:path'
import type { TestEvent } from 'node:test/reporters'
import { inspect } from 'node:util'

/** Of an error's text; what a process wrote is in the output above. */
const TEXT_MAX = 4_000

export default async function* notPassed(events: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  for await (const { type, data } of events) {
    if (type !== 'test:pass' && type !== 'test:fail') continue
    if (data.skip !== undefined) {
      const why = typeof data.skip === 'string' && data.skip !== '' ? data.skip : 'no reason given'
      yield `Skipped: ${data.name}: ${why}\n`
    } else if (type === 'test:fail') {
      const error: Error & { failureType?: string } = data.details.error
      if (error.failureType === 'subtestsFailed') continue
      const file = data.file === undefined ? '' : `${relative(process.cwd(), data.file)}: `
      yield `Failed: ${file}${data.name}\n${inspect(error.cause ?? error).slice(0, TEXT_MAX)}\n\n`
    }
  }
}
