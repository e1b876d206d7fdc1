/**
 * Connections to Redis and what must be known of the server behind them.
 *
 * Three connections a process, since each treats a lost reply differently:
 *   writes     appends. Sent again after a reconnect, in order: an append is stored once however
 *              often it is sent (append.lua). Waits for Redis as long as it takes.
 *   work       everything else. Fails at once when Redis is away; the caller knows what to do.
 *   subscriber wake-up hints. Losing one costs a second, see QueueStore.lease.
 */
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { SecureContextOptions } from 'node:tls'
import { BrokerError, parseRedisUrl, type RedisAddress } from '@sluice/core'
import { Cluster, Redis, type RedisOptions } from 'ioredis'
import { connectorTo, Sentinels } from './sentinels.ts'

/** Where Redis is and how it is reached. */
export interface RedisTarget {
  /** See parseRedisUrl. */
  readonly url: string
  /** Files (PEM) for TLS. */
  readonly caFile?: string | undefined
  readonly certFile?: string | undefined
  readonly keyFile?: string | undefined
}

/** Replies as BullMQ expects them too. */
type Options = RedisOptions & { readonly replyMapping: 'legacy' }

const retryStrategy = (attempt: number) => Math.min(25 * 2 ** Math.min(attempt, 6), 1_000)

const COMMON: Options = {
  lazyConnect: true,
  connectTimeout: 5_000,
  keepAlive: 10_000,
  noDelay: true,
  retryStrategy,
  // A demoted primary answers READONLY: reconnect and send the command again.
  reconnectOnError: (error) => (error.message.startsWith('READONLY') ? 2 : false),
  replyMapping: 'legacy',
}

/** Until a Redis that does not answer is given up at the start, ms. */
const CONNECT_MS_MAX = 5_000
/** A silent server with commands outstanding is given up on after this: half-open sockets, ms. */
const SILENCE_MS_MAX = 15_000

const ROLES = {
  writes: {
    maxRetriesPerRequest: null,
    autoResendUnfulfilledCommands: true,
    socketTimeout: SILENCE_MS_MAX,
  },
  work: {
    // Zero rejects what is unanswered when the connection ends. Any other number leaves it to the
    // reconnect, which then forgets it without a word: whoever waits for a reply waits for ever.
    maxRetriesPerRequest: 0,
    autoResendUnfulfilledCommands: false,
    enableOfflineQueue: false,
    socketTimeout: SILENCE_MS_MAX,
  },
  subscriber: { maxRetriesPerRequest: null, socketTimeout: SILENCE_MS_MAX },
  jobs: { maxRetriesPerRequest: null },
} satisfies Record<string, RedisOptions>

/** How often a cluster is asked again who is there, and how long a node has to answer, ms. */
const LOOK_MS = 500
/** Before a command is sent again that met a cluster while it changed, ms. */
export const RETRY_DELAY_MS = 100

/** Connects, or throws `store_unavailable` when Redis does not answer within 5 s. */
export async function connect(target: RedisTarget, role: keyof typeof ROLES): Promise<Redis> {
  const redis = open(target, role)
  let last: unknown
  redis.on('error', (error) => {
    // Reported by whoever waits for a reply; without a listener it would end the process.
    last = error
  })
  const deadline = Date.now() + CONNECT_MS_MAX
  // Settles at the first refusal while the client goes on trying, since Redis may be starting; that
  // of a cluster which serves nobody never does.
  const connecting = redis.connect().catch((error) => {
    last ??= error
  })
  await Promise.race([connecting, sleep(CONNECT_MS_MAX, undefined, { ref: false })])
  while (redis.status !== 'ready' && Date.now() < deadline) await sleep(50)
  if (redis.status === 'ready') return await inDatabase(redis, parseRedisUrl(target.url).db)
  redis.disconnect()
  throw unavailable(
    last ?? new Error(target.url.startsWith('rediss') ? 'no answer to TLS' : 'no answer'),
  )
}

