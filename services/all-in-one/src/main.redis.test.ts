/** The `sluice` command as a process of its own: how it starts, refuses and stops. */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { freePort, privateRedis, withRedis } from '@sluice/testkit'
import { SERVICES } from './services.ts'

const MAIN = fileURLToPath(new URL('main.ts', import.meta.url))

interface Sluice {
  readonly child: ChildProcess
  /** Settles with exit code and all output once it has ended. */
  readonly ended: Promise<{ code: number | null; stdout: string; stderr: string }>
  /** Settles with its URL once it serves; rejects when it ends before. */
  readonly ready: Promise<string>
}

function sluice(t: TestContext, args: readonly string[], env: Record<string, string> = {}): Sluice {
  const { PATH = '' } = process.env
  const stdio = ['ignore', 'pipe', 'pipe', 'ipc'] as const
  const child = spawn(process.execPath, [MAIN, ...args], {
    env: { PATH, ...env },
    stdio: [...stdio],
  })
  t.after(() => void child.kill('SIGKILL'))
  let stdout = ''
  let stderr = ''
  child.stdout?.on('data', (chunk) => {
    stdout += chunk
  })
  child.stderr?.on('data', (chunk) => {
    stderr += chunk
  })
  const ended = once(child, 'close').then(([code]) => ({ code, stdout, stderr }))
  const early = ended.then(({ stderr }) => {
    throw new Error(`ended before it served: ${stderr}`)
  })
  const told = once(child, 'message').then(([message]) => {
    assert.equal(message.type, 'ready')
    return message.http as string
  })
  const ready = Promise.race([told, early])
  ready.catch(() => {}) // tests of what ends early wait for `ended`
  return { child, ended, ready }
}

async function environment(t: TestContext, redisUrl?: string) {
  const dataDir = await mkdtemp(join(tmpdir(), 'sluice-'))
  t.after(() => rm(dataDir, { recursive: true, force: true }))
  const url = redisUrl ?? (await withRedis(t)).url
  return { REDIS_URL: url, SLUICE_HTTP_PORT: '0', SLUICE_AMQP_PORT: '0', SLUICE_DATA_DIR: dataDir }
}

test('help and version are printed without a Redis', async (t) => {
  const help = await sluice(t, ['--help']).ended
  assert.equal(help.code, 0)
  for (const name of Object.keys(SERVICES)) assert.ok(help.stdout.includes(name))
  const version = await sluice(t, ['--version']).ended
  assert.match(version.stdout, /^\d+\.\d+\.\d+\n$/)
})

test('an unknown service or option is refused with exit code 2', async (t) => {
  for (const args of [['rooter'], ['router', 'rooter'], ['--wrong'], ['constructor']]) {
    const { code, stdout, stderr } = await sluice(t, args).ended
    assert.deepEqual([code, stdout], [2, ''], args.join(' '))
    assert.match(stderr, /^sluice: /)
  }
})

test('of words that are none, the first is named, and what may have been meant', async (t) => {
  for (const [line, wrong, meant] of [
    ['publsh hello x', 'publsh', 'publish'],
    ['router deliviry hello', 'deliviry', 'delivery'],
    ['adit verify', 'adit', 'audit'],
  ] as const) {
    const { stderr } = await sluice(t, line.split(' ')).ended
    assert.match(stderr, new RegExp(`^sluice: unknown command '${wrong}'\\n.*mean ${meant}\\?`))
    assert.doesNotMatch(stderr, /hello|verify/)
  }
})

test('a missing REDIS_URL or a wrong setting is one clear error', async (t) => {
  const missing = await sluice(t, ['router']).ended
  assert.equal(missing.code, 1)
  assert.match(missing.stderr, /REDIS_URL: is not set/)
  const wrong = await sluice(t, [], { ...(await environment(t)), SLUICE_HTTP_PROT: '1' }).ended
  assert.match(wrong.stderr, /SLUICE_HTTP_PROT: there is no such setting/)
  assert.doesNotMatch(wrong.stderr, /\n {4}at /, 'no stack')
})

test('a Redis that is not there, or that evicts, is one clear error', async (t) => {
  const away = `redis://:hush@127.0.0.1:${await freePort()}`
  const { code, stderr } = await sluice(t, [], await environment(t, away)).ended
  assert.equal(code, 1)
  assert.match(stderr, /^sluice: .*Redis/m)
  assert.doesNotMatch(stderr, /hush|\n {4}at /)

  const evicting = await privateRedis(t, { aof: false, maxMemoryPolicy: 'allkeys-lru' })
  const env = await environment(t, evicting.url)
  const refused = await sluice(t, ['router'], env).ended
  assert.equal(refused.code, 1)
  assert.match(refused.stderr, /maxmemory-policy.*noeviction/)

  const allowed = sluice(t, ['router'], { ...env, SLUICE_ALLOW_EVICTION: 'true' })
  await allowed.ready
  allowed.child.kill('SIGTERM')
  const { stderr: warned } = await allowed.ended
  assert.match(warned, /"level":"warn".*allkeys-lru/)
  assert.match(warned, /"level":"warn".*persists nothing/)
})

test('it serves every service with a generated password, logs JSON alone, and stops with 0', async (t) => {
  const env = await environment(t)
  const { child, ended, ready } = sluice(t, ['all'], env)
  const http = await ready
  const password = (await readFile(join(env.SLUICE_DATA_DIR, 'admin-password'), 'utf8')).trim()
  assert.equal((await fetch(`${http}/readyz`)).status, 200)
  assert.equal((await fetch(`${http}/v1/vhosts`)).status, 401)
  const basic = `Basic ${Buffer.from(`admin:${password}`).toString('base64')}`
  assert.equal(
    (await fetch(`${http}/v1/vhosts`, { headers: { Authorization: basic } })).status,
    200,
  )

  child.kill('SIGTERM')
  const { code, stdout, stderr } = await ended
  assert.deepEqual([code, stdout], [0, ''])
  const lines = stderr
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
  const serving = lines.filter(({ msg }) => msg === 'serving').map(({ service }) => service)
  assert.deepEqual(serving, Object.keys(SERVICES))
  assert.ok(!stderr.includes(password))
})

test('a port that is taken is one clear error that names the setting', async (t) => {
  const env = await environment(t)
  const first = sluice(t, ['router'], env)
  const { port } = new URL(await first.ready)
  const { code, stderr } = await sluice(t, ['router'], { ...env, SLUICE_HTTP_PORT: port }).ended
  assert.equal(code, 1)
  assert.match(stderr, new RegExp(`port ${port} .*is taken.*SLUICE_HTTP_PORT`))
  first.child.kill('SIGTERM')
  assert.equal((await first.ended).code, 0)
})
