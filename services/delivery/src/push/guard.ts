/**
 * Which hosts a push may reach: the guard against requests to what only this machine can reach
 * (server-side request forgery).
 *
 * A name is resolved once for a connection, every one of its addresses is judged (address.ts), and
 * the connection is made to an address that was judged: a name that resolves otherwise a moment
 * later leads nowhere else. The guard sits below HTTP, where connections are made, so redirects
 * meet it too.
 *
 * Node looks names up in a few threads that all of the process shares, and a name server that is
 * silent holds one for seconds. So equal look-ups under way are one, what they found is kept for a
 * moment, and names that failed last time take turns in a single thread.
 */
import { promises as dns, type LookupAddress } from 'node:dns'
import type { LookupFunction } from 'node:net'
import { parseAddress, parseRange, type Range, refusedKind } from './address.ts'

/** How long what a name resolved to is used. Shorter than any usual time to live. */
const KEPT_MS = 5_000
/** Names kept; the oldest goes first. */
const NAMES_MAX = 10_000
/** Threads of Node's four for names that resolve, and for those that did not last time. */
const FAST_LOOKUPS_MAX = 2
const SLOW_LOOKUPS_MAX = 1
/** A look-up that takes longer counts as one that failed. */
const SLOW_MS = 1_000

type Resolve = (name: string) => Promise<LookupAddress[]>

/** The address is not to be reached. Its message names no address: who may see it may not know. */
export class RefusedAddress extends Error {
  override readonly name = 'RefusedAddress'
}

interface Found {
  readonly addresses: LookupAddress[]
  readonly untilMs: number
}

export class Guard {
  readonly #ranges: readonly Range[]
  readonly #hosts: readonly string[]
  readonly #resolve: Resolve
  readonly #found = new Map<string, Found>()
  readonly #underWay = new Map<string, Promise<LookupAddress[]>>()
  readonly #slow = new Set<string>()
  readonly #fastLane = new Lane(FAST_LOOKUPS_MAX)
  readonly #slowLane = new Lane(SLOW_LOOKUPS_MAX)

  /** @param allow networks, addresses, hosts, and `*.` with a domain, that may be reached. */
  constructor(
    allow: readonly string[],
    resolve: Resolve = (name) => dns.lookup(name, { all: true }),
  ) {
    const ranges = allow.map((entry) => parseRange(entry))
    this.#ranges = ranges.filter((range) => range !== undefined)
    this.#hosts = allow.filter((_, index) => ranges[index] === undefined).map(plainName)
    this.#resolve = resolve
  }

  /**
   * Why the host of a URL is refused; undefined when it is not, or is a name yet to be resolved.
   * Other forms of an address (decimal, octal, hexadecimal) the URL parser has made plain.
   */
  refusal(hostname: string): RefusedAddress | undefined {
    const address = parseAddress(hostname.replace(/^\[(.*)\]$/, '$1'))
    if (address === undefined) return undefined
    const kind = refusedKind(address, this.#ranges)
    return kind === undefined ? undefined : refused(`The address of the endpoint is ${kind} one`)
  }

  /** For net.connect: the addresses of a name, none of which is refused. */
  readonly lookup: LookupFunction = (hostname, options, callback) => {
    this.addressesOf(hostname).then(
      (addresses) => {
        if (options.all) callback(null, addresses)
        else callback(null, addresses[0]!.address, addresses[0]!.family)
      },
      (error: NodeJS.ErrnoException) => callback(error, ''),
    )
  }

  /** Rejects with RefusedAddress, or as dns.lookup does. */
  async addressesOf(hostname: string): Promise<LookupAddress[]> {
    const addresses = await this.#lookUp(hostname)
    if (addresses.length === 0) throw new Error('The name of the endpoint has no address.')
    if (this.#isAllowed(hostname)) return addresses
    for (const { address } of addresses) {
      const bytes = parseAddress(address)
      const kind = bytes === undefined ? 'an unknown' : refusedKind(bytes, this.#ranges)
      if (kind !== undefined) throw refused(`The name of the endpoint resolves to ${kind} address`)
    }
    return addresses
  }

  #isAllowed(hostname: string): boolean {
    const name = plainName(hostname)
    return this.#hosts.some((host) =>
      host.startsWith('*.') ? name.endsWith(host.slice(1)) : name === host,
    )
  }

  #lookUp(hostname: string): Promise<LookupAddress[]> {
    const found = this.#found.get(hostname)
    if (found && found.untilMs > performance.now()) return Promise.resolve(found.addresses)
    const underWay = this.#underWay.get(hostname)
    if (underWay !== undefined) return underWay
    const lookup = this.#lookUpInTurn(hostname).finally(() => this.#underWay.delete(hostname))
    this.#underWay.set(hostname, lookup)
    return lookup
  }

  async #lookUpInTurn(hostname: string): Promise<LookupAddress[]> {
    const lane = this.#slow.has(hostname) ? this.#slowLane : this.#fastLane
    await lane.enter() // at most one of each name waits, so as many as there are endpoints
    const startedMs = performance.now()
    let tookMs = SLOW_MS
    try {
      const addresses = await this.#resolve(hostname)
      const nowMs = performance.now()
      tookMs = nowMs - startedMs
      this.#found.delete(hostname)
      this.#found.set(hostname, { addresses, untilMs: nowMs + KEPT_MS })
      if (this.#found.size > NAMES_MAX) this.#found.delete(this.#found.keys().next().value!)
      return addresses
    } finally {
      this.#slow.delete(hostname)
      if (tookMs >= SLOW_MS) this.#slow.add(hostname)
      if (this.#slow.size > NAMES_MAX) this.#slow.delete(this.#slow.values().next().value!)
      lane.leave()
    }
  }
}

function refused(what: string): RefusedAddress {
  return new RefusedAddress(`${what}, which SLUICE_PUSH_ALLOW does not list.`)
}

function plainName(hostname: string): string {
  return hostname.toLowerCase().replace(/\.$/, '')
}

/** Lets at most `size` through at a time, the others in the order they came. */
class Lane {
  #free: number
  readonly #waiting: (() => void)[] = []

  constructor(size: number) {
    this.#free = size
  }

  async enter(): Promise<void> {
    if (this.#free > 0) this.#free--
    else await new Promise<void>((resolve) => this.#waiting.push(resolve))
  }

  leave(): void {
    const next = this.#waiting.shift()
    if (next) next()
    else this.#free++
  }
}
