/**
 * Documents: what other parts of the broker define by name (subscriptions, users, schedules, ...),
 * kept and followed together with the topology. Their meaning is up to who reads them.
 */
import type { Change, Json } from './definition.ts'
import { PersistentMap } from './persistent-map.ts'

/** Those of a vhost go with it; those of the whole broker have the vhost ''. */
export const DOCUMENT_KINDS = [
  'subscription',
  'ingest',
  'schedule',
  'user',
  'api-key',
  'permission',
  'topic-permission',
  'data-key',
  'setting',
] as const
export type DocumentKind = (typeof DOCUMENT_KINDS)[number]

export interface NamedDocument {
  readonly name: string
  readonly value: Json
}

const PREFIX = 'document/'
const enc = (name: string) => encodeURIComponent(name.toWellFormed())

export function documentField(kind: DocumentKind, vhost: string, name: string): string {
  return `${PREFIX}${kind}/${enc(vhost)}/${enc(name)}`
}

/** All documents of a table; immutable, and shared by tables between which none changed. */
export class Documents {
  /** By the field without its name. */
  readonly #lists: ReadonlyMap<string, PersistentMap<NamedDocument>>

  constructor(lists: ReadonlyMap<string, PersistentMap<NamedDocument>> = new Map()) {
    this.#lists = lists
  }

  with(changes: Iterable<Change>): Documents {
    const byList = new Map<string, Map<string, NamedDocument | undefined>>()
    for (const [field, value] of changes) {
      if (!field.startsWith(PREFIX)) continue
      const end = field.lastIndexOf('/')
      const list = field.slice(0, end)
      const name = decodeURIComponent(field.slice(end + 1))
      const changed = byList.get(list) ?? new Map<string, NamedDocument | undefined>()
      byList.set(
        list,
        changed.set(name, value === null ? undefined : { name, value: JSON.parse(value) }),
      )
    }
    if (byList.size === 0) return this
    const lists = new Map(this.#lists)
    for (const [list, changed] of byList) {
      const after = (lists.get(list) ?? PersistentMap.empty<NamedDocument>()).with(changed)
      if (after.size === 0) lists.delete(list)
      else lists.set(list, after)
    }
    return new Documents(lists)
  }

  get(kind: DocumentKind, vhost: string, name: string): Json | undefined {
    return this.#lists.get(listOf(kind, vhost))?.get(name)?.value
  }

  /** Whether those of these kinds are the very same in another table. */
  same(other: Documents, kinds: readonly DocumentKind[]): boolean {
    if (this === other) return true
    const starts = kinds.map((kind) => `${PREFIX}${kind}/`)
    const lists = [...new Set([...this.#lists.keys(), ...other.#lists.keys()])]
    return lists
      .filter((list) => starts.some((start) => list.startsWith(start)))
      .every((list) => this.#lists.get(list) === other.#lists.get(list))
  }

  /** Sorted by name. */
  list(kind: DocumentKind, vhost: string): NamedDocument[] {
    const list = [...(this.#lists.get(listOf(kind, vhost))?.values() ?? [])]
    return list.sort((a, b) => (a.name < b.name ? -1 : 1))
  }

  /** The fields of everything that goes with a vhost. */
  fieldsOf(vhost: string): string[] {
    return DOCUMENT_KINDS.flatMap((kind) =>
      this.list(kind, vhost).map(({ name }) => documentField(kind, vhost, name)),
    )
  }
}

function listOf(kind: DocumentKind, vhost: string): string {
  return `${PREFIX}${kind}/${enc(vhost)}`
}
