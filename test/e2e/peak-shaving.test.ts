/**
 * `npm run example:peak-shaving`, as README shows it, in its short form: a burst for a backend that
 * is weak and goes away, through an ingest and the subscription that replays it.
 *
 * Method: the command itself, in a pipe. What it accounts for it checks itself.
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { privateRedis } from '@sluice/testkit'

const ROOT = new URL('../..', import.meta.url)

test('every order of a burst is accounted for, though the backend is weak and goes away', async (t) => {
  const { url } = await privateRedis(t)
  const { SLUICE: _, ...env } = process.env
  const child = spawn(process.execPath, ['tools/run.mjs', 'examples/peak-shaving/run.ts'], {
    cwd: ROOT,
    env: { ...env, REDIS_URL: url, SHORT: '1' },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  t.after(() => child.kill('SIGTERM'))
  const ended = once(child, 'close')
  const [said, complained] = await Promise.all([text(child.stdout), text(child.stderr)])
  const [code] = await ended

  assert.equal(complained, '', 'it is quiet in a pipe')
  assert.equal(code, 0, said)
  assert.match(said, /^ {2}accepted {4}400 in /m)
  assert.match(said, /^ {2}made {8}400, within /m)
  assert.match(said, /^ {2}answers {5}400 found where the 202 said$/m)
  const refused = Number(/directly: \d+ made, (\d+) refused$/m.exec(said)?.[1])
  assert.ok(refused >= 0, 'how many the backend refuses without the broker') // none if slow
  assert.match(said, /^Every order is accounted for\.$/m)
})
