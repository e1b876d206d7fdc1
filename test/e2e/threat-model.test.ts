/** SECURITY.md promises nothing that no test shows. */
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('../../', import.meta.url))
const page = readFileSync(`${ROOT}SECURITY.md`, 'utf8')

/** `file.test.ts`: words of the name of a test in it. */
const EVIDENCE = /`([\w/.-]+\.test\.ts)`: ([^;)]+)[;)]/g

const words = (text: string) => text.replaceAll(/\s+/g, ' ').trim()

/** The lines of each attacker. */
function claims(): string[] {
  const model = page.slice(page.indexOf('### '), page.indexOf('## What we do besides'))
  return model.split(/\n(?=- )/).filter((part) => part.startsWith('- '))
}

test('each test that SECURITY.md names is there, by that name', () => {
  const named = [...page.matchAll(EVIDENCE)]
  assert.ok(named.length >= 25, `${named.length} tests are named`)
  for (const [, file, name] of named) {
    assert.ok(existsSync(ROOT + file), `${file} is not there`)
    const titles = readFileSync(ROOT + file, 'utf8').matchAll(/\btest\(\s*(['"`])(.+?)\1,/gs)
    const found = [...titles].some(([, , title]) => words(title!).includes(words(name!)))
    assert.ok(found, `no test in ${file} is named: ${words(name!)}`)
  }
})

test('whatever SECURITY.md says that an attacker cannot do, a test shows', () => {
  const all = claims()
  assert.ok(all.length >= 25, `${all.length} claims`)
  for (const claim of all) {
    if (!/\bcannot\b|\bends?\b|shut out/.test(claim)) continue
    EVIDENCE.lastIndex = 0
    assert.ok(EVIDENCE.test(claim), `no test is named for:\n${claim}`)
  }
})
