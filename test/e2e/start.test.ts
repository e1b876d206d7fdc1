/**
 * The first minute of a user, through `npm start`.
 *
 * Method: npm start runs as a child on a machine without Redis: PATH is the system's, and the home
 * and cache folders are empty. What the banner prints is given to a shell as it stands.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { promisify } from 'node:util'
import { findRedisServer, freePort, waitFor, withRedis } from '@sluice/testkit'

const run = promisify(execFile)
const ROOT = new URL('../..', import.meta.url).pathname
/** Fetching Redis included, on a busy machine. */
const START_MS_MAX = 120_000

interface Started {
  readonly child: ChildProcess
  /** What it has printed so far. */
  readonly out: () => string
  readonly err: () => string
  readonly exited: Promise<number | null>
}

interface Home {
  readonly dir: string
  readonly env: NodeJS.ProcessEnv
  /** npm start with this home; `env` adds to or replaces variables. */
  start(env?: NodeJS.ProcessEnv): Started
}

/** A home folder where nothing was ever fetched or started. */
async function newHome(t: TestContext, { fetched = true } = {}): Promise<Home> {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-home-'))
  const found = fetched ? findRedisServer() : undefined
  const folders = [...(found ? [join(found, '..')] : []), '/usr/bin', '/bin']
  const env: NodeJS.ProcessEnv = {
    PATH: [join(process.execPath, '..'), ...folders].join(':'),
    HOME: dir,
    XDG_CACHE_HOME: join(dir, 'cache'),
    SLUICE_DATA_DIR: join(dir, 'data'),
    SLUICE_HTTP_PORT: String(await freePort()),
    SLUICE_AMQP_PORT: String(await freePort()),
  }
  const children: Started[] = []
  t.after(async () => {
    for (const { child, exited } of children) {
      child.kill('SIGTERM')
      await exited
    }
    rmSync(dir, { recursive: true })
  })
  const start = (more: NodeJS.ProcessEnv = {}) => {
    const child = spawn('npm', ['start'], {
      cwd: ROOT,
      env: { ...env, ...more },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let out = ''
    let err = ''
    child.stdout.on('data', (chunk) => {
      out += chunk
    })
    child.stderr.on('data', (chunk) => {
      err += chunk
    })
    const exited = once(child, 'close').then(([code]) => code as number | null)
    const started = { child, out: () => out, err: () => err, exited }
    children.push(started)
    return started
  }
  return { dir, env, start }
}

/** The two lines of the banner, once it is there. */
async function banner({ out, err, exited }: Started): Promise<[publish: string, lease: string]> {
  const early = exited.then((code) => {
    throw new Error(`npm start ended with ${code}\n${err()}`)
  })
  const printed = waitFor(() => out().includes('Ctrl-C drains'), {
    timeoutMs: START_MS_MAX,
    what: 'the banner',
  })
  await Promise.race([printed, early])
  const [publish = '', lease = '', ...others] = out().match(/^ *curl .*$/gm) ?? []
  assert.deepEqual(others, [])
  return [publish, lease]
}

async function shell(line: string): Promise<Record<string, unknown>> {
  const { stdout } = await run('sh', ['-c', line.replace('curl', 'curl -sS')])
  return JSON.parse(stdout) as Record<string, unknown>
}

interface Leased {
  readonly messages: readonly { readonly body: string }[]
}

test('the printed lines publish and lease; Ctrl-C ends all; a second start finds the rest', async (t) => {
  const { dir, start } = await newHome(t)
  const first = start()
  const [publish, lease] = await banner(first)
  assert.deepEqual((await shell(publish))['queues'], ['hello'])
  await shell(publish)
  const leased = (await shell(lease)) as unknown as Leased
  assert.deepEqual(
    leased.messages.map(({ body }) => body),
    ['Hello, world'],
  )
  assert.equal(statSync(join(dir, 'data', 'admin-password')).mode & 0o777, 0o600)

  first.child.kill('SIGINT')
  assert.equal(await first.exited, 0, first.err())
  assert.ok(!existsSync(join(dir, 'data', 'redis', 'server.json')), 'Redis ended with the rest')
  await assert.rejects(shell(publish), /Failed to connect|Couldn't connect/)

  const second = start()
  assert.deepEqual(await banner(second), [publish, lease], 'the same credential')
  const found = (await shell(lease)) as unknown as Leased
  assert.deepEqual(
    found.messages.map(({ body }) => body),
    ['Hello, world'],
  )
})

test('without any Redis on the machine one is fetched, after saying so', async (t) => {
  const apt = await run('apt-get', ['--version']).then(
    () => true,
    () => false,
  )
  if (!apt) return t.skip('apt-get fetches it, and there is none here')
  const { dir, start } = await newHome(t, { fetched: false })
  const started = start()
  try {
    await banner(started)
  } catch (error) {
    if (/could not fetch Redis/.test(started.err())) return t.skip('the packages cannot be reached')
    throw error
  }
  const { err } = started
  if (/Redis: \/usr/.test(err())) return t.skip('this machine has a redis-server in /usr/bin')
  assert.match(err(), /no redis-server here; fetching one/)
  assert.ok(existsSync(join(dir, 'cache', 'sluice')))
})

test('a start that was killed leaves nothing in the way of the next one', async (t) => {
  const { start } = await newHome(t)
  const first = start()
  const [publish] = await banner(first)
  await shell(publish)
  const { stdout } = await run('ps', ['-e', '-o', 'pid=,ppid=,args='])
  const lines = stdout.split('\n').map((line) => line.trim().split(/ +/))
  const below = (pid: number) =>
    lines.filter(([, parent]) => Number(parent) === pid).map(([child]) => Number(child))
  const starters = [first.child.pid!, ...below(first.child.pid!)]
  const pid = starters
    .flatMap((starter) => [starter, ...below(starter)])
    .find((candidate) =>
      lines.some(
        ([id, , ...args]) => Number(id) === candidate && args.join(' ').endsWith('tools/start.mjs'),
      ),
    )
  process.kill(pid!, 'SIGKILL')
  await first.exited

  const second = start()
  const [, lease] = await banner(second)
  const found = (await shell(lease)) as unknown as Leased
  assert.equal(found.messages.length, 1)
})

test('a port that is taken is a clear error, with exit code 1', async (t) => {
  const { env, start } = await newHome(t)
  const taken = createServer().listen(Number(env['SLUICE_HTTP_PORT']), '127.0.0.1')
  await once(taken, 'listening')
  t.after(() => taken.close())
  const { exited, err } = start()
  assert.equal(await exited, 1)
  assert.match(err(), new RegExp(`port ${env['SLUICE_HTTP_PORT']} .*is taken`))
})

test('with REDIS_URL nothing is started, and the password given is not printed', async (t) => {
  const { dir, start } = await newHome(t)
  const { url } = await withRedis(t)
  const started = start({ REDIS_URL: url, SLUICE_ADMIN_PASSWORD: 'not for everyone' })
  await banner(started)
  assert.ok(!started.out().includes('not for everyone'))
  assert.ok(!started.err().includes('not for everyone'))
  assert.ok(!existsSync(join(dir, 'data', 'redis')))
})
