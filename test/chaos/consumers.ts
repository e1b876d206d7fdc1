/**
 * Consumers: lease from any delivery process, work, and settle through any other, mostly as they
 * should. What they asked and what they were told goes to the ledger.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Random } from '@sluice/testkit'
import type { HttpClient } from '../support/http.ts'
import type { Copy, Ledger } from './ledger.ts'
import { BASE, type QueuePlan } from './queues.ts'

const TIMEOUT_MS = 5_000
/** Tries of a settlement without an answer: its lease has lapsed long before. */
const SETTLE_ATTEMPTS_MAX = 8

interface Leased {
  readonly id: string
  readonly token: string
  readonly body?: string
  readonly deliveryCount: number
  readonly failedCount: number
  readonly redelivered: boolean
}

type Settlement =
  | { readonly outcome: 'ack' | 'release' }
  | { readonly outcome: 'retry'; readonly delayMs?: number; readonly reason?: string }
  | { readonly outcome: 'dead-letter'; readonly reason: string }
  | { readonly outcome: 'extend'; readonly leaseMs: number }

export interface Mood {
  /** Everything is acknowledged from here on: the queues are to drain. */
  calm: boolean
}

export class Consumer {
  readonly #plan: QueuePlan
  readonly #doors: readonly HttpClient[]
  readonly #ledger: Ledger
  readonly #random: Random
  readonly #mood: Mood

  constructor(
    plan: QueuePlan,
    doors: readonly HttpClient[],
    ledger: Ledger,
    random: Random,
    mood: Mood,
  ) {
    this.#plan = plan
    this.#doors = doors
    this.#ledger = ledger
    this.#random = random
    this.#mood = mood
  }

  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const held = await this.#lease(signal)
      if (held === undefined) await sleep(50)
      else if (held.length > 0) await this.#work(held)
    }
  }

  /** Undefined when nobody answered. */
  async #lease(signal: AbortSignal): Promise<{ copy: Copy; token: string }[] | undefined> {
    const random = this.#random
    const askedAt = performance.now()
    const body = {
      max: random.pick([1, 1, 5, 20, 100]),
      waitMs: random.pick([0, 200, 1_000]),
      leaseMs: random.int(1_000, 4_000),
      consumer: `${this.#plan.name} consumer`,
    }
    const path = `${BASE}/queues/${this.#plan.name}/leases`
    const answer = await random
      .pick(this.#doors)
      .request('POST', path, { body, timeoutMs: TIMEOUT_MS, signal })
      .catch(() => undefined)
    if (answer === undefined || answer.status === 503) return undefined
    if (answer.status !== 200) {
      this.#ledger.complain(`a lease of ${this.#plan.name} got ${answer.status} ${answer.text}`)
      return undefined
    }
    const cameAt = performance.now()
    return (answer.json.messages as Leased[]).flatMap((message) => {
      const copy = this.#ledger.find(this.#plan.name, idOf(message.body))
      copy?.deliveries.push({
        ref: message.id,
        token: message.token,
        count: message.deliveryCount,
        failed: message.failedCount,
        redelivered: message.redelivered,
        askedAt,
        cameAt,
      })
      return copy ? [{ copy, token: message.token }] : []
    })
  }

  async #work(held: readonly { copy: Copy; token: string }[]): Promise<void> {
    const random = this.#random
    if (random.chance(0.3)) await sleep(random.int(1, 40))
    const settlements = held.map(({ copy, token }) => ({ copy, token, ...this.#choose() }))
    const extended = settlements.filter(({ outcome }) => outcome === 'extend')
    await this.#settle(settlements.filter(({ outcome }) => outcome !== 'lapse'))
    if (extended.length === 0) return
    await sleep(random.int(1, 500))
    await this.#settle(extended.map(({ copy, token }) => ({ copy, token, outcome: 'ack' })))
  }

  #choose(): Settlement | { readonly outcome: 'lapse' } {
    const random = this.#random
    if (this.#mood.calm) return { outcome: 'ack' }
    const dice = random.next()
    if (dice < 0.86) return { outcome: 'ack' }
    if (dice < 0.91) return { outcome: 'retry', reason: 'not in the mood' }
    if (dice < 0.93) return { outcome: 'retry', delayMs: random.int(0, 1_000) }
    if (dice < 0.95) return { outcome: 'release' }
    if (dice < 0.97) return { outcome: 'extend', leaseMs: random.int(1_000, 3_000) }
    if (dice < 0.985) return { outcome: 'dead-letter', reason: 'will never do' }
    return { outcome: 'lapse' }
  }

  async #settle(
    items: readonly { copy: Copy; token: string; outcome: Settlement['outcome'] | 'lapse' }[],
  ): Promise<void> {
    if (items.length === 0) return
    const sentAt = performance.now()
    for (const { copy, outcome } of items) {
      if (outcome === 'ack' || outcome === 'dead-letter') copy.endedAt ??= sentAt
    }
    const settlements = items.map(({ copy: _, ...settlement }) => settlement)
    const path = `${BASE}/queues/${this.#plan.name}/settlements`
    for (let attempt = 1; attempt <= SETTLE_ATTEMPTS_MAX; attempt++) {
      const answer = await this.#random
        .pick(this.#doors)
        .request('POST', path, { body: { settlements }, timeoutMs: TIMEOUT_MS })
        .catch(() => undefined)
      if (answer?.status === 200) {
        this.#note(items, answer.json.outcomes, attempt === 1)
        return
      }
      if (answer !== undefined && answer.status !== 503) {
        this.#ledger.complain(`settling in ${this.#plan.name}: ${answer.status} ${answer.text}`)
        return
      }
      this.#note(items, [], false)
      await sleep(100)
    }
  }

  /** @param first whether the request was sent once, so that its answer tells all. */
  #note(
    items: readonly { copy: Copy; outcome: string }[],
    outcomes: readonly string[],
    first: boolean,
  ): void {
    const now = performance.now()
    for (const [index, { copy, outcome }] of items.entries()) {
      const told = outcomes[index]
      if (outcome === 'ack') {
        if (told === 'settled') {
          copy.settled++
          copy.settledAt ??= now
        } else if (!first) copy.maybeSettled = true
      } else if (outcome === 'dead-letter') {
        if (told === 'dead-lettered') copy.rejectedAt ??= now
        else if (!first) copy.maybeRejected = true
      }
    }
  }
}

export function idOf(body: string | undefined): string {
  try {
    return (JSON.parse(body ?? '') as { id: string }).id
  } catch {
    return `unreadable: ${body}`
  }
}
