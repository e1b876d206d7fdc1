/**
 * What is really in Redis, for the slow sweeps: who holds something of a queue, and which queues
 * have keys. Bounded steps; the answers may be out of date when they arrive.
 */
import type { Redis } from 'ioredis'
import { parseQueueBase } from './keys.ts'
import type { QueueStore } from './queue-store.ts'
import { nodesOf, unavailable } from './redis.ts'

const SLOT = /^d\d+$/
const GROUP = 'delivery'

/**
 * The slots that a queue knows of: as consumers of its logs, as holders of single messages, as
 * waiting, or as writers. Read them before `Slot.alive`: then a name that is not alive is dead, and
 * what it left is reclaimed, also where it had come back under a dead name for a moment.
 */
export async function queueHolders(redis: Redis, queue: QueueStore): Promise<string[]> {
  const { base } = queue
  const names = new Set<string>()
  try {
    for (let level = 0; level < queue.levels; level++) {
      const log = level === 0 ? `${base}log` : `${base}log:${level}`
      if ((await redis.exists(log)) === 0) continue
      const consumers = (await redis.xinfo('CONSUMERS', log, GROUP)) as unknown[][]
      for (const [, name] of consumers) names.add(String(name))
    }
    for (let from = '-inf'; ; ) {
      const [ref, score] = await redis.zrangebyscore(
        `${base}held`,
        from,
        '(0',
        'WITHSCORES',
        'LIMIT',
        0,
        1,
      )
      if (ref === undefined) break
      names.add(`d${-Number(score)}`)
      from = `(${score}`
    }
    for (const name of await redis.smembers(`${base}waiting`)) names.add(name)
    for (const field of await redis.hkeys(`${base}meta`)) {
      if (field.startsWith('w:')) names.add(field.split(':')[1]!)
    }
  } catch (error) {
    throw unavailable(error)
  }
  return [...names].filter((name) => SLOT.test(name))
}

export interface StoredQueue {
  readonly vhost: string
  readonly name: string
  readonly epoch: number
}

/** Queues that have keys and were not deleted, page by page, in no order, some perhaps twice. */
export async function* storedQueues(redis: Redis): AsyncGenerator<StoredQueue[], void> {
  for (const node of nodesOf(redis)) yield* queuesOn(node)
}

async function* queuesOn(redis: Redis): AsyncGenerator<StoredQueue[], void> {
  let cursor = '0'
  do {
    const page: StoredQueue[] = []
    try {
      const [next, keys] = await redis.scan(cursor, 'MATCH', 'sluice:{*/*}:meta', 'COUNT', 1_000)
      cursor = next
      for (const key of keys) {
        const queue = parseQueueBase(key.slice(0, -'meta'.length))
        const [epoch, gone] = await redis.hmget(key, 'epoch', 'gone')
        if (queue && epoch != null && gone == null) page.push({ ...queue, epoch: Number(epoch) })
      }
    } catch (error) {
      throw unavailable(error)
    }
    if (page.length > 0) yield page
  } while (cursor !== '0')
}
