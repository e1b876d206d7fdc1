/**
 * Redis servers that tests start: found, spawned, and gone again however the test process ends.
 *
 * A process that ends in order kills its servers itself. For one that is killed, a small shell
 * waits for the end of its input (the kernel closes it with the process) and then does the same.
 */
import { type ChildProcess, type ChildProcessByStdio, spawn } from 'node:child_process'
import { once } from 'node:events'
import { accessSync, constants, existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { homedir, tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import type { Writable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'

/** A machine under load may take seconds to read a large AOF back. */
const START_MS_MAX = 30_000

/** Path of a redis-server or valkey-server: on PATH, else fetched before into the user's cache. */
export function findRedisServer(): string | undefined {
  const folders = (process.env['PATH'] ?? '').split(delimiter).filter((folder) => folder !== '')
  const cache = join(process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'sluice')
  if (existsSync(cache)) {
    for (const name of readdirSync(cache)) {
      if (name.startsWith('redis-')) folders.push(join(cache, name, 'bin'))
    }
  }
  return folders
    .flatMap((folder) => [join(folder, 'redis-server'), join(folder, 'valkey-server')])
    .find(isExecutable)
}

/** A new folder for one server, under the system's temporary folder. */
export function serverFolder(): string {
  return mkdtempSync(join(tmpdir(), 'sluice-redis-'))
}

/** Starts `binary` and returns once it answers; throws with its last words when it does not. */
export async function startServer(
  binary: string,
  options: {
    port: number
    dir: string
    args: readonly string[]
    /** Configuration files. */
    files?: readonly string[]
  },
): Promise<ChildProcess> {
  const { port, dir, args, files = [] } = options
  const network = ['--bind', '127.0.0.1', '--port', String(port), '--dir', dir]
  const child = spawn(binary, [...files, ...network, '--daemonize', 'no', '--save', '', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let said = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      said = (said + chunk.toString()).slice(-4_000)
    })
    // A pipe is a net.Socket; unreferenced, it does not keep the test process alive.
    if ('unref' in stream && typeof stream.unref === 'function') stream.unref()
  }
  child.unref()
  cleanUpAtExit(child, port, dir)

  const deadline = performance.now() + START_MS_MAX
  while (!(await answers(port))) {
    if (child.exitCode !== null || child.signalCode !== null || performance.now() > deadline) {
      child.kill('SIGKILL')
      throw new Error(`${binary} did not start on port ${port}:\n${said}`)
    }
    await sleep(10)
  }
  return child
}

/**
 * Ends the server, if it still runs, and returns once its process is gone; a paused one is woken.
 *
 * @param dir its folder, when that is to go with it.
 */
export async function endServer(
  child: ChildProcess,
  signal: 'SIGTERM' | 'SIGKILL',
  dir?: string,
): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) {
    const exited = once(child, 'exit')
    child.ref()
    child.kill(signal)
    child.kill('SIGCONT')
    await exited
  }
  if (dir !== undefined) rmSync(dir, { recursive: true, force: true })
}

/** True when a Redis on the port answers PING: not while it still loads its AOF. */
async function answers(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1')
  try {
    await once(socket, 'connect')
    socket.write('PING\r\n')
    const [reply] = (await once(socket, 'data', { signal: AbortSignal.timeout(1_000) })) as [Buffer]
    return reply.toString().startsWith('+PONG')
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

/**
 * Reads lines 'pid port folder'. At the end of the input it kills each pid whose process title
 * still names the port, and removes the folders.
 */
const WATCH = `
lines=
while read -r line; do lines="$lines$line
"; done
printf '%s' "$lines" | while read -r pid port dir; do
  case "$(ps -o args= -p "$pid" 2>/dev/null)" in *":$port"*) kill -9 "$pid" ;; esac
  rm -rf "$dir"
done`

const live = new Set<{ child: ChildProcess; dir: string }>()
let watch: ChildProcessByStdio<Writable, null, null> | undefined

function cleanUpAtExit(child: ChildProcess, port: number, dir: string): void {
  if (watch === undefined) {
    watch = spawn('sh', ['-c', WATCH], { stdio: ['pipe', 'ignore', 'ignore'], detached: true })
    watch.unref()
    const input: Writable & { unref?: () => void } = watch.stdin
    input.unref?.()
    input.on('error', () => {}) // somebody killed the watch: what is left is the exit below
    process.on('exit', () => {
      for (const server of live) {
        server.child.kill('SIGKILL')
        rmSync(server.dir, { recursive: true, force: true })
      }
    })
  }
  watch.stdin.write(`${child.pid} ${port} ${dir}\n`)
  const server = { child, dir }
  live.add(server)
}
