/**
 * One WebSocket to the broker for many consumers and publishes; connects again by itself.
 *
 * A connection that breaks loses its deliveries: they come again, and the signal of each aborts.
 * Its publishes are sent again with their keys. docs/websocket.md lists the frames.
 */
import type { RawDelivery, Sink, Source } from './consumer.ts'
import type { Settlement } from './delivery.ts'
import { asObject, problemError, SluiceError } from './errors.ts'
import type { CallOptions, Http } from './http.ts'
import { type Body, type MessageOptions, messageFields, placeOf, type Target } from './message.ts'
import { type Receipt, receiptOf } from './publish.ts'
import { backoffMs, sleep } from './wait.ts'

/** Publishes of one socket that may wait for their confirm; then `publish` waits. */
const PUBLISHES_MAX = 1_000
/** Deliveries that one frame settles at most. */
const SETTLE_MAX = 1_000

/** Close codes after which connecting again would end alike. */
const FATAL: Readonly<Record<number, string>> = {
  4400: 'invalid_request',
  4401: 'unauthenticated',
  4403: 'forbidden',
}

type Frame = Readonly<Record<string, unknown>>

interface Subscription {
  readonly frame: Frame
  readonly sink: Sink
  readonly held: Map<number, RawDelivery>
  /** Takes nothing more; what it holds is still settled. */
  stopped: boolean
}

interface Pending {
  readonly frame: Frame
  readonly done: (answer: Frame) => void
  readonly failed: (error: unknown) => void
  tries: number
}

/** Made by `Sluice.socket`; `Sluice.consume` uses one of its own. */
export class Socket {
  readonly #http: Http
  readonly #kept: boolean
  #socket: WebSocket | undefined
  #open = false
  #closed: SluiceError | undefined
  #connecting: Promise<void> | undefined
  #failures = 0
  #nextId = 1
  readonly #subscriptions = new Map<string, Subscription>()
  readonly #publishes = new Map<number, Pending>()
  readonly #answers = new Map<number, (frame: Frame) => void>()
  #room: (() => void)[] = []
  /** Settlements of this turn, by what they say. */
  #settlements = new Map<string, { settlement: object; deliveries: number[] }>()
  #heartbeat: ReturnType<typeof setInterval> | undefined
  #extending: ReturnType<typeof setInterval> | undefined
  #heard = false
  /** Most unsettled deliveries that the broker lets a consumer have. */
  #creditMax = 0
  readonly #end = new AbortController()

  /** @param kept whether it stays connected while nobody consumes. */
  constructor(http: Http, kept: boolean) {
    this.#http = http
    this.#kept = kept
  }

