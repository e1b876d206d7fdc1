import { setTimeout as sleep } from 'node:timers/promises'

const POLL_MS = 10

/**
 * Calls `condition` until it answers something other than false, undefined or null, and returns
 * that. Throws, naming `what`, once `timeoutMs` (10 s) have passed; what `condition` itself throws
 * is thrown at once.
 */
export async function waitFor<T>(
  condition: () => T | Promise<T>,
  { timeoutMs = 10_000, what = 'the condition' }: { timeoutMs?: number; what?: string } = {},
): Promise<Exclude<T, false | undefined | null>> {
  const deadline = performance.now() + timeoutMs
  while (true) {
    const value = await condition()
    if (value !== false && value !== undefined && value !== null) {
      return value as Exclude<T, false | undefined | null>
    }
    if (performance.now() > deadline) throw new Error(`waited ${timeoutMs} ms for ${what}`)
    await sleep(POLL_MS)
  }
}
