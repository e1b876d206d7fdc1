/**
 * One consumer, as a process of its own: leases events from every queue, works on them for a
 * moment, acknowledges them, and tells its parent what it did.
 *
 * Told to hold, it keeps the next messages it leases and goes on with nothing: a consumer that
 * hangs in the middle of its work, to be killed.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { ask, type Leased, type Place } from './api.ts'

export interface Start {
  readonly kind: 'start'
  readonly name: string
  readonly place: Place
  readonly vhost: string
  readonly queues: readonly string[]
}
export type Order = Start | { readonly kind: 'hold' } | { readonly kind: 'stop' }

/** What it tells its parent. Ids are those of events. */
export type Report =
  | {
      readonly kind: 'leased'
      readonly queue: string
      readonly ids: readonly string[]
      /** Those that had been delivered before. */
      readonly redelivered: readonly string[]
    }
  | { readonly kind: 'acked' | 'stale'; readonly queue: string; readonly ids: readonly string[] }
  /** It holds so many messages and will not let go of them. */
  | { readonly kind: 'holding'; readonly messages: number }

/** What a lease lasts. Short, since the example waits for one to lapse. */
const LEASE_MS = 2_000
const WAIT_MS = 500
const MESSAGES_MAX = 25
/** What the work on one event takes. */
const WORK_MS = 2

let holding = false
let stopping = false

process.on('message', (order: Order) => {
  if (order.kind === 'hold') holding = true
  else if (order.kind === 'stop') stopping = true
  else void run(order).catch(fail)
})
process.on('disconnect', () => process.exit(1)) // the parent is gone

async function run({ name, place, vhost, queues }: Start): Promise<void> {
  const held = await Promise.all(
    queues.map((queue) => consume(place, { vhost, queue, consumer: name })),
  )
  const messages = held.reduce((sum, count) => sum + count, 0)
  if (holding) tell({ kind: 'holding', messages })
  else process.disconnect()
}

/** Until told to stop, or to hold: then how many messages it still holds. */
async function consume(
  place: Place,
  { vhost, queue, consumer }: { vhost: string; queue: string; consumer: string },
): Promise<number> {
  const path = `/v1/vhosts/${vhost}/queues/${queue}`
  const lease = { max: MESSAGES_MAX, waitMs: WAIT_MS, leaseMs: LEASE_MS, consumer }
  while (!stopping) {
    const { messages } = await ask<{ messages: Leased[] }>(place, 'POST', `${path}/leases`, lease)
    if (messages.length === 0) {
      if (holding) return 0
      continue
    }
    const ids = messages.map(({ body }) => (JSON.parse(body) as { id: string }).id)
    const redelivered = ids.filter((_, at) => messages[at]!.redelivered)
    tell({ kind: 'leased', queue, ids, redelivered })
    if (holding) return messages.length

    await sleep(WORK_MS * messages.length)
    const settlements = messages.map(({ token }) => ({ token, outcome: 'ack' }))
    const { outcomes } = await ask<{ outcomes: string[] }>(place, 'POST', `${path}/settlements`, {
      settlements,
    })
    const acked = ids.filter((_, at) => outcomes[at] === 'settled')
    const stale = ids.filter((_, at) => outcomes[at] !== 'settled')
    tell({ kind: 'acked', queue, ids: acked })
    if (stale.length > 0) tell({ kind: 'stale', queue, ids: stale })
  }
  return 0
}

function tell(report: Report): void {
  process.send?.(report)
}

function fail(error: unknown): void {
  process.stderr.write(`consumer: ${error instanceof Error ? error.message : error}\n`)
  process.exit(1)
}
