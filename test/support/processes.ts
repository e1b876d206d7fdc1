/**
 * Services as the real processes that they are in production: started, killed, paused, started
 * again, and gone at the end of the test however it ends.
 *
 * Each listens on a port of its own. What it logs is kept, bounded, and shown when the test fails.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { TestContext } from 'node:test'
import { fileURLToPath } from 'node:url'
import { ENCRYPTION_ENV } from './encrypted.ts'
import { PASSWORD } from './http.ts'

const MAIN = fileURLToPath(new URL('../../services/all-in-one/src/main.ts', import.meta.url))
/** A second on a machine at ease. */
const START_MS_MAX = 60_000
const LOG_BYTES_MAX = 64 * 1024

interface ProcessOptions {
  readonly redisUrl: string
  /** Names of services; all unless told. */
  readonly services?: readonly string[]
  readonly env?: Readonly<Record<string, string>>
  /** How it is called in what a failed test shows. Default: its services. */
  readonly name?: string
  /** What to run, of another version. */
  readonly main?: string
}

export interface ServiceProcess {
  readonly name: string
  /** e.g. http://127.0.0.1:43210; another one after each start. */
  readonly http: string
  /** Where its other doors are, by name: amqp. */
  readonly doors: Readonly<Record<string, string>>
  readonly running: boolean
  /** undefined before it was started. */
  readonly pid: number | undefined
  /** The last 64 KiB of what it wrote. */
  readonly log: string
  /** SIGKILL. Returns when it is gone. */
  kill9(): Promise<void>
  /** SIGTERM. Returns its exit code, null when a signal ended it. */
  stop(): Promise<number | null>
  /** SIGSTOP: connections stay open and nothing answers. */
  pause(): void
  /** SIGCONT. */
  cont(): void
  /** Starts it again once it is gone; returns when it serves. */
  restart(): Promise<void>
  /** Called when it ends without being asked to. */
  onCrash: (what: string) => void
}

/** What a process needs of its test: an end, and whether it failed. */
export type Scope = Pick<TestContext, 'after' | 'diagnostic'>

/** Starts one process and returns when it serves; it fails the test by a crash of its own. */
export async function startProcess(t: Scope, options: ProcessOptions): Promise<ServiceProcess> {
  const process = new Spawned(options)
  const crashes: string[] = []
  process.onCrash = (what) => crashes.push(what)
  t.after(async () => {
    await process.kill9()
    const failed = !('passed' in t && t.passed)
    if (failed || crashes.length > 0) t.diagnostic(`${process.name} wrote:\n${process.log}`)
    // A hook that throws keeps those behind it from running: this one is put at the end.
    t.after(() => assert.deepEqual(crashes, []))
  })
  await process.restart()
  return process
}

class Spawned implements ServiceProcess {
  readonly name: string
  http = ''
  doors: Readonly<Record<string, string>> = {}
  log = ''
  onCrash: (what: string) => void = () => {}
  readonly #options: ProcessOptions
  #child: ChildProcess | undefined
  /** It serves, and nobody asked it to end. */
  #expected = false

  constructor(options: ProcessOptions) {
    this.#options = options
    this.name = options.name ?? options.services?.join('+') ?? 'all'
  }

  get running(): boolean {
    return this.#child?.exitCode === null && this.#child.signalCode === null
  }

  get pid(): number | undefined {
    return this.#child?.pid
  }

  async restart(): Promise<void> {
    if (this.running) throw new Error(`${this.name} runs already`)
    const { redisUrl, services = [], env = {}, main = MAIN } = this.#options
    const child = spawn(process.execPath, [main, ...services], {
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      env: {
        PATH: process.env['PATH'],
        NODE_COMPILE_CACHE: process.env['NODE_COMPILE_CACHE'],
        REDIS_URL: redisUrl,
        SLUICE_HTTP_PORT: '0',
        SLUICE_AMQP_PORT: '0',
        SLUICE_HTTPS_PORT: '0',
        SLUICE_AMQPS_PORT: '0',
        SLUICE_ADMIN_PASSWORD: PASSWORD,
        SLUICE_LOG_LEVEL: 'warn',
        NODE_NO_WARNINGS: '1',
        ...ENCRYPTION_ENV,
        ...env,
      },
    })
    this.#child = child
    endWithUs(child.pid!)
    for (const stream of [child.stdout!, child.stderr!]) {
      stream.on('data', (chunk: Buffer) => {
        this.log = (this.log + chunk.toString()).slice(-LOG_BYTES_MAX)
      })
    }
    const exited = once(child, 'exit') as Promise<[number | null, string | null]>
    exited.then(([code, signal]) => {
      if (this.#expected) this.onCrash(`${this.name} ended by itself: ${signal ?? `code ${code}`}`)
    }, this.onCrash)
    const ready = await Promise.race([this.#ready(child), exited.then(() => this.#gone())])
    this.http = ready.http
    this.doors = ready.doors
    this.#expected = true
  }

  async kill9(): Promise<void> {
    await this.#end('SIGKILL')
  }

  stop(): Promise<number | null> {
    return this.#end('SIGTERM')
  }

  pause(): void {
    this.#child?.kill('SIGSTOP')
  }

  cont(): void {
    this.#child?.kill('SIGCONT')
  }

  async #end(signal: 'SIGKILL' | 'SIGTERM'): Promise<number | null> {
    const child = this.#child
    this.#expected = false
    if (child === undefined) return null
    if (this.running) {
      const exited = once(child, 'exit')
      child.kill(signal)
      child.kill('SIGCONT')
      await exited
    }
    return child.exitCode
  }

  async #ready(child: ChildProcess): Promise<Pick<ServiceProcess, 'http' | 'doors'>> {
    const signal = AbortSignal.timeout(START_MS_MAX)
    const [message] = (await once(child, 'message', { signal })) as [Record<string, string>]
    const { http = '', type: _, ...doors } = message
    return { http, doors }
  }

  #gone(): never {
    throw new Error(`${this.name} did not start:\n${this.log}`)
  }
}

/**
 * Kills what still runs under a pid when this process is gone, even by SIGKILL: a small shell waits
 * for the end of its input, which the kernel closes with us.
 */
const WATCH = `
pids=
while read -r pid; do pids="$pids $pid"; done
for pid in $pids; do
  case "$(ps -o args= -p "$pid" 2>/dev/null)" in *all-in-one*) kill -9 "$pid" ;; esac
done`

let watch: ReturnType<typeof spawnWatch> | undefined

function endWithUs(pid: number): void {
  watch ??= spawnWatch()
  watch.stdin.write(`${pid}\n`)
}

function spawnWatch() {
  const shell = spawn('sh', ['-c', WATCH], { stdio: ['pipe', 'ignore', 'ignore'], detached: true })
  shell.unref()
  const input: typeof shell.stdin & { unref?: () => void } = shell.stdin
  input.unref?.()
  input.on('error', () => {}) // somebody killed it; tests that end in order do not need it
  return shell
}
