/** Holds every Lua file to its header and to the TypeScript that calls it. Needs no Redis. */
import assert from 'node:assert/strict'
import { basename } from 'node:path'
import { test } from 'node:test'
import { files } from './tree.ts'

/** Put before every script; no script of its own. */
const PRELUDE = 'prelude'

const scripts = new Map(
  files('.lua').map(({ path, text }) => [basename(path, '.lua'), text] as const),
)
scripts.delete(PRELUDE)

/** What TypeScript says: script('name', ['arg', ...], decode). */
const wrappers = new Map(
  files('.ts')
    .filter(({ path }) => /^libs\/store\/src\/(?!.*\.test\.ts$)/.test(path))
    .flatMap(({ text }) => [...text.matchAll(/\bscript\(\s*'([\w-]+)',\s*\[([^\]]*)\]/g)])
    .map(([, name = '', args = '']) => {
      return [name, [...args.matchAll(/'([^']+)'/g)].map(([, arg]) => arg)] as const
    }),
)

test('every Lua file has a wrapper, and every wrapper a file', () => {
  assert.deepEqual([...wrappers.keys()].sort(), [...scripts.keys()].sort())
})

for (const [name, text] of scripts) {
  test(`${name}.lua: header, wrapper and body name the same inputs`, () => {
    const [header = '', body = ''] = text.split(/^\]\]$/m)
    assert.match(header, new RegExp(`^--\\[\\[\n  ${name}: `), `open with '${name}: what it does'`)
    assert.match(header, /^ +Returns /m, 'say what it returns')
    const declared = [...header.matchAll(/^ {2}ARGV\[(\d+)\](?:\.\.\.?)? +(\S+)/gm)]
    const names = declared.map(([, , argument]) => argument)
    assert.deepEqual(names, wrappers.get(name), 'ARGV of the header, and names in script()')
    for (const [index, [, number]] of declared.entries()) {
      assert.equal(Number(number), index + 1, 'ARGV are listed in order')
      const rest = names[index] === '...' // read by a loop
      const used = rest || new RegExp(`ARGV\\[${number}\\]`).test(body) || /ARGV\[[^\d]/.test(body)
      assert.ok(used, `ARGV[${number}] (${names[index]}) is never used`)
    }
  })
}
