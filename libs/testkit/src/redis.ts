/**
 * A real Redis for a test, never a mock.
 *
 * `withRedis` shares one server: REDIS_URL when set (tools/test.ts starts one and sets it), else a
 * server from PATH or the user's cache, started once a test process without persistence, else a
 * container. Tests stay apart by name: each gets a vhost of its own, so files run in parallel.
 * `withBareRedis` is for queues without a broker, `privateRedis` for tests that kill, pause, restart
 * or fill the server.
 */
import { spawnSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { parseRedisUrl } from '@sluice/core'
import { Cluster, Redis } from 'ioredis'
import { freePort } from './free-port.ts'
import { endServer, findRedisServer, serverFolder, startServer } from './redis-server.ts'

/** What a test gives, or a bench: somewhere to register the end of what was opened. */
export type Scope = Pick<TestContext, 'after' | 'skip'>

export interface SharedRedis {
  readonly url: string
  /** A connection of this test, closed at its end. */
  readonly redis: Redis
  /** A virtual host that no other test uses. */
  readonly vhost: string
}

/** Brokers of tests work in 0. */
const BARE_DATABASE = 1
const CONFIG_FILE = 'redis.conf'

let shared: Promise<string | undefined> | undefined

/** The shared Redis. Where there is none and none can be started, the test is skipped. */
export async function withRedis(t: Scope): Promise<SharedRedis> {
  const url = await sharedUrl(t)
  return { url, redis: connect(t, url), vhost: newVhost() }
}

/**
 * Another database of it, for queues that no topology has: where brokers of other tests work, their
 * reapers clear such away. A cluster has no other database.
 */
export async function withBareRedis(t: Scope): Promise<Omit<SharedRedis, 'redis'>> {
  const url = await sharedUrl(t)
  const bare = parseRedisUrl(url).kind === 'single' ? new URL(`/${BARE_DATABASE}`, url).href : url
  return { url: bare, vhost: newVhost() }
}

async function sharedUrl(t: Scope): Promise<string> {
  shared ??= process.env['REDIS_URL'] ? Promise.resolve(process.env['REDIS_URL']) : startShared()
  return (await shared) ?? skip(t)
}

const newVhost = () => `test-${randomUUID()}`

export interface PrivateRedisOptions {
  /** Keep an append-only file, so that a restart finds everything again. Default true. */
  readonly aof?: boolean
  /** When the append-only file reaches the disk. Default 'everysec'. */
  readonly fsync?: 'always' | 'everysec' | 'no'
  /** Memory limit in bytes. Default none. */
  readonly maxMemoryBytes?: number
  /** Default 'noeviction'. */
  readonly maxMemoryPolicy?: string
  /** Further arguments of redis-server, e.g. ['--requirepass', 'x']. */
  readonly args?: readonly string[]
}

export interface PrivateRedis {
  readonly url: string
  readonly port: number
  /** Its folder, with the append-only file; removed with the server. */
  readonly dir: string
  /** A connection of this test, which reconnects after a restart. */
  readonly redis: Redis
  /** SIGKILL, as the kernel does when memory runs out. Returns when the process is gone. */
  kill9(): Promise<void>
  /** Starts it again on the same port and folder, ending it in order first when it still runs. */
  restart(): Promise<void>
  /** SIGSTOP: connections stay open and nothing answers. */
  pause(): void
  /** SIGCONT. */
  cont(): void
}

/**
 * A Redis of this test's own, gone at its end, after everything else the test registered with
 * `t.after`. Skips the test where no redis-server can be found.
 */
export async function privateRedis(
  t: Scope,
  options: PrivateRedisOptions = {},
): Promise<PrivateRedis> {
  return launch(t, serverArgs(options))
}

/** The same with these arguments, and a configuration file with this text where one is needed. */
export async function launch(
  t: Scope,
  args: readonly string[],
  config?: string,
): Promise<PrivateRedis> {
  const binary = findRedisServer() ?? skip(t)
  const port = await freePort()
  const dir = serverFolder()
  if (config !== undefined) writeFileSync(join(dir, CONFIG_FILE), config)
  const files = config === undefined ? [] : [join(dir, CONFIG_FILE)]
  const start = () => startServer(binary, { port, dir, args, files })
  let child = await start()
  const url = `redis://127.0.0.1:${port}`
  const redis = connect(t, url)
  last(t, () => endServer(child, 'SIGKILL', dir))
  return {
    url,
    port,
    dir,
    redis,
    kill9: () => endServer(child, 'SIGKILL'),
    restart: async () => {
      await endServer(child, 'SIGTERM')
      child = await start()
    },
    pause: () => void child.kill('SIGSTOP'),
    cont: () => void child.kill('SIGCONT'),
  }
}

function serverArgs(options: PrivateRedisOptions): string[] {
  const { aof = true, fsync = 'everysec', maxMemoryBytes, maxMemoryPolicy = 'noeviction' } = options
  return [
    ...['--appendonly', aof ? 'yes' : 'no', '--appendfsync', fsync],
    ...['--maxmemory-policy', maxMemoryPolicy],
    ...(maxMemoryBytes === undefined ? [] : ['--maxmemory', String(maxMemoryBytes)]),
    ...(options.args ?? []),
  ]
}

async function startShared(): Promise<string | undefined> {
  const binary = findRedisServer()
  if (binary === undefined) return await startContainer()
  const port = await freePort()
  await startServer(binary, { port, dir: serverFolder(), args: ['--appendonly', 'no'] })
  return `redis://127.0.0.1:${port}`
}

/** A Redis in a container, removed with this process; undefined where no engine answers. */
export async function startContainer(): Promise<string | undefined> {
  try {
    const { RedisContainer } = await import('@testcontainers/redis')
    // A password, as the engine publishes the port on every address of the machine.
    const container = await new RedisContainer('redis:7').withPassword(randomUUID()).start()
    // Where the container that removes others may not run, this does.
    const remove = ['rm', '--force', '--volumes', container.getId()]
    process.on('exit', () => spawnSync('docker', remove, { stdio: 'ignore', timeout: 10_000 }))
    return container.getConnectionUrl()
  } catch {
    return undefined
  }
}

function connect(t: Scope, url: string): Redis {
  const redis = open(url)
  redis.on('error', () => {}) // refused while a private server is down; commands wait for it
  last(t, () => redis.disconnect())
  return redis
}

/** REDIS_URL may name a cluster or sentinels (parseRedisUrl in @sluice/core). */
function open(url: string): Redis {
  const options = { maxRetriesPerRequest: null, retryStrategy: () => 50 }
  const { kind, hosts, primary, username, password } = parseRedisUrl(url)
  const login = { ...(username && { username }), ...(password && { password }) }
  if (kind === 'single') return new Redis(url, options)
  if (kind === 'cluster') {
    return new Cluster([...hosts], { redisOptions: login }) as unknown as Redis
  }
  return new Redis({ ...options, ...login, sentinels: [...hosts], name: primary })
}

/**
 * Runs `end` after every `t.after` that the test registers: those run in the order of their
 * registration, so one that registers itself again comes after all of them.
 */
export function last(t: Scope, end: () => void | Promise<void>): void {
  t.after(() => t.after(end))
}

function skip(t: Scope): never {
  const why = 'no Redis: set REDIS_URL, or put redis-server or valkey-server on PATH'
  t.skip(why)
  throw new Error(why) // leaves the test, which counts as skipped
}
