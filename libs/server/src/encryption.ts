/**
 * Data keys: made, wrapped, found, rotated and shredded; documents of the topology, so that every
 * process follows. Those that can be unwrapped are in the store's ring, and nowhere else in clear.
 *
 * The keys that wrap them are the KMS's, those of the file and those of the environment, in this
 * order: the first one wraps, all unwrap. A data key whose wrapping key is taken away is forgotten,
 * like one that was shredded; it comes back with it.
 */
import assert from 'node:assert/strict'
import { createHash, randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Config } from '@sluice/config'
import { BrokerError, type Report } from '@sluice/core'
import {
  DataKeyDocument,
  type KeyEncryptionKey,
  Kms,
  parseKeys,
  readDocument,
} from '@sluice/security'
import {
  DataKey,
  KEY_MATERIAL_SIZE,
  type KeyKeeper,
  newKeyMaterial,
  noKey,
  type Store,
} from '@sluice/store'
import type { Logger } from '@sluice/telemetry'
import type { Documents, RoutingTable, Topology } from '@sluice/topology'
import { noQueue } from './not-found.ts'

/** After so long every living process has what was committed (Topology looks each second). */
const FOLLOWED_MS = 2_000
/** Keys that a queue or vhost may have: each process holds all of them. */
const KEYS_OF_SCOPE_MAX = 100
/** Looks for a file that was replaced, and tries again what could not be unwrapped. */
const LOOK_MS = 1_000
/** A KMS that fails is asked again after so many looks. */
const KMS_LOOKS = 5
/** Keys unwrapped at a time: a KMS hears no more requests at once. */
const UNWRAPS_MAX = 8

export interface KeyInfo extends DataKeyDocument {
  readonly id: string
  readonly vhost: string
  /** open: this process can use it; locked: what wrapped it is not to be had. */
  readonly state: 'open' | 'locked'
  /** It is what seals: the newest of its queue or vhost. */
  readonly newest: boolean
}

interface Parts {
  readonly store: Store
  readonly topology: Topology
  readonly log: Logger
  readonly report: Report
}

/** Throws one Error that says what to change when a key of the settings is none. */
export async function openEncryption(config: Config, parts: Parts): Promise<Encryption> {
  const { encryptionKey, encryptionKmsUrl: url, encryptionKmsToken: token } = config
  const encryption = new Encryption(parts, {
    kms: url === undefined ? [] : [new Kms(url, token)],
    own: encryptionKey === undefined ? [] : parseKeys(encryptionKey),
    file: config.encryptionKeyFile,
  })
  await encryption.open()
  return encryption
}

interface Sources {
  readonly kms: readonly KeyEncryptionKey[]
  readonly own: readonly KeyEncryptionKey[]
  readonly file: string | undefined
}

export class Encryption implements KeyKeeper {
  readonly #store: Store
  readonly #topology: Topology
  readonly #log: Logger
  readonly #report: Report
  readonly #sources: Sources
  #keks: readonly KeyEncryptionKey[]
  #digest: string | undefined
  #missed = 0
  #looks = 0
  #documents: Documents | undefined
  /** Keys that exist and are not in the ring, by 'vhost id'; false: they could not be unwrapped. */
  readonly #waiting = new Map<string, boolean>()
  #unwrapping: Promise<void> | undefined
  /** What the KMS said last, when it was not well. */
  #kmsError = ''
  #encrypted: { table: RoutingTable; some: boolean } | undefined
  #timer: NodeJS.Timeout | undefined
  #unwatch: (() => void) | undefined

  constructor({ store, topology, log, report }: Parts, sources: Sources) {
    this.#store = store
    this.#topology = topology
    this.#log = log
    this.#report = report
    this.#sources = sources
    this.#keks = [...sources.kms, ...sources.own]
  }

