/** docs/amqp.md leaves no behaviour silent, and claims none that no test names. */
import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const LAST = 84
const ROOT = fileURLToPath(new URL('../../', import.meta.url))

/** What the page says of each number. */
function rows(): Map<number, string> {
  const page = readFileSync(`${ROOT}docs/amqp.md`, 'utf8')
  const found = new Map<number, string>()
  for (const [, number, here] of page.matchAll(/^\| (\d+) \| .+ \| (.+) \|$/gm)) {
    assert(!found.has(Number(number)), `no. ${number} has one row`)
    found.set(Number(number), here!)
  }
  return found
}

/** Numbers in the names of tests: `no. 7: ...`, `no. 7, 9: ...`. */
function tested(): Set<number> {
  const files = ['libs/amqp/src/*.test.ts', 'test/amqp/*.test.ts']
  const numbers = new Set<number>()
  for (const file of globSync(files, { cwd: ROOT })) {
    const names = readFileSync(ROOT + file, 'utf8').matchAll(/test\(\s*['"`]no\. ([\d, ]+):/g)
    for (const [, list] of names) {
      for (const number of list!.split(',')) numbers.add(Number(number))
    }
  }
  return numbers
}

test('every behaviour has a row in docs/amqp.md that says what it is here', () => {
  const page = rows()
  assert.deepEqual(
    [...page.keys()],
    Array.from({ length: LAST }, (_, i) => i + 1),
  )
  for (const [number, here] of page) {
    assert.match(here, /^(as RabbitMQ|different: .|not offered: .|later: .)/, `no. ${number}`)
  }
})

test('every behaviour that is there is named by a test', () => {
  const named = tested()
  for (const [number, here] of rows()) {
    const absent = /^(not offered|later)/.test(here)
    assert(absent || named.has(number), `no test is named 'no. ${number}: ...'`)
  }
})