/** The client goes on where its database is refused: in number 0, which may be somebody else's. */
async function inDatabase(redis: Redis, db: number): Promise<Redis> {
  try {
    if (db !== 0) await redis.select(db)
    return redis
  } catch (error) {
    redis.disconnect()
    throw unavailable(error)
  }
}

/**
 * What whoever starts a process is told when Redis was not reached: where it was looked for and
 * what came of it. Not for callers, whom no address of ours concerns.
 */
export function notReached({ url }: RedisTarget, error: unknown): unknown {
  const cause = error instanceof BrokerError ? error.cause : error
  if (!(cause instanceof Error)) return error // it says itself what to change
  const { kind, hosts } = parseRedisUrl(url)
  const list = hosts.map(({ host, port }) => `${host}:${port}`).join(', ')
  const where = `${kind === 'sentinel' ? 'behind the sentinels' : 'at'} ${list}`
  const { message } =
    'lastNodeError' in cause && cause.lastNodeError instanceof Error ? cause.lastNodeError : cause
  const said = (text: string) => new BrokerError('store_unavailable', text, { cause })
  if (message.startsWith('NOAUTH')) {
    return said(`Redis ${where} wants a password: REDIS_URL has it before an @.`)
  }
  if (message.startsWith('WRONGPASS')) {
    return said(`Redis ${where} refuses the user or the password in REDIS_URL.`)
  }
  if (message.includes('cluster support disabled')) {
    return said(`Redis ${where} is no cluster: begin REDIS_URL with redis:// instead.`)
  }
  return said(`Redis ${where} (REDIS_URL) cannot be used: ${message}`)
}

function open(target: RedisTarget, role: keyof typeof ROLES): Redis {
  const address = parseRedisUrl(target.url)
  const tls = address.tls ? { tls: tlsOptions(target) } : {}
  const { username, password, db } = address
  const options: Options = {
    ...COMMON,
    ...ROLES[role],
    ...tls,
    ...(username !== undefined && { username }),
    ...(password !== undefined && { password }),
    connectionName: `sluice-${role}`,
  }
  if (address.kind === 'cluster') return openCluster(address, options, role)
  if (address.kind === 'single') return new Redis({ ...options, ...address.hosts[0]!, db })
  return new Redis({ ...options, db, Connector: connectorTo(sentinelsOf(target, address)) })
}

/** By URL: all connections of a process ask the same ones. */
const sentinels = new Map<string, Sentinels>()

function sentinelsOf(target: RedisTarget, address: RedisAddress): Sentinels {
  let known = sentinels.get(target.url)
  if (known === undefined) {
    known = new Sentinels({
      hosts: address.hosts,
      name: address.primary,
      username: address.sentinelUsername,
      password: address.sentinelPassword,
      tls: address.tls ? tlsOptions(target) : undefined,
      retryStrategy,
    })
    sentinels.set(target.url, known)
  }
  return known
}

/**
 * A cluster's client has the commands of a Redis, and what is used here is the same. Commands for
 * one node that are not about a key go through `nodesOf`.
 */
function openCluster(
  { hosts }: RedisAddress,
  redisOptions: Options,
  role: keyof typeof ROLES,
): Redis {
  // What is sent again may happen twice, which only appends and jobs put up with.
  const again = role === 'writes' || role === 'jobs'
  const cluster = new Cluster([...hosts], {
    redisOptions,
    lazyConnect: true,
    scaleReads: 'master',
    slotsRefreshTimeout: LOOK_MS,
    clusterRetryStrategy: retryStrategy,
    retryDelayOnFailover: again ? RETRY_DELAY_MS : 0,
    retryDelayOnClusterDown: again ? RETRY_DELAY_MS : 0,
    retryDelayOnTryAgain: RETRY_DELAY_MS,
    maxRedirections: again ? Number.MAX_SAFE_INTEGER : 16,
    enableOfflineQueue: redisOptions.enableOfflineQueue ?? true,
    ...(redisOptions.tls !== undefined && {
      // Certificates name hosts, and the cluster tells addresses.
      dnsLookup: (host: string, callback: (error: null, address: string) => void) =>
        callback(null, host),
    }),
  })
  return looking(cluster) as unknown as Redis
}

