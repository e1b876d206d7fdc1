/** Data keys that have sealed for long enough give way to new ones; what they sealed stays. */
import type { Report, Start } from '@sluice/core'
import type { Deps } from '@sluice/server'
import { every } from './every.ts'

type Needs = Pick<Deps, 'store' | 'encryption' | 'metrics' | 'log'>

/** @param options `maxAgeMs` is by Redis's clock, 0 = none is too old. */
export function keyRotation(
  deps: Needs,
  { everyMs, maxAgeMs }: { readonly everyMs: number; readonly maxAgeMs: number },
  report: Report,
): Start {
  return async (signal) => {
    if (maxAgeMs === 0) return { closed: Promise.resolve() }
    return every(everyMs, signal, () => replaceOld(deps, maxAgeMs, signal, report), report)
  }
}

async function replaceOld(
  { store, encryption, metrics, log }: Needs,
  maxAgeMs: number,
  signal: AbortSignal,
  report: Report,
): Promise<void> {
  const bornBefore = (await store.nowMs()) - maxAgeMs
  for (const key of encryption.list()) {
    if (signal.aborted) return
    if (!key.newest || key.createdAt > bornBefore) continue
    // One that has too many keys, or was just deleted, does not keep the others from theirs.
    const next = await encryption.replace(key).catch(report)
    if (!next) continue
    const { vhost, queue, id } = key
    metrics.count('dataKeysRotated', {}).value++
    log.info({ vhost, queue, id, next: next.id }, 'a data key was replaced for its age')
  }
}
