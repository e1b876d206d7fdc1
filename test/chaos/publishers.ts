/**
 * Publishers: each sends its messages one after the other, to any router that answers.
 *
 * With an idempotency key a message is sent again until there is a definite answer; without one it
 * is sent once, and no answer means that nobody knows.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Random } from '@sluice/testkit'
import type { Answer, HttpClient } from '../support/http.ts'
import type { Ledger, Sent } from './ledger.ts'
import { BASE, type Stream } from './queues.ts'

export interface PublisherPlan {
  readonly name: string
  readonly stream: Stream
  readonly keyed: boolean
  /** Messages in one request; 1 = the single door. */
  readonly batch: number
}

const TIMEOUT_MS = 4_000
/** More than this waits to be consumed: publishers wait. */
export const BACKLOG_MAX = 3_000
/** Ordering keys of one publisher. */
export const KEYS = 7

export class Publisher {
  readonly #plan: PublisherPlan
  readonly #routers: readonly HttpClient[]
  readonly #ledger: Ledger
  readonly #random: Random
  #sequence = 0

  constructor(plan: PublisherPlan, routers: readonly HttpClient[], ledger: Ledger, random: Random) {
    this.#plan = plan
    this.#routers = routers
    this.#ledger = ledger
    this.#random = random
  }

  /** Publishes until the signal; what was begun is brought to its end. */
  async run(signal: AbortSignal): Promise<void> {
    const { batch } = this.#plan
    while (!signal.aborted) {
      if (this.#ledger.backlog < BACKLOG_MAX) {
        const size = batch === 1 ? 1 : this.#random.int(1, batch)
        await this.#publish(Array.from({ length: size }, () => this.#next()))
      }
      await sleep(this.#random.int(0, batch === 1 ? 8 : 60))
    }
  }

  #next(): Sent {
    const { name, keyed, stream } = this.#plan
    const random = this.#random
    const sequence = this.#sequence++
    const sent: Sent = {
      id: `${name}-${sequence}`,
      publisher: name,
      sequence,
      key: `${name}.${random.int(1, KEYS)}`,
      priority: random.int(0, 4),
      delayMs: stream.routingKey === 'later' ? random.int(1, 2_500) : 0,
      keyed,
      sentAt: performance.now(),
      confirmedAt: undefined,
    }
    this.#ledger.sent(sent, stream.queues)
    return sent
  }

  async #publish(messages: readonly Sent[]): Promise<void> {
    let left = messages
    for (let attempt = 0; left.length > 0; attempt++) {
      const router = this.#random.pick(this.#routers)
      const answer = await this.#ask(router, left).catch(() => undefined)
      const failed = this.#confirmed(left, answer)
      if (!this.#plan.keyed) {
        this.#ledger.unanswered += failed.length
        return
      }
      left = failed
      if (left.length > 0) await sleep(Math.min(20 * 2 ** attempt, 500))
    }
  }

  #ask(router: HttpClient, messages: readonly Sent[]): Promise<Answer> {
    const { exchange, routingKey } = this.#plan.stream
    const path = `${BASE}/exchanges/${exchange}`
    const [first] = messages
    if (this.#plan.batch === 1 && first !== undefined) {
      return router.request('POST', `${path}/messages`, {
        timeoutMs: TIMEOUT_MS,
        body: JSON.stringify({ id: first.id }),
        headers: {
          'Content-Type': 'application/json',
          'Sluice-Routing-Key': routingKey,
          'Sluice-Ordering-Key': first.key,
          'Sluice-Priority': first.priority,
          'Sluice-Delay': first.delayMs,
          'Sluice-Mandatory': 'true',
          'Idempotency-Key': first.keyed ? first.id : undefined,
        },
      })
    }
    const lines = messages.map(({ id, key, priority, delayMs, keyed }) => ({
      body: { id },
      routingKey,
      orderingKey: key,
      priority,
      delayMs,
      mandatory: true,
      ...(keyed && { idempotencyKey: id }),
    }))
    const ndjson = this.#random.chance(0.5)
    return router.request('POST', `${path}/batch`, {
      timeoutMs: TIMEOUT_MS,
      headers: { 'Content-Type': ndjson ? 'application/x-ndjson' : 'application/json' },
      body: ndjson
        ? lines.map((line) => `${JSON.stringify(line)}\n`).join('')
        : JSON.stringify(lines),
    })
  }

  /** Notes what the answer confirms; returns the others. */
  #confirmed(messages: readonly Sent[], answer: Answer | undefined): readonly Sent[] {
    const { status, json, text } = answer ?? { status: 0, json: undefined, text: '' }
    const unknown = [0, 408, 429, 503].includes(status)
    if (!unknown && status !== 200 && json?.title !== 'batch_incomplete') {
      this.#ledger.complain(`a publish to ${this.#plan.stream.routingKey} got ${status} ${text}`)
    }
    const batch = this.#plan.batch > 1 && (status === 200 || json?.failures !== undefined)
    if (!batch && status !== 200) return messages
    const failures: { line: number; code: string }[] = batch ? json.failures : []
    const failed = new Set(failures.map(({ line }) => line))
    for (const { code } of failures) {
      if (code !== 'store_unavailable') this.#ledger.complain(`a line of a batch got ${code}`)
    }
    const last = json?.stoppedAt ?? Number.POSITIVE_INFINITY
    const wanting = messages.filter((_, index) => failed.has(index + 1) || index + 1 > last)
    for (const message of messages) {
      if (!wanting.includes(message)) this.#ledger.confirm(message)
    }
    return wanting
  }
}
