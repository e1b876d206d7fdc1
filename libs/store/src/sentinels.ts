/**
 * The primary that sentinels name, and connections that follow it.
 *
 * The client's own way is not used: told of a failover while it asks for the primary, it ends for
 * good; and it believes the first sentinel that answers, which may not have heard yet, so that it
 * may write to a primary that was replaced and comes back.
 */
import { connect as connectTcp, type Socket } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { type ConnectionOptions, connect as connectTls } from 'node:tls'
import { AbstractConnector, Redis, type RedisOptions } from 'ioredis'

interface Address {
  readonly host: string
  readonly port: number
}

export interface SentinelsOptions {
  readonly hosts: readonly Address[]
  /** What they call the primary and its replicas. */
  readonly name: string
  readonly username?: string | undefined
  readonly password?: string | undefined
  /** For sentinels and the primary. */
  readonly tls?: ConnectionOptions | undefined
  /** How long to wait before the next attempt, ms. */
  readonly retryStrategy: (attempt: number) => number
}

/** How often they are asked who is the primary, besides hearing of each failover, ms. */
const LOOK_MS = 1_000
const ANSWER_MS_MAX = 1_000
/** A connection that is left has this long to end in order, ms. */
const END_MS_MAX = 2_000

/** Asked and heard only while there are followers. */
export class Sentinels {
  readonly options: SentinelsOptions
  readonly #followers = new Set<Follower>()
  #asked: Redis[] = []
  #heard: Redis[] = []
  #timer: NodeJS.Timeout | undefined
  /** What was last wrong with one of them; for whoever reads an error. */
  why = ''

  constructor(options: SentinelsOptions) {
    this.options = options
  }

  add(follower: Follower): void {
    if (this.#followers.size === 0) this.#open()
    this.#followers.add(follower)
  }

  remove(follower: Follower): void {
    if (this.#followers.delete(follower) && this.#followers.size === 0) this.#close()
  }

  /**
   * Where the primary is. Of what more than half of them say, or all that answer in time, the
   * newest configuration counts; undefined when nobody knows.
   */
  primary(): Promise<Address | undefined> {
    const { name } = this.options
    const asked = this.#asked
    if (asked.length === 0) return Promise.resolve(undefined)
    return new Promise((resolve) => {
      let newest: { readonly address: Address; readonly epoch: number } | undefined
      let [answered, silent] = [0, 0]
      const settle = () => {
        const enough = answered > asked.length / 2 || answered + silent === asked.length
        if (enough) resolve(newest?.address)
      }
      for (const sentinel of asked) {
        ask(sentinel, name).then(
          (answer) => {
            answered++
            if (newest === undefined || answer.epoch > newest.epoch) newest = answer
            settle()
          },
          (error: Error) => {
            // That says only how often it was tried: the connection's own error is known.
            if (error.name !== 'MaxRetriesPerRequestError') this.why = error.message
            silent++
            settle()
          },
        )
      }
    })
  }

  #open(): void {
    for (const host of this.options.hosts) {
      const asked = openSentinel(host, this.options)
      this.#asked.push(asked)
      asked.on('error', ({ message }) => {
        this.why = message
      })
      const heard = openSentinel(host, this.options)
      this.#heard.push(heard)
      heard.on('message', () => this.#look())
      heard.subscribe('+switch-master').catch(() => {}) // it is asked, too
    }
    this.#timer = setInterval(() => this.#look(), LOOK_MS).unref()
  }

  #close(): void {
    clearInterval(this.#timer)
    for (const redis of [...this.#asked, ...this.#heard]) redis.disconnect()
    this.#asked = []
    this.#heard = []
  }

  async #look(): Promise<void> {
    const primary = await this.primary()
    if (primary === undefined) return
    for (const follower of this.#followers) follower.follow(primary)
  }
}

/** @throws when it is silent, or knows no such primary. */
async function ask(sentinel: Redis, name: string) {
  const [address, state] = await Promise.all([
    sentinel.call('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', name),
    sentinel.call('SENTINEL', 'MASTER', name),
  ])
  const [host, port] = address as [string, string]
  const fields = state as string[]
  const epoch = Number(fields[fields.indexOf('config-epoch') + 1])
  return { address: { host, port: Number(port) }, epoch }
}

function openSentinel(host: Address, options: SentinelsOptions): Redis {
  const { username, password, tls, retryStrategy } = options
  const redis = new Redis({
    ...host,
    ...(username !== undefined && { username }),
    ...(password !== undefined && { password }),
    ...(tls !== undefined && { tls }),
    connectTimeout: ANSWER_MS_MAX,
    commandTimeout: ANSWER_MS_MAX,
    maxRetriesPerRequest: 1,
    enableReadyCheck: false,
    replyMapping: 'legacy',
    retryStrategy,
  })
  redis.on('error', () => {}) // the others are asked
  return redis
}

interface Follower {
  /** Ends the connection when it leads elsewhere. */
  follow(primary: Address): void
}

/** For `Redis`: connects to the primary, and ends the connection once that is another. */
export function connectorTo(sentinels: Sentinels): NonNullable<RedisOptions['Connector']> {
  return class SentinelConnector extends AbstractConnector implements Follower {
    #address: Address | undefined

    constructor() {
      super(END_MS_MAX)
    }

    override async connect(emit: (type: string, error: Error) => void): Promise<Socket> {
      this.connecting = true
      this.#address = undefined
      sentinels.add(this)
      const { name, retryStrategy } = sentinels.options
      for (let attempt = 1; this.connecting; attempt++) {
        const primary = await sentinels.primary()
        if (!this.connecting) break
        if (primary !== undefined) return this.#connectTo(primary)
        emit(
          'error',
          new Error(`No sentinel that answers knows a primary '${name}': ${sentinels.why}`),
        )
        await sleep(retryStrategy(attempt))
      }
      throw new Error('Connection is closed.') // told to end meanwhile
    }

    #connectTo(primary: Address): Socket {
      const { tls } = sentinels.options
      const stream = tls ? connectTls({ ...tls, ...primary }) : connectTcp(primary)
      stream.once('error', (error) => {
        this.firstError = error
      })
      stream.once('close', () => sentinels.remove(this))
      this.stream = stream
      this.#address = primary
      return stream
    }

    /** What was replaced may come back as a replica: it refuses what is written. */
    override check({ role }: { readonly role?: string }): boolean {
      return role === undefined || role === 'master'
    }

    override disconnect(): void {
      super.disconnect()
      if (this.#address === undefined) sentinels.remove(this)
    }

    follow({ host, port }: Address): void {
      const at = this.#address
      // At once: what a primary that was replaced still answers is not true any more.
      if (at !== undefined && (at.host !== host || at.port !== port)) this.stream.destroy()
    }
  }
}
