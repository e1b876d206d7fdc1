/** A suite on the Redis that tests start in a container, where no redis-server is to be found. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ROOT } from './engine.ts'

const SUITE = ['test/contract/order.test.ts', 'libs/testkit/src/container.redis.test.ts']

export async function suiteInContainer(say: (line: string) => void): Promise<void> {
  say('a suite on a Redis by Testcontainers')
  const folder = mkdtempSync(join(tmpdir(), 'sluice-path-'))
  try {
    const { stdout } = spawnSync('sh', ['-c', 'command -v docker'], { encoding: 'utf8' })
    symlinkSync(stdout.trim(), join(folder, 'docker'))
    // Neither a server on PATH nor one in the cache.
    const env = { ...process.env, PATH: folder, XDG_CACHE_HOME: folder, REDIS_URL: '' }
    const args = ['--test', '--test-reporter=tap', ...SUITE]
    const child = spawn(process.execPath, args, { cwd: ROOT, env, stdio: ['ignore', 'pipe', 2] })
    const ended = once(child, 'close')
    const said = (await child.stdout!.toArray()).join('')
    const [code] = await ended
    assert.equal(code, 0, said)
    const count = (what: string) => Number(new RegExp(`^# ${what} (\\d+)$`, 'm').exec(said)?.[1])
    assert.equal(count('skipped'), 0, said)
    say(`${count('pass')} tests passed there`)
  } finally {
    rmSync(folder, { recursive: true })
  }
}