  /** Publishes over the socket; resolves once the message is stored. Rejects with SluiceError. */
  async publish(
    target: Target,
    body: Body,
    { signal, ...options }: MessageOptions & CallOptions = {},
  ): Promise<Receipt> {
    const fields = messageFields(target, body, options, this.#http.options.trace?.())
    while (this.#publishes.size >= PUBLISHES_MAX && !this.#closed) {
      await new Promise<void>((resolve) => this.#room.push(resolve))
    }
    if (this.#closed) throw this.#closed
    signal?.throwIfAborted()
    const id = this.#nextId++
    const frame = { type: 'publish', id, exchange: placeOf(target).exchange, ...fields }
    const abort = () => this.#publishes.get(id)?.failed(signal?.reason)
    const answer = new Promise<Frame>((done, failed) => {
      this.#publishes.set(id, { frame, done, failed, tries: 1 })
    })
    signal?.addEventListener('abort', abort, { once: true })
    this.#send(frame)
    try {
      return receiptOf(await answer)
    } finally {
      signal?.removeEventListener('abort', abort)
      this.#publishes.delete(id)
      for (const go of this.#room.splice(0)) go()
    }
  }

  /** For `Sluice.consume`: deliveries of one queue. */
  source(queue: string, options: { priority?: number; exclusive?: boolean }): Source {
    const consumer = `c${this.#nextId++}`
    return {
      start: (sink, credit) => {
        const { priority = 0, exclusive = false } = options
        const frame = { type: 'consume', consumer, queue, credit, priority, exclusive }
        this.#subscriptions.set(consumer, { frame, sink, held: new Map(), stopped: false })
        if (this.#closed) sink.failed(this.#closed)
        else if (this.#open) this.#consume(consumer)
        else this.#connect()
      },
      stop: async () => {
        const subscription = this.#subscriptions.get(consumer)
        if (!subscription) return
        subscription.stopped = true
        if (this.#open) await this.#ask({ type: 'cancel', consumer })
      },
      close: async () => {
        this.#flush()
        // What was settled has reached the broker once it answers what was sent behind it.
        if (this.#open) await this.#ask({ type: 'ping' })
        this.#subscriptions.delete(consumer)
        if (!this.#kept && this.#subscriptions.size === 0) this.#hangUp()
      },
    }
  }

  /** Nobody needs the connection at the moment. */
  #hangUp(): void {
    const socket = this.#socket
    this.#lost(new SluiceError('closed', 'Nobody consumes.'))
    this.#failures = 0 // nothing failed: the next one connects at once
    socket?.close()
  }

  /** Ends the connection; deliveries that are not settled come again. */
  async close(): Promise<void> {
    this.#flush()
    this.#fail(new SluiceError('closed', 'The socket was closed.'))
    await this.#connecting
  }

  /** The same as `close`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #connect(): void {
    if (this.#connecting || this.#closed || this.#open) return
    this.#connecting = this.#keepTrying().finally(() => {
      this.#connecting = undefined
    })
  }

  async #keepTrying(): Promise<void> {
    while (!this.#closed && !this.#open) {
      try {
        if (this.#failures > 0) {
          await sleep(backoffMs(this.#failures, this.#http.retry), this.#end.signal)
        }
        this.#failures++
        await this.#connectOnce()
      } catch (error) {
        for (const { sink } of this.#subscriptions.values()) sink.hint(error)
      }
    }
  }

  async #connectOnce(): Promise<void> {
    const authorization = await this.#http.authorization()
    const { options, vhost } = this.#http
    const Implementation = options.WebSocket ?? globalThis.WebSocket
    const socket = new Implementation(this.#http.webSocketUrl, 'sluice.v1')
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const giveUp = () => socket.close()
    const late = setTimeout(giveUp, options.timeoutMs ?? 30_000)
    this.#end.signal.addEventListener('abort', giveUp, { once: true })
    socket.onopen = () => {
      socket.send(JSON.stringify({ type: 'open', vhost, authorization }))
    }
    socket.onmessage = ({ data }) => {
      const frame = asObject(JSON.parse(String(data)))
      this.#heard = true
      if (frame['type'] !== 'opened') {
        this.#receive(frame)
        return
      }
      this.#opened(socket, frame)
      resolve()
    }
    socket.onclose = ({ code, reason }) => {
      const fatal = FATAL[code]
      const text = reason || 'The connection to the broker is closed.'
      const error = new SluiceError(fatal ?? 'connection_failed', text)
      if (fatal !== undefined) this.#fail(error)
      else if (this.#socket === socket) this.#lost(error)
      reject(error)
    }
    try {
      await promise
    } finally {
      clearTimeout(late)
      this.#end.signal.removeEventListener('abort', giveUp)
    }
  }

  #opened(socket: WebSocket, { heartbeatMs, ackTimeoutMs, creditMax }: Frame): void {
    if (this.#closed) {
      socket.close()
      return
    }
    this.#socket = socket
    this.#open = true
    this.#heard = true
    this.#creditMax = Number(creditMax)
    this.#heartbeat = setInterval(() => this.#beat(), Number(heartbeatMs))
    if (Number(ackTimeoutMs) > 0) {
      this.#extending = setInterval(() => this.#extend(), Number(ackTimeoutMs) / 3)
    }
    for (const [consumer, { stopped }] of this.#subscriptions) {
      if (!stopped) this.#consume(consumer)
    }
    for (const { frame } of this.#publishes.values()) this.#send(frame)
  }

  /** A half-open connection answers nothing. */
  #beat(): void {
    if (!this.#heard) {
      const socket = this.#socket
      this.#lost(new SluiceError('connection_failed', 'The broker is silent.'))
      socket?.close()
      return
    }
    this.#heard = false
    this.#failures = 0 // it has lasted: the next one is tried soon
    this.#send({ type: 'ping' })
  }

  #extend(): void {
    const held = [...this.#subscriptions.values()].flatMap(({ held }) => [...held.keys()])
    for (let at = 0; at < held.length; at += SETTLE_MAX) {
      const deliveries = held.slice(at, at + SETTLE_MAX)
      this.#send({ type: 'settle', deliveries, outcome: 'extend' })
    }
  }

  /** Everything of the connection is gone; what is wanted is asked for again on the next. */
  #lost(error: SluiceError): void {
    this.#open = false
    this.#socket = undefined
    clearInterval(this.#heartbeat)
    clearInterval(this.#extending)
    this.#settlements.clear()
    for (const answer of this.#answers.values()) answer({})
    this.#answers.clear()
    for (const { held, sink } of this.#subscriptions.values()) {
      for (const { lost } of held.values()) lost.abort(error)
      held.clear()
      sink.hint(error)
    }
    if (this.#subscriptions.size > 0 || this.#publishes.size > 0) this.#connect()
  }

  /** For good. */
  #fail(error: SluiceError): void {
    if (this.#closed) return
    this.#closed = error
    const socket = this.#socket
    this.#lost(error)
    socket?.close()
    this.#end.abort(error)
    for (const { sink } of this.#subscriptions.values()) sink.failed(error)
    for (const { failed } of this.#publishes.values()) failed(error)
    for (const go of this.#room.splice(0)) go()
  }

  #receive(frame: Frame): void {
    const { type, id, consumer } = frame
    const subscription = this.#subscriptions.get(String(consumer))
    const answer = typeof id === 'number' ? this.#answers.get(id) : undefined
    if (type === 'deliver') {
      if (subscription) this.#deliver(subscription, frame)
    } else if (type === 'published' || (type === 'error' && this.#publishes.has(Number(id)))) {
      this.#published(Number(id), frame)
    } else if (answer) {
      this.#answers.delete(Number(id))
      answer(frame)
    } else if (type === 'cancelled' && subscription) {
      this.#subscriptions.delete(String(consumer))
      subscription.sink.failed(problemError(frame['problem'], 0))
    } else if (type === 'error') {
      const error = problemError(frame['problem'], 0)
      for (const { sink } of this.#subscriptions.values()) sink.hint(error)
    }
  }

  #deliver(subscription: Subscription, frame: Frame): void {
    const { held, sink } = subscription
    const number = Number(frame['delivery'])
    const settle = (settlement: Settlement) => {
      if (held.delete(number)) this.#settle(number, settlement)
    }
    const raw = { fields: frame, lost: new AbortController(), settle }
    held.set(number, raw)
    sink.deliver(raw)
  }

  /** What ends alike in one turn goes in one frame. */
  #settle(number: number, settlement: Settlement): void {
    if (this.#settlements.size === 0) queueMicrotask(() => this.#flush())
    const key = JSON.stringify(settlement)
    const known = this.#settlements.get(key)
    if (known && known.deliveries.length < SETTLE_MAX) known.deliveries.push(number)
    else {
      if (known) this.#flush()
      this.#settlements.set(key, { settlement, deliveries: [number] })
    }
  }

  #flush(): void {
    for (const { settlement, deliveries } of this.#settlements.values()) {
      this.#send({ type: 'settle', deliveries, ...settlement })
    }
    this.#settlements.clear()
  }

  #published(id: number, frame: Frame): void {
    const pending = this.#publishes.get(id)
    if (!pending) return // given up on
    if (frame['type'] === 'published') {
      pending.done(frame)
      return
    }
    const error = problemError(frame['problem'], 0)
    if (!error.retriable || pending.tries >= this.#http.retry.attemptsMax) {
      pending.failed(error)
      return
    }
    const waitMs = backoffMs(pending.tries++, this.#http.retry)
    sleep(waitMs, this.#end.signal).then(
      () => this.#publishes.has(id) && this.#send(pending.frame),
      pending.failed,
    )
  }

  #consume(consumer: string): void {
    const { frame } = this.#subscriptions.get(consumer)!
    const credit = Math.min(Number(frame['credit']), this.#creditMax)
    this.#ask({ ...frame, credit }).then(
      () => {},
      (error) => {
        const subscription = this.#subscriptions.get(consumer)
        if (!subscription) return
        const later = error instanceof SluiceError && error.retriable
        if (!later) this.#subscriptions.delete(consumer)
        if (later) subscription.sink.hint(error)
        else subscription.sink.failed(error)
      },
    )
  }

  /** Sends a frame and waits for its answer; resolves as well when the connection breaks. */
  #ask(frame: Frame): Promise<Frame> {
    const id = this.#nextId++
    return new Promise((resolve, reject) => {
      this.#answers.set(id, (answer) => {
        if (answer['type'] === 'error') reject(problemError(answer['problem'], 0))
        else resolve(answer)
      })
      this.#send({ ...frame, id })
    })
  }

  #send(frame: Frame): void {
    if (this.#open) this.#socket!.send(JSON.stringify(frame))
    else this.#connect()
  }
}
