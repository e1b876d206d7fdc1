/**
 * How often logins have failed lately, by address and by name, in this process.
 *
 * Each has a bucket that failures fill and time empties: past it, whoever was not verified a moment
 * ago is refused without being heard. The tables are bounded; when one is full, whom it has known
 * longest is forgotten.
 */
import { BrokerError } from '@sluice/core'

const MINUTE_MS = 60_000
/** One name is tried from many addresses, so it has a larger bucket: it locks its owner out too. */
const NAME_FACTOR = 4
const ENTRIES_MAX = 10_000
const NAME_LENGTH_MAX = 255

interface Bucket {
  failures: number
  at: number
}

export class FailedLogins {
  readonly #perMinute: number
  readonly #now: () => number
  readonly #addresses = new Map<string, Bucket>()
  readonly #names = new Map<string, Bucket>()

  /** @param perMinute failures of one address that are heard; 0 = all. */
  constructor(perMinute: number, now: () => number = () => performance.now()) {
    this.#perMinute = perMinute
    this.#now = now
  }

  /** Throws too_many_requests when this address or this name has failed too often. */
  check(address: string, name: string): void {
    if (this.#perMinute === 0) return
    const full =
      this.#level(this.#addresses, group(address), this.#perMinute) >= this.#perMinute ||
      this.#level(this.#names, cut(name), this.#nameMax) >= this.#nameMax
    if (full) throw new BrokerError('too_many_requests', 'Too many failed logins; wait a minute.')
  }

  failed(address: string, name: string): void {
    if (this.#perMinute === 0) return
    this.#add(this.#addresses, group(address), this.#perMinute)
    if (name !== '') this.#add(this.#names, cut(name), this.#nameMax)
  }

  get #nameMax(): number {
    return this.#perMinute * NAME_FACTOR
  }

  /** Failures that count at the moment: as many go in a minute as may come. */
  #level(table: Map<string, Bucket>, key: string, perMinute: number): number {
    const bucket = table.get(key)
    if (!bucket) return 0
    const gone = ((this.#now() - bucket.at) / MINUTE_MS) * perMinute
    return Math.max(0, bucket.failures - gone)
  }

  #add(table: Map<string, Bucket>, key: string, perMinute: number): void {
    const failures = this.#level(table, key, perMinute) + 1
    table.delete(key) // to the end of the order
    table.set(key, { failures, at: this.#now() })
    if (table.size <= ENTRIES_MAX) return
    const [oldest] = table.keys()
    table.delete(oldest!)
  }
}

const cut = (name: string) => name.slice(0, NAME_LENGTH_MAX)

/** An IPv4 address; of IPv6 the 64 bits that one customer has. */
function group(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/.exec(address)
  if (mapped) return mapped[1]!
  if (!address.includes(':')) return address
  const [head = '', tail] = address.split('::')
  const parts = head.split(':')
  if (tail === undefined) return parts.slice(0, 4).join(':')
  const rest = tail === '' ? [] : tail.split(':')
  const zeros = Array.from({ length: Math.max(0, 8 - parts.length - rest.length) }, () => '0')
  return [...parts, ...zeros, ...rest].slice(0, 4).join(':')
}
