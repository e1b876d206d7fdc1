/**
 * The servers tests are given. Method: what outlives the test is looked at from a second process,
 * which is ended in order or killed.
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { connect } from 'node:net'
import { test } from 'node:test'
import { privateRedis, waitFor, withRedis } from './index.ts'

test('a shared Redis answers, and each test has a vhost of its own', async (t) => {
  const first = await withRedis(t)
  const second = await withRedis(t)
  assert.equal(await first.redis.ping(), 'PONG')
  assert.notEqual(first.vhost, second.vhost)
})

test('a private Redis finds everything again after kill -9 and restart', async (t) => {
  const { redis, kill9, restart } = await privateRedis(t, { fsync: 'always' })
  await redis.set('key', 'value')
  await kill9()
  await restart()
  assert.equal(await redis.get('key'), 'value')
})

test('a paused private Redis answers nothing until it goes on', async (t) => {
  const { redis, pause, cont } = await privateRedis(t)
  await redis.ping()
  pause()
  let answered = false
  const reply = redis.ping().then(() => {
    answered = true
  })
  const deaf = await Promise.race([reply, new Promise((resolve) => setTimeout(resolve, 100, true))])
  assert.ok(deaf && !answered)
  cont()
  await reply
})

test('a private Redis has the memory limit and policy asked for', async (t) => {
  const limits = { maxMemoryBytes: 8_000_000, maxMemoryPolicy: 'allkeys-lru' }
  const { redis } = await privateRedis(t, limits)
  assert.deepEqual(await redis.config('GET', 'maxmemory'), ['maxmemory', '8000000'])
  const policy = await redis.config('GET', 'maxmemory-policy')
  assert.deepEqual(policy, ['maxmemory-policy', 'allkeys-lru'])
})

test('what a test registered with t.after runs while its Redis still answers', async (t) => {
  let reply = ''
  let port = 0
  await t.test('inner', async (inner) => {
    const server = await privateRedis(inner)
    port = server.port
    inner.after(async () => {
      reply = await server.redis.ping()
    })
  })
  assert.equal(reply, 'PONG')
  await assert.rejects(once(connect(port, '127.0.0.1'), 'connect'), { code: 'ECONNREFUSED' })
})

for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
  test(`no server or folder outlives a test process that gets ${signal}`, async (t) => {
    await withRedis(t) // skips where no server can be had
    const script = `
      import { test } from 'node:test'
      import { privateRedis } from '${new URL('./index.ts', import.meta.url)}'
      test('holds a server', async (t) => {
        const { port, dir } = await privateRedis(t)
        console.error(JSON.stringify({ port, dir }))
        await new Promise((resolve) => setTimeout(resolve, 60_000))
      })`
    const child = spawn(process.execPath, ['--input-type=module', '--eval', script], {
      stdio: ['ignore', 'ignore', 'pipe'],
    })
    const [line] = (await once(child.stderr, 'data')) as [Buffer]
    const { port, dir } = JSON.parse(line.toString()) as { port: number; dir: string }
    child.kill(signal)
    const refused = async () => {
      const socket = connect(port, '127.0.0.1').on('error', () => {}) // reset while it dies
      return await once(socket, 'connect').then(
        () => {
          socket.destroy()
          return false
        },
        () => true,
      )
    }
    await waitFor(refused, { what: 'the server to end with its process' })
    await waitFor(() => !existsSync(dir), { what: 'the folder to go with it' })
  })
}