/**
 * Has a cluster's client look regularly who is there, since a primary that is cut off says nothing,
 * and leave one that was replaced at once: what waits for its answer is sent to the new one, and
 * what it may still answer is not true any more. The client's own `slotsRefreshInterval` goes on
 * for ever when the client ends during a look, and the process with it. Duplicates look too: BullMQ
 * waits for jobs on one.
 */
function looking(cluster: Cluster): Cluster {
  let timer: NodeJS.Timeout | undefined
  let before: readonly Redis[] = []
  cluster.on('ready', () => {
    timer ??= setInterval(() => cluster.status === 'ready' && cluster.refreshSlotsCache(), LOOK_MS)
    timer.unref()
  })
  cluster.on('refresh', () => {
    const now = cluster.nodes('master')
    for (const node of before) if (!now.includes(node)) node.stream?.destroy()
    before = now
  })
  cluster.on('end', () => {
    clearInterval(timer)
    timer = undefined
  })
  const duplicate = cluster.duplicate.bind(cluster) as (...args: unknown[]) => Cluster
  cluster.duplicate = ((...args: unknown[]) => looking(duplicate(...args))) as Cluster['duplicate']
  return cluster
}

function tlsOptions({ caFile, certFile, keyFile }: RedisTarget): SecureContextOptions {
  return {
    ...(caFile !== undefined && { ca: readFileSync(caFile) }),
    ...(certFile !== undefined && { cert: readFileSync(certFile) }),
    ...(keyFile !== undefined && { key: readFileSync(keyFile) }),
    minVersion: 'TLSv1.2',
  }
}

/** A connection's twin, for what must not wait behind its commands. Connects by itself. */
export function twinOf(target: RedisTarget, role: keyof typeof ROLES): Redis {
  const redis = open(target, role)
  redis.on('error', () => {}) // the reply that fails is reported
  redis.connect().catch(() => {}) // it goes on trying
  return redis
}

/** Every primary behind a connection: itself, unless it is a cluster's. */
export function nodesOf(redis: Redis | Cluster): Redis[] {
  return redis instanceof Cluster ? redis.nodes('master') : [redis]
}

export const isCluster = (redis: Redis | Cluster): boolean => redis instanceof Cluster

/** The primary that keeps a key, as far as is known; a moved key is followed at the next look. */
export async function nodeOf(redis: Redis | Cluster, key: string): Promise<Redis> {
  if (!(redis instanceof Cluster)) return redis
  const [primary] = redis.slots[await redis.cluster('KEYSLOT', key)] ?? []
  const node = redis
    .nodes('master')
    .find(({ options: { host, port } }) => `${host}:${port}` === primary)
  if (!node) throw new Error('CLUSTERDOWN No primary is known for this key')
  return node
}

/** Whether the same command may succeed a little later, at the same or another primary. */
export function passes(error: unknown): boolean {
  if (!(error instanceof Error) || error instanceof BrokerError) return false
  return error.name !== 'ReplyError' || PASSING.test(error.message)
}

/** Replies of a Redis that cannot serve at the moment; any other error reply is a fault of ours. */
const PASSING =
  /^(LOADING|READONLY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|MOVED|ASK|MISCONF|BUSY|NOREPLICAS|UNBLOCKED)/

/**
 * What a caller is told when Redis does not answer or refuses: memory_high or store_unavailable.
 * An error reply that waiting does not mend comes back as it is, to be reported.
 */
export function unavailable(cause: unknown): unknown {
  if (!(cause instanceof Error) || cause instanceof BrokerError) return cause
  if (cause.message.startsWith('OOM')) {
    return new BrokerError('memory_high', 'Redis is out of memory; consume, then try again.', {
      cause,
    })
  }
  if (cause.name === 'ReplyError' && !PASSING.test(cause.message)) return cause
  return new BrokerError('store_unavailable', 'Redis does not answer; try again.', { cause })
}

/** What became of a write: what Redis refuses it has not stored, of anything else nobody knows. */
export function outcomeOf(error: unknown): 'memory-high' | 'disk-low' | 'unavailable' {
  const cause = error instanceof BrokerError ? error.cause : error
  const { message } = cause instanceof Error ? cause : { message: '' }
  if (message.startsWith('OOM')) return 'memory-high'
  return message.startsWith('MISCONF') ? 'disk-low' : 'unavailable'
}

