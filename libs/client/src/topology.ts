/** Declaring and looking at vhosts, exchanges, queues, bindings and policies. */
import type { CallOptions, Http } from './http.ts'
import type { HeaderValue } from './message.ts'

/** Arguments of a queue, an exchange or a binding, under RabbitMQ's names: `x-message-ttl`, ... */
export type Arguments = Readonly<Record<string, HeaderValue>>

/** What a queue is declared with; docs/queues.md lists the arguments. */
export interface QueueOptions extends CallOptions {
  /** Default true. */
  readonly durable?: boolean
  /** Deleted with its last consumer. Default false. */
  readonly autoDelete?: boolean
  readonly arguments?: Arguments
}

/** What an exchange is declared with. */
export interface ExchangeOptions extends CallOptions {
  /** Default direct. */
  readonly type?: 'direct' | 'fanout' | 'topic' | 'headers'
  /** Default true. */
  readonly durable?: boolean
  /** Deleted with its last binding. Default false. */
  readonly autoDelete?: boolean
  /** Only exchanges publish to it. Default false. */
  readonly internal?: boolean
  readonly arguments?: Arguments
}

/** From an exchange to a queue, or to another exchange. */
export interface Binding {
  /** The exchange bound from. */
  readonly source: string
  readonly destination: string
  /** Default queue. */
  readonly destinationType?: 'queue' | 'exchange'
  /** The binding key. Default ''. */
  readonly routingKey?: string
  readonly arguments?: Arguments
}

/** Settings for every queue or exchange whose name fits. */
export interface Policy {
  /** A regular expression that finds the names it is for. */
  readonly pattern: string
  /** Default all. */
  readonly applyTo?: 'queues' | 'exchanges' | 'all'
  /** Of several that match, the highest one applies. Default 0. */
  readonly priority?: number
  readonly definition: Arguments
}

/** A queue as it is at the moment. */
export interface QueueInfo {
  readonly name: string
  readonly durable: boolean
  readonly autoDelete: boolean
  readonly arguments: Arguments
  /** The policy that applies. */
  readonly policy?: string
  readonly messages: {
    /** Waiting to be delivered. */
    readonly ready: number
    /** Held by consumers. */
    readonly unacked: number
    /** Waiting for their time, or for a retry. */
    readonly delayed: number
    /** On their way to the dead letters. */
    readonly dead: number
    /** Bytes of ready messages. */
    readonly bytes: number
  }
  /** Counts since the queue was declared. */
  readonly totals: Readonly<Record<string, number>>
}

/** An exchange as it is. */
export interface ExchangeInfo {
  readonly name: string
  readonly type: string
  readonly durable: boolean
  readonly autoDelete: boolean
  readonly internal: boolean
  readonly arguments: Arguments
  readonly policy?: string
}

/** Which part of a list. */
export interface ListOptions extends CallOptions {
  /** Counts from 1. */
  readonly page?: number
  /** At most 500; default 100. */
  readonly pageSize?: number
  /** Only names that contain this. */
  readonly name?: string
  /** Only names in which this regular expression is found. */
  readonly pattern?: string
}

/** A part of a list. */
export interface Page<T> {
  readonly items: readonly T[]
  readonly page: number
  readonly pageSize: number
  /** Items that pass the filter, on all pages. */
  readonly total: number
}

/**
 * What a broker has, and changes to it. Declaring may be repeated; what is there differently is
 * refused with `declaration_conflict`. Deleting what is not there succeeds.
 */
export class Topology {
  readonly #http: Http

  /** Made by `Sluice`. */
  constructor(http: Http) {
    this.#http = http
  }

  /** Declares the client's vhost. Resolves to whether that created it. */
  declareVhost({ signal }: CallOptions = {}): Promise<boolean> {
    return this.#put(this.#http.path(), {}, signal)
  }

  /** Deletes the client's vhost, with all that is in it. */
  async deleteVhost({ signal }: CallOptions = {}): Promise<void> {
    await this.#http.request('DELETE', this.#http.path(), { signal })
  }

