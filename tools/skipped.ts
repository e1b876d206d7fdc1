/** A reporter of node:test that writes a line for each test that was skipped, with the reason. */
import type { TestEvent } from 'node:test/reporters'

export default async function* skipped(events: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  for await (const { type, data } of events) {
    if (type !== 'test:pass' && type !== 'test:fail') continue
    if (data.skip === undefined) continue
    const why = typeof data.skip === 'string' && data.skip !== '' ? data.skip : 'no reason given'
    yield `  ${data.name}: ${why}\n`
  }
}
