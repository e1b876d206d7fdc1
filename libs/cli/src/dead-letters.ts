/** dead-letters, redrive: what was given up on, and the way back. */
import { setTimeout as sleep } from 'node:timers/promises'
import { Command } from 'commander'
import { Exit } from './exit.ts'
import { type Peeked, short } from './look.ts'
import { integer, open, pathIn } from './profile.ts'
import { grouped, type Terminal, table } from './terminal.ts'

const LOOK_MS = 300
const QUEUE_DEFAULT = 'amq.dead-letters'

interface DeadLetter extends Peeked {
  readonly death: {
    readonly queue?: string
    readonly reason?: string
    readonly lastError?: string
    readonly deliveryCount?: number
  }
}

interface Status {
  readonly state: 'waiting' | 'running' | 'done' | 'failed'
  readonly redriven: number
  readonly skipped: number
  readonly error?: string
}

export function deadLetterCommands(terminal: Terminal): Command[] {
  const list = new Command('dead-letters')
    .description('messages that were given up on, with the reason')
    .argument('[queue]', 'where they are kept', QUEUE_DEFAULT)
    .option('-n, --limit <n>', 'how many', integer(1, 500), 20)
    .option('--after <cursor>', 'go on behind what was shown')
    .action(async (queue: string, options, command: Command) => {
      const { sluice, vhost, json } = open(command)
      const path = pathIn(vhost, 'queues', queue, 'dead-letters')
      const answer = await sluice.request('GET', path, { query: options as Record<string, string> })
      const { messages, next } = answer as { messages: DeadLetter[]; next?: string }
      if (json) for (const message of messages) terminal.print(message, { json })
      else terminal.print(messages, { json, text: () => deadTable(messages) })
      if (next) terminal.note(`there are more: --after ${next}`)
    })
  const redrive = new Command('redrive')
    .description('dead letters back to the queues where they died')
    .argument('[queue]', 'where they are kept', QUEUE_DEFAULT)
    .option('--id <id>', 'only this one')
    .option('--no-wait', 'do not wait until the job is done')
    .action(async (queue: string, { id, wait }, command: Command) => {
      const { sluice, vhost, json } = open(command)
      const path = pathIn(vhost, 'queues', queue)
      const body = id === undefined ? {} : { id }
      const answer = await sluice.request('POST', `${path}/redrive`, { body })
      if (id !== undefined) {
        const { queue: to } = answer as { queue: string }
        return terminal.print(answer, { json, text: () => `back in ${to}` })
      }
      const { id: job } = answer as { id: string }
      if (!wait) return terminal.print(answer, { json, text: () => `job ${job}` })
      for (;;) {
        const status = (await sluice.request('GET', `${path}/redrives/${job}`)) as Status
        terminal.progress(() => `${grouped(status.redriven)} back, ${grouped(status.skipped)} left`)
        if (status.state === 'done' || status.state === 'failed') {
          terminal.print({ id: job, ...status }, { json, text: () => told(status) })
          if (status.state === 'failed') throw new Exit(1)
          return
        }
        await sleep(LOOK_MS)
      }
    })
  return [list, redrive]
}

const told = ({ state, redriven, skipped, error }: Status) =>
  state === 'failed'
    ? `failed: ${error ?? 'for reasons unknown'}`
    : `${grouped(redriven)} back in their queues, ${grouped(skipped)} left where they are`

function deadTable(messages: readonly DeadLetter[]): string {
  return table(
    ['ID', 'DIED IN', 'REASON', 'DELIVERIES', 'LAST ERROR', 'BODY'],
    messages.map(({ id, death, body }) => [
      ...[id, death.queue ?? '', death.reason ?? '', death.deliveryCount ?? 0],
      ...[short(death.lastError ?? ''), short(body)],
    ]),
  )
}
