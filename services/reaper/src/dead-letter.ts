/**
 * Moves dead letters from the queue where they died to where they belong.
 *
 * Claimed here, appended there, buried here, in this order: a reaper that dies in between leaves
 * the letter to the next one, and its identity as de-duplication id keeps the copy single. What the
 * target does not take for the moment (full, Redis short of memory) stays, and is tried again when
 * the claim lapses.
 *
 *   the dead letter exchange ...   │ rejected, delivery_limit │ expired, maxlen
 *   ───────────────────────────────┼──────────────────────────┼────────────────
 *   reaches a queue                │ there                    │ there
 *   reaches none, or is not there  │ amq.dead-letters         │ dropped, counted
 *   would close a circle           │ amq.dead-letters         │ dropped, counted
 *
 * RabbitMQ drops in all of the lower cells; what a consumer failed on is not lost here.
 */
import { decodeProperties, type Table } from '@sluice/amqp'
import {
  type Appended,
  DEAD_LETTER_QUEUE,
  type DeathReason,
  limits,
  type Message,
} from '@sluice/core'
import type { Deps } from '@sluice/server'
import { messageIdentity, type Tally } from '@sluice/store'
import { endSpan } from '@sluice/telemetry'
import {
  appendTo,
  carriedContext,
  type DeadLetterTarget,
  deadLetter,
  deadLetterTarget,
  isCycle,
  type Published,
  type QueueEntry,
  requestOf,
} from '@sluice/topology'

/** Letters moved together. */
const LETTERS_MAX = 64
/** Longer than a publish may take, so that no two reapers move the same letter. */
const CLAIM_MS = 30_000

const PARKING: DeadLetterTarget = { exchange: '', routingKey: DEAD_LETTER_QUEUE }

type Needs = Pick<Deps, 'publisher' | 'topology' | 'store' | 'metrics' | 'tracing' | 'log'>

type Fate = 'moved' | 'dropped' | 'later'

export class DeadLetters {
  readonly #deps: Needs
  readonly #claimMs: number
  /** Queues whose dead letters were dropped since some arrived: said once. */
  readonly #warned = new Set<string>()

  constructor(deps: Needs, claimMs: number = CLAIM_MS) {
    this.#deps = deps
    this.#claimMs = claimMs
  }

  /** One bounded pass over a queue's dead letters. Answers how many are done with. */
  async move(entry: QueueEntry): Promise<number> {
    const letters = await entry.store.claimDead(LETTERS_MAX, this.#claimMs)
    if (letters.length === 0) return 0
    const nowMs = await this.#deps.store.nowMs()
    const fates = await Promise.all(letters.map((letter) => this.#moveOne(entry, letter, nowMs)))
    const refs = (fate: Fate) => letters.filter((_, i) => fates[i] === fate).map(({ ref }) => ref)
    const moved = refs('moved')
    const dropped = refs('dropped')
    await this.#tellSenders(
      entry,
      letters.filter((_, i) => fates[i] !== 'later'),
    )
    if (moved.length > 0) await entry.store.bury(moved, 'deadLettered')
    if (dropped.length > 0) await entry.store.bury(dropped, 'dropped')
    const { vhost, definition } = entry
    letters.forEach(({ reason }, i) => {
      if (fates[i] !== 'moved') return
      const labels = { vhost, queue: definition.name, reason: reason as DeathReason }
      this.#deps.metrics.count('deadLettered', labels).value++
    })
    this.#tell(entry, moved.length, dropped.length)
    return moved.length + dropped.length
  }

  /** Whoever sent one as a request through an ingest finds out that it is dead. */
  async #tellSenders({ vhost }: QueueEntry, letters: readonly Tally[]): Promise<void> {
    const told = letters.map(async ({ record }) => {
      const request = requestOf(record.properties)
      if (request === undefined) return
      const { id, ingest, keepMs } = request
      await this.#deps.store.requests.note(id, 'dead', {
        keepMs: Math.max(1, Math.min(keepMs, limits.REQUEST_WAITING_MS_MAX)),
        record: { vhost, ingest, open: false },
      })
    })
    await Promise.all(told)
  }

  async #moveOne(entry: QueueEntry, letter: Tally, nowMs: number): Promise<Fate> {
    const { tracing } = this.#deps
    if (!tracing.on) return this.#moveTo(entry, letter, nowMs)
    const { record, reason, acquired } = letter
    const carried = carriedContext(record.properties)
    const span = tracing.start('move', entry.vhost, entry.definition.name, carried, {
      attributes: { 'sluice.reason': reason, 'sluice.delivery_count': acquired },
    })
    const fate = await this.#moveTo(entry, letter, nowMs)
    if (span) endSpan(span, fate === 'moved' ? undefined : fate, { 'sluice.outcome': fate })
    return fate
  }

  async #moveTo(entry: QueueEntry, letter: Tally, nowMs: number): Promise<Fate> {
    const target = deadLetterTarget(entry)
    const fate = fateOf(await this.#publish(entry, letter, nowMs, target))
    const keep = letter.reason === 'rejected' || letter.reason === 'delivery_limit'
    if (fate !== 'dropped' || !keep || isParking(target)) return fate
    return fateOf(await this.#publish(entry, letter, nowMs, PARKING))
  }

  async #publish(
    { vhost, definition, store }: QueueEntry,
    { ref, record, reason, acquired, holder, failure, attempts }: Tally,
    timeMs: number,
    target: DeadLetterTarget,
  ): Promise<Published | 'cycle' | 'gone'> {
    const { publisher, topology } = this.#deps
    const death = {
      queue: definition.name,
      reason: reason as DeathReason,
      timeMs,
      deliveryCount: acquired,
      error: failure,
      holder,
      attempts,
    }
    const { message, history } = deadLetter(record, death, target, messageIdentity(store, ref))
    await topology.refresh()
    const reached = this.#route(vhost, message)
    const open = reached.filter((queue) => !isCycle(history, queue.definition.name))
    if (open.length === reached.length) return (await publisher.publishOne(vhost, message)).outcome
    if (open.length === 0) return 'cycle'
    return worst(await Promise.all(open.map((queue) => appendTo(queue, message))))
  }

  #route(vhost: string, message: Message): readonly QueueEntry[] {
    const { table } = this.#deps.topology
    if (!table.exchange(vhost, message.exchange)) return []
    return table.route(vhost, message.exchange, message.routingKey, () => headersOf(message)).queues
  }

  #tell({ vhost, definition, store }: QueueEntry, moved: number, dropped: number): void {
    if (moved > 0) this.#warned.delete(store.base)
    if (dropped === 0 || this.#warned.has(store.base)) return
    this.#warned.add(store.base)
    this.#deps.log.warn(
      { vhost, queue: definition.name, dropped },
      'dead letters dropped: their exchange is missing or reaches no queue, or they went in a circle',
    )
  }
}

function isParking({ exchange, routingKey }: DeadLetterTarget): boolean {
  return exchange === PARKING.exchange && routingKey === PARKING.routingKey
}

function headersOf({ properties }: Message): Table {
  return decodeProperties(properties).headers ?? {} // written by deadLetter, so it can be read
}

function fateOf(outcome: Published | 'cycle' | 'gone'): Fate {
  switch (outcome) {
    case 'stored':
    case 'duplicate':
      return 'moved'
    case 'unroutable':
    case 'exchange-missing':
    case 'cycle':
      return 'dropped'
    default:
      return 'later'
  }
}

/** Moved only where every queue has it. */
function worst(outcomes: readonly Appended[]): Appended {
  return outcomes.find((outcome) => fateOf(outcome) !== 'moved') ?? 'stored'
}
