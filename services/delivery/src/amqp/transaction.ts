/**
 * A channel's transaction (tx.select): publishes and acknowledgements that wait for tx.commit.
 *
 * What commit gives: every publish is stored before any acknowledgement takes effect, and commit-ok
 * follows all of them. It is not all or nothing when the process or Redis dies in between, nor when
 * a queue refuses a message: then what was stored stays, the acknowledgements have not happened, and
 * the client hears an error (406) instead of commit-ok.
 */
import type { Message } from '@sluice/core'
import type { Publishing } from './publishing.ts'
import { precondition } from './reply.ts'

/** Publishes and settlements in one transaction: they wait in memory. */
const STEPS_MAX = 100_000

export class Transaction {
  readonly #publishing: Publishing
  #publishes: { message: Message; mandatory: boolean }[] = []
  #settlements: (() => void)[] = []

  constructor(publishing: Publishing) {
    this.#publishing = publishing
  }

  publish(message: Message, mandatory: boolean): void {
    this.#bound()
    // What waits must not keep the socket's buffer it is a view of.
    const { properties, body } = message
    const kept = { properties: Buffer.from(properties), body: Buffer.from(body) }
    this.#publishes.push({ message: { ...message, ...kept }, mandatory })
  }

  settle(settlement: () => void): void {
    this.#bound()
    this.#settlements.push(settlement)
  }

  async commit(): Promise<void> {
    const publishes = this.#publishes
    const settlements = this.#settlements
    this.#publishes = []
    this.#settlements = []
    const stored = await Promise.all(
      publishes.map(({ message, mandatory }) => this.#publishing.sendOne(message, mandatory)),
    )
    if (stored.includes(false)) throw precondition('partial tx completion')
    for (const settle of settlements) settle()
  }

  /** 58: what was acknowledged is unacknowledged again; nothing is requeued. */
  rollback(): void {
    this.#publishes = []
    this.#settlements = []
  }

  #bound(): void {
    if (this.#publishes.length + this.#settlements.length >= STEPS_MAX) {
      throw precondition(`a transaction has at most ${STEPS_MAX} steps`)
    }
  }
}
