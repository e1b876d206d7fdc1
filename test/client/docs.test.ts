/** The program in docs/client.md: its blocks, one after the other, and what they print. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { privateRedis } from '@sluice/testkit'
import { PASSWORD, withBroker } from '../support/broker.ts'

const ROOT = new URL('../..', import.meta.url).pathname
const PRINTS = '// => '

test('the program of docs/client.md runs, and prints what it says', async (t) => {
  const page = readFileSync(join(ROOT, 'docs/client.md'), 'utf8')
  const program = [...page.matchAll(/^```ts\n(.*?)^```$/gms)].map(([, block]) => block).join('\n')
  const prints = program.split('\n').filter((line) => line.startsWith(PRINTS))
  const folder = mkdtempSync(join(tmpdir(), 'sluice-docs-'))
  t.after(() => rmSync(folder, { recursive: true }))
  symlinkSync(join(ROOT, 'node_modules'), join(folder, 'node_modules'))
  writeFileSync(join(folder, 'package.json'), '{ "type": "module" }')
  writeFileSync(join(folder, 'program.ts'), program)
  const { http } = await withBroker(t, { redisUrl: (await privateRedis(t)).url })
  const { stdout } = await promisify(execFile)(process.execPath, ['program.ts'], {
    cwd: folder,
    env: { ...process.env, SLUICE: http, AUTH: `admin:${PASSWORD}` },
    timeout: 30_000,
  })
  assert.deepEqual(
    stdout.trimEnd().split('\n'),
    prints.map((line) => line.slice(PRINTS.length)),
  )
})
