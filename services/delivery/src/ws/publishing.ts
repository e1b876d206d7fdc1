/** Publishes of one WebSocket: checks, confirms, and no more under way than fits. */
import { BrokerError, exchangeName, limits } from '@sluice/core'
import { draftEvent, eventFromJson, readMessage, refusalOf, toMessage } from '@sluice/server'
import type { Published, PublishReply, QueueEntry } from '@sluice/topology'
import type { FrameId, PublishFrame } from './frames.ts'
import type { WsSession } from './session.ts'

/** A publish under way, by its token. */
interface Open {
  readonly id: FrameId
  readonly exchange: string
  /** Of a mandatory message. */
  readonly routingKey: string | undefined
  readonly size: number
}

export class WsPublishing implements PublishReply {
  readonly #session: WsSession
  readonly #open = new Map<number, Open>()
  #nextToken = 1
  #bytes = 0
  #paused = false

  constructor(session: WsSession) {
    this.#session = session
  }

  /** Whether every publish has its confirm. */
  get idle(): boolean {
    return this.#open.size === 0
  }

  /** Throws BrokerError: what is wrong with the message, or not allowed. */
  publish({ id, exchange: named, event, message: fields }: PublishFrame): void {
    const { vhost, context } = this.#session
    const { deps, messageBytesMax, counts } = context
    const exchange = exchangeName(named)
    const { draft, body } = event === undefined ? readMessage(fields, '') : readEvent(fields, event)
    if (body.length > messageBytesMax) {
      throw new BrokerError('message_too_large', `A body has at most ${messageBytesMax} bytes.`)
    }
    const found = deps.topology.table.exchange(vhost, exchange)
    if (found?.internal) {
      throw new BrokerError('forbidden', 'This exchange is internal: only exchanges publish to it.')
    }
    const key = found?.type === 'topic' ? draft.routingKey : undefined
    const refused = this.#session.refusal('write', 'exchange', exchange, key)
    if (refused !== undefined) throw new BrokerError('forbidden', refused)
    const message = toMessage(draft, exchange, body, deps.store.state.clockAheadMs)
    counts.published.bytes.value += body.length
    const token = this.#nextToken++
    const size = body.length + message.properties.length
    const routingKey = draft.mandatory ? draft.routingKey : undefined
    this.#open.set(token, { id, exchange, routingKey, size })
    this.#bytes += size
    this.#pace()
    deps.publisher.publish(vhost, message, this, token)
  }

  published(token: number, outcome: Published, queues: readonly QueueEntry[]): void {
    const { id, exchange, routingKey, size } = this.#open.get(token)!
    this.#open.delete(token)
    this.#bytes -= size
    this.#session.context.counts.published[outcome].value++
    this.#pace()
    const refusal = refusalOf(outcome, { exchange, routingKey })
    if (refusal !== undefined) {
      this.#session.refuse(id, refusal)
      return
    }
    this.#session.send({
      type: 'published',
      id,
      routed: queues.length > 0,
      duplicate: outcome === 'duplicate',
      queues: queues.map(({ definition }) => definition.name),
    })
  }

  /** Reads no further while too much of this client waits for Redis. */
  #pace(): void {
    const { socket } = this.#session
    const { WEBSOCKET_PUBLISHES_MAX: most, WEBSOCKET_PUBLISH_BYTES_MAX: bytesMost } = limits
    const full = this.#open.size >= most || this.#bytes >= bytesMost
    const room = this.#open.size <= most / 2 && this.#bytes <= bytesMost / 2
    if (!this.#paused && full) {
      this.#paused = true
      socket.pause()
    } else if (this.#paused && room) {
      this.#paused = false
      socket.resume()
    }
  }
}

/** A CloudEvent, and what the frame says of it besides. */
function readEvent(fields: Readonly<Record<string, unknown>>, event: unknown) {
  const { draft } = readMessage({ ...fields, body: '' }, '')
  return { draft, body: draftEvent(draft, eventFromJson(event)) }
}
