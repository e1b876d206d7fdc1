/** Test files run as they are by a runner of their own, told about another broker by variables. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import type { TestContext } from 'node:test'

/** Fails unless the files pass, with what they said; ends them after `msMax`. */
export async function runSuite(
  t: TestContext,
  files: readonly string[],
  msMax: number,
  variables: Readonly<Record<string, string>>,
): Promise<void> {
  assert.ok(files.length > 0)
  // A test runner inside a test would report to the outer one.
  const { NODE_TEST_CONTEXT: _, ...env } = process.env
  const args = ['--test', '--test-concurrency=2', '--test-timeout=120000', ...files]
  const options = { env: { ...env, ...variables }, detached: true } // as a group
  const child = spawn(process.execPath, args, options)
  const end = () => child.exitCode ?? child.signalCode ?? process.kill(-child.pid!, 'SIGKILL')
  const late = setTimeout(end, msMax)
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
}
