/** Whether both ends of a connection are still there. */
import type { FrameWriter } from './frame-writer.ts'
import type { Output } from './output.ts'

/** Looks at the peer that hear nothing before it counts as gone. */
const SILENT_MAX = 2

/**
 * Heartbeats both ways: sends one when nothing was sent for half the interval, and calls `silent`
 * after two intervals in which nothing was heard. An interval of 0 means none.
 *
 * @param peer.heard grows while the peer shows life; NaN while it cannot.
 */
export function startHeartbeat(
  intervalS: number,
  writer: FrameWriter,
  output: Output,
  peer: { heard(): number; silent(): void },
): NodeJS.Timeout | undefined {
  if (intervalS === 0) return undefined
  let flushes = output.flushes
  let heard = peer.heard()
  let ticks = 0
  let silent = 0
  return setInterval(() => {
    if (output.flushes === flushes) {
      writer.heartbeat()
      flushes++ // that one is no news
    } else {
      flushes = output.flushes
    }
    if (++ticks % 2 !== 0) return
    const heardNow = peer.heard()
    silent = heardNow === heard ? silent + 1 : 0 // NaN equals nothing
    heard = heardNow
    if (silent >= SILENT_MAX) peer.silent()
  }, intervalS * 500)
}
