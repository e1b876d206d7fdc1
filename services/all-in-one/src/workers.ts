/**
 * Several processes behind the same ports: connections are handed to them in turn.
 *
 * Each is a whole `sluice` of its own, with its own slot; they share nothing but Redis, as processes
 * on different machines do. One that ends unasked is replaced, as often as it takes; when one
 * cannot start in the first place, all end, and the process with them.
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
  let failure: Error | undefined
  const fail = (why: string) => {
    failure ??= new Error(why)
    stop.abort(failure)
  }
  let ready = 0
  let doors: object = {}

  const start = (replaces: boolean) => {
    const worker = cluster.fork()
    let served = false
    worker.on('message', (message: { type?: string }) => {
      if (message.type !== 'ready') return
      served = true
      doors = { ...doors, ...message }
      // Told once, when all of them serve.
      if (!replaces && ++ready === count) process.send?.(doors)
    })
    worker.on('exit', (code) => {
      if (stop.signal.aborted) {
        if (served && code !== 0) fail(`a worker ended with code ${code}`)
      } else if (served || replaces) {
        sleep(RESTART_MS, undefined, { signal: stop.signal }).then(
          () => start(true),
          () => {}, // told to stop meanwhile
        )
      } else {
        fail('a worker could not start')
      }
    })
  }
  for (let i = 0; i < count; i++) start(false)

  await new Promise<void>((resolve) => onAbort(stop.signal, resolve))
  const workers = Object.values(cluster.workers ?? {})
  await Promise.all(workers.map((worker) => worker && end(worker)))
  if (failure !== undefined) throw failure
}

/** Asks a worker to drain and stop; settles when it is gone. */
function end(worker: Worker): Promise<void> {
  return new Promise((resolve) => {
    worker.once('exit', () => resolve())
    if (worker.isDead()) resolve()
    else worker.process.kill('SIGTERM')
  })
}
