/**
 * One WebSocket connection: who it is, its consumers, what they hold, its publishes.
 *
 * The same promises as the other doors, since it stands on the same feed and the same publisher.
 * Everything a client can make grow has a bound: frames, credit, consumers, publishes under way,
 * and what waits for a client that does not read.
 */
import { BrokerError, limits, retryDelayMs } from '@sluice/core'
import { describePrincipal, type Principal } from '@sluice/security'
import {
  type Deps,
  type Problem,
  type PublishCounts,
  toProblem,
  unauthenticated,
} from '@sluice/server'
import { failureOf } from '@sluice/store'
import type { Count } from '@sluice/telemetry'
import type { WebSocket } from 'ws'
import type { Feeds } from '../feeds.ts'
import { findQueue } from '../find-queue.ts'
import type { Delivery, GiveBack } from '../handing.ts'
import { register } from '../registration.ts'
import { WsConsumer } from './consumer.ts'
import {
  type BrokerFrame,
  type ClientFrame,
  type ConsumeFrame,
  type FrameId,
  idOf,
  type OpenFrame,
  parseFrame,
  readFrame,
  type SettleFrame,
} from './frames.ts'
import { WsPublishing } from './publishing.ts'

/** What all sessions of a process share. */
export interface WsContext {
  readonly deps: Deps
  readonly feeds: Feeds
  readonly messageBytesMax: number
  /** A delivery that is not settled for this long goes back, ms; 0 = never. */
  readonly ackTimeoutMs: number
  readonly counts: WsCounts
}

export interface WsCounts {
  readonly published: PublishCounts
  readonly delivered: Count
  readonly settled: Readonly<Record<SettleFrame['outcome'] | 'stale', Count>>
}

/** Why a connection is closed; 4000 and up are an application's own (RFC 6455, 7.4.2). */
export const CLOSE = {
  serviceRestart: 1012,
  tryAgainLater: 1013,
  malformed: 4400,
  unauthenticated: 4401,
  forbidden: 4403,
  timeout: 4408,
} as const

interface Held {
  readonly delivery: Delivery
  readonly consumer: WsConsumer
  /** When it was sent or extended, ms of the local clock. */
  readonly sinceMs: number
}

/** Not a failed delivery. */
const RELEASED: GiveBack = { action: 'ready', delayMs: 0, failure: '-' }
const CLOSED: GiveBack = {
  action: 'ready',
  delayMs: 0,
  failure: failureOf('+', 'its WebSocket closed'),
}
const TIMED_OUT: GiveBack = {
  action: 'ready',
  delayMs: 0,
  failure: failureOf('+', 'it was not settled in time'),
}

let sessions = 0

export class WsSession {
  readonly context: WsContext
  readonly socket: WebSocket
  readonly #address: string
  /** Names this connection among all of all processes. */
  readonly #id: string
  vhost = ''
  #principal: Principal | undefined
  #unfollow: () => void = () => {}
  #state: 'new' | 'opening' | 'open' | 'draining' | 'closed' = 'new'
  readonly #consumers = new Map<string, WsConsumer>()
  /** Places being taken. */
  readonly #joining = new Set<string>()
  /** By delivery number, oldest first. */
  readonly #held = new Map<number, Held>()
  #nextDelivery = 1
  readonly #publishing = new WsPublishing(this)
  #leaving: Promise<void>[] = []
  readonly #opened: () => void

  /**
   * @param principal whom the request's headers have proven; undefined = the open frame must.
   * @param opened called once, when it is known who is there.
   */
  constructor(
    context: WsContext,
    socket: WebSocket,
    { principal, address }: { principal: Principal | undefined; address: string },
    opened: () => void,
  ) {
    this.context = context
    this.socket = socket
    this.#principal = principal
    this.#address = address
    this.#opened = opened
    this.#id = `${context.deps.store.slot.name}:ws${++sessions}`
  }

  /** Too much waits for the client to read it: nothing more is delivered until it has. */
  get congested(): boolean {
    return this.socket.bufferedAmount >= limits.WEBSOCKET_UNREAD_BYTES_MAX
  }

  get isOpen(): boolean {
    return this.#state === 'open'
  }

