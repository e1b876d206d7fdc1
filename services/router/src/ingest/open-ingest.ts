/**
 * An ingest as requests meet it: what of a request is kept, whose it is, and the waiting room that
 * it enters. Made anew when its document changes.
 */
import { createHash } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { limits } from '@sluice/core'
import { type Deps, noQueue } from '@sluice/server'
import { roomClient, type WaitingRoom } from '@sluice/store'
import type { Json } from '@sluice/topology'
import { CREDENTIALS, type Ingest, NEVER_KEPT, readIngest } from './ingest.ts'

/** Clients whose share is remembered ready made; it takes a microsecond to make. */
const CLIENTS_MAX = 1_000

type KeptHeaders = Record<string, string | string[]>

export class OpenIngest {
  readonly vhost: string
  readonly name: string
  readonly settings: Ingest
  readonly #deps: Pick<Deps, 'topology' | 'store'>
  readonly #listed: ReadonlySet<string>
  readonly #weights: ReadonlyMap<string, number>
  readonly #clients = new Map<string, Buffer>()
  #room: WaitingRoom | undefined

  constructor(
    deps: Pick<Deps, 'topology' | 'store'>,
    vhost: string,
    name: string,
    settings: Ingest,
  ) {
    this.#deps = deps
    this.vhost = vhost
    this.name = name
    this.settings = settings
    this.#listed = new Set(settings.headers.map((header) => header.toLowerCase()))
    this.#weights = new Map(Object.entries(settings.fairness?.weights ?? {}))
  }

  /** Throws queue_not_found: somebody deleted its queue. */
  room(): WaitingRoom {
    const { queue, admission, fairness, idempotencyWindowMs } = this.settings
    const entry = this.#deps.topology.table.queue(this.vhost, queue)
    if (entry === undefined) throw noQueue(queue)
    if (this.#room?.queue !== entry.store) {
      this.#room = this.#deps.store.waitingRoom(entry.store, {
        waitingMax: admission.waitingMax,
        oldestMs: admission.oldestMs,
        fair: fairness !== undefined,
        dedupWindowMs: idempotencyWindowMs,
      })
    }
    return this.#room!
  }

  /** Names in lower case; a header that came several times has a list. */
  keptHeaders({ rawHeaders, headers }: IncomingMessage): KeptHeaders {
    const kept: KeptHeaders = Object.create(null)
    const { connection } = headers
    const hops = connection === undefined || connection === 'close' || connection === 'keep-alive'
    const ofConnection = hops ? undefined : namesIn(connection)
    for (let i = 0; i < rawHeaders.length; i += 2) {
      const name = rawHeaders[i]!.toLowerCase()
      if (!this.#keeps(name) || ofConnection?.has(name)) continue
      const value = rawHeaders[i + 1]!
      const before = kept[name]
      if (before === undefined) kept[name] = value
      else if (typeof before === 'string') kept[name] = [before, value]
      else before.push(value)
    }
    return kept
  }

  #keeps(name: string): boolean {
    if (NEVER_KEPT.has(name)) return false
    return this.#listed.has(name) || (this.#listed.has('*') && !CREDENTIALS.has(name))
  }

  /** @param user of the credential, '' = none was asked for. */
  client(req: IncomingMessage, user: string): Buffer {
    const by = this.settings.fairness?.by
    if (by === undefined) return ANYONE
    const key =
      by === 'address'
        ? addressOf(req.socket.remoteAddress ?? '')
        : by === 'credential'
          ? user
          : String(req.headers[by.header.toLowerCase()] ?? '')
    let client = this.#clients.get(key)
    if (client === undefined) {
      client = roomClient(shortened(key), this.#weights.get(key) ?? 1)
      if (this.#clients.size >= CLIENTS_MAX) this.#clients.clear()
      this.#clients.set(key, client)
    }
    return client
  }
}

const ANYONE = roomClient('', 1)

/** The names that a Connection header lists. */
function namesIn(connection: string): ReadonlySet<string> {
  return new Set(connection.split(',').map((name) => name.trim().toLowerCase()))
}

/** IPv4 as it is; of IPv6 the first 64 bits, since the rest is a client's own to choose. */
function addressOf(address: string): string {
  const v4 = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1]
  if (v4 !== undefined || !address.includes(':')) return v4 ?? address
  const [head = '', tail] = address.split('%', 1)[0]!.split('::')
  const groups = (text: string | undefined) => (text ? text.split(':') : [])
  const zeros = tail === undefined ? 0 : 8 - groups(head).length - groups(tail).length
  const all = [...groups(head), ...Array(Math.max(0, zeros)).fill('0'), ...groups(tail)]
  const first = all.slice(0, 4).map((group) => group.replace(/^0+(?=.)/, ''))
  return `${first.join(':')}::/64`
}

function shortened(key: string): string {
  if (key.length * 3 <= limits.NAME_BYTES_MAX || Buffer.byteLength(key) <= limits.NAME_BYTES_MAX) {
    return key
  }
  return createHash('sha256').update(key).digest('base64url')
}

interface Followed {
  readonly value: Json
  readonly ingest: OpenIngest
}

/** All ingests by name, as the newest table has them. */
export class Ingests {
  readonly #deps: Pick<Deps, 'topology' | 'store'>
  #documents: unknown
  #open = new Map<string, Followed>()

  constructor(deps: Pick<Deps, 'topology' | 'store'>) {
    this.#deps = deps
  }

  find(name: string): OpenIngest | undefined {
    const { documents } = this.#deps.topology.table
    if (documents !== this.#documents) {
      this.#documents = documents
      this.#follow()
    }
    return this.#open.get(name)?.ingest
  }

  #follow(): void {
    const { table } = this.#deps.topology
    const open = new Map<string, Followed>()
    for (const vhost of table.vhosts()) {
      for (const { name, value } of table.documents.list('ingest', vhost)) {
        const before = this.#open.get(name)
        if (before?.value === value && before.ingest.vhost === vhost) {
          open.set(name, before)
          continue
        }
        const settings = readIngest(value, name)
        if (settings === undefined) continue
        open.set(name, { value, ingest: new OpenIngest(this.#deps, vhost, name, settings) })
      }
    }
    this.#open = open
  }
}
