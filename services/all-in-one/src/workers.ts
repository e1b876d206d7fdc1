/**
 * Several processes behind the same ports: connections are handed to them in turn.
 *
 * Each is a whole `sluice` of its own, with its own slot; they share nothing but Redis, as processes
 * on different machines do. One that ends unasked is replaced; one that never starts ends all.
 */
import cluster, { type Worker } from 'node:cluster'
import { setTimeout as sleep } from 'node:timers/promises'
import { loadConfig } from '@sluice/config'
import { onAbort, stopOnSignals } from '@sluice/core'

/** Before a worker that ended is replaced: one that fails at once must not fail in a loop. */
const RESTART_MS = 1_000

/** How many are asked for; what else is wrong with the settings is said by whoever uses them. */
export function workerCount(env: NodeJS.ProcessEnv): number {
  return loadConfig(env).workers
}

/** Runs workers until a signal; throws when one cannot start, or did not stop in order. */
export async function runWorkers(count: number): Promise<void> {
  const stop = stopOnSignals()
  const failed = Promise.withResolvers<never>()
  failed.promise.catch(() => {}) // it is also awaited below
  let ready = 0
  let doors: object = {}

  const start = () => {
    const worker = cluster.fork()
    let served = false
    worker.on('message', (message: { type?: string }) => {
      if (message.type !== 'ready' || served) return
      served = true
      doors = { ...doors, ...message }
      // Told once, when all of them serve.
      if (++ready === count) process.send?.(doors)
    })
    worker.on('exit', (code) => {
      if (stop.signal.aborted) {
        if (code !== 0) failed.reject(new Error(`a worker ended with code ${code}`))
      } else if (served) {
        sleep(RESTART_MS, undefined, { signal: stop.signal }).then(start, () => {})
      } else {
        failed.reject(new Error('a worker could not start'))
      }
    })
  }
  for (let i = 0; i < count; i++) start()

  const stopped = new Promise<void>((resolve) => onAbort(stop.signal, resolve))
  try {
    await Promise.race([stopped, failed.promise])
  } finally {
    stop.abort()
    await Promise.all(workers().map(end))
  }
  await Promise.race([failed.promise, Promise.resolve()])
}

const workers = (): Worker[] => Object.values(cluster.workers ?? {}).filter((w) => w !== undefined)

/** Asks a worker to drain and stop; settles when it is gone. */
function end(worker: Worker): Promise<void> {
  return new Promise((resolve) => {
    worker.once('exit', () => resolve())
    worker.process.kill('SIGTERM')
  })
}
