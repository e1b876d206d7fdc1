/**
 * The redrive of all dead letters of a queue, as a job that any reaper can go on with.
 *
 * One walk from the head to the end. Letters that cannot go stay where they are. What a reaper that
 * died had in its hands is leased for a few seconds more: the job waits for those and walks again,
 * so that it is not done before they are.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Deps } from '@sluice/server'
import type { Peeked, RedriveData, RedriveProgress } from '@sluice/store'
import { type QueueEntry, redrive } from '@sluice/topology'

/** Letters moved at once. */
const LETTERS_MAX = 64
const HELD_LOOK_MS = 500

export interface RedriveRun {
  /** Names this job as holder of the letters in its hands, whoever works on it. */
  readonly holder: string
  readonly signal: AbortSignal
  readonly from: RedriveProgress
  readonly progress: (progress: RedriveProgress) => Promise<void>
}

/** Returns undefined when the signal stopped it; the rest is left for the next run. */
export async function redriveAll(
  { topology, tracing }: Pick<Deps, 'topology' | 'tracing'>,
  { vhost, queue, untilMs }: RedriveData,
  { holder, signal, from, progress }: RedriveRun,
): Promise<RedriveProgress | undefined> {
  let redriven = from.redriven
  let skipped = 0
  const tell = () => progress({ redriven, skipped })
  for (;;) {
    await topology.refresh()
    const entry = topology.table.queue(vhost, queue)
    if (!entry) return { redriven, skipped } // deleted, with all that was in it
    skipped = 0
    for await (const letters of walk(entry)) {
      if (signal.aborted) return undefined
      const old = letters.filter(({ record }) => record.timeMs <= untilMs)
      const outcomes = await Promise.all(
        old.map((letter) => redrive({ topology, tracing }, entry, letter, { holder })),
      )
      for (const { kind } of outcomes) {
        if (kind === 'redriven') redriven++
        else skipped++
      }
      await tell()
      if (old.length === 0 && letters.length > 0) break
    }
    if (!(await isHeld(entry, holder))) return { redriven, skipped }
    await entry.store.sweep()
    await sleep(HELD_LOOK_MS, undefined, { signal }).catch(() => {})
    if (signal.aborted) return undefined
  }
}

async function* walk({ store }: QueueEntry): AsyncGenerator<Peeked[], void> {
  let cursor = ''
  do {
    const page = await store.peek('ready', cursor, LETTERS_MAX)
    for (let at = 0; at < page.messages.length; at += LETTERS_MAX) {
      yield page.messages.slice(at, at + LETTERS_MAX)
    }
    cursor = page.cursor
  } while (cursor !== '')
}

/** Whether this job still has something leased, from a run that died. */
async function isHeld({ store }: QueueEntry, holder: string): Promise<boolean> {
  let cursor = ''
  do {
    const page = await store.peek('held', cursor, 256)
    if (page.messages.some((message) => message.holder === holder)) return true
    cursor = page.cursor
  } while (cursor !== '')
  return false
}
