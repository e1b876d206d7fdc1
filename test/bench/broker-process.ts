/** Brokers for benches: processes of their own, asked over HTTP, their CPU time measured. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import type { Scope } from '@sluice/testkit'
import { encodeRequest, load } from './http-load.ts'

export const PASSWORD = 'bench bench'
const BATCH = 1_000
const BATCH_CONNECTIONS = 4

export interface Server {
  readonly url: string
  /** Where it listens for AMQP; '' = nowhere. */
  readonly amqp: string
  /** Where it speaks HTTPS; '' = nowhere. */
  readonly https: string
  readonly pid: number
}

/** Runs these services in one process until the bench ends. */
export function startServices(
  b: Pick<Scope, 'after'>,
  services: readonly string[],
  redisUrl: string,
  env: Readonly<Record<string, string>> = {},
): Promise<Server> {
  return startServer(b, ['services/all-in-one/src/main.ts', ...services], {
    REDIS_URL: redisUrl,
    SLUICE_HTTP_PORT: '0',
    SLUICE_AMQP_PORT: '0',
    SLUICE_ADMIN_PASSWORD: PASSWORD,
    SLUICE_LOG_LEVEL: 'warn',
    ...env,
  })
}

/** Runs Node with these arguments until the bench ends; it tells `{ http: url }` once it serves. */
export async function startServer(
  b: Pick<Scope, 'after'>,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<Server> {
  const child: ChildProcess = spawn(process.execPath, args, {
    cwd: new URL('../..', import.meta.url),
    env: { ...process.env, NODE_ENV: 'production', ...env },
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
  })
  const ended = once(child, 'exit')
  b.after(async () => {
    child.kill('SIGTERM')
    await ended // before the Redis that it uses
  })
  const died = ended.then(([code]) => {
    throw new Error(`${args.join(' ')} ended with ${code}`)
  })
  died.catch(() => {}) // it ends with the bench
  const [message] = (await Promise.race([once(child, 'message'), died])) as [
    { http: string; amqp?: string; https?: string },
  ]
  const { http: url, amqp = '', https = '' } = message
  return { url, amqp, https, pid: child.pid! }
}

/** User and system time of a process so far. Linux; 0 elsewhere. */
export function cpuMicros(pid: number): number {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ')
    return (Number(fields[11]) + Number(fields[12])) * 10_000 // ticks of 10 ms
  } catch {
    return 0
  }
}

/** Memory that a process has in RAM. Linux. */
export function residentBytes(pid: number): number {
  const kib = /VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]
  return Number(kib) * 1024
}

export function headers(type: string): Record<string, string> {
  return { Authorization: `Bearer ${PASSWORD}`, 'Content-Type': type }
}

/** A request that publishes BATCH messages with this body. */
export function batchRequest(queue: string, type: 'x-ndjson' | 'json', body: Buffer): Buffer {
  const messages = Array.from({ length: BATCH }, () => JSON.stringify({ body: body.toString() }))
  const bytes = type === 'json' ? `[${messages.join(',')}]` : messages.join('\n')
  const path = `/v1/vhosts/%2F/exchanges/amq.default/batch?routingKey=${queue}`
  return encodeRequest('POST', path, headers(`application/${type}`), Buffer.from(bytes))
}

/** Publishes at least so many messages to a queue. Returns how many. */
export async function fill(
  url: string,
  queue: string,
  body: Buffer,
  messages: number,
): Promise<number> {
  const connections = messages > 10 * BATCH ? BATCH_CONNECTIONS : 1
  const running = await load(url, batchRequest(queue, 'x-ndjson', body), connections)
  while (running.count() * BATCH < messages) await new Promise((resolve) => setTimeout(resolve, 20))
  await running.stop()
  if (running.wrong() > 0) throw new Error(`filling ${queue}: ${running.wrong()} wrong answers`)
  return running.count() * BATCH
}

export async function declare(url: string, queue: string): Promise<void> {
  const response = await fetch(`${url}/v1/vhosts/%2F/queues/${queue}`, {
    method: 'PUT',
    headers: headers('application/json'),
  })
  if (!response.ok) throw new Error(await response.text())
}
