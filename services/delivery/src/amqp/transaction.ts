/**
 * A channel's transaction (tx.select): publishes and acknowledgements that wait for tx.commit.
 *
 * What commit gives: every publish is stored before any acknowledgement takes effect, and commit-ok
 * follows all of them. It is not all or nothing when the process or Redis dies in between, nor when
 * a queue refuses a message: then what was stored stays, the acknowledgements have not happened,
 * and the client hears an error (406) instead of commit-ok.
 */
import type { Message } from '@sluice/core'
import type { Held, Outcome, Outstanding } from './outstanding.ts'
import type { Publishing } from './publishing.ts'
import { precondition } from './reply.ts'

/** Publishes and settlements in one transaction, and bytes of the former: they wait in memory. */
const STEPS_MAX = 100_000
const BYTES_MAX = 128 * 1024 * 1024

export class Transaction {
  readonly #publishing: Publishing
  #publishes: { message: Message; mandatory: boolean }[] = []
  #bytes = 0
  #settlements: { held: Held; tag: number; how: Outcome }[] = []
  readonly #outstanding: Outstanding

  constructor(publishing: Publishing, outstanding: Outstanding) {
    this.#publishing = publishing
    this.#outstanding = outstanding
  }

  publish(message: Message, mandatory: boolean): void {
    // What waits must not keep the socket's buffer it is a view of.
    const { properties, body } = message
    const kept = { properties: Buffer.from(properties), body: Buffer.from(body) }
    this.#publishes.push({ message: { ...message, ...kept }, mandatory })
    this.#bytes += properties.length + body.length
    this.#bound()
  }

  /** Holds a settlement back; the delivery is no longer outstanding meanwhile. */
  settle(held: Held, tag: number, how: Outcome): void {
    this.#settlements.push({ held, tag, how })
    this.#bound()
  }

  async commit(): Promise<void> {
    const publishes = this.#publishes
    this.#publishes = []
    this.#bytes = 0
    const stored = await Promise.all(
      publishes.map(({ message, mandatory }) => this.#publishing.sendOne(message, mandatory)),
    )
    if (stored.includes(false)) throw precondition('partial tx completion')
    const settlements = this.#settlements
    this.#settlements = []
    for (const { held, how } of settlements) this.#outstanding.end(held, how)
  }

  /** 58: what was acknowledged is unacknowledged again; nothing is requeued. */
  rollback(): void {
    this.#publishes = []
    this.#bytes = 0
    const settlements = this.#settlements
    this.#settlements = []
    this.#outstanding.restore(settlements.map(({ held, tag }) => [held, tag]))
  }

  #bound(): void {
    if (this.#publishes.length + this.#settlements.length > STEPS_MAX) {
      throw precondition(`a transaction has at most ${STEPS_MAX} steps`)
    }
    // One message alone may be as large as a message may be.
    if (this.#bytes > BYTES_MAX && this.#publishes.length > 1) {
      throw precondition(`a transaction has at most ${BYTES_MAX} bytes`)
    }
  }
}
