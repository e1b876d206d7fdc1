/**
 * Publishing: match, append to every queue reached, confirm once all have answered.
 *
 * A publish that follows a declare anywhere sees what was declared: each event-loop turn that
 * publishes also reads the topology's version, and confirms nothing before the table is as new as
 * that. Whenever a newer table comes, the messages of all such turns go at once to the queues that
 * it adds: before anything that is published later, so each queue has them in order. A queue that
 * turns out to be gone is routed around, and what was sealed with a key that is gone is sealed
 * anew; what goes to a queue that was deleted and declared again meanwhile may be overtaken.
 *
 * Nothing is atomic across queues; a publish is confirmed when every queue has it, and one that is
 * not confirmed may be in some. Publishing it again with its de-duplication id completes it.
 *
 * Hot path: a publish costs one object, whatever it reaches. Measured by test/bench/store.bench.ts.
 */

import { setTimeout as sleep } from 'node:timers/promises'
import { decodeProperties, type Table } from '@sluice/amqp'
import { type Appended, BrokerError, type Message, type Report } from '@sluice/core'
import type { DataKey, Encodings, QueueReply, QueueStore } from '@sluice/store'
import { contextOf, endSpan, type Span, Tracing } from '@sluice/telemetry'
import type { Topology } from './topology.ts'
import { carriedContext, withTraceparent } from './trace.ts'
import type { QueueEntry } from './vhost-table.ts'

/** 'unroutable': no queue was reached. 'gone' never comes out: the message was routed again. */
export type Published = Exclude<Appended, 'gone'> | 'unroutable' | 'exchange-missing'

export interface PublishReply {
  /** Called exactly once for each publish, never during it; `queues` are those reached. */
  published(token: number, outcome: Published, queues: readonly QueueEntry[]): void
  /** Whether it waits for as long as Redis is away, and is told no 'unavailable' meanwhile. */
  readonly patient?: boolean
}

/** Outcomes of which `queues` are told. */
const REACHED: ReadonlySet<Published> = new Set([
  'stored',
  'duplicate',
  'full',
  'memory-high',
  'disk-low',
  'not-durable',
  'no-key',
  'unavailable',
])

/** The worse of two queues' answers counts; 'duplicate' only when nothing was added anywhere. */
const SEVERITY: Record<Appended, number> = {
  gone: 0,
  duplicate: 1,
  stored: 2,
  full: 3,
  'memory-high': 4,
  'disk-low': 5,
  'not-durable': 6,
  'no-key': 7,
  unavailable: 8,
}

/** Times a publish is routed around a queue that is gone. */
const REROUTES_MAX = 8
/** How long a publish waits to learn the topology's version while Redis is away. */
const VERSION_WAIT_MS = 10_000
const VERSION_RETRY_MS = 100
const NO_QUEUES: readonly QueueEntry[] = []
const NO_HEADERS: Table = {}

/** The publishes of one event-loop turn, which share one reading of the version. */
interface Turn {
  pendings: readonly Pending[]
  /** The newest that is known to exist; -1 = not known. */
  version: number
}

/** One publish under way; hears the queues' answers itself. */
class Pending implements QueueReply, Encodings {
  readonly #publisher: Publisher
  readonly vhost: string
  message: Message
  readonly reply: PublishReply
  readonly token: number
  /** Of a publish that is traced. */
  span: Span | undefined
  record: Buffer | undefined
  sealed: Map<DataKey, Buffer> | undefined
  /** Where it was appended, apart from queues that were gone. */
  queues: readonly QueueEntry[] = NO_QUEUES
  /** Whether it was routed before. */
  routed = false
  /** No table had its exchange. */
  missing = false
  /** Answers that are still to come: its turn's and each queue's. */
  left = 1
  outcome: Appended = 'gone'
  reroutes = 0

  constructor(
    publisher: Publisher,
    vhost: string,
    message: Message,
    reply: PublishReply,
    token: number,
  ) {
    this.#publisher = publisher
    this.vhost = vhost
    this.message = message
    this.reply = reply
    this.token = token
  }

  get patient(): boolean {
    return this.reply.patient ?? false
  }

  /** Decoded only when a headers exchange is reached. */
  readonly headers = (): Table => {
    try {
      return decodeProperties(this.message.properties).headers ?? NO_HEADERS
    } catch {
      return NO_HEADERS // routed as a message without headers
    }
  }

