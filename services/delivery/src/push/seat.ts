/**
 * A pump's place among the consumers of its queue: while it has one the queue is in use, and where
 * only one consumer may be active it knows whether it is. A place that cannot be had, since another
 * consumer is there exclusively or Redis is away, is asked for again until it can.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { BrokerError, type Report } from '@sluice/core'
import type { QueueEntry } from '@sluice/topology'
import type { Registration } from '../registration.ts'

const ASK_AGAIN_MS = 1_000

export type Register = (
  queue: QueueEntry,
  hooks: { active(): void; gone(): void },
) => Promise<Registration | 'exclusive'>

export class Seat {
  readonly #register: Register
  readonly #report: Report
  readonly #changed: () => void
  #queue: QueueEntry | undefined
  #registration: Registration | undefined
  #active = false

  /** @param changed called when `active` has changed. */
  constructor(register: Register, report: Report, changed: () => void) {
    this.#register = register
    this.#report = report
    this.#changed = changed
  }

  /** Whether it may be handed messages of the queue asked for last. */
  get active(): boolean {
    return this.#active
  }

  /** Takes a place in this queue, instead of the one before; undefined: in none. */
  move(queue: QueueEntry | undefined): void {
    if (queue?.store === this.#queue?.store) return
    this.leave().catch(this.#report)
    this.#queue = queue
    if (queue) this.#take(queue).catch(this.#report)
  }

  async leave(): Promise<void> {
    const registration = this.#registration
    this.#queue = undefined
    this.#registration = undefined
    this.#active = false
    await registration?.leave()
  }

  async #take(queue: QueueEntry): Promise<void> {
    while (this.#queue === queue) {
      const registration = await this.#ask(queue)
      if (this.#queue !== queue) {
        await registration?.leave()
      } else if (registration) {
        this.#registration = registration
        this.#set(queue, registration.active)
        return
      } else {
        await sleep(ASK_AGAIN_MS, undefined, { ref: false })
      }
    }
  }

  async #ask(queue: QueueEntry): Promise<Registration | undefined> {
    const hooks = {
      active: () => this.#set(queue, true),
      gone: () => this.#set(queue, false),
    }
    try {
      const registration = await this.#register(queue, hooks)
      return registration === 'exclusive' ? undefined : registration
    } catch (error) {
      if (!(error instanceof BrokerError)) this.#report(error)
      return undefined
    }
  }

  #set(queue: QueueEntry, active: boolean): void {
    if (this.#queue !== queue || this.#active === active) return
    this.#active = active
    this.#changed()
  }
}
