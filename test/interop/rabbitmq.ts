/**
 * A RabbitMQ to compare with: RABBITMQ_URL, or Debian's rabbitmq-server as a child of this process.
 *
 * The child touches nothing of an installed RabbitMQ: it has its own folder, node name, cookie,
 * ports and port mapper, all on 127.0.0.1, and all of it is gone at the end.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort } from '@sluice/testkit'

/** The server itself. The one in /usr/sbin would change the user and the folder. */
const SERVER = '/usr/lib/rabbitmq/bin/rabbitmq-server'
const START_MS_MAX = 60_000
const STOP_MS_MAX = 20_000
/** What Sluice allows unless told; RabbitMQ 3.10 allows 128 MiB. */
const MESSAGE_BYTES_MAX = 16 * 1024 * 1024

interface RunningRabbitmq {
  readonly url: string
  /** Of the Erlang machine; undefined where somebody else started it. */
  readonly pid: number | undefined
  stop(): Promise<void>
}

/** Returns why there is none when there is none. */
export async function startRabbitmq(): Promise<RunningRabbitmq | { readonly missing: string }> {
  const named = process.env['RABBITMQ_URL']
  if (named) return { url: named, pid: undefined, stop: async () => {} }
  if (!existsSync(SERVER)) return { missing: 'no RABBITMQ_URL, and rabbitmq-server is missing' }
  const folder = mkdtempSync(join(tmpdir(), 'sluice-rabbitmq-'))
  const ports = { amqp: await freePort(), dist: await freePort(), epmd: await freePort() }
  const ends: (() => Promise<void>)[] = [async () => rmSync(folder, { recursive: true })]
  const stop = async () => {
    for (let end = ends.pop(); end; end = ends.pop()) await end()
  }
  try {
    const env = environment(folder, ports)
    // Ours, in the foreground: one that the server started would outlive it.
    const epmd = spawn('epmd', ['-port', String(ports.epmd), '-address', '127.0.0.1'], {
      env,
      stdio: 'ignore',
    })
    ends.push(() => end(epmd))
    await until(() => answers(ports.epmd), epmd)
    const server = spawn(SERVER, [], { cwd: folder, env, stdio: 'ignore' })
    ends.push(() => end(server))
    ends.push(endWithUs([server, epmd], folder))
    await until(async () => existsSync(join(folder, 'pid')) && (await answers(ports.amqp)), server)
    const pid = Number(readFileSync(join(folder, 'pid'), 'utf8'))
    return { url: `amqp://guest:guest@127.0.0.1:${ports.amqp}`, pid, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

function environment(
  folder: string,
  ports: { amqp: number; dist: number; epmd: number },
): NodeJS.ProcessEnv {
  for (const name of ['home', 'data', 'log', 'plugins']) mkdirSync(join(folder, name))
  writeFileSync(join(folder, 'enabled_plugins'), '[].\n')
  writeFileSync(join(folder, 'environment'), '')
  writeFileSync(
    join(folder, 'rabbitmq.conf'),
    [
      `listeners.tcp.1 = 127.0.0.1:${ports.amqp}`,
      `max_message_size = ${MESSAGE_BYTES_MAX}`,
      'log.file.level = warning',
      // The disk of a test machine is not what is tested.
      'disk_free_limit.absolute = 50MB',
      '',
    ].join('\n'),
  )
  return {
    PATH: process.env['PATH'],
    LANG: 'C.UTF-8',
    HOME: join(folder, 'home'),
    RABBITMQ_CONF_ENV_FILE: join(folder, 'environment'),
    RABBITMQ_CONFIG_FILE: join(folder, 'rabbitmq.conf'),
    RABBITMQ_ENABLED_PLUGINS_FILE: join(folder, 'enabled_plugins'),
    RABBITMQ_NODENAME: `sluice-interop-${ports.amqp}@localhost`,
    RABBITMQ_NODE_IP_ADDRESS: '127.0.0.1',
    RABBITMQ_NODE_PORT: String(ports.amqp),
    RABBITMQ_DIST_PORT: String(ports.dist),
    RABBITMQ_MNESIA_BASE: join(folder, 'data'),
    RABBITMQ_MNESIA_DIR: join(folder, 'data', 'node'),
    RABBITMQ_LOG_BASE: join(folder, 'log'),
    RABBITMQ_PID_FILE: join(folder, 'pid'),
    RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS: '-kernel inet_dist_use_interface {127,0,0,1}',
    ERL_EPMD_PORT: String(ports.epmd),
    ERL_EPMD_ADDRESS: '127.0.0.1',
  }
}

/**
 * Ends them when this process is gone without having done so, even by SIGKILL: a small shell waits
 * for the end of its input, which the kernel closes with us. Returns what calls that off.
 */
function endWithUs(children: readonly ChildProcess[], folder: string): () => Promise<void> {
  const wait = 'read -r _ && exit; folder=$1; shift; kill "$@"; sleep 10; rm -r "$folder"'
  const pids = children.map(({ pid }) => String(pid))
  const shell = spawn('sh', ['-c', wait, 'sh', folder, ...pids], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  })
  shell.unref()
  return async () => {
    const ended = once(shell, 'exit')
    shell.stdin.end('\n')
    await ended
  }
}

async function until(ready: () => Promise<boolean>, child: ChildProcess): Promise<void> {
  const deadline = performance.now() + START_MS_MAX
  while (!(await ready())) {
    if (child.exitCode !== null) throw new Error(`${child.spawnfile} ended at once`)
    if (performance.now() > deadline) throw new Error(`${child.spawnfile} did not start`)
    await sleep(50)
  }
}

async function answers(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1')
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exited = once(child, 'exit')
  child.kill('SIGTERM')
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_MS_MAX)
  await exited
  clearTimeout(timer)
}
