/** A reporter of node:test that says what failed and why, for the end of a long output. */
import { relative } from 'node:path'
import type { TestEvent } from 'node:test/reporters'
import { inspect } from 'node:util'

/** Of an error's text; what a process wrote is in the output above. */
const TEXT_MAX = 4_000

export default async function* failed(events: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  for await (const { type, data } of events) {
    if (type !== 'test:fail') continue
    const error: Error & { failureType?: string } = data.details.error
    if (error.failureType === 'subtestsFailed') continue
    const where = data.file === undefined ? '' : `${relative(process.cwd(), data.file)}: `
    yield `  ${where}${data.name}\n${inspect(error.cause ?? error).slice(0, TEXT_MAX)}\n`
  }
}