/** What the server can promise at the moment. */
export interface ServerState {
  readonly version: string
  /** Redis reports its own 7.x compatibility for Valkey; this is the product's name. */
  readonly product: 'Redis' | 'Valkey'
  /** standalone, sentinel or cluster; '' when the server does not tell. */
  readonly mode: string
  readonly usedMemory: number
  /** 0 = no limit. */
  readonly maxMemory: number
  readonly evictionPolicy: string
  readonly aof: boolean
  /** '' when the server does not tell (CONFIG is disabled on some managed services). */
  readonly fsync: string
  readonly snapshots: boolean
  /** The last AOF or RDB write failed: Redis refuses writes, or will. */
  readonly persistenceFailing: boolean
  /** Those in step; one that still loads does not count. */
  readonly replicas: number
  /** How far the server's clock is ahead of this process's, ms; to tell it a time of day. */
  readonly clockAheadMs: number
}

/** Asks the server; of a cluster, what holds for its weakest node. Throws what Redis throws. */
export async function readServerState(redis: Redis): Promise<ServerState> {
  const states = await Promise.all(nodesOf(redis).map(readNodeState))
  const [first, ...others] = states
  if (first === undefined) throw new Error('CLUSTERDOWN No primary is known')
  return others.reduce(weaker, first)
}

function weaker(a: ServerState, b: ServerState): ServerState {
  const older = a.version.localeCompare(b.version, 'en', { numeric: true }) <= 0 ? a : b
  const fuller = headroom(a) <= headroom(b) ? a : b
  const weakest = (['no', '', 'everysec', 'always'] as const).find(
    (fsync) => a.fsync === fsync || b.fsync === fsync,
  )
  return {
    version: older.version,
    product: older.product,
    mode: older.mode,
    usedMemory: fuller.usedMemory,
    maxMemory: fuller.maxMemory,
    evictionPolicy: a.evictionPolicy === 'noeviction' ? b.evictionPolicy : a.evictionPolicy,
    aof: a.aof && b.aof,
    fsync: weakest ?? '',
    snapshots: a.snapshots && b.snapshots,
    persistenceFailing: a.persistenceFailing || b.persistenceFailing,
    replicas: Math.min(a.replicas, b.replicas),
    clockAheadMs: a.clockAheadMs,
  }
}

/** Share of the memory that is left; without a limit, all of it. */
function headroom({ usedMemory, maxMemory }: ServerState): number {
  return maxMemory > 0 ? 1 - usedMemory / maxMemory : 1
}

async function readNodeState(redis: Redis): Promise<ServerState> {
  const asked = Date.now()
  const [info, config] = await Promise.all([
    redis.info(),
    redis.config('GET', 'maxmemory-policy', 'appendfsync', 'save').catch(() => []),
  ])
  const between = (asked + Date.now()) / 2
  const field = (name: string) => new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(info)?.[1] ?? ''
  const pairs = config as string[]
  const setting = (name: string) => pairs[pairs.indexOf(name) + 1] ?? ''
  const valkey = field('valkey_version')
  return {
    version: valkey || field('redis_version'),
    product: valkey ? 'Valkey' : 'Redis',
    mode: field('redis_mode') || field('server_mode'),
    usedMemory: Number(field('used_memory')),
    maxMemory: Number(field('maxmemory')),
    evictionPolicy: field('maxmemory_policy'),
    aof: field('aof_enabled') === '1',
    fsync: pairs.includes('appendfsync') ? setting('appendfsync') : '',
    snapshots: pairs.includes('save') && setting('save') !== '',
    persistenceFailing:
      field('aof_last_write_status') === 'err' || field('rdb_last_bgsave_status') === 'err',
    replicas: info.match(/^slave\d+:.*state=online/gm)?.length ?? 0,
    clockAheadMs: Math.round(Number(field('server_time_usec')) / 1_000 - between),
  }
}
