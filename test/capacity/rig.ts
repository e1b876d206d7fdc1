/**
 * What is measured on: a Redis of its own with an append-only file, a broker beside it in a process
 * of its own, and who used the processor meanwhile. Everything ends with its scope.
 */
import { cpus } from 'node:os'
import { privateRedis, type Scope, waitFor } from '@sluice/testkit'
import { cpuMicros, headers, type Server, startServices } from '../bench/broker-process.ts'
import { type Connection, connectTo, encodeRequest } from '../bench/http-load.ts'

export type Fsync = 'everysec' | 'always' | 'no'

export interface Rig {
  readonly url: string
  /** Seconds instead of minutes: fewer points, fewer messages. */
  readonly short: boolean
  /** Where it has come to, for whoever watches. */
  say(text: string): void
  /** Begins to look at who uses the processor; the result ends it. */
  watch(): Promise<() => Promise<Evidence>>
  /** Bytes that Redis uses for data, once what was deleted is gone. */
  dataBytes(): Promise<number>
  /** All bytes that Redis uses. */
  usedBytes(): Promise<number>
  /** Redis's maxmemory; 0 = none. */
  limitMemory(bytes: number): Promise<void>
}

/** Cores in use by each, on average: 1 is a core that had no pause. */
export interface Evidence {
  readonly redis: number
  readonly broker: number
  /** This process, which sends and consumes. */
  readonly load: number
  /** Everything else on the machine. */
  readonly others: number
  /** Fsyncs that Redis put off since the disk was busy. */
  readonly fsyncsDelayed: number
  /** Rewrites of the append-only file. */
  readonly rewrites: number
}

export async function openRig(
  scope: Scope,
  options: { readonly short: boolean; readonly fsync: Fsync; say(text: string): void },
): Promise<Rig> {
  const { redis, url: redisUrl } = await privateRedis(scope, { fsync: options.fsync })
  const server = await startServices(scope, ['router', 'delivery', 'reaper'], redisUrl, {
    SLUICE_LOG_LEVEL: 'error', // that its memory is full, as it is made to be, is no news
  })
  const info = async () => figures(await redis.info())
  return {
    url: server.url,
    short: options.short,
    say: options.say,
    watch: () => watch(server, info),
    usedBytes: async () => (await info())['used_memory']!,
    limitMemory: async (bytes) => void (await redis.config('SET', 'maxmemory', bytes)),
    async dataBytes() {
      let bytes = 0
      await waitFor(async () => {
        const { lazyfree_pending_objects: pending, used_memory_dataset: used } = await info()
        bytes = used!
        return pending === 0
      })
      return bytes
    },
  }
}

async function watch(
  server: Server,
  info: () => Promise<Record<string, number>>,
): Promise<() => Promise<Evidence>> {
  const now = async () => {
    const redis = await info()
    const own = process.cpuUsage()
    return {
      ms: performance.now(),
      redis: (redis['used_cpu_user']! + redis['used_cpu_sys']!) * 1_000,
      broker: cpuMicros(server.pid) / 1_000,
      load: (own.user + own.system) / 1_000,
      all: machineMs(),
      fsyncsDelayed: redis['aof_delayed_fsync'] ?? 0,
      rewrites: redis['aof_rewrites'] ?? 0,
    }
  }
  const from = await now()
  return async () => {
    const to = await now()
    const cores = (what: 'redis' | 'broker' | 'load' | 'all') =>
      (to[what] - from[what]) / (to.ms - from.ms)
    const [redis, broker, load] = [cores('redis'), cores('broker'), cores('load')]
    return {
      ...{ redis, broker, load },
      others: Math.max(0, cores('all') - redis - broker - load),
      fsyncsDelayed: to.fsyncsDelayed - from.fsyncsDelayed,
      rewrites: to.rewrites - from.rewrites,
    }
  }
}

/** Time that the processors of this machine have worked. */
function machineMs(): number {
  return cpus().reduce((total, { times }) => total + times.user + times.nice + times.sys, 0)
}

/** The figures of Redis's INFO. */
function figures(info: string): Record<string, number> {
  const pairs = [...info.matchAll(/^(\w+):(-?[\d.]+)\r?$/gm)]
  return Object.fromEntries(pairs.map(([, name, value]) => [name, Number(value)]))
}

const QUEUES = '/v1/vhosts/%2F/queues'
const BATCH = 1_000
const CONNECTIONS = 4

/** A queue of this name, empty. */
export async function freshQueue({ url }: Rig, name: string, settings: object = {}): Promise<void> {
  await dropQueue({ url }, name)
  await ask(url, 'PUT', `${QUEUES}/${name}`, { arguments: settings })
}

export async function dropQueue({ url }: Pick<Rig, 'url'>, name: string): Promise<void> {
  await ask(url, 'DELETE', `${QUEUES}/${name}`)
}

/** What a queue tells of itself. */
export async function queueCounts({ url }: Rig, name: string): Promise<Counts> {
  return (await ask(url, 'GET', `${QUEUES}/${name}`)) as Counts
}

export interface Counts {
  readonly messages: { readonly ready: number; readonly unacked: number; readonly delayed: number }
  readonly totals: Readonly<Record<string, number>>
}

async function ask(url: string, method: string, path: string, body?: object): Promise<unknown> {
  const response = await fetch(url + path, {
    method,
    headers: headers('application/json'),
    ...(body !== undefined && { body: JSON.stringify(body) }),
  })
  if (!response.ok) throw new Error(`${method} ${path}: ${await response.text()}`)
  return await response.json().catch(() => undefined)
}

export interface Outgoing {
  readonly body: string
  readonly routingKey?: string
  readonly orderingKey?: string
}

/** Stores messages with this body in a queue, as fast as that goes; resolves when all are. */
export async function fill(
  { url }: Rig,
  queue: string,
  messages: number,
  bodyBytes: number,
): Promise<void> {
  const body = 'x'.repeat(bodyBytes)
  const whole = batch(
    queue,
    Array.from({ length: Math.min(BATCH, messages) }, () => ({ body })),
  )
  let left = messages
  const sockets = await Promise.all(Array.from({ length: CONNECTIONS }, () => connectTo(url)))
  const produce = async (socket: Connection) => {
    while (left > 0) {
      const count = Math.min(BATCH, left)
      left -= count
      const part = Array.from({ length: count }, () => ({ body }))
      await socket.ask(count === BATCH ? whole : batch(queue, part))
    }
  }
  await Promise.all(sockets.map(produce))
  for (const socket of sockets) socket.close()
}

/** Stores these messages in their order. */
export async function publish({ url }: Rig, messages: readonly Outgoing[]): Promise<void> {
  const socket = await connectTo(url)
  for (let at = 0; at < messages.length; at += BATCH) {
    await socket.ask(batch('', messages.slice(at, at + BATCH)))
  }
  socket.close()
}

function batch(queue: string, messages: readonly Outgoing[]): Buffer {
  const path = `/v1/vhosts/%2F/exchanges/amq.default/batch?routingKey=${queue}`
  const lines = messages.map((message) => JSON.stringify(message)).join('\n')
  return encodeRequest('POST', path, headers('application/x-ndjson'), Buffer.from(lines))
}

/** A request of a consumer, as bytes. */
export function request(queue: string, what: 'leases' | 'settlements', body: object): Buffer {
  const bytes = Buffer.from(JSON.stringify(body))
  return encodeRequest('POST', `${QUEUES}/${queue}/${what}`, headers('application/json'), bytes)
}
