/**
 * Start and stop, the same for every part of every process.
 *
 * A part is started with an AbortSignal and gives back a `Running`. Aborting the signal asks it
 * to stop: it takes no new work, finishes what it holds, then settles `closed`. Nothing starts in
 * a constructor, and there is no second method that stops.
 */
export interface Running {
  /** Settles when the part has stopped; rejects when it failed. */
  readonly closed: Promise<void>
}

export type Start = (signal: AbortSignal) => Promise<Running>

/** Where errors go that no caller waits for. Never throws. */
export type Report = (error: unknown) => void

/**
 * Starts parts in order and returns when all have closed. A part that fails, starting or running,
 * stops the others, and its error is thrown. Parts still open `drainMsMax` after the stop are given
 * up on: that is thrown too, so the process exits non-zero rather than hang.
 *
 * @param started called once every part has started.
 */
export async function runParts(
  stop: AbortController,
  starts: readonly Start[],
  { drainMsMax, started }: { drainMsMax: number; started?: () => void },
): Promise<void> {
  let failure: unknown
  const fail = (error: unknown) => {
    failure ??= error
    stop.abort(error)
  }

  const closing: Promise<void>[] = []
  try {
    for (const start of starts) {
      if (stop.signal.aborted) break // told to stop while starting
      const part = await start(stop.signal)
      closing.push(part.closed.catch(fail))
    }
    if (!stop.signal.aborted) started?.()
  } catch (error) {
    fail(error)
  }

  let timer: NodeJS.Timeout | undefined
  const drained = await Promise.race([
    Promise.all(closing).then(() => true),
    new Promise<false>((resolve) => {
      onAbort(stop.signal, () => {
        timer = setTimeout(resolve, drainMsMax, false)
      })
    }),
  ])
  clearTimeout(timer)
  if (failure !== undefined) throw failure
  if (!drained) throw new Error(`did not drain within ${drainMsMax} ms`)
}

/** Calls `stop` when the signal aborts; at once if it already has. */
export function onAbort(signal: AbortSignal, stop: () => void): void {
  if (signal.aborted) stop()
  else signal.addEventListener('abort', stop, { once: true })
}

/**
 * An AbortController aborted by SIGTERM or SIGINT. The same signal again ends the process at once;
 * the other one may be the same wish: Ctrl-C reaches a whole group, whose head passes its own on.
 */
export function stopOnSignals(): AbortController {
  const stop = new AbortController()
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    let heard = false
    process.on(signal, () => {
      if (heard) process.exit(1)
      heard = true
      stop.abort(new Error(`received ${signal}`))
    })
  }
  return stop
}