  /** Declares a queue. Resolves to whether that created it. */
  declareQueue(name: string, { signal, ...body }: QueueOptions = {}): Promise<boolean> {
    return this.#put(this.#http.path('queues', name), body, signal)
  }

  /** Deletes a queue. Resolves to how many messages went with it. */
  async deleteQueue(
    name: string,
    { signal, ...query }: CallOptions & { ifEmpty?: boolean; ifUnused?: boolean } = {},
  ): Promise<number> {
    const path = this.#http.path('queues', name)
    const { json } = await this.#http.request('DELETE', path, { query, signal })
    return (json as { messages: number }).messages
  }

  /** A queue with its counts. Throws `queue_not_found`. */
  async getQueue(name: string, { signal }: CallOptions = {}): Promise<QueueInfo> {
    const { json } = await this.#http.request('GET', this.#http.path('queues', name), { signal })
    return json as QueueInfo
  }

  /** Queues with their counts. */
  listQueues(options: ListOptions = {}): Promise<Page<QueueInfo>> {
    return this.#list<QueueInfo>('queues', options)
  }

  /** Removes the ready messages of a queue. Resolves to how many. */
  async purgeQueue(name: string, { signal }: CallOptions = {}): Promise<number> {
    const path = this.#http.path('queues', name, 'messages')
    const { json } = await this.#http.request('DELETE', path, { signal })
    return (json as { messages: number }).messages
  }

  /** Declares an exchange. Resolves to whether that created it. */
  declareExchange(name: string, { signal, ...body }: ExchangeOptions = {}): Promise<boolean> {
    return this.#put(this.#http.path('exchanges', name), body, signal)
  }

  /** Deletes an exchange, with its bindings. */
  async deleteExchange(
    name: string,
    { signal, ...query }: CallOptions & { ifUnused?: boolean } = {},
  ): Promise<void> {
    await this.#http.request('DELETE', this.#http.path('exchanges', name), { query, signal })
  }

  /** An exchange. Throws `exchange_not_found`. */
  async getExchange(name: string, { signal }: CallOptions = {}): Promise<ExchangeInfo> {
    const { json } = await this.#http.request('GET', this.#http.path('exchanges', name), { signal })
    return json as ExchangeInfo
  }

  /** The exchanges. */
  listExchanges(options: ListOptions = {}): Promise<Page<ExchangeInfo>> {
    return this.#list<ExchangeInfo>('exchanges', options)
  }

  /** Binds a queue or an exchange. Resolves to whether that created the binding. */
  bind(binding: Binding, { signal }: CallOptions = {}): Promise<boolean> {
    return this.#put(this.#http.path('bindings'), binding, signal)
  }

  /** Deletes the binding that has all these fields. */
  async unbind(binding: Binding, { signal }: CallOptions = {}): Promise<void> {
    const path = this.#http.path('bindings')
    await this.#http.request('DELETE', path, { body: binding, signal })
  }

  /** The bindings, of one exchange or to one queue where that is asked. */
  listBindings(
    options: ListOptions & { source?: string; destination?: string } = {},
  ): Promise<Page<Binding>> {
    return this.#list<Binding>('bindings', options)
  }

  /** Sets a policy. Resolves to whether that created it. */
  setPolicy(name: string, policy: Policy, { signal }: CallOptions = {}): Promise<boolean> {
    return this.#put(this.#http.path('policies', name), policy, signal)
  }

  /** Deletes a policy. */
  async deletePolicy(name: string, { signal }: CallOptions = {}): Promise<void> {
    await this.#http.request('DELETE', this.#http.path('policies', name), { signal })
  }

  async #put(path: string, body: object, signal: AbortSignal | undefined): Promise<boolean> {
    return (await this.#http.request('PUT', path, { body, signal })).status === 201
  }

  async #list<T>(what: string, { signal, ...query }: ListOptions): Promise<Page<T>> {
    const { json } = await this.#http.request('GET', this.#http.path(what), { query, signal })
    return json as Page<T>
  }
}