  appended(_token: number, outcome: Appended, queue: QueueStore): void {
    if (outcome === 'gone') this.queues = this.queues.filter(({ store }) => store !== queue)
    else if (SEVERITY[outcome] > SEVERITY[this.outcome]) this.outcome = outcome
    if (outcome === 'gone') this.#publisher.forget(queue, this)
    else this.answered()
  }

  answered(): void {
    if (--this.left === 0) this.#publisher.finish(this)
  }
}

export class Publisher {
  readonly #topology: Topology
  readonly #report: Report
  readonly #tracing: Tracing
  /** The publishes of this event-loop turn. */
  #turn: Pending[] | undefined
  /** Turns that newer tables may have existed for, oldest first. */
  readonly #behind = new Set<Turn>()

  constructor(topology: Topology, report: Report, tracing: Tracing = Tracing.OFF) {
    this.#topology = topology
    this.#report = report
    this.#tracing = tracing
    // Behind those who watched before: keys that a table shreds are forgotten when it is asked.
    topology.watch(() => this.#tableChanged())
  }

  /**
   * Publishes a message. Names must have been checked; the default exchange is ''.
   * @param reply hears the outcome later, once, with `token`.
   */
  publish(vhost: string, message: Message, reply: PublishReply, token: number): void {
    const pending = new Pending(this, vhost, message, reply, token)
    if (this.#turn === undefined) {
      const pendings: Pending[] = []
      const turn = { pendings, version: -1 }
      this.#turn = pendings
      this.#behind.add(turn)
      setImmediate(() => {
        this.#turn = undefined
        this.#catchUp(turn).catch(this.#report)
      })
    }
    this.#turn.push(pending)
    this.#route(pending)
  }

  /** The same for a caller who waits for one message. */
  publishOne(
    vhost: string,
    message: Message,
  ): Promise<{ outcome: Published; queues: readonly QueueEntry[] }> {
    return new Promise((resolve) => {
      const reply: PublishReply = {
        published: (_token, outcome, queues) => resolve({ outcome, queues }),
      }
      this.publish(vhost, message, reply, 0)
    })
  }

  /** For Pending: everyone asked has answered. */
  finish(pending: Pending): void {
    const { queues, reply, token } = pending
    const outcome = outcomeOf(pending)
    if (pending.span !== undefined) endPublish(pending.span, outcome, queues)
    reply.published(token, outcome, REACHED.has(outcome) ? queues : NO_QUEUES)
  }

  /**
   * For Pending: a queue was deleted. Its store is the authority on that, so a deletion that was
   * left half done is finished here; then the message is routed again.
   */
  forget({ vhost, name, epoch }: QueueStore, pending: Pending): void {
    this.#topology.finishDelete(vhost, name, epoch).then(
      () => {
        if (pending.reroutes++ < REROUTES_MAX) this.#route(pending)
        else pending.outcome = 'unavailable'
        pending.answered()
      },
      (error) => {
        this.#report(error)
        pending.outcome = 'unavailable'
        pending.answered()
      },
    )
  }

  /** Appends to the queues that the current table reaches and that do not have the message yet. */
  #route(pending: Pending): void {
    const { vhost, message, queues: known } = pending
    const { table } = this.#topology
    if (message.orderingKey === null && table.keepsOrder(vhost)) giveKey(pending)
    let queues = NO_QUEUES
    try {
      const { exchange, routingKey, furtherKeys } = message
      queues = table.route(vhost, exchange, routingKey, pending.headers, furtherKeys).queues
      pending.missing = false
    } catch (error) {
      if (!(error instanceof BrokerError)) throw error
      if (!pending.routed) pending.missing = true // as far as this table knows
    }
    if (this.#tracing.on && !pending.routed) this.#trace(pending, queues)
    pending.routed = true
    pending.queues = known.length === 0 ? queues : union(known, queues)
    const lost = keysLost(pending)
    for (const queue of queues) {
      const unread = lost.some((key) => isSealedBy(queue, key))
      if (has(known, queue) && !unread) continue
      pending.left++
      const message = unread ? { ...pending.message, dedupId: '', messageId: '' } : pending.message
      queue.store.publish(message, pending, pending, 0)
    }
  }

