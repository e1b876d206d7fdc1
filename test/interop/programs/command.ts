/** Foreign programs as child processes: what they wrote, and how they ended. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { Json } from '../client.ts'
import { PYTHON } from '../clients/bridge.ts'

const PROGRAM_MS_MAX = 80_000

export interface Ended {
  /** null when a signal ended it. */
  readonly code: number | null
  readonly out: string
  readonly err: string
}

export interface Running {
  /** Written so far. */
  out(): string
  kill(signal: NodeJS.Signals): void
  readonly ended: Promise<Ended>
}

export function start(
  command: string,
  args: readonly string[],
  { input = '', env = {} }: { input?: string; env?: NodeJS.ProcessEnv } = {},
): Running {
  const child = spawn(command, args, {
    stdio: ['pipe', 'pipe', 'pipe'],
    env: { ...process.env, PYTHONUNBUFFERED: '1', ...env },
    timeout: PROGRAM_MS_MAX,
  })
  let out = ''
  let err = ''
  child.stdout.on('data', (chunk) => {
    out += chunk
  })
  child.stderr.on('data', (chunk) => {
    err += chunk
  })
  child.stdin.on('error', () => {}) // it did not want to read
  child.stdin.end(input)
  const ended = once(child, 'close').then(([code]) => ({ code: code as number | null, out, err }))
  return { out: () => out, kill: (signal) => child.kill(signal), ended }
}

/** Runs a command to its end. */
export function run(...args: Parameters<typeof start>): Promise<Ended> {
  return start(...args).ended
}

/** Runs a script of ../python, which writes its outcome as its last line. */
export async function python(script: string, ...args: string[]): Promise<Json> {
  const path = fileURLToPath(new URL(`../python/${script}`, import.meta.url))
  const { code, out, err } = await run(PYTHON, [path, ...args])
  if (code !== 0) throw new Error(`${script} ended with ${code}:\n${err.slice(-4_000)}`)
  return JSON.parse(out.trim().split('\n').at(-1) ?? '') as Json
}
