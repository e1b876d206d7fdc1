/**
 * What goes wrong, when, and for how long: a schedule drawn from the seed, then carried out.
 *
 * Kinds are dealt like cards, so that each occurs before any occurs twice. Faults overlap, but
 * never two at one victim; each ends by itself, and `Faults.over` waits until everything is whole
 * again.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Random } from '@sluice/testkit'
import { type Cluster, DRAIN_MS, type Node } from './cluster.ts'

const KINDS = [
  'kill router',
  'kill delivery',
  'kill reaper',
  'stop router',
  'stop delivery',
  'stop reaper',
  'restart router',
  'restart delivery',
  'restart reaper',
  'kill redis',
  'pause redis',
  'rewrite redis',
  'reset to redis',
  'stall to redis',
  'strand to redis',
  'slow to redis',
  'reset of clients',
  'stall of clients',
  'slow of clients',
] as const
type FaultKind = (typeof KINDS)[number]

export interface Fault {
  readonly kind: FaultKind
  /** Pause since the fault before began, ms. */
  readonly afterMs: number
  /** How long it lasts, ms. */
  readonly forMs: number
  /** Which of several victims. */
  readonly victim: number
}

/** Past the heartbeat of 10 s a process counts as dead: what it does then must change nothing. */
const PAST_HEARTBEAT_MS = [10_500, 13_000] as const
/** Longer than a silent Redis is waited for (15 s): connections are given up on. */
const PAST_SILENCE_MS = [15_500, 17_000] as const

/** Past the drain, and what closing may wait for besides. */
const STOP_MS_MAX = DRAIN_MS + 15_000

export function schedule(random: Random, totalMs: number): Fault[] {
  const faults: Fault[] = []
  let deck: FaultKind[] = []
  for (let at = 300; at < totalMs; ) {
    if (deck.length === 0) deck = shuffled(random)
    const kind = deck.pop()!
    const afterMs = random.int(150, 1_600)
    at += afterMs
    faults.push({
      kind,
      afterMs,
      forMs: lasts(kind, random, totalMs - at),
      victim: random.int(0, 99),
    })
  }
  return faults
}

function shuffled(random: Random): FaultKind[] {
  const left: FaultKind[] = [...KINDS]
  return KINDS.map(() => left.splice(random.int(0, left.length - 1), 1)[0]!)
}

function lasts(kind: FaultKind, random: Random, leftMs: number): number {
  const long = leftMs > PAST_HEARTBEAT_MS[1]
  if (kind.startsWith('stop') && long && random.chance(0.5)) return random.int(...PAST_HEARTBEAT_MS)
  if (kind.startsWith('stall to') && leftMs > PAST_SILENCE_MS[1] && random.chance(0.3)) {
    return random.int(...PAST_SILENCE_MS)
  }
  if (kind.startsWith('slow')) return random.int(500, 3_000)
  return random.int(0, kind === 'pause redis' ? 3_000 : 2_000)
}

export class Faults {
  readonly done = new Map<FaultKind, number>()
  /** When Redis was killed, ms of the monotonic clock. */
  readonly redisKills: number[] = []
  readonly #cluster: Cluster
  readonly #busy = new Set<object>()
  readonly #under = new Set<Promise<void>>()

  constructor(cluster: Cluster) {
    this.#cluster = cluster
  }

  async run(faults: readonly Fault[], say: (line: string) => void): Promise<void> {
    for (const fault of faults) {
      await sleep(fault.afterMs)
      const victim = this.#victimOf(fault)
      if (this.#busy.has(victim)) continue
      this.#busy.add(victim)
      this.done.set(fault.kind, (this.done.get(fault.kind) ?? 0) + 1)
      const name = 'process' in victim ? victim.process.name : ''
      say(`${fault.kind} ${name} ${fault.forMs} ms`)
      const under = this.#inflict(fault, victim).finally(() => {
        this.#busy.delete(victim)
        this.#under.delete(under)
      })
      this.#under.add(under)
    }
    await this.over()
  }

  /** Returns once everything runs and is connected. */
  async over(): Promise<void> {
    while (this.#under.size > 0) await Promise.all(this.#under)
  }

  #victimOf({ kind, victim }: Fault): Node | Cluster['redis'] {
    const { redis, nodes } = this.#cluster
    const [, what] = kind.split(' ')
    if (what === 'redis') return redis
    const some = nodes.filter(({ process }) => process.name.startsWith(what!))
    const candidates = some.length > 0 ? some : kind.endsWith('clients') ? nodes.slice(0, 4) : nodes
    return candidates[victim % candidates.length]!
  }

  async #inflict({ kind, forMs, victim: dice }: Fault, victim: Node | Cluster['redis']) {
    if ('process' in victim) {
      await this.#harm(victim, kind, forMs, dice)
      return
    }
    if (kind === 'rewrite redis') {
      await victim.redis.bgrewriteaof().catch(() => {}) // one is under way
      return
    }
    if (kind === 'pause redis') {
      victim.pause()
      await sleep(forMs)
      victim.cont()
      return
    }
    this.redisKills.push(performance.now())
    await victim.kill9()
    await sleep(forMs)
    await victim.restart()
  }

  async #harm(node: Node, kind: FaultKind, forMs: number, dice: number): Promise<void> {
    const [what] = kind.split(' ')
    const clients = dice % 3 === 0 ? (node.amqpWire ?? node.httpWire) : node.httpWire
    const wire = kind.endsWith('clients') ? clients : node.redisWire
    switch (what) {
      case 'kill':
        await node.process.kill9()
        await sleep(forMs)
        return await this.#restart(node)
      case 'restart':
        await this.#stop(node)
        return await this.#restart(node)
      case 'stop':
        node.process.pause()
        await sleep(forMs)
        return node.process.cont()
      case 'reset':
        return wire.reset()
      case 'slow':
        wire.latencyMs = 5 + (dice % 60)
        await sleep(forMs)
        wire.latencyMs = 0
        return
      default: {
        wire.stall()
        await sleep(forMs)
        if (what === 'strand') wire.strand(sleep(100 + (dice % 10) * 100))
        else if (dice % 2 === 0) wire.reset()
        return wire.resume()
      }
    }
  }

  /** In order, as an upgrade does: it must end, whatever is wrong around it. */
  async #stop({ process }: Node): Promise<void> {
    const ended = process.stop()
    const inTime = await Promise.race([ended.then(() => true), sleep(STOP_MS_MAX, false)])
    if (!inTime) this.#cluster.crashes.push(`${process.name} did not stop:\n${process.log}`)
    await process.kill9()
    await ended
  }

  /**
   * A start may meet a Redis that is away, and says so; it is tried again, as a supervisor would.
   */
  async #restart(node: Node): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await node.restart()
      } catch (error) {
        if (attempt === 10) throw error
        await sleep(200)
      }
    }
  }
}
