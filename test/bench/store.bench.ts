/**
 * How much one process and one Redis move: append, take and settle of whole batches; lease and ack
 * of single messages; bytes a stored message costs; and all of it again with a million waiting.
 *
 * Method: a private Redis (everysec) beside this process; messages of 256 bytes; 4 096 publishes
 * outstanding, two takers with a credit of 1 024. The queue with a million waiting and the empty
 * one are measured in turn, round by round, so that noise hits both. CPU is the process's own and
 * Redis's main thread's, per message that went all the way.
 */
import {
  encodeRecord,
  openStore,
  QUEUE_SETTINGS_DEFAULT,
  type QueueStore,
  type Store,
} from '@sluice/store'
import { plainMessage, privateRedis } from '@sluice/testkit'
import { type Bench, bench, median, perSecond } from './bench.ts'

const BODY_SIZE = 256
const OUTSTANDING = 4_096
const CREDIT = 1_024
const TAKERS = 2
const LEASE_MAX = 100
const LEASERS = 4

const MESSAGE = plainMessage({
  exchange: 'orders',
  routingKey: 'order.created',
  properties: Buffer.from([0x10, 0, 2]),
  body: Buffer.alloc(BODY_SIZE, 'x'),
})

await bench('store', async (b) => {
  const fsync = process.env['FSYNC'] === 'always' ? 'always' : 'everysec'
  const redis = await privateRedis(b, { fsync })
  const store = await openStore({ url: redis.url, report: (error) => b.say(String(error)) })
  b.after(() => store.close())
  const rounds = b.short ? 1 : 5
  const roundMs = b.short ? 300 : 2_000
  const backlog = b.short ? 20_000 : 1_000_000

  const empty = await queue(store, 'empty')
  b.say('warming up')
  await throughput(store, empty, roundMs)

  const deep = await queue(store, 'deep')
  const before = await usedMemory(store)
  b.say(`storing ${backlog} messages`)
  await fill(deep, backlog)
  const bytes = ((await usedMemory(store)) - before) / backlog
  b.line({
    case: 'memory',
    waiting: backlog,
    bytesPerMessage: Math.round(bytes),
    ofBody: ratio(bytes / BODY_SIZE),
  })

  const results = new Map<QueueStore, Awaited<ReturnType<typeof throughput>>[]>()
  for (let round = 1; round <= rounds; round++) {
    for (const target of [empty, deep]) {
      b.say(`append+take+settle, ${target.name} queue, round ${round} of ${rounds}`)
      const result = await throughput(store, target, roundMs)
      results.set(target, [...(results.get(target) ?? []), result])
    }
  }
  report(b, 'append+take+settle', fsync, results, empty, deep, backlog)

  const leases = new Map<QueueStore, Awaited<ReturnType<typeof throughput>>[]>()
  for (let round = 1; round <= rounds; round++) {
    for (const target of [empty, deep]) {
      b.say(`lease+ack, ${target.name} queue, round ${round} of ${rounds}`)
      const result = await leasing(store, target, b.short ? 2_000 : 50_000)
      leases.set(target, [...(leases.get(target) ?? []), result])
    }
  }
  report(b, `lease(${LEASE_MAX})+ack`, fsync, leases, empty, deep, backlog)
})

interface Result {
  readonly perSecond: number
  readonly nodeMicros: number
  readonly redisMicros: number
}

function report(
  b: Bench,
  what: string,
  fsync: string,
  results: ReadonlyMap<QueueStore, readonly Result[]>,
  empty: QueueStore,
  deep: QueueStore,
  waiting: number,
): void {
  const figure = (queue: QueueStore, name: keyof Result) =>
    median(results.get(queue)!.map((result) => result[name]))
  for (const queue of [empty, deep]) {
    b.line({
      case: what,
      fsync,
      waiting: queue === deep ? waiting : 0,
      messagesPerSecond: Math.round(figure(queue, 'perSecond')),
      nodeMicros: ratio(figure(queue, 'nodeMicros')),
      redisMicros: ratio(figure(queue, 'redisMicros')),
      ...(queue === deep && {
        ofEmpty: ratio(figure(deep, 'perSecond') / figure(empty, 'perSecond')),
      }),
    })
  }
}

