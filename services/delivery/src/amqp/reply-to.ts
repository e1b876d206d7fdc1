/**
 * Direct reply-to: answers go straight to the channel that asked, through no queue.
 *
 * A consumer of `amq.rabbitmq.reply-to` gets an address of its own, `amq.rabbitmq.reply-to.<slot>.<n>`.
 * A publish to that address through the default exchange is handed to the channel, here or, over
 * Redis's publish/subscribe, in the process that has it. At most once, as in RabbitMQ: an answer
 * whose asker is gone is dropped (RabbitMQ documentation, direct-reply-to).
 */
import { randomBytes } from 'node:crypto'
import type { Message } from '@sluice/core'
import { encodeRecord, type MessageRecord, type Store } from '@sluice/store'

export const REPLY_TO = 'amq.rabbitmq.reply-to'

/** What is delivered of an answer. */
export type Answer = Pick<MessageRecord, 'exchange' | 'routingKey' | 'properties' | 'body'>

type OnReply = (answer: Answer) => void

export class ReplyTo {
  readonly #store: Store
  readonly #waiting = new Map<string, OnReply>()

  constructor(store: Store) {
    this.#store = store
  }

  /** Starts hearing of answers for this process. */
  open(): Promise<void> {
    return this.#store.onDirect((address, record) => this.#waiting.get(address)?.(record))
  }

  /** An address at which `onReply` hears of answers, until `forget`. */
  address(onReply: OnReply): string {
    // Random, so that nobody guesses where others wait for an answer.
    const address = `${REPLY_TO}.${this.#store.slot.name}.${randomBytes(12).toString('base64url')}`
    this.#waiting.set(address, onReply)
    return address
  }

  forget(address: string): void {
    this.#waiting.delete(address)
  }

  isAddress(routingKey: string): boolean {
    return routingKey.startsWith(`${REPLY_TO}.`)
  }

  /** The queue's name as clients consume it, or an address that they were given. */
  isReplyQueue(name: string): boolean {
    return name === REPLY_TO || this.isAddress(name)
  }

  /**
   * Hands an answer over; false when nobody waits at the address, as far as it is of this process,
   * or when the process that gave it is gone.
   */
  async send(address: string, message: Message): Promise<boolean> {
    const slot = slotOf(address)
    if (slot !== this.#store.slot.name) {
      return this.#store.sendDirect(slot, address, encodeRecord(message))
    }
    const onReply = this.#waiting.get(address)
    onReply?.(message)
    return onReply !== undefined
  }

  /** Whether somebody waits at the address; of another process: whether that one is there. */
  async knows(address: string): Promise<boolean> {
    if (this.#waiting.has(address)) return true
    const slot = slotOf(address)
    return slot !== this.#store.slot.name && this.#store.hearsDirect(slot)
  }
}

const slotOf = (address: string): string => address.slice(REPLY_TO.length + 1).split('.', 1)[0]!
