/** What others wrote and we run: pinned, and listed. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { globSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('../../', import.meta.url))

const TESTKIT = 'libs/testkit/package.json'

/** Those that run in production, by the packages that name them. */
function dependencies(): [name: string, version: string, where: string][] {
  return globSync('{libs,services}/*/package.json', { cwd: ROOT })
    .filter((where) => where !== TESTKIT)
    .flatMap((where) => {
      const { dependencies = {} } = JSON.parse(readFileSync(ROOT + where, 'utf8')) as {
        dependencies?: Record<string, string>
      }
      return Object.entries(dependencies)
        .filter(([name]) => !name.startsWith('@sluice/'))
        .map(([name, version]) => [name, version, where] as [string, string, string])
    })
}

test('every dependency that runs is of one exact version', () => {
  for (const [name, version, where] of dependencies()) {
    assert.match(version, /^\d+\.\d+\.\d+$/, `${where}: pin ${name}`)
  }
})

test('every dependency that runs is in the SBOM, with its version', (t) => {
  const { status, stdout, error } = spawnSync('npm', ['run', '-s', 'sbom'], {
    cwd: ROOT,
    encoding: 'utf8',
    maxBuffer: 64 * 1024 * 1024,
  })
  if (error) {
    t.skip('no npm')
    return
  }
  assert.equal(status, 0)
  const { components } = JSON.parse(stdout) as {
    components: { name: string; version: string; group?: string }[]
  }
  const listed = new Set(components.map(({ name, version }) => `${name}@${version}`))
  for (const [name, version] of dependencies()) {
    assert.ok(listed.has(`${name}@${version}`), `${name}@${version} is not listed`)
  }
})