async function queue(store: Store, name: string): Promise<QueueStore> {
  const queue = store.queue('/', name, 1, QUEUE_SETTINGS_DEFAULT)
  await queue.create()
  return queue
}

/** Publishes as long as `more` says so, OUTSTANDING at a time; settles when all are stored. */
function publish(queue: QueueStore, more: () => boolean): Promise<void> {
  return new Promise((resolve, reject) => {
    let outstanding = 0
    const reply = {
      appended(_token: number, outcome: string) {
        outstanding--
        if (outcome === 'stored') pump()
        else reject(new Error(outcome))
      },
    }
    function pump() {
      while (outstanding < OUTSTANDING && more()) {
        outstanding++
        queue.append(encodeRecord(MESSAGE), 0, -1, 0, '', null, reply, 0)
      }
      if (outstanding === 0) resolve()
    }
    pump()
  })
}

async function fill(queue: QueueStore, count: number): Promise<void> {
  let left = count
  await publish(queue, () => left-- > 0)
}

async function throughput(store: Store, queue: QueueStore, ms: number): Promise<Result> {
  let running = true
  let settled = 0
  const consume = async () => {
    while (running) {
      const taken = await queue.take(CREDIT, 'empty')
      const batches = taken.batches.map(({ id, records }) => ({ id, count: records.length }))
      const refs = taken.messages.map(({ ref }) => ref)
      if (batches.length === 0 && refs.length === 0) {
        await new Promise((resolve) => setImmediate(resolve))
        continue
      }
      await queue.settleHeld(0, batches, refs)
      for (const { count } of batches) settled += count
      settled += refs.length
    }
  }
  // As many in as out, so that the depth stays: the backlog neither drains nor grows.
  let published = 0
  const publishing = publish(queue, () => {
    if (!running || published - settled > 2 * OUTSTANDING) return running && published++ < 0
    published++
    return true
  })
  const consuming = Array.from({ length: TAKERS }, consume)
  const cpu = await usage(store)
  const rate = await perSecond(ms, () => settled)
  const used = await usage(store)
  running = false
  await Promise.all([publishing, ...consuming])
  const messages = (rate * ms) / 1_000
  return {
    perSecond: rate,
    nodeMicros: (used.node - cpu.node) / messages,
    redisMicros: (used.redis - cpu.redis) / messages,
  }
}

async function leasing(store: Store, queue: QueueStore, count: number): Promise<Result> {
  await fill(queue, count)
  let left = count
  const cpu = await usage(store)
  const start = performance.now()
  const work = async () => {
    while (left > 0) {
      const max = Math.min(LEASE_MAX, left)
      left -= max
      const leased = await queue.lease({ max, leaseMs: 60_000, waitMs: 0, consumer: 'bench' })
      await queue.settle(leased.map(({ token }) => ({ token, outcome: 'ack' })))
    }
  }
  await Promise.all(Array.from({ length: LEASERS }, work))
  const seconds = (performance.now() - start) / 1_000
  const used = await usage(store)
  return {
    perSecond: count / seconds,
    nodeMicros: (used.node - cpu.node) / count,
    redisMicros: (used.redis - cpu.redis) / count,
  }
}

/** CPU used so far, microseconds. */
async function usage(store: Store): Promise<{ node: number; redis: number }> {
  const info = await store.redis.info('cpu')
  const seconds = (kind: string) =>
    Number(new RegExp(`used_cpu_${kind}_main_thread:(\\S+)`).exec(info)?.[1] ?? 0)
  const { user, system } = process.cpuUsage()
  return { node: user + system, redis: (seconds('user') + seconds('sys')) * 1e6 }
}

async function usedMemory(store: Store): Promise<number> {
  return Number(/^used_memory:(\d+)/m.exec(await store.redis.info('memory'))?.[1])
}

function ratio(value: number): number {
  return Math.round(value * 100) / 100
}