  /** A message that carries no context gets that of this span, and keeps it. */
  #trace(pending: Pending, queues: readonly QueueEntry[]): void {
    const { vhost, message } = pending
    const carried = carriedContext(message.properties)
    const starts = carried?.traceparent === undefined
    if (starts && !this.#tracing.samples(traceRatio(queues, this.#tracing.ratio))) return
    const attributes = { 'messaging.message.body.size': message.body.length }
    const span = starts
      ? this.#tracing.startTrace('publish', vhost, message.exchange, { attributes })
      : this.#tracing.start('publish', vhost, message.exchange, carried, { attributes })
    if (span === undefined) return
    pending.span = span
    if (!starts) return
    pending.message = {
      ...message,
      properties: withTraceparent(message.properties, contextOf(span)),
    }
  }

  /** The turn's messages are answered once the table is as new as the turn. */
  async #catchUp(turn: Turn): Promise<void> {
    const deadline = performance.now() + VERSION_WAIT_MS
    for (;;) {
      try {
        if (turn.version < 0) turn.version = await this.#topology.readVersion()
        if (turn.version > this.#topology.table.version) await this.#topology.refresh()
        break
      } catch (error) {
        if (performance.now() > deadline) this.#giveUp(turn, error)
        await sleep(VERSION_RETRY_MS)
        if (!this.#behind.has(turn)) return
      }
    }
    this.#caughtUp(turn)
  }

  #tableChanged(): void {
    for (const { pendings } of this.#behind) for (const pending of pendings) this.#route(pending)
    const { version } = this.#topology.table
    for (const turn of this.#behind) {
      if (turn.version >= 0 && turn.version <= version) this.#caughtUp(turn)
    }
  }

  #caughtUp(turn: Turn): void {
    if (!this.#behind.delete(turn)) return
    for (const pending of turn.pendings) pending.answered()
  }

  /** Those without patience are told that Redis is away. */
  #giveUp(turn: Turn, error: unknown): void {
    const impatient = turn.pendings.filter(({ patient }) => !patient)
    turn.pendings = turn.pendings.filter(({ patient }) => patient)
    if (turn.pendings.length === 0) this.#behind.delete(turn)
    if (impatient.length > 0) this.#report(error)
    for (const pending of impatient) {
      pending.outcome = 'unavailable'
      pending.answered()
    }
  }
}

/** Where it is stored from now on it has its routing key as ordering key. */
function giveKey(pending: Pending): void {
  pending.message = { ...pending.message, orderingKey: pending.message.routingKey }
  pending.record = undefined
  pending.sealed = undefined
}

const NO_KEYS: readonly DataKey[] = []

/**
 * Keys that sealed the message and were shredded since: what they sealed counts as not stored, and
 * its de-duplication id does not stand in the way.
 */
function keysLost({ sealed }: Pending): readonly DataKey[] {
  if (sealed === undefined) return NO_KEYS
  const lost = [...sealed.keys()].filter(({ forgotten }) => forgotten)
  for (const key of lost) sealed.delete(key)
  return lost
}

function isSealedBy({ settings, definition }: QueueEntry, { queue }: DataKey): boolean {
  return queue === '' ? settings.encryption === 'vhost' : queue === definition.name
}

function outcomeOf({ missing, queues, outcome }: Pending): Published {
  if (outcome === 'unavailable') return outcome
  if (missing) return 'exchange-missing'
  return queues.length === 0 ? 'unroutable' : (outcome as Published)
}

/** The largest share that any queue asks for, so that nobody's is lost on the way. */
function traceRatio(queues: readonly QueueEntry[], fallback: number): number {
  if (queues.length === 0) return fallback
  let ratio = 0
  for (const { settings } of queues) {
    ratio = Math.max(ratio, settings.traceRatio < 0 ? fallback : settings.traceRatio)
  }
  return ratio
}

function endPublish(span: Span, outcome: Published, queues: readonly QueueEntry[]): void {
  const stored = outcome === 'stored' || outcome === 'duplicate' || outcome === 'unroutable'
  endSpan(span, stored ? undefined : outcome, {
    'sluice.outcome': outcome,
    'sluice.queues': queues.length,
  })
}

function has(known: readonly QueueEntry[], { store }: QueueEntry): boolean {
  return known.some((queue) => queue.store === store)
}

function union(known: readonly QueueEntry[], queues: readonly QueueEntry[]): readonly QueueEntry[] {
  return [...known, ...queues.filter((queue) => !has(known, queue))]
}
