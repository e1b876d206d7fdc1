import assert from 'node:assert/strict'
import { test } from 'node:test'
import { hidesRefusals, isAsSaid, scriptOf, stepsOf } from './doc-commands.ts'

const PAGE = `# Page

\`\`\`console
not run
\`\`\`

\`\`\`sh
one \\
  more
# => {"a":...}
two
\`\`\`

Text.

\`\`\`sh
three
# => first
# => second
\`\`\`
`

test('steps end at what they print, and at the end of their block', () => {
  assert.deepEqual(stepsOf(PAGE), [
    { line: 8, commands: 'one \\\n  more', prints: ['{"a":...}'] },
    { line: 11, commands: 'two', prints: undefined },
    { line: 17, commands: 'three', prints: ['first', 'second'] },
  ])
})

test('three dots stand for anything, and everything else for itself', () => {
  assert.ok(isAsSaid('{"a":[1],"b":2}\n', ['{"a":...,"b":2}']))
  assert.ok(isAsSaid('x\ny', ['x', 'y']))
  assert.ok(!isAsSaid('{"a":1}', ['{"a":...,"b":2}']))
  assert.ok(!isAsSaid('axb', ['a.b']))
  assert.ok(!isAsSaid('x and more', ['x']))
})

test('a curl that would not fail at a refusal is found', () => {
  const step = (commands: string) => ({ line: 1, commands, prints: undefined })
  assert.ok(hidesRefusals(step('curl -sS url')))
  assert.ok(hidesRefusals(step('X=$(curl url)')))
  assert.ok(hidesRefusals(step('curl -fsS url\ncurl url')))
  assert.ok(!hidesRefusals(step('curl -fsS \\\n  url')))
  assert.ok(!hidesRefusals(step(`curl -sS -o /dev/null -w '%{http_code}' url`)))
})

test('a script ends at the first command that fails', () => {
  assert.match(scriptOf(stepsOf(PAGE)), /^set -Eeuo pipefail$/m)
})
