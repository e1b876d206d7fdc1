/**
 * A Redis server that belongs to one data folder, and to the process that started it.
 *
 * Guarantees: at most one server writes to a folder; only who can read the folder can log in; a
 * server whose starter was killed is ended, in order, by the next start; no other server is ever
 * touched. In the folder lie `password` (0600), `lock` (who started), `server.json` (what runs),
 * `server.log` (of the last start) and the append-only file.
 */
import { execFile, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import {
  chmodSync,
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { ask } from './redis-ask.mjs'

const run = promisify(execFile)
/** Until it answers at all; reading a large append-only file back may take longer than this. */
const START_MS_MAX = 30_000
/** Until a server told to end has written everything and is gone. */
const STOP_MS_MAX = 60_000
const IMAGE = 'redis:7'

/**
 * @typedef {object} Settings
 * @property {string} dir
 * @property {boolean} persist
 * @property {string} fsync
 * @property {(line: string) => void} say
 *
 * @typedef {(port: number) => string[]} Lines
 */

/**
 * @param {string} binary
 * @param {Settings} settings
 */
export async function startChild(binary, settings) {
  const dir = prepare(settings.dir)
  return await start(dir, settings, {
    from: binary,
    // '-': the settings come on standard input, as the password must not show in a process list.
    command: () => [binary, '-'],
    config: (port) => [`bind 127.0.0.1`, `port ${port}`, `dir ${JSON.stringify(dir)}`],
  })
}

/** @param {Settings} settings */
export async function startContainer(settings) {
  const dir = prepare(settings.dir)
  const user = `${process.getuid?.() ?? 0}:${process.getgid?.() ?? 0}`
  return await start(dir, settings, {
    from: `Docker image ${IMAGE}`,
    command: (port) => [
      // Not by the image's own entry point, which would give the files to another user.
      ...['docker', 'run', '--rm', '--interactive', '--user', user, '--entrypoint', 'redis-server'],
      ...['--publish', `127.0.0.1:${port}:6379`, '--volume', `${dir}:/data`],
      ...[IMAGE, '-'],
    ],
    config: () => ['bind 0.0.0.0', 'port 6379', 'dir /data'],
  })
}

/**
 * True when a Docker engine answers.
 *
 * @param {NodeJS.ProcessEnv} env
 */
export async function hasDocker(env) {
  const version = ['version', '--format', '{{.Server.Version}}']
  return await run('docker', version, { env, timeout: 10_000 }).then(
    ({ stdout }) => stdout.trim() !== '',
    () => false,
  )
}

/**
 * @param {string} dir
 * @param {Settings} settings
 * @param {{ from: string, command: Lines, config: Lines }} how
 * @returns {Promise<import('./redis.mjs').RunningRedis>}
 */
async function start(dir, { persist, fsync, say }, { from, command, config }) {
  const unlock = lock(dir)
  try {
    const password = secret(dir)
    await endOrphan(dir, password, say)
    const port = await freePort()
    const [file = '', ...args] = command(port)
    const log = openSync(join(dir, 'server.log'), 'w', 0o600)
    // A session of its own: Ctrl-C in a terminal reaches whole process groups, and Redis must stay
    // until the services have drained.
    const child = spawn(file, args, { stdio: ['pipe', log, log], detached: true })
    closeSync(log)
    const ended = once(child, 'close').then(
      ([code, signal]) => `Redis ended: ${signal ?? `exit code ${code}`}`,
      (error) => `Redis did not start: ${error.message}`,
    )
    child.stdin?.on('error', () => {}) // it ended before it read its settings: `ended` says so
    const running = { pid: child.pid, port, dir }
    writeFileSync(join(dir, 'server.json'), `${JSON.stringify(running)}\n`, { mode: 0o600 })
    child.stdin?.end(
      [
        ...config(port),
        `requirepass ${password}`,
        'daemonize no',
        'maxmemory-policy noeviction',
        'save ""', // the append-only file is the whole persistence
        `appendonly ${persist ? 'yes' : 'no'}`,
        `appendfsync ${fsync}`,
        '',
      ].join('\n'),
    )
    const stop = async () => {
      if (child.exitCode === null && child.signalCode === null) {
        child.kill('SIGTERM')
        await ended
      }
      rmSync(join(dir, 'server.json'), { force: true })
      unlock()
    }
    try {
      await answered({ port, password, ended, say })
    } catch (error) {
      await stop()
      const words = readFileSync(join(dir, 'server.log'), 'utf8').trim().split('\n').slice(-5)
      throw new Error(`${error instanceof Error ? error.message : error}\n${words.join('\n')}`)
    }
    return { url: `redis://:${password}@127.0.0.1:${port}`, from, ended, stop }
  } catch (error) {
    unlock()
    throw error
  }
}

/**
 * @param {object} server
 * @param {number} server.port
 * @param {string} server.password
 * @param {Promise<string>} server.ended
 * @param {(line: string) => void} server.say
 */
async function answered({ port, password, ended, say }) {
  const gone = ended.then((what) => ({ what }))
  let deadline = Date.now() + START_MS_MAX
  let said = false
  while (true) {
    const reply = await Promise.race([ask({ port, password }, ['PING']).catch(() => ''), gone])
    if (typeof reply === 'object') throw new Error(reply.what)
    if (reply.startsWith('+PONG')) return
    if (reply.startsWith('-LOADING')) {
      if (!said) say('Redis reads its append-only file back')
      said = true
      deadline = Date.now() + START_MS_MAX
    }
    if (Date.now() > deadline) throw new Error(`Redis does not answer on port ${port}`)
    await sleep(20)
  }
}

/**
 * Ends the server that a killed start left behind: it still writes to the folder.
 *
 * @param {string} dir
 * @param {string} password
 * @param {(line: string) => void} say
 */
async function endOrphan(dir, password, say) {
  const left = readJson(join(dir, 'server.json'))
  if (left === undefined) return
  const { pid, port } = left
  // Our password, which nobody else has, and our folder: a copy of the folder has the password too.
  const ours = left.dir === dir && (await ask({ port, password }, ['PING']).catch(() => ''))
  if (/^(?:\+PONG|-LOADING)/.test(ours || '')) {
    say('ending the Redis that a killed start left behind')
    await ask({ port, password }, ['SHUTDOWN']).catch(() => '') // it closes instead of answering
    const deadline = Date.now() + STOP_MS_MAX
    while (identity(pid) !== undefined) {
      if (Date.now() > deadline) throw new Error(`the Redis with pid ${pid} in ${dir} does not end`)
      await sleep(20)
    }
  } else if (workingFolder(pid) === dir) {
    throw new Error(
      `a server with pid ${pid} works in ${dir} and does not take the password kept there; end it first (kill ${pid})`,
    )
  }
}

/**
 * Lets one process at a time have the folder; returns what gives it free again.
 *
 * @param {string} dir
 */
function lock(dir) {
  const path = join(dir, 'lock')
  const own = JSON.stringify({ pid: process.pid, identity: identity(process.pid) })
  while (true) {
    try {
      writeFileSync(path, own, { flag: 'wx', mode: 0o600 })
      return () => rmSync(path, { force: true })
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error
    }
    const holder = readJson(path)
    if (holder !== undefined && identity(holder.pid) === holder.identity) {
      throw new Error(
        `${dir} is in use by process ${holder.pid}: stop it first, or set SLUICE_DATA_DIR to another folder`,
      )
    }
    rmSync(path, { force: true }) // its process is gone
  }
}

/**
 * What tells a process from a later one with the same pid; undefined when there is none.
 *
 * @param {number} pid
 * @returns {string | undefined}
 */
function identity(pid) {
  try {
    process.kill(pid, 0)
  } catch {
    return undefined
  }
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return fields[0] === 'Z' ? undefined : `${boot} ${fields[19]}` // proc(5): state, start time
  } catch {
    return 'alive' // no /proc here
  }
}

/** @param {number} pid */
function workingFolder(pid) {
  try {
    return readlinkSync(`/proc/${pid}/cwd`)
  } catch {
    return undefined
  }
}

/** @param {string} dir */
function prepare(dir) {
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  chmodSync(dir, 0o700)
  return realpathSync(dir)
}

/** @param {string} dir */
function secret(dir) {
  const path = join(dir, 'password')
  try {
    writeFileSync(path, randomBytes(24).toString('hex'), { flag: 'wx', mode: 0o600 })
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error
  }
  return readFileSync(path, 'utf8').trim()
}

/** @param {string} path */
function readJson(path) {
  try {
    return JSON.parse(readFileSync(path, 'utf8'))
  } catch {
    return undefined // missing, or cut short by a crash
  }
}

async function freePort() {
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const address = probe.address()
  probe.close()
  await once(probe, 'close')
  if (address === null || typeof address === 'string') throw new Error('no TCP port')
  return address.port
}
