/** The WebSocket door, as the contract's tests use one; what it lacks, operators do over HTTP. */
import { setTimeout as sleep } from 'node:timers/promises'
import { waitFor } from '@sluice/testkit'
import type { TestBroker } from '../support/broker.ts'
import type { Frame, WsPeer } from '../support/ws-peer.ts'
import type { Delivery, Door, Publish, Settlement } from './door.ts'

/** A consumer that hears nothing for this long has what there is. */
const QUIET_MS = 150

const OUTCOMES = {
  ack: 'settled',
  release: 'released',
  retry: 'retried',
  'dead-letter': 'dead-lettered',
  extend: 'extended',
} as const

export function webSocketDoor(broker: TestBroker, http: Door, peer: WsPeer): Door {
  let consumers = 0
  const unacked = async (queue: string) => (await http.counts(queue)).unacked
  return {
    ...http,
    broker,
    close: () => peer.close(),
    async publish(queue, body, options = {}) {
      peer.send({ ...publishFrame(queue, options), body, id: 'p' })
      const ours = ({ id }: Frame) => id === 'p'
      await waitFor(() => peer.frames.some(ours), { what: 'the confirm' })
      const [answer] = peer.frames.splice(peer.frames.findIndex(ours), 1)
      if (answer?.['problem']?.title === 'queue_full') return 'full'
      if (answer?.type !== 'published') throw new Error(JSON.stringify(answer))
      return answer['duplicate'] ? 'duplicate' : answer['routed'] ? 'stored' : 'unroutable'
    },
    async take(queue, { max = 100, waitMs = 10_000 } = {}) {
      const consumer = `c${++consumers}`
      await peer.ask({ type: 'consume', consumer, queue, credit: max }, 'consuming')
      const got = () =>
        peer.frames.filter((frame) => frame.type === 'deliver' && frame['consumer'] === consumer)
      const until = performance.now() + Math.max(waitMs, QUIET_MS)
      while (got().length === 0 && performance.now() < until) await sleep(5)
      for (let had = -1; had < got().length && got().length < max; ) {
        had = got().length
        await sleep(had > 0 ? QUIET_MS : 0)
      }
      await peer.ask({ type: 'cancel', consumer }, 'cancelled')
      const deliveries = got()
      for (const frame of deliveries) peer.frames.splice(peer.frames.indexOf(frame), 1)
      return deliveries.map((frame) => ({ ...frame, token: `${frame['delivery']}` })) as never
    },
    async settle(queue: string, { token }: Delivery, settlement: Settlement) {
      const before = await unacked(queue)
      const { leaseMs: _, ...outcome } = { leaseMs: 0, ...settlement }
      peer.send({ type: 'settle', deliveries: [Number(token)], ...outcome })
      await peer.ask({ type: 'ping' }, 'pong')
      const stale = peer.frames.findIndex(({ problem }) => problem?.title === 'message_not_found')
      if (stale >= 0) {
        peer.frames.splice(stale, 1)
        return 'stale'
      }
      if (settlement.outcome !== 'extend') {
        // Redis hears of it at the end of the turn.
        await waitFor(async () => (await unacked(queue)) < before, { what: 'the settlement' })
      }
      return OUTCOMES[settlement.outcome]
    },
  }
}

function publishFrame(queue: string, options: Publish): Frame {
  const { exchange = '', routingKey = queue, dedupId, deliverAt, ...fields } = options
  return {
    type: 'publish',
    exchange,
    routingKey,
    contentType: 'text/plain',
    ...fields,
    ...(dedupId !== undefined && { idempotencyKey: dedupId }),
    ...(deliverAt !== undefined && { deliverAt: deliverAt.toISOString() }),
  }
}
