/** The e2e stories, told to a broker that somebody else runs. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { globSync } from 'node:fs'
import { ROOT } from './engine.ts'

/** @param router @param delivery base URLs; rejects when a story fails. */
export async function tellStories(router: string, delivery: string): Promise<void> {
  const files = globSync('test/e2e/stories-*.test.ts', { cwd: ROOT })
  const env = { ...process.env, E2E_ROUTER: router, E2E_DELIVERY: delivery }
  const child = spawn(process.execPath, ['--test', ...files], { cwd: ROOT, env, stdio: 'inherit' })
  const [code] = await once(child, 'close')
  assert.equal(code, 0, 'a story failed')
}
