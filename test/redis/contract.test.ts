/**
 * The delivery promises where Redis is more than one server.
 *
 * Method: the files of test/contract run unchanged, as a process of their own, against a cluster of
 * three primaries and against a primary behind sentinels. `SHORT=1` runs some of them. What has not
 * ended in time is killed with all that it started: a file whose process does not end has no limit
 * of its own.
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { globSync } from 'node:fs'
import { test } from 'node:test'
import { privateCluster, privateSentinel } from '@sluice/testkit'

const SHORT = process.env['SHORT'] === '1'
const FILES = SHORT
  ? ['dead-letters', 'redelivery'].map((name) => `test/contract/${name}.test.ts`)
  : globSync('test/contract/*.test.ts')
const RUN_MS_MAX = SHORT ? 180_000 : 900_000

for (const [name, start] of [
  ['a cluster', privateCluster],
  ['sentinels', privateSentinel],
] as const) {
  test(`everything promised holds with ${name}`, async (t) => {
    const { url } = await start(t)
    // A test runner inside a test would report to the outer one.
    const { NODE_TEST_CONTEXT: _, ...env } = process.env
    const args = ['--test', '--test-concurrency=2', '--test-timeout=120000', ...FILES]
    const options = { env: { ...env, REDIS_URL: url }, detached: true } // as a group
    const child = spawn(process.execPath, args, options)
    const end = () => child.exitCode ?? process.kill(-child.pid!, 'SIGKILL')
    const late = setTimeout(end, RUN_MS_MAX)
    t.after(end)
    let said = ''
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk: Buffer) => {
        said = (said + chunk.toString()).slice(-50_000)
      })
    }
    const [code] = await once(child, 'close')
    clearTimeout(late)
    assert.equal(code, 0, said)
    assert.match(said, /ℹ pass [1-9]/)
  })
}
