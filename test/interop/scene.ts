/**
 * What a scenario is given: a client, names of its own, and an end for whatever it opened.
 */
import {
  type Channel,
  type Client,
  type Connection,
  type ConnectOptions,
  type Delivery,
  type ExchangeOptions,
  type Json,
  type Outgoing,
  type QueueOptions,
  Refused,
} from './client.ts'

/** Returns what was seen; the same on every broker that behaves the same. */
export type Scenario = (scene: Scene) => Promise<Json>

export type Scenarios = Readonly<Record<string, Scenario>>

const CLOSE_MS_MAX = 2_000

export class Scene {
  readonly url: string
  readonly #client: Client
  readonly #prefix: string
  readonly #connections: Connection[] = []
  readonly #queues: string[] = []
  readonly #exchanges: string[] = []
  #first: Promise<Connection> | undefined

  constructor(client: Client, url: string, prefix: string) {
    this.#client = client
    this.url = url
    this.#prefix = prefix
  }

  /** What is left to delete when a scenario has ended. */
  get leftovers(): { readonly queues: readonly string[]; readonly exchanges: readonly string[] } {
    return { queues: this.#queues, exchanges: this.#exchanges }
  }

  /** A name that no other run uses; its prefix does not show in the outcome. */
  name(suffix: string): string {
    return this.#prefix + suffix
  }

  async connect(options?: ConnectOptions, url = this.url): Promise<Connection> {
    const connection = await this.#client.connect(url, options)
    this.#connections.push(connection)
    return connection
  }

  /** A channel on the scenario's first connection. */
  async channel(): Promise<Channel> {
    this.#first ??= this.connect()
    return (await this.#first).channel()
  }

  /** Declares a queue and returns its name. */
  async queue(channel: Channel, suffix = 'queue', options: QueueOptions = {}): Promise<string> {
    const name = this.name(suffix)
    this.#queues.push(name)
    await channel.declareQueue(name, options)
    return name
  }

  /** Declares an exchange and returns its name. */
  async exchange(
    channel: Channel,
    suffix: string,
    type: string,
    options: ExchangeOptions = {},
  ): Promise<string> {
    const name = this.name(suffix)
    this.#exchanges.push(name)
    await channel.declareExchange(name, type, options)
    return name
  }

  async close(): Promise<void> {
    // A library may wait for ever for the answer of a broker that has hung up.
    const closed = Promise.allSettled(this.#connections.map((connection) => connection.close()))
    await Promise.race([closed, sleep(CLOSE_MS_MAX)])
  }

  clean(outcome: Json): Json {
    return cleaned(outcome, this.#prefix, this.url)
  }
}

/** Without the prefix of names, and without what a server makes up. */
export function cleaned(outcome: Json, prefix: string, url: string): Json {
  const text = JSON.stringify(outcome)
    .replaceAll(prefix, '')
    .replaceAll(`'${decodeURIComponent(new URL(url).username)}'`, "'us'")
    .replace(/amq\.(gen|ctag)-[\w-]+/g, 'amq.$1-…')
    .replace(/amq\.rabbitmq\.reply-to\.[\w+/=.-]+/g, 'amq.rabbitmq.reply-to.…')
  return sorted(JSON.parse(text) as Json)
}

/** With the keys of objects in order, so that equal outcomes are equal texts. */
export function sorted(value: Json): Json {
  if (Array.isArray(value)) return value.map(sorted)
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(
    Object.entries(value)
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, inner]) => [name, sorted(inner)]),
  )
}

/** 'allowed', or with what the broker closed the channel or connection. */
export async function refusalOf(work: Promise<unknown>): Promise<Json> {
  try {
    await work
    return 'allowed'
  } catch (error) {
    return shown(error)
  }
}

export function shown(error: unknown): Json {
  if (!(error instanceof Refused)) throw error
  return { code: error.code, text: error.text }
}

/** Publishes texts to a queue, with confirms when the channel has them. */
export async function send(
  channel: Channel,
  queue: string,
  texts: readonly string[],
  properties: Outgoing['properties'] = {},
): Promise<void> {
  for (const body of texts) await channel.publish({ routingKey: queue, body, properties })
}

/** The bodies of everything ready in a queue, which is empty afterwards. */
export async function drain(channel: Channel, queue: string): Promise<string[]> {
  const texts: string[] = []
  for (;;) {
    const got = await channel.get(queue, { noAck: true })
    if (got === undefined) return texts
    texts.push(text(got))
  }
}

export function text({ body }: Pick<Delivery, 'body'>): string {
  return body.toString('utf8')
}

export const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms))

/** Polls until `condition` holds: for what a broker does in its own time. */
export async function eventually(condition: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 30_000
  while (!(await condition())) {
    if (performance.now() > deadline) throw new Error(`still not: ${condition}`)
    await sleep(20)
  }
}

/** Until that many messages are ready in a queue. */
export function ready(channel: Channel, queue: string, count: number): Promise<void> {
  return eventually(async () => (await channel.checkQueue(queue)).messages === count)
}
