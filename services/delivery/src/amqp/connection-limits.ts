/**
 * How many connections a vhost and a user may have, and channels a user, over all processes
 * (docs/amqp.md, 9).
 *
 * Each process tells the others, in the note of its heartbeat, how many it has of what is limited.
 * A connection is told of first and then held against what the others told: so no limit is ever
 * exceeded, and of two that come to two processes at once for the last place both may be refused.
 * Channels are held against what the others told a moment ago. A process that is killed is
 * forgotten with its heartbeat, after 10 s.
 */
import { readDocument, UserDocument } from '@sluice/security'
import type { Deps } from '@sluice/server'

/** What is counted, and by whose name. */
type Counted = 'vhost' | 'user' | 'channels'

export class ConnectionLimits {
  readonly #store: Deps['store']
  readonly #topology: Deps['topology']
  /** By what and name, as `idOf` writes them. */
  readonly #here = new Map<string, number>()
  #elsewhere = new Map<string, number>()
  /** The note that the others know. */
  #told = ''
  #looking = false

  constructor({ store, topology }: Pick<Deps, 'store' | 'topology'>) {
    this.#store = store
    this.#topology = topology
    store.slot.note = () => this.#note()
  }

  /**
   * Counts one more. Answers the limit that it would exceed, in which case it is not counted;
   * undefined when there is room. Rejects when Redis does not answer.
   */
  async enter(what: Exclude<Counted, 'channels'>, name: string): Promise<number | undefined> {
    const here = this.#add(what, name, 1)
    try {
      const most = this.#limit(what, name)
      if (most < 0) return undefined
      await this.#exchange()
      if (here + this.#others(what, name) <= most) return undefined
      this.leave(what, name)
      return most
    } catch (error) {
      this.leave(what, name)
      throw error
    }
  }

  /** The same for a channel, by what was last heard of the others. */
  enterChannel(user: string): number | undefined {
    const here = this.#add('channels', user, 1)
    const most = this.#limit('channels', user)
    if (most < 0 || here + this.#others('channels', user) <= most) return undefined
    this.leave('channels', user)
    return most
  }

  leave(what: Counted, name: string): void {
    this.#add(what, name, -1)
  }

  /** Tells the others what has changed here, and hears what they have; to be called often. */
  async look(): Promise<void> {
    const news = this.#note() !== this.#told
    if (this.#looking || (!news && this.#told === '')) return
    this.#looking = true
    try {
      await this.#exchange()
    } finally {
      this.#looking = false
    }
  }

  async #exchange(): Promise<void> {
    const note = this.#note()
    // In this order on one connection: whoever tells later hears of this.
    const [, notes] = await Promise.all([this.#store.slot.tell(), this.#store.slot.notes()])
    this.#told = note
    const elsewhere = new Map<string, number>()
    for (const text of notes) {
      if (text === '') continue
      for (const [id, count] of Object.entries(JSON.parse(text) as Record<string, number>)) {
        elsewhere.set(id, (elsewhere.get(id) ?? 0) + count)
      }
    }
    this.#elsewhere = elsewhere
  }

  #note(): string {
    const limited = [...this.#here].filter(([id]) => this.#limit(...partsOf(id)) >= 0)
    return limited.length === 0 ? '' : JSON.stringify(Object.fromEntries(limited))
  }

  #add(what: Counted, name: string, count: number): number {
    const id = idOf(what, name)
    const after = (this.#here.get(id) ?? 0) + count
    if (after === 0) this.#here.delete(id)
    else this.#here.set(id, after)
    return after
  }

  #others(what: Counted, name: string): number {
    return this.#elsewhere.get(idOf(what, name)) ?? 0
  }

  /** -1 = none. */
  #limit(what: Counted, name: string): number {
    const { table } = this.#topology
    if (what === 'vhost') return table.vhostOptions(name).maxConnections
    const user = readDocument(UserDocument, table.documents.get('user', '', name))
    return (what === 'user' ? user?.maxConnections : user?.maxChannels) ?? -1
  }
}

const idOf = (what: Counted, name: string): string => `${what} ${name}`

function partsOf(id: string): [what: Counted, name: string] {
  const space = id.indexOf(' ')
  return [id.slice(0, space) as Counted, id.slice(space + 1)]
}
