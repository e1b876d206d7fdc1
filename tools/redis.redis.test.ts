/**
 * The Redis of `npm start`. Method: each test has a data folder of its own; a start that gets
 * killed is a child process.
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { privateRedis, withRedis } from '@sluice/testkit'
import { Redis } from 'ioredis'
import { openRedis } from './redis.mjs'

async function setup(t: TestContext) {
  await withRedis(t) // skips where no server can be had
  const dir = join(mkdtempSync(join(tmpdir(), 'sluice-data-')), 'redis')
  t.after(() => rmSync(join(dir, '..'), { recursive: true }))
  const said: string[] = []
  const { REDIS_URL: _, ...env } = process.env
  const start = async () => {
    const running = await openRedis({ dir, persist: true, say: (line) => said.push(line), env })
    t.after(running.stop)
    return running
  }
  return { dir, said, start, env }
}

async function within<T>(url: string, use: (redis: Redis) => Promise<T>): Promise<T> {
  const redis = new Redis(url, { maxRetriesPerRequest: 0 })
  redis.on('error', () => {}) // told by the command
  return await use(redis).finally(() => redis.disconnect())
}

/** A start in a process of its own, which is then killed and leaves its server behind. */
async function killedStart(dir: string, env: NodeJS.ProcessEnv): Promise<string> {
  const script = `
    const { openRedis } = await import('${new URL('./redis.mjs', import.meta.url)}')
    const { url } = await openRedis({ dir: process.argv[1], persist: true, say: console.error })
    console.log(url)
    setInterval(() => {}, 1_000)`
  const child = spawn(process.execPath, ['--input-type=module', '--eval', script, dir], {
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const [url] = (await once(child.stdout, 'data')) as [Buffer]
  child.kill('SIGKILL')
  await once(child, 'exit')
  return url.toString().trim()
}

test('REDIS_URL is taken as it is, and never ended', async (t) => {
  const { url, redis } = await withRedis(t)
  const running = await openRedis({
    dir: '/nowhere',
    persist: true,
    say: assert.fail,
    env: { REDIS_URL: url },
  })
  assert.equal(running.url, url)
  await running.stop()
  assert.equal(await redis.ping(), 'PONG')
})

test('a second start finds what was written before the stop', async (t) => {
  const { start } = await setup(t)
  const first = await start()
  await within(first.url, (redis) => redis.set('key', 'value'))
  await first.stop()
  const second = await start()
  assert.equal(await within(second.url, (redis) => redis.get('key')), 'value')
})

test('a start that was killed is cleared up by the next one, and nothing is lost', async (t) => {
  const { dir, env, said, start } = await setup(t)
  const orphan = await killedStart(dir, env)
  await within(orphan, (redis) => redis.set('key', 'value'))
  const next = await start()
  assert.match(said.join(), /killed start left behind/)
  await assert.rejects(within(orphan, (redis) => redis.ping()))
  assert.equal(await within(next.url, (redis) => redis.get('key')), 'value')
})

test('a folder in use is refused, naming the process', async (t) => {
  const { start } = await setup(t)
  await start()
  await assert.rejects(start(), new RegExp(`in use by process ${process.pid}`))
})

test('an unknown server on the remembered port is left alone', async (t) => {
  const { dir, start } = await setup(t)
  await (await start()).stop()
  const stranger = await privateRedis(t)
  writeFileSync(join(dir, 'server.json'), JSON.stringify({ pid: 1, port: stranger.port, dir }))
  await start()
  assert.equal(await stranger.redis.ping(), 'PONG')
})

test('only who can read the folder can log in', async (t) => {
  const { dir, start } = await setup(t)
  const { url } = await start()
  const password = new URL(url).password
  await assert.rejects(
    within(url.replace(password, 'guess'), (redis) => redis.ping()),
    /WRONGPASS/,
  )
  assert.equal(statSync(dir).mode & 0o777, 0o700)
  assert.equal(statSync(join(dir, 'password')).mode & 0o777, 0o600)
  const { pid } = JSON.parse(readFileSync(join(dir, 'server.json'), 'utf8')) as { pid: number }
  const shown = spawn('ps', ['-o', 'args=', '-p', String(pid)])
  const [line] = (await once(shown.stdout, 'data')) as [Buffer]
  assert.match(line.toString(), /redis|valkey/)
  assert.ok(!line.toString().includes(password))
})

test('a server that dies is reported', async (t) => {
  const { dir, start } = await setup(t)
  const { ended } = await start()
  const { pid } = JSON.parse(readFileSync(join(dir, 'server.json'), 'utf8')) as { pid: number }
  process.kill(pid, 'SIGKILL')
  assert.equal(await ended, 'Redis ended: SIGKILL')
})

test('SLUICE_FSYNC and an append-only file without eviction are in force', async (t) => {
  const { env, start } = await setup(t)
  Object.assign(env, { SLUICE_FSYNC: 'always' })
  const { url } = await start()
  const settings = ['appendonly', 'appendfsync', 'maxmemory-policy', 'save']
  const values = await within(url, (redis) => redis.config('GET', ...settings))
  const found = Object.fromEntries(
    Array.from({ length: 4 }, (_, index) => (values as string[]).slice(2 * index, 2 * index + 2)),
  )
  assert.deepEqual(found, {
    appendonly: 'yes',
    appendfsync: 'always',
    'maxmemory-policy': 'noeviction',
    save: '',
  })
})

test('where there is no way at all, one error names them all', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-none-'))
  t.after(() => rmSync(dir, { recursive: true }))
  const env = { PATH: dir, XDG_CACHE_HOME: dir }
  await assert.rejects(openRedis({ dir, persist: true, say: () => {}, env }), (error: Error) =>
    ['REDIS_URL', 'redis-server', 'valkey-server', 'brew', 'apk', 'apt', 'Docker'].every((way) =>
      error.message.includes(way),
    ),
  )
})
