/** top: queues with their rates, again and again. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { QueueInfo, Sluice } from '@sluice/client'
import { Command } from 'commander'
import { integer, open } from './profile.ts'
import { grouped, type Terminal, table } from './terminal.ts'

const CLEAR_SCREEN = '\u001B[H\u001B[2J'
const PAGE = 500

interface Line {
  readonly queue: string
  readonly ready: number
  readonly unacked: number
  readonly inPerSecond: number
  readonly outPerSecond: number
  readonly dead: number
  /** Until it is empty at this rate, s; -1 = it does not drain. */
  readonly drainSeconds: number
}

export function topCommand(terminal: Terminal): Command {
  return new Command('top')
    .description('queues with what comes in and goes out a second, the fullest first')
    .option('-i, --interval <ms>', 'between two looks', integer(200), 2_000)
    .option('-n, --looks <n>', 'end after so many; 1 in a pipe', integer(1))
    .option('--limit <n>', 'queues shown', integer(1, 500), 30)
    .action(async ({ interval, looks, limit }, command: Command) => {
      const { sluice, json } = open(command)
      const live = terminal.streams.stdout.isTTY === true && !json
      const most = looks ?? (live ? Number.POSITIVE_INFINITY : 1)
      let before = await read(sluice)
      for (let look = 0; look < most; look++) {
        await sleep(interval)
        const now = await read(sluice)
        const lines = linesOf(before, now, interval / 1_000).slice(0, limit)
        if (live) terminal.write(CLEAR_SCREEN)
        if (json) for (const line of lines) terminal.print(line, { json })
        else terminal.print(lines, { json, text: () => shown(lines) })
        before = now
      }
    })
}

async function read(sluice: Sluice): Promise<Map<string, QueueInfo>> {
  const all = new Map<string, QueueInfo>()
  for (let page = 1; ; page++) {
    const { items, total } = await sluice.topology.listQueues({ page, pageSize: PAGE })
    for (const queue of items) all.set(queue.name, queue)
    if (items.length === 0 || page * PAGE >= total) return all
  }
}

function linesOf(
  before: ReadonlyMap<string, QueueInfo>,
  now: ReadonlyMap<string, QueueInfo>,
  seconds: number,
): Line[] {
  const lines = [...now.values()].map(({ name, messages, totals }): Line => {
    const rate = (total: string) => {
      const grown = (totals[total] ?? 0) - (before.get(name)?.totals[total] ?? 0)
      return Math.max(0, grown / seconds)
    }
    const [inPerSecond, outPerSecond] = [rate('published'), rate('acked')]
    const net = outPerSecond - inPerSecond
    const { ready, unacked, dead } = messages
    const drainSeconds = ready === 0 ? 0 : net > 0 ? Math.round(ready / net) : -1
    return { queue: name, ready, unacked, inPerSecond, outPerSecond, dead, drainSeconds }
  })
  return lines.sort((a, b) => b.ready - a.ready || b.inPerSecond - a.inPerSecond)
}

function shown(lines: readonly Line[]): string {
  const headings = ['QUEUE', 'READY', 'UNACKED', 'IN/S', 'OUT/S', 'DEAD', 'DRAINS IN']
  const rows = lines.map((line) => [
    ...[line.queue, grouped(line.ready), grouped(line.unacked)],
    ...[grouped(line.inPerSecond), grouped(line.outPerSecond), grouped(line.dead)],
    line.drainSeconds < 0 ? 'never' : line.drainSeconds === 0 ? '' : `${line.drainSeconds} s`,
  ])
  return table(headings, rows)
}
