/**
 * R = k x P: how often messages come again when each delivery fails with probability P.
 *
 * Method: a consumer leases a hundred, lets each fail by a seeded chance (`retry`, at once), and
 * goes on until nothing is left; in a queue with the usual limit of deliveries and in one with few.
 * What failed in the order drawn decides the sum, so a run is the same on every machine.
 */
import { random, waitFor } from '@sluice/testkit'
import { connectTo } from '../bench/http-load.ts'
import { type Fit, fitLine, fitToBreak, type Line, type Point } from './fit.ts'
import { deliveriesPerMessage } from './model.ts'
import { type Counts, dropQueue, fill, freshQueue, queueCounts, type Rig, request } from './rig.ts'
import { BODY_BYTES } from './storage.ts'

/** Deliveries that may fail; one more failure makes a dead letter. */
const LIMITS = [20, 3]
const SHARES = [0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
const QUEUE = 'capacity-errors'
const LEASE = 100
const SEED = 7

interface Redelivered {
  readonly errors: number
  /** Most deliveries of a message. */
  readonly deliveriesMax: number
  /** Measured, per message. */
  readonly deliveries: number
  readonly expected: number
  /** Share of messages that were given up, and what p^L says. */
  readonly dead: number
  readonly expectedDead: number
}

export interface Redelivery {
  readonly points: readonly Redelivered[]
  /** Redeliveries against the probability, in the queue with the usual limit. */
  readonly fit: Fit
  /** Deliveries against (1 - p^L) / (1 - p), in both queues. */
  readonly expectedLine: Line
}

export async function measureRedelivery(rig: Rig): Promise<Redelivery> {
  const messages = rig.short ? 400 : 5_000
  const shares = rig.short ? SHARES.filter((_, at) => at % 2 === 0) : SHARES
  const points: Redelivered[] = []
  for (const limit of LIMITS) {
    for (const errors of shares) {
      rig.say(`errors: ${errors} of deliveries, at most ${limit + 1} deliveries`)
      points.push(await drain(rig, { messages, errors, limit }))
    }
  }
  await dropQueue(rig, QUEUE)
  const usual = points.filter(({ deliveriesMax }) => deliveriesMax === LIMITS[0]! + 1)
  return {
    points,
    fit: fitToBreak(redeliveries(usual)),
    expectedLine: fitLine(points.map(({ expected: x, deliveries: y }) => ({ x, y }))),
  }
}

/** How often a message came again, against the probability of an error. */
export function redeliveries(points: readonly Redelivered[]): Point[] {
  return points.map(({ errors, deliveries }) => ({ x: errors, y: deliveries - 1 }))
}

async function drain(
  rig: Rig,
  { messages, errors, limit }: { messages: number; errors: number; limit: number },
): Promise<Redelivered> {
  await freshQueue(rig, QUEUE, { 'x-delivery-limit': limit })
  await fill(rig, QUEUE, messages, BODY_BYTES)
  const chance = random(SEED)
  const socket = await connectTo(rig.url)
  let left = messages
  let deliveries = 0
  let dead = 0
  while (left > 0) {
    const lease = request(QUEUE, 'leases', { max: LEASE, waitMs: 1_000 })
    const leased = (await socket.ask(lease)).matchAll(/"token":"([^"]+)"/g)
    const settlements = Array.from(leased, ([, token]) =>
      chance.chance(errors) ? { token, outcome: 'retry', delayMs: 0 } : { token, outcome: 'ack' },
    )
    if (settlements.length === 0) continue
    deliveries += settlements.length
    const answer = await socket.ask(request(QUEUE, 'settlements', { settlements }))
    const { outcomes } = JSON.parse(answer) as { outcomes: string[] }
    left -= outcomes.filter((outcome) => outcome !== 'retried').length
    dead += outcomes.filter((outcome) => outcome === 'dead-lettered').length
  }
  socket.close()
  await agree(rig, { deliveries, dead })
  const deliveriesMax = limit + 1
  return {
    ...{ errors, deliveriesMax },
    deliveries: deliveries / messages,
    expected: deliveriesPerMessage(errors, deliveriesMax),
    dead: dead / messages,
    expectedDead: errors ** deliveriesMax,
  }
}

/** The broker's own counts have to be those of the consumer. */
async function agree(rig: Rig, seen: { deliveries: number; dead: number }): Promise<void> {
  const isSame = ({ totals }: Counts) =>
    totals['delivered']! + totals['redelivered']! === seen.deliveries &&
    totals['deadLettered'] === seen.dead
  await waitFor(async () => isSame(await queueCounts(rig, QUEUE)), {
    what: `the broker to count ${seen.deliveries} deliveries and ${seen.dead} dead letters`,
  })
}
