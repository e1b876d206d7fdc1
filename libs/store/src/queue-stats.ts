/** What a queue counts. The scripts keep the counters, in the hash `meta`. */
import type { Redis } from 'ioredis'

export interface QueueStats {
  readonly ready: number
  readonly unacked: number
  readonly delayed: number
  /** On their way to the dead letters. */
  readonly dead: number
  /** Bytes of ready messages. */
  readonly bytes: number
  readonly published: number
  readonly delivered: number
  readonly redelivered: number
  readonly acked: number
  readonly expired: number
  readonly dropped: number
  readonly deadLettered: number
  readonly purged: number
  /** Consumers that ever attached. */
  readonly attached: number
  /** Consumers attached, in all processes; leases are none. */
  readonly consumers: number
}

const STATS = [
  'ready',
  'unacked',
  'delayed',
  'dead',
  'bytes',
  'published',
  'delivered',
  'redelivered',
  'acked',
  'expired',
  'dropped',
  'deadLettered',
  'purged',
  'attached',
] as const

/** The counters as they are; all 0 when there is no such queue. */
export async function readStats(redis: Redis, base: string): Promise<QueueStats> {
  const [values, consumers] = await Promise.all([
    redis.hmget(`${base}meta`, ...STATS),
    redis.hlen(`${base}consumers`),
  ])
  const entries = STATS.map((name, index) => [name, Number(values[index] ?? 0)])
  return { ...Object.fromEntries(entries), consumers } as QueueStats
}

/** What settle.lua counted for a job; 0 = nothing, or no longer. `ends` forgets it. */
export async function acknowledged(
  redis: Redis,
  base: string,
  job: string,
  ends: boolean,
): Promise<number> {
  const [meta, field] = [`${base}meta`, `x:${job}`]
  const count = Number(await redis.hget(meta, field))
  if (ends) await redis.hdel(meta, field)
  return count
}