  async open(): Promise<void> {
    await this.#readFile()
    this.#follow()
    this.#unwatch = this.#topology.watch(() => this.#follow())
    this.#store.keys.follow(this)
    this.#timer = setInterval(() => {
      this.#look().catch(this.#report)
    }, LOOK_MS)
    this.#timer.unref()
    await this.#unwrapping
  }

  close(): void {
    clearInterval(this.#timer)
    this.#unwatch?.()
    this.#store.keys.follow(undefined)
    for (const key of [...this.#store.keys.keys()]) this.#store.keys.remove(key)
  }

  wraps(): boolean {
    return this.#keks.length > 0
  }

  async make(vhost: string, queue: string): Promise<DataKey | undefined> {
    await this.look()
    if (this.#lacks(vhost, queue)) return undefined
    const { keys } = this.#store
    const key = keys.newest(vhost, queue) ?? (await this.#create(vhost, queue, 0))
    if (key !== undefined) return key
    await this.look() // somebody else made it
    return keys.newest(vhost, queue)
  }

  /** What seals in a vhost beside its queues. Throws encryption_unavailable, and as `make` does. */
  async keyOf(vhost: string): Promise<DataKey> {
    const key = this.#store.keys.newest(vhost, '') ?? (await this.make(vhost, ''))
    if (key === undefined) throw noKey()
    return key
  }

  async look(): Promise<void> {
    await this.#topology.refresh()
    await this.#unwrapping
  }

  exists(vhost: string, id: number): boolean {
    return this.#topology.table.documents.get('data-key', vhost, nameOf(id)) !== undefined
  }

  /** Data keys that cannot be used here, since what wrapped them is not to be had. */
  get locked(): number {
    let count = 0
    for (const unwraps of this.#waiting.values()) if (!unwraps) count++
    return count
  }

  /** Whether data keys are needed and none can be wrapped. */
  get lacksWrapping(): boolean {
    return this.#kmsError !== '' || (this.#keks.length === 0 && this.#encrypts)
  }

  broken(): string[] {
    const broken: string[] = []
    const { locked } = this
    if (locked > 0) {
      const keys = locked === 1 ? '1 data key' : `${locked} data keys`
      broken.push(`What wrapped ${keys} is not to be had: what they sealed cannot be read.`)
    }
    if (this.#kmsError !== '') broken.push('The KMS does not answer as it should.')
    else if (this.lacksWrapping) broken.push('Queues are encrypted, and no key is set for it.')
    return broken
  }

  /** A new key for a vhost (queue '') or a queue; what is stored from here on is sealed with it. */
  async rotate(vhost: string, queue: string): Promise<KeyInfo> {
    await this.look()
    if (this.#lacks(vhost, queue)) throw noKey()
    const key = await this.#create(vhost, queue)
    if (key === undefined) throw noKey()
    return this.#info(vhost, nameOf(key.id))!
  }

  /**
   * A new key in place of this one. However many processes ask at once, one of them makes it: to
   * the others this answers undefined, as it does when none can be made.
   */
  async replace({ vhost, queue, generation }: KeyInfo): Promise<KeyInfo | undefined> {
    if (this.#lacks(vhost, queue)) return undefined
    const key = await this.#create(vhost, queue, generation)
    return key && this.#info(vhost, nameOf(key.id))
  }

  /**
   * What it sealed is read by nobody any more: every process forgets it within a second. One that
   * still seals gives way to a new one first, and goes when all processes have that: so nothing is
   * lost that they store meanwhile.
   */
  async shred(vhost: string, id: string): Promise<void> {
    await this.look()
    const key = this.#info(vhost, id)
    if (key?.newest && key.state === 'open' && this.#keks.length > 0) {
      await this.rotate(vhost, key.queue)
      await sleep(FOLLOWED_MS)
    }
    await this.#topology.changeDocument('data-key', vhost, id, () => null)
  }

  /**
   * Wraps every data key anew with the first key, in no hurry; answers how many are locked. Throws
   * encryption_unavailable when the KMS fails.
   */
  async rewrap(): Promise<{ rewrapped: number; locked: number }> {
    await this.look()
    const kek = this.#keks[0]
    if (kek === undefined) throw noKey()
    let rewrapped = 0
    let locked = 0
    for (const { id, vhost, queue, state, kek: before } of this.list()) {
      const key = this.#store.keys.get(idOf(id))
      if (state === 'locked' || key === undefined) locked++
      else if (before !== kek.id || kek instanceof Kms) {
        const { material } = key
        const wrapped = await this.#wrap(kek, material, contextOf(vhost, queue, id))
        material.fill(0)
        if (wrapped === undefined) throw noKey()
        await this.#topology.changeDocument('data-key', vhost, id, (current) => {
          const known = readDocument(DataKeyDocument, current)
          return known === undefined ? null : { ...known, ...wrapped }
        })
        rewrapped++
      }
    }
    return { rewrapped, locked }
  }

  /** All data keys, by vhost and queue, newest first. */
  list(): KeyInfo[] {
    return this.#topology.table.vhosts().flatMap((vhost) => this.#listOf(vhost))
  }

  #listOf(vhost: string): KeyInfo[] {
    const sorted = this.#documentsOf(vhost).sort(({ document: a }, { document: b }) =>
      a.queue === b.queue ? b.generation - a.generation : a.queue < b.queue ? -1 : 1,
    )
    return sorted.map(({ id, document }, index) => {
      const state = this.#store.keys.get(id) ? 'open' : 'locked'
      const newest = sorted[index - 1]?.document.queue !== document.queue
      return { ...document, id: nameOf(id), vhost, state, newest }
    })
  }

  #info(vhost: string, id: string): KeyInfo | undefined {
    return this.#listOf(vhost).find((key) => key.id === id)
  }

  /** Whether a scope has keys that cannot be had: none is made beside them. */
  #lacks(vhost: string, queue: string): boolean {
    const ours = this.#documentsOf(vhost).filter(({ document }) => document.queue === queue)
    return ours.some(({ id }) => !this.#store.keys.get(id))
  }

  /**
   * @param after the newest so far, 0 = none; undefined: whichever that is.
   * Returns undefined when it cannot be wrapped, or another one is the newest.
   */
  async #create(vhost: string, queue: string, after?: number): Promise<DataKey | undefined> {
    const [kek] = this.#keks
    if (kek === undefined) return undefined
    const { keys } = this.#store
    const material = newKeyMaterial(keys.newest(vhost, queue))
    const id = randomBytes(6).readUIntBE(0, 6)
    const wrapped = await this.#wrap(kek, material, contextOf(vhost, queue, nameOf(id)))
    if (wrapped === undefined) return undefined
    const createdAt = await this.#store.nowMs()
    const { after: made } = await this.#topology.changeDocument(
      'data-key',
      vhost,
      nameOf(id),
      (current, table) => {
        assert(current === undefined, 'an id of 48 random bits is a new one')
        const before = generationOf(table, vhost, queue)
        if (before !== (after ?? before)) return null
        checkScope(table, vhost, queue)
        return { queue, generation: before + 1, createdAt, ...wrapped }
      },
    )
    const document = readDocument(DataKeyDocument, made)
    if (document !== undefined && !keys.get(id)) {
      keys.add(new DataKey({ id, vhost, queue, generation: document.generation }, material))
    }
    material.fill(0)
    this.#waiting.delete(waitingName(vhost, id))
    return document && keys.get(id)
  }

  async #wrap(kek: KeyEncryptionKey, material: Buffer, context: string) {
    try {
      const wrapped = await kek.wrap(material, context)
      this.#kmsError = ''
      return wrapped
    } catch (error) {
      this.#noteKms(error)
      return undefined
    }
  }

  #noteKms(error: unknown): void {
    const { message } = error as Error
    if (this.#kmsError !== message) this.#log.warn({ why: message }, 'the KMS failed')
    this.#kmsError = message
  }

  /** Forgets what is no more, and begins to unwrap what is new. */
  #follow(): void {
    const { documents } = this.#topology.table
    if (this.#documents !== undefined && documents.same(this.#documents, ['data-key'])) return
    this.#documents = documents
    this.#sort()
  }

  #sort(): void {
    const { keys } = this.#store
    const there = new Set<number>()
    this.#waiting.clear()
    for (const vhost of this.#topology.table.vhosts()) {
      for (const { id, document } of this.#documentsOf(vhost)) {
        const usable = this.#keks.some((kek) => kek.id === document.kek)
        if (usable) there.add(id)
        if (!usable) this.#waiting.set(waitingName(vhost, id), false)
        else if (!keys.get(id)) this.#waiting.set(waitingName(vhost, id), true)
      }
    }
    const gone = [...keys.keys()].filter((key) => !there.has(key.id))
    for (const key of gone) keys.remove(key)
    // The feed of changes has it too, wrapped.
    if (gone.some(({ vhost, id }) => !this.exists(vhost, id))) {
      this.#store.definitions.forgetHistory().catch(this.#report)
    }
    if ([...this.#waiting.values()].includes(true)) this.#unwrapSoon()
  }

  #unwrapSoon(): void {
    const before = this.#unwrapping
    const unwrapping = (async () => {
      await before
      await this.#unwrapAll()
    })().catch(this.#report)
    this.#unwrapping = unwrapping
    unwrapping
      .finally(() => {
        if (this.#unwrapping === unwrapping) this.#unwrapping = undefined
      })
      .catch(this.#report)
  }

  async #unwrapAll(): Promise<void> {
    const all = this.#topology.table
      .vhosts()
      .flatMap((vhost) => this.#documentsOf(vhost).map((found) => ({ vhost, ...found })))
    const wanted = all.filter(({ id }) => !this.#store.keys.get(id))
    const next = wanted.values()
    const worker = async () => {
      for (const { vhost, id, document } of next) await this.#unwrap(vhost, id, document)
    }
    await Promise.all(Array.from({ length: UNWRAPS_MAX }, worker))
  }

  async #unwrap(vhost: string, id: number, document: DataKeyDocument): Promise<void> {
    const { queue, generation, wrapped, kek: by } = document
    const kek = this.#keks.find((one) => one.id === by)
    if (kek === undefined) return
    let material: Buffer | undefined
    try {
      material = await kek.unwrap(wrapped, contextOf(vhost, queue, nameOf(id)))
      if (kek instanceof Kms) this.#kmsError = ''
    } catch (error) {
      this.#noteKms(error)
    }
    if (material?.length !== KEY_MATERIAL_SIZE) {
      this.#waiting.set(waitingName(vhost, id), false)
    } else if (this.exists(vhost, id)) {
      this.#waiting.delete(waitingName(vhost, id))
      const { keys } = this.#store
      if (!keys.get(id)) keys.add(new DataKey({ id, vhost, queue, generation }, material))
    }
    material?.fill(0)
  }

  #documentsOf(vhost: string): { id: number; document: DataKeyDocument }[] {
    return this.#topology.table.documents.list('data-key', vhost).flatMap(({ name, value }) => {
      const document = readDocument(DataKeyDocument, value)
      return document ? [{ id: idOf(name), document }] : []
    })
  }

  async #look(): Promise<void> {
    const changed = await this.#readFile()
    const again = this.#kmsError !== '' && ++this.#looks % KMS_LOOKS === 0
    if (changed) this.#sort()
    else if (again) await this.#askAgain()
  }

  /** Whether the KMS is well again: publishes need it only for first keys, and may never ask. */
  async #askAgain(): Promise<void> {
    const [kek] = this.#keks
    if (kek !== undefined) await this.#wrap(kek, randomBytes(KEY_MATERIAL_SIZE), 'a question')
    this.#unwrapSoon()
  }

  /**
   * Answers whether its keys are others now. One that cannot be read twice in a row has none: for a
   * moment it may be missing while it is replaced.
   */
  async #readFile(): Promise<boolean> {
    const { file, kms, own } = this.#sources
    if (file === undefined) return false
    let keys: readonly KeyEncryptionKey[] = []
    let why = ''
    try {
      keys = parseKeys(await readFile(file, 'utf8'))
      this.#missed = 0
    } catch (error) {
      why = (error as Error).message
      if (this.#digest !== undefined && ++this.#missed < 2) return false
    }
    const digest = createHash('sha256')
      .update(keys.map(({ id }) => id).join())
      .digest('hex')
    if (digest === this.#digest) return false
    const first = this.#digest === undefined
    this.#digest = digest
    this.#keks = [...kms, ...keys, ...own]
    if (keys.length === 0) this.#log.error({ file, why }, 'the file of encryption keys has none')
    else if (!first) this.#log.info({ keys: keys.length }, 'the encryption keys are others now')
    return true
  }

  /** Whether something is encrypted; looked for once a table. */
  get #encrypts(): boolean {
    const { table } = this.#topology
    if (this.#encrypted?.table !== table) {
      const encrypts = (vhost: string) =>
        table.vhostOptions(vhost).encryption ||
        table.queues(vhost).some(({ settings }) => settings.encryption !== 'none')
      this.#encrypted = { table, some: table.vhosts().some(encrypts) }
    }
    return this.#encrypted.some
  }
}

