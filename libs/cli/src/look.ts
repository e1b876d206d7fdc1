/** queues, peek: what is there, without touching it. */
import type { QueueInfo } from '@sluice/client'
import { Command } from 'commander'
import { integer, open, pathIn } from './profile.ts'
import { type Terminal, table } from './terminal.ts'

const PAGE = 500
const TEXT_SHOWN = 100

export function lookCommands(terminal: Terminal): Command[] {
  const queues = new Command('queues')
    .alias('ls')
    .description('the queues of the virtual host, with what is in them')
    .option('--name <text>', 'only names that contain this')
    .action(async ({ name }: { name?: string }, command: Command) => {
      const { sluice, json } = open(command)
      const all: QueueInfo[] = []
      for (let page = 1; ; page++) {
        const filter = name === undefined ? {} : { name }
        const { items, total } = await sluice.topology.listQueues({
          page,
          pageSize: PAGE,
          ...filter,
        })
        all.push(...items)
        if (items.length === 0 || all.length >= total) break
      }
      const rows = all.map(
        ({ name, messages: { ready, unacked, delayed, dead, bytes }, policy }) => [
          ...[name, ready, unacked, delayed, dead, bytes, policy ?? ''],
        ],
      )
      const headings = ['QUEUE', 'READY', 'UNACKED', 'DELAYED', 'DEAD', 'BYTES', 'POLICY']
      if (json) for (const queue of all) terminal.print(queue, { json })
      else terminal.print(all, { json, text: () => table(headings, rows) })
    })
  const peek = new Command('peek')
    .description('messages in a queue, without taking them')
    .argument('<queue>')
    .option('-n, --limit <n>', 'how many', integer(1, 500), 10)
    .option('--state <state>', 'ready, delayed or held', 'ready')
    .option('--id <id>', 'only this one')
    .option('--header <name:value>', 'only those with this header')
    .action(async (queue: string, options, command: Command) => {
      const { sluice, vhost, json } = open(command)
      const query = options as Record<string, string | number>
      const answer = await sluice.request('GET', pathIn(vhost, 'queues', queue, 'messages'), {
        query,
      })
      const { messages } = answer as { messages: Peeked[] }
      if (json) for (const message of messages) terminal.print(message, { json })
      else terminal.print(messages, { json, text: () => peekTable(messages) })
    })
  return [queues, peek]
}

export interface Peeked {
  readonly id: string
  readonly routingKey: string
  readonly body: unknown
  readonly storedAt: string
  readonly deliveryCount?: number
}

function peekTable(messages: readonly Peeked[]): string {
  return table(
    ['ID', 'STORED', 'KEY', 'DELIVERIES', 'BODY'],
    messages.map(({ id, storedAt, routingKey, deliveryCount, body }) => [
      ...[id, storedAt, routingKey, deliveryCount ?? 0, short(body)],
    ]),
  )
}

/** The beginning of a body, on one line. */
export function short(body: unknown): string {
  const text = (typeof body === 'string' ? body : JSON.stringify(body)) ?? ''
  // biome-ignore lint/suspicious/noControlCharactersInRegex: a terminal would act on them
  const line = text.slice(0, TEXT_SHOWN + 1).replace(/[\x00-\x1f\x7f-\x9f]+/g, ' ')
  return line.length > TEXT_SHOWN ? `${line.slice(0, TEXT_SHOWN)}…` : line
}
