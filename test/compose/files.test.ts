/** What docker-compose.yml mounts and sets is there; npm run e2e:compose starts it for real. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { SETTINGS } from '@sluice/config'
import { ROOT } from './engine.ts'

const stack = readFileSync(join(ROOT, 'docker-compose.yml'), 'utf8')

test('files that the stack mounts exist', () => {
  const mounts = [...stack.matchAll(/(\.\/[\w./-]+):\/\S+:ro/g)].map(([, path]) => path!)
  assert.ok(mounts.length >= 5)
  for (const path of mounts) assert.ok(existsSync(join(ROOT, path)), path)
})

test('variables of the stack and of the image are settings', () => {
  const known = new Set<string>(Object.values(SETTINGS).map(({ env }) => env))
  const image = readFileSync(join(ROOT, 'Dockerfile'), 'utf8')
  const set = [
    ...stack.matchAll(/^ {4}((?:SLUICE|OTEL|REDIS)_\w+):/gm),
    ...image.matchAll(/\b(SLUICE_\w+)=/g),
  ]
  assert.ok(set.length >= 6)
  for (const [, name] of set) assert.ok(known.has(name!), name)
})

test('promtool: the configuration of Prometheus is sound', (t) => {
  if (spawnSync('promtool', ['--version']).error) return t.skip('promtool is not on PATH')
  const args = ['check', 'config', '--syntax-only', 'compose/prometheus.yml']
  const { status, stdout, stderr } = spawnSync('promtool', args, { cwd: ROOT })
  assert.equal(status, 0, `${stdout}${stderr}`)
})
