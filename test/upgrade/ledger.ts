/**
 * What clients sent and what came, kept outside the broker, and what must be true of it.
 *
 * A body is 'queue publisher number': all that is to be known of a message is in it.
 */

/** Messages of a publisher that share an ordering key. */
const KEYS = 3
/** Every one of so many fails until it is a dead letter. */
const POISON_EVERY = 10
export const DELAY_MS = 200
/** Redis counts whole milliseconds. */
const CLOCK_MS = 2
/** A run that goes wrong tells enough by that. */
const WRONG_MAX = 50

export const QUEUES = {
  plain: {},
  keyed: { 'x-ordering-key': true },
  failing: { 'x-delivery-limit': 4, 'x-retry': { base: 50, factor: 1, max: 50, jitter: 0 } },
  later: {},
} as const

export const bodyOf = (queue: string, publisher: string, number: number) =>
  `${queue} ${publisher} ${number}`

export function keyOf(body: string): string {
  const [, publisher, number] = body.split(' ')
  return `${publisher} ${Number(number) % KEYS}`
}

export function isPoison(body: string): boolean {
  const [queue, , number] = body.split(' ')
  return queue === 'failing' && Number(number) % POISON_EVERY === 0
}

export class Ledger {
  /** What went otherwise than it must. */
  readonly wrong: string[] = []
  /** When each was sent, ms of the monotonic clock. */
  readonly #sentAt = new Map<string, number>()
  readonly #confirmed = new Set<string>()
  /** Sent, and whether they are stored is not known. */
  readonly #uncertain = new Set<string>()
  /** Came without being marked as delivered before. */
  readonly #first = new Set<string>()
  /** How often each came. */
  readonly #came = new Map<string, number>()
  /** Confirmed, and did not come. */
  readonly #missing = new Set<string>()
  /** Of each key the last that came. */
  readonly #last = new Map<string, number>()
  /** What was seen of a publisher's messages to a queue, by 'queue publisher'. */
  readonly #seen = new Map<string, Set<number>>()

  sent(body: string): void {
    this.#sentAt.set(body, performance.now())
  }

  confirmed(body: string): void {
    this.#confirmed.add(body)
    if (!this.#came.has(body)) this.#missing.add(body)
  }

  /** It may be stored yet, behind what its publisher sends after it. */
  uncertain(body: string): void {
    this.#uncertain.add(body)
  }

  came(body: string, redelivered: boolean): void {
    const [queue, , number] = body.split(' ')
    const sentAt = this.#sentAt.get(body)
    const times = this.#came.get(body) ?? 0
    this.#came.set(body, times + 1)
    this.#missing.delete(body)
    if (sentAt === undefined) this.complain(`${body} came, and nobody sent it`)
    // Over two sockets the second delivery may be read before the first.
    if (!redelivered && this.#first.has(body)) {
      this.complain(`${body} came again and does not say so`)
    }
    if (!redelivered) this.#first.add(body)
    if (queue === 'later' && performance.now() < (sentAt ?? 0) + DELAY_MS - CLOCK_MS) {
      this.complain(`${body} came before its delay was over`)
    }
    if (queue !== 'keyed' || times > 0 || this.#uncertain.has(body)) return
    const last = this.#last.get(keyOf(body)) ?? -1
    if (Number(number) < last) this.complain(`${body} came after ${last} of its key`)
    this.#last.set(keyOf(body), Number(number))
  }

  /** By who looks on, and consumes nothing. */
  seen(body: string): void {
    const [queue, publisher, number] = body.split(' ')
    const line = `${queue} ${publisher}`
    const numbers = this.#seen.get(line) ?? new Set()
    this.#seen.set(line, numbers.add(Number(number)))
  }

  /** Confirmed to the queue behind the first that was seen of its publisher, and not seen. */
  unseen(queue: string): string[] {
    return [...this.#confirmed].filter((body) => {
      const [to, publisher, number] = body.split(' ')
      const numbers = to === queue ? this.#seen.get(`${to} ${publisher}`) : undefined
      if (!numbers || numbers.has(Number(number))) return false
      return numbers.values().next().value! < Number(number)
    })
  }

  complain(what: string): void {
    if (this.wrong.length < WRONG_MAX) this.wrong.push(what)
  }

  get missing(): readonly string[] {
    return [...this.#missing]
  }

  get backlog(): number {
    return this.#missing.size
  }

  /** Which poison was confirmed. */
  get poison(): readonly string[] {
    return [...this.#confirmed].filter(isPoison)
  }

  /** How many were seen by those who look on. */
  get looked(): number {
    return [...this.#seen.values()].reduce((sum, { size }) => sum + size, 0)
  }

  /** Each poison died once, and nothing else did. What was never confirmed may be there. */
  checkDead(dead: readonly string[]): void {
    const seen = new Set(dead)
    if (seen.size < dead.length) this.complain(`${dead.length - seen.size} died twice`)
    for (const body of this.poison) if (!seen.has(body)) this.complain(`${body} did not die`)
    for (const body of seen) {
      if (!isPoison(body) || !this.#sentAt.has(body)) this.complain(`${body} died`)
    }
  }

  /** In words, for whoever looks on. */
  summary(): string {
    const healthy = [...this.#came].filter(([body]) => !isPoison(body))
    const again = healthy.reduce((sum, [, times]) => sum + times - 1, 0)
    const lost = this.#missing.size
    const dead = this.poison.length
    return (
      `${this.#confirmed.size} confirmed, ${lost} lost, ${again} came again, ` +
      `${dead} dead letters, ${this.looked} looked at`
    )
  }
}
