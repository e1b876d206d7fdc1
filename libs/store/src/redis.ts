/**
 * Connections to Redis and what must be known of the server behind them.
 *
 * Three connections a process, since each treats a lost reply differently:
 *   writes     appends. Sent again after a reconnect, in order: an append is stored once however
 *              often it is sent (append.lua). Waits for Redis as long as it takes.
 *   work       everything else. Fails at once when Redis is away; the caller knows what to do.
 *   subscriber wake-up hints. Losing one costs a second, see QueueStore.lease.
 */
import { BrokerError } from '@sluice/core'
import { Redis, type RedisOptions } from 'ioredis'

const COMMON: RedisOptions = {
  lazyConnect: true,
  connectTimeout: 5_000,
  keepAlive: 10_000,
  noDelay: true,
  retryStrategy: (attempt) => Math.min(25 * 2 ** Math.min(attempt, 6), 1_000),
  // A demoted primary answers READONLY: reconnect and send the command again.
  reconnectOnError: (error) => (error.message.startsWith('READONLY') ? 2 : false),
}

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
} satisfies Record<string, RedisOptions>

/** Connects, or throws `store_unavailable` when Redis does not answer within 5 s. */
export async function connect(url: string, role: keyof typeof ROLES): Promise<Redis> {
  const redis = new Redis(url, {
    ...COMMON,
    ...ROLES[role],
    connectionName: `sluice-${role}`,
    replyMapping: 'legacy',
  })
  let last: unknown
  redis.on('error', (error) => {
    // Reported by whoever waits for a reply; without a listener it would end the process.
    last = error
  })
  const deadline = Date.now() + 5_000
  try {
    await redis.connect()
    return redis
  } catch (error) {
    last ??= error
  }
  // `connect` gives up at the first refusal, while the client goes on trying: Redis may be
  // starting.
  while (redis.status !== 'ready' && Date.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  if (redis.status === 'ready') return redis
  redis.disconnect()
  throw unavailable(last)
}

/** Replies of a Redis that cannot serve at the moment; any other error reply is a fault of ours. */
const PASSING =
  /^(LOADING|READONLY|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|MISCONF|BUSY|NOREPLICAS|UNBLOCKED)/

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

/** What the server can promise at the moment. */
export interface ServerState {
  readonly version: string
  /** Redis reports its own 7.x compatibility for Valkey; this is the product's name. */
  readonly product: 'Redis' | 'Valkey'
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
  readonly replicas: number
  /** How far the server's clock is ahead of this process's, ms; to tell it a time of day. */
  readonly clockAheadMs: number
}

/** Asks the server. Throws what Redis throws. */
export async function readServerState(redis: Redis): Promise<ServerState> {
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
    usedMemory: Number(field('used_memory')),
    maxMemory: Number(field('maxmemory')),
    evictionPolicy: field('maxmemory_policy'),
    aof: field('aof_enabled') === '1',
    fsync: pairs.includes('appendfsync') ? setting('appendfsync') : '',
    snapshots: pairs.includes('save') && setting('save') !== '',
    persistenceFailing:
      field('aof_last_write_status') === 'err' || field('rdb_last_bgsave_status') === 'err',
    replicas: Number(field('connected_slaves')),
    clockAheadMs: Math.round(Number(field('server_time_usec')) / 1_000 - between),
  }
}
