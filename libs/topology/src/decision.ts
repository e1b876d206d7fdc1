/** What a change of the topology comes to, before it is committed (pure). */
import { COMMIT_CHANGES_MAX } from '@sluice/store'
import type { Change, Json } from './definition.ts'

/** What a change comes to on a given table. Nothing to change: `groups` is empty. */
export interface Decision<T> {
  /** See removal.ts; one group unless it may be too large for one commit. */
  readonly groups: readonly (readonly Change[])[]
  readonly result: T
}

export const unchanged = <T>(result: T): Decision<T> => ({ groups: [], result })
export const changed = <T>(changes: readonly Change[], result: T): Decision<T> => ({
  groups: [changes],
  result,
})

export const set = (field: string, definition: object): Change => [
  field,
  JSON.stringify(definition),
]
export const asJson = (definition: object) => definition as unknown as Json

/** As many groups as make a commit, and whether that is all of them. */
export function firstGroups(groups: readonly (readonly Change[])[]): {
  changes: Change[]
  whole: boolean
} {
  const changes: Change[] = []
  for (const [index, group] of groups.entries()) {
    if (index > 0 && changes.length + group.length > COMMIT_CHANGES_MAX) {
      return { changes, whole: false }
    }
    changes.push(...group)
  }
  return { changes, whole: true }
}