const NAME_LENGTH = 12
const nameOf = (id: number) => id.toString(16).padStart(NAME_LENGTH, '0')
const idOf = (name: string) => Number.parseInt(name, 16)
const waitingName = (vhost: string, id: number) => `${vhost} ${id}`
const contextOf = (vhost: string, queue: string, id: string) => JSON.stringify([vhost, queue, id])

/** The newest; 0 = there is none. */
function generationOf({ documents }: RoutingTable, vhost: string, queue: string): number {
  const generations = documents.list('data-key', vhost).map(({ value }) => {
    const document = readDocument(DataKeyDocument, value)
    return document?.queue === queue ? document.generation : 0
  })
  return Math.max(0, ...generations)
}

function checkScope(table: RoutingTable, vhost: string, queue: string): void {
  if (queue !== '' && !table.queue(vhost, queue)) throw noQueue(queue)
  const documents = table.documents.list('data-key', vhost)
  const ofScope = documents.filter(
    ({ value }) => readDocument(DataKeyDocument, value)?.queue === queue,
  )
  if (ofScope.length < KEYS_OF_SCOPE_MAX) return
  throw new BrokerError(
    'invalid_request',
    `A queue or vhost has at most ${KEYS_OF_SCOPE_MAX} data keys: shred old ones.`,
  )
}
