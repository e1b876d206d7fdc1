/**
 * Addresses that a push may not reach unless the settings allow it: everything that is not a public
 * host of the internet, by IANA's registries of special-purpose addresses.
 *
 * An address that stands for an IPv4 one (mapped into IPv6, or translated by NAT64) is judged as
 * that one. Of IPv6 only 2000::/3 is public; what is refused within it is listed.
 */
import { isIP } from 'node:net'

/** Network bytes and prefix length. IPv4 has 4 bytes, IPv6 has 16. */
export interface Range {
  readonly bytes: Uint8Array
  readonly prefix: number
}

const REFUSED: readonly (readonly [range: Range, what: string])[] = (
  [
    ['0.0.0.0/8', 'an unspecified'],
    ['10.0.0.0/8', 'a private'],
    ['100.64.0.0/10', 'a carrier’s private'],
    ['100.100.100.200/32', 'a metadata'],
    ['127.0.0.0/8', 'a loopback'],
    ['168.63.129.16/32', 'a metadata'],
    ['169.254.0.0/16', 'a link-local or metadata'],
    ['172.16.0.0/12', 'a private'],
    ['192.0.0.0/24', 'a reserved'],
    ['192.0.2.0/24', 'a documentation'],
    ['192.88.99.0/24', 'a reserved'],
    ['192.168.0.0/16', 'a private'],
    ['198.18.0.0/15', 'a private'],
    ['198.51.100.0/24', 'a documentation'],
    ['203.0.113.0/24', 'a documentation'],
    ['224.0.0.0/4', 'a multicast'],
    ['240.0.0.0/4', 'a reserved'],
    ['::/128', 'an unspecified'],
    ['::1/128', 'a loopback'],
    ['fc00::/7', 'a private'],
    ['fe80::/10', 'a link-local'],
    ['ff00::/8', 'a multicast'],
    // Teredo, benchmarks, ORCHID and the other assignments of the IETF.
    ['2001::/23', 'a reserved'],
    ['2001:db8::/32', 'a documentation'],
    // 6to4: reaches whatever IPv4 address is in it.
    ['2002::/16', 'a translated'],
    ['3fff::/20', 'a documentation'],
  ] as const
).map(([text, what]) => [parseRange(text)!, what])

const PUBLIC_IPV6 = parseRange('2000::/3')!
/** Those that hold an IPv4 address in their last four bytes. */
const HOLDS_IPV4 = ['::ffff:0:0/96', '64:ff9b::/96'].map((text) => parseRange(text)!)

/** The bytes of an address as net.isIP knows it; undefined for anything else. */
export function parseAddress(text: string): Uint8Array | undefined {
  const bare = text.replace(/%.*$/, '') // a zone names an interface of this machine
  if (isIP(bare) === 4) return Uint8Array.from(bare.split('.'), Number)
  if (isIP(bare) !== 6) return undefined
  const bytes = new Uint8Array(16)
  // URL writes an address that ends like IPv4 in groups, as all others.
  const [head = '', tail] = new URL(`http://[${bare}]`).hostname.slice(1, -1).split('::')
  const groups = (part: string) => (part === '' ? [] : part.split(':'))
  const last = groups(tail ?? '')
  for (const [index, group] of groups(head).entries()) write(bytes, index, group)
  for (const [index, group] of last.entries()) write(bytes, 8 - last.length + index, group)
  return bytes
}

function write(bytes: Uint8Array, index: number, group: string): void {
  const value = Number.parseInt(group, 16)
  bytes[2 * index] = value >> 8
  bytes[2 * index + 1] = value & 0xff
}

/** An address, or a network as in 10.0.0.0/8; undefined for anything else. */
export function parseRange(text: string): Range | undefined {
  const [address = '', length, ...rest] = text.split('/')
  const bytes = parseAddress(address)
  if (bytes === undefined || rest.length > 0) return undefined
  const bits = 8 * bytes.length
  if (length === undefined) return { bytes, prefix: bits }
  const prefix = /^\d{1,3}$/.test(length) ? Number(length) : Number.NaN
  return prefix >= 0 && prefix <= bits ? { bytes, prefix } : undefined
}

export function isWithin(address: Uint8Array, { bytes, prefix }: Range): boolean {
  if (address.length !== bytes.length) return false
  const whole = prefix >> 3
  for (let i = 0; i < whole; i++) if (address[i] !== bytes[i]) return false
  const mask = 0xff & (0xff << (8 - (prefix & 7)))
  return (prefix & 7) === 0 || (address[whole]! & mask) === (bytes[whole]! & mask)
}

/**
 * What kind of address it is, to follow 'is' in a sentence; undefined when a push may reach it.
 * `allowed` ranges may be reached whatever they are.
 */
export function refusedKind(
  address: Uint8Array,
  allowed: readonly Range[] = [],
): string | undefined {
  if (allowed.some((range) => isWithin(address, range))) return undefined
  if (HOLDS_IPV4.some((range) => isWithin(address, range))) {
    return refusedKind(address.subarray(12), allowed)
  }
  const kind = REFUSED.find(([range]) => isWithin(address, range))?.[1]
  if (kind !== undefined) return kind
  return address.length === 16 && !isWithin(address, PUBLIC_IPV6) ? 'a reserved' : undefined
}
