/**
 * The pumps of this process: one for each subscription of every vhost, which follow its document
 * and its queue. Every process runs all of them; what they share is in Redis.
 */
import { onAbort, type Running } from '@sluice/core'
import type { Deps } from '@sluice/server'
import { type Count, QUEUES_MEASURED_MAX } from '@sluice/telemetry'
import type { Json, NamedDocument } from '@sluice/topology'
import type { Feeds } from '../feeds.ts'
import { register } from '../registration.ts'
import type { Guard } from './guard.ts'
import { Pump, type PumpState } from './pump.ts'
import { answerKeeper } from './replay.ts'
import { Endpoint } from './send.ts'
import { Subscription, type Verdict } from './subscription.ts'

/** Changes of the topology within this are looked at together, ms. */
const FOLLOW_MS = 50
/** What is under way when the process stops may end within this, ms; then it is broken off. */
const FINISH_MS_MAX = 5_000

interface Followed {
  readonly pump: Pump
  /** As it was parsed: the same object as long as nobody changed it. */
  value: Json
  subscription: Subscription
}

export class Pumps {
  readonly #deps: Deps
  readonly #feeds: Feeds
  readonly #guard: Guard
  /** By vhost and name. */
  readonly #running = new Map<string, Followed>()
  /** Documents that no version of ours wrote, said once. */
  readonly #strange = new WeakSet<object>()
  readonly #measured = new Set<string>()
  readonly #attempts: Readonly<Record<Verdict, Count>>
  readonly #closing = new Set<Promise<void>>()
  #timer: NodeJS.Timeout | undefined

  constructor(deps: Deps, feeds: Feeds, guard: Guard) {
    this.#deps = deps
    this.#feeds = feeds
    this.#guard = guard
    const count = (outcome: Verdict) => deps.metrics.count('pushAttempts', { outcome })
    this.#attempts = {
      ack: count('ack'),
      retry: count('retry'),
      'dead-letter': count('dead-letter'),
    }
  }

  /** Runs until the signal aborts, and what is under way then has ended. */
  async run(signal: AbortSignal): Promise<Running> {
    const unwatch = this.#deps.topology.watch(() => this.#followSoon())
    this.#follow()
    const { promise, resolve } = Promise.withResolvers<void>()
    onAbort(signal, () => {
      unwatch()
      clearTimeout(this.#timer)
      for (const key of [...this.#running.keys()]) this.#stop(key)
      Promise.all(this.#closing).then(() => resolve(), this.#deps.report)
    })
    return { closed: promise }
  }

  /** What a subscription does in this process; undefined when it does nothing here. */
  state(vhost: string, name: string): PumpState | undefined {
    return this.#running.get(keyOf(vhost, name))?.pump.state
  }

  #followSoon(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined
      this.#follow()
    }, FOLLOW_MS)
  }

  #follow(): void {
    const { table } = this.#deps.topology
    const gone = new Set(this.#running.keys())
    for (const vhost of table.vhosts()) {
      for (const document of table.documents.list('subscription', vhost)) {
        const key = keyOf(vhost, document.name)
        const running = this.#current(key, vhost, document)
        if (!running) continue
        gone.delete(key)
        const { pump, subscription } = running
        pump.configure(subscription, table.queue(vhost, subscription.queue))
      }
    }
    for (const key of gone) this.#stop(key)
  }

  /** The pump of a document, as it says at present; undefined when it is none of ours. */
  #current(key: string, vhost: string, { name, value }: NamedDocument): Followed | undefined {
    const running = this.#running.get(key)
    if (running?.value === value) return running
    const parsed = Subscription.safeParse(value)
    if (!parsed.success) {
      const strange = value as object
      if (!this.#strange.has(strange)) {
        this.#strange.add(strange)
        const why = parsed.error.message
        this.#deps.log.warn({ vhost, subscription: name, why }, 'a subscription cannot be read')
      }
      return undefined
    }
    const subscription = parsed.data
    if (running) return Object.assign(running, { value, subscription })
    const started = { pump: this.#start(vhost, name, subscription), value, subscription }
    this.#running.set(key, started)
    return started
  }

  #start(vhost: string, name: string, subscription: Subscription): Pump {
    const { metrics, report, store, topology } = this.#deps
    this.#measure(vhost, name)
    return new Pump(
      {
        budget: store.budget(vhost, name),
        feeds: this.#feeds,
        report,
        open: (subscription) =>
          new Endpoint(vhost, name, subscription, this.#guard, {
            replayed: answerKeeper(
              store.requests,
              vhost,
              () => topology.table.queue(vhost, subscription.queue)?.store.sealing.key,
              report,
            ),
          }),
        register: (queue, hooks) => {
          const single = queue.definition.arguments['x-single-active-consumer'] === true
          const place = { priority: 0, exclusive: false, single }
          return register(this.#deps, queue, `push:${name}:${store.slot.name}`, place, hooks)
        },
        timeOfDayMs: () => Date.now() + store.state.clockAheadMs,
        attempted: ({ verdict }) => {
          this.#attempts[verdict].value++
        },
        throttled: (reason) => {
          metrics.count('pushThrottled', { reason }).value++
        },
      },
      subscription,
    )
  }

  #stop(key: string): void {
    const { pump } = this.#running.get(key)!
    this.#running.delete(key)
    const closing = pump.close(FINISH_MS_MAX).finally(() => this.#closing.delete(closing))
    this.#closing.add(closing)
    closing.catch(this.#deps.report)
  }

  /** Gauges of a subscription, for the first of them; they are silent once it is gone. */
  #measure(vhost: string, subscription: string): void {
    const key = keyOf(vhost, subscription)
    if (this.#measured.has(key) || this.#measured.size >= QUEUES_MEASURED_MAX) return
    this.#measured.add(key)
    const { metrics } = this.#deps
    const labels = { vhost, subscription }
    const state = () => this.state(vhost, subscription)
    metrics.gauge('pushInFlight', labels, () => state()?.inFlight)
    metrics.gauge('pushLimit', labels, () => state()?.limit)
    metrics.gauge('pushBreaker', labels, () => {
      const now = state()
      return now && (now.breaker === 'open' ? 1 : 0)
    })
  }
}

const keyOf = (vhost: string, name: string) => JSON.stringify([vhost, name])
