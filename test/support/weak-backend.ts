/** Starts weak-backend-main.ts, and reads what arrived there. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import type { Scope } from './processes.ts'

const MAIN = fileURLToPath(new URL('weak-backend-main.ts', import.meta.url))

interface BackendArrival {
  readonly body: string
  readonly status: number
  /** ms since 1970. */
  readonly atMs: number
}

export interface WeakBackend {
  readonly url: string
  /** Nobody listens, and every connection ends, for so long. */
  goAway(ms: number): void
  /** All requests so far. */
  arrivals(): Promise<BackendArrival[]>
}

/** @param options perSecond 0 = any number. */
export async function startWeakBackend(
  t: Pick<Scope, 'after'>,
  { perSecond = 0, burst = 1, latencyMs = 0 }: Partial<Record<string, number>> = {},
): Promise<WeakBackend> {
  const args = [perSecond, burst, latencyMs].map(String)
  const child = spawn(process.execPath, [MAIN, ...args], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    env: { ...process.env, NODE_NO_WARNINGS: '1' },
  })
  t.after(() => void child.kill('SIGKILL'))
  const [{ url }] = (await once(child, 'message')) as [{ url: string }]
  return {
    url,
    goAway: (awayMs) => void child.send({ awayMs }),
    async arrivals() {
      child.send({})
      const [{ arrivals }] = (await once(child, 'message')) as [
        { arrivals: [string, number, number][] },
      ]
      return arrivals.map(([body, status, atMs]) => ({ body, status, atMs }))
    },
  }
}

/** The most that any window holds above rate x time: the burst that it would have taken. */
export function aboveRate(arrivals: readonly BackendArrival[], perSecond: number): number {
  let least = Number.POSITIVE_INFINITY
  let most = 0
  arrivals.forEach(({ atMs }, n) => {
    const level = n - (perSecond * atMs) / 1_000
    least = Math.min(least, level)
    most = Math.max(most, level + 1 - least)
  })
  return most
}