  /** What was written has left: there may be room for more. */
  look(): void {
    for (const consumer of this.#consumers.values()) consumer.look()
  }

  /** One text message of the client. */
  receive(text: string): void {
    if (this.#state === 'closed' || this.#state === 'opening') {
      if (this.#state === 'opening') this.end(CLOSE.malformed, 'wait for opened')
      return
    }
    const frame = parseFrame(text)
    if (frame === undefined) {
      this.end(CLOSE.malformed, 'a frame is a JSON object with a type')
    } else if (this.#state === 'new' && frame.type !== 'open') {
      this.end(CLOSE.unauthenticated, 'the first frame is open')
    } else {
      try {
        this.#take(readFrame(frame))
      } catch (error) {
        this.refuse(idOf(frame), error)
      }
    }
  }

  #take(frame: ClientFrame): void {
    switch (frame.type) {
      case 'open':
        if (this.#state !== 'new') throw new BrokerError('invalid_request', 'It is open already.')
        this.#state = 'opening'
        this.#open(frame).catch((error) => {
          const { title, detail } = this.#problem(error)
          this.end(title === 'unauthenticated' ? CLOSE.unauthenticated : CLOSE.forbidden, detail)
        })
        return
      case 'consume':
        this.#consume(frame).catch((error) => this.refuse(frame.id, error))
        return
      case 'credit': {
        const consumer = this.#consumer(frame.consumer)
        consumer.limit = frame.credit
        consumer.look()
        return
      }
      case 'settle':
        this.#settle(frame)
        return
      case 'publish':
        this.#publishing.publish(frame)
        return
      case 'cancel': {
        const consumer = this.#consumer(frame.consumer)
        this.#leave(consumer).then(
          () => this.send({ type: 'cancelled', id: frame.id, consumer: frame.consumer }),
          this.context.deps.report,
        )
        return
      }
      case 'ping':
        this.send({ type: 'pong', id: frame.id })
        return
    }
  }

  async #open({ vhost, authorization }: OpenFrame): Promise<void> {
    const { credentials, topology } = this.context.deps
    if (authorization !== undefined) {
      this.#principal = await credentials.authenticate(authorization, this.#address)
    }
    const principal = this.#principal
    if (principal === undefined) {
      this.#refused(credentials.claimed(authorization), 'login over WebSocket')
      throw unauthenticated(authorization)
    }
    if (!topology.table.hasVhost(vhost)) await topology.refresh()
    const { access } = credentials
    if (!access.enters(principal, vhost) || !topology.table.hasVhost(vhost)) {
      this.#refused(describePrincipal(principal), `enter vhost '${vhost}'`)
      throw new BrokerError('forbidden', `Access to vhost ${JSON.stringify(vhost)} is refused.`)
    }
    if (this.#state !== 'opening') return // it closed meanwhile
    this.vhost = vhost
    this.#unfollow = access.follow(principal, () => this.#review())
    this.#state = 'open'
    this.#opened()
    this.send({
      type: 'opened',
      heartbeatMs: limits.WEBSOCKET_HEARTBEAT_MS,
      ackTimeoutMs: this.context.ackTimeoutMs,
      creditMax: limits.WEBSOCKET_CREDIT_MAX,
      messageBytesMax: this.context.messageBytesMax,
    })
  }

  /** Ends what the client may no longer do. */
  #review(): void {
    const { access } = this.context.deps
    const ended = access.ended(this.#principal!)
    if (ended !== undefined) {
      this.end(CLOSE.unauthenticated, ended)
    } else if (!access.enters(this.#principal!, this.vhost)) {
      this.end(CLOSE.forbidden, 'access to the vhost is refused')
    }
    for (const consumer of this.#consumers.values()) {
      const why = this.refusal('read', 'queue', consumer.entry.definition.name)
      if (why !== undefined) this.cancelled(consumer, new BrokerError('forbidden', why))
    }
  }

  /** Why the client may not do something; undefined when it may. */
  refusal(operation: 'read' | 'write', kind: 'queue' | 'exchange', name: string, key?: string) {
    const grants = this.context.deps.access.grants(this.#principal!, this.vhost)
    const why = grants.refusal(operation, { kind, name }, key)
    const what = `${operation} ${kind} '${name}' in vhost '${this.vhost}'`
    if (why !== undefined) this.#refused(describePrincipal(this.#principal!), what)
    return why
  }

  /** For the audit log. */
  #refused(who: string, what: string): void {
    this.context.deps.audit.note({ who, from: this.#address, what, outcome: 'refused' })
  }

  async #consume(frame: ConsumeFrame): Promise<void> {
    const { consumer: name, queue } = frame
    if (this.#state !== 'open') throw new BrokerError('draining', 'This process is stopping.')
    if (this.#consumers.has(name) || this.#joining.has(name)) {
      throw new BrokerError('in_use', `There is a consumer ${JSON.stringify(name)} already.`)
    }
    if (this.#consumers.size + this.#joining.size >= limits.WEBSOCKET_CONSUMERS_MAX) {
      const text = `A connection has at most ${limits.WEBSOCKET_CONSUMERS_MAX} consumers.`
      throw new BrokerError('too_many_requests', text)
    }
    const refused = this.refusal('read', 'queue', queue)
    if (refused !== undefined) throw new BrokerError('forbidden', refused)
    this.#joining.add(name)
    try {
      await this.#join(frame)
    } finally {
      this.#joining.delete(name)
    }
  }

  async #join(frame: ConsumeFrame): Promise<void> {
    const { deps, feeds } = this.context
    const entry = await findQueue(deps.topology, { vhost: this.vhost, queue: frame.queue })
    if (entry.definition.exclusive !== '') throw inUse(frame.queue)
    const { priority, exclusive } = frame
    const single = entry.definition.arguments['x-single-active-consumer'] === true
    if (single && exclusive) {
      throw new BrokerError('invalid_request', 'A single active consumer cannot be exclusive.')
    }
    const consumer = new WsConsumer(this, entry, frame)
    const registration = await register(
      deps,
      entry,
      `${this.#id}:${frame.consumer}`,
      { priority, exclusive, single },
      { active: () => consumer.attach(feeds), gone: () => this.cancelled(consumer) },
    )
    if (registration === 'exclusive') throw inUse(frame.queue)
    if (!this.isOpen) return registration.leave() // it closed meanwhile
    consumer.registration = registration
    this.#consumers.set(frame.consumer, consumer)
    this.send({ type: 'consuming', id: frame.id, consumer: frame.consumer })
    if (registration.active) consumer.attach(feeds)
  }

  #consumer(name: string): WsConsumer {
    const consumer = this.#consumers.get(name)
    if (consumer) return consumer
    throw new BrokerError('not_found', `There is no consumer ${JSON.stringify(name)}.`)
  }

  deliver(consumer: WsConsumer, delivery: Delivery): void {
    const number = this.#nextDelivery++
    if (!consumer.noAck) {
      consumer.outstanding++
      this.#held.set(number, { delivery, consumer, sinceMs: performance.now() })
    }
    this.context.counts.delivered.value++
    this.send(consumer.shown(number, delivery))
  }

  /** The queue is gone, or may no longer be read. */
  cancelled(consumer: WsConsumer, why?: BrokerError): void {
    if (this.#consumers.get(consumer.name) !== consumer) return
    const { name } = consumer
    const gone = new BrokerError('queue_not_found', 'The queue was deleted.')
    this.#leave(consumer).catch(this.context.deps.report)
    this.send({ type: 'cancelled', consumer: name, problem: toProblem(why ?? gone) })
  }

  /** No further delivery; what it holds may still be settled. */
  #leave(consumer: WsConsumer): Promise<void> {
    this.#consumers.delete(consumer.name)
    consumer.detach()
    return consumer.registration!.leave()
  }

  #settle(frame: SettleFrame): void {
    const stale: number[] = []
    for (const number of frame.deliveries) {
      const held = this.#held.get(number)
      if (held === undefined) {
        stale.push(number)
        continue
      }
      this.context.counts.settled[frame.outcome].value++
      this.#held.delete(number)
      if (frame.outcome === 'extend') {
        this.#held.set(number, { ...held, sinceMs: performance.now() })
      } else if (frame.outcome === 'ack') {
        held.consumer.outstanding--
        held.delivery.feed.ack(held.delivery)
      } else {
        this.#giveBack(held, goesBack(frame, held))
      }
    }
    if (stale.length === 0) return
    this.context.counts.settled.stale.value += stale.length
    const text = `Not held any more: ${stale.slice(0, 20).join(', ')}.`
    this.refuse(undefined, new BrokerError('message_not_found', text))
  }

  #giveBack({ delivery, consumer }: Held, how: GiveBack): void {
    consumer.outstanding--
    delivery.feed.giveBack(delivery, how)
  }

  /** What was not settled within the acknowledgement timeout goes back. */
  expire(nowMs: number): void {
    const { ackTimeoutMs } = this.context
    if (ackTimeoutMs === 0) return
    for (const [number, held] of this.#held) {
      if (nowMs - held.sinceMs < ackTimeoutMs) return
      this.#held.delete(number)
      this.#giveBack(held, TIMED_OUT)
    }
  }

  send(frame: BrokerFrame): void {
    if (this.socket.readyState !== this.socket.OPEN) return
    if (this.socket.bufferedAmount >= 2 * limits.WEBSOCKET_UNREAD_BYTES_MAX + this.#roomForOne) {
      this.socket.terminate() // it asks on and on, and reads no answer
      return
    }
    this.socket.send(JSON.stringify(frame))
  }

  /** A delivery may be as large as that, whatever waits already. */
  get #roomForOne(): number {
    return 2 * this.context.messageBytesMax + limits.PROPERTIES_BYTES_MAX
  }

  refuse(id: FrameId, error: unknown): void {
    const problem = this.#problem(error)
    this.send({ type: 'error', ...(id !== undefined && { id }), problem })
  }

  #problem(error: unknown): Problem {
    const problem = toProblem(error)
    if (problem.status === 500) this.context.deps.report(error)
    return problem
  }

  /** The process stops: nothing more is delivered, and what is held may still be settled. */
  drain(): void {
    if (this.#state === 'closed') return
    this.#state = this.#state === 'open' ? 'draining' : this.#state
    for (const consumer of [...this.#consumers.values()]) this.#leaving.push(this.#leave(consumer))
    this.send({ type: 'draining' })
    if (this.idle) this.stop()
  }

  /** Whether anything is still expected of this client, or by it. */
  get idle(): boolean {
    return this.#held.size === 0 && this.#publishing.idle
  }

  /** The end of a drain. */
  stop(): void {
    for (const held of this.#held.values()) this.#giveBack(held, RELEASED)
    this.#held.clear()
    this.end(CLOSE.serviceRestart, 'this process is stopping')
  }

  /** Tells the client why, and closes. */
  end(code: number, why = ''): void {
    const reason = Buffer.from(why)
      .subarray(0, 120)
      .toString('utf8')
      .replace(/\uFFFD+$/, '')
    this.socket.close(code, reason)
    this.#released()
  }

  /** The socket is closed. Settles once Redis knows of everything. */
  async closed(): Promise<void> {
    this.#released()
    await Promise.all(this.#leaving)
  }

  #released(): void {
    if (this.#state === 'closed') return
    this.#state = 'closed'
    this.#unfollow()
    for (const consumer of [...this.#consumers.values()]) this.#leaving.push(this.#leave(consumer))
    for (const held of this.#held.values()) this.#giveBack(held, CLOSED)
    this.#held.clear()
  }
}

function goesBack(
  frame: Exclude<SettleFrame, { outcome: 'ack' | 'extend' }>,
  { delivery, consumer }: Held,
): GiveBack {
  switch (frame.outcome) {
    case 'release':
      return RELEASED
    case 'dead-letter':
      return { action: 'dead', delayMs: 0, failure: failureOf('+', frame.reason) }
    case 'retry': {
      const { retry } = consumer.entry.settings
      const delayMs = frame.delayMs ?? retryDelayMs(delivery.failed + 1, retry)
      return { action: 'due', delayMs, failure: failureOf('+', frame.reason) }
    }
  }
}

function inUse(queue: string): BrokerError {
  return new BrokerError('in_use', `The queue ${JSON.stringify(queue)} is in exclusive use.`)
}
