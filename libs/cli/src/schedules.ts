/** schedules: messages published by the clock. */
import { Command } from 'commander'
import { integer, open, pairs, pathIn } from './profile.ts'
import { duration, type Terminal, table } from './terminal.ts'

interface Shown {
  readonly name: string
  readonly at?: string
  readonly everyMs?: number
  readonly cron?: string
  readonly timeZone: string
  readonly exchange: string
  readonly paused: boolean
  readonly next: readonly string[]
}

export function scheduleCommands(terminal: Terminal): Command[] {
  const root = new Command('schedules').description('messages published by the clock')
  root
    .command('list', { isDefault: true })
    .description('all of them, with their next runs')
    .action(async (_options, command: Command) => {
      const { sluice, vhost, json } = open(command)
      const query = { pageSize: 500 }
      const answer = await sluice.request('GET', pathIn(vhost, 'schedules'), { query })
      const { items } = answer as { items: Shown[] }
      const rows = items.map((one) => [one.name, when(one), one.exchange, one.next[0] ?? 'paused'])
      if (json) for (const item of items) terminal.print(item, { json })
      else
        terminal.print(items, {
          json,
          text: () => table(['NAME', 'WHEN', 'EXCHANGE', 'NEXT'], rows),
        })
    })
  root
    .command('set <name> <body>')
    .description('create or replace one')
    .option('--at <time>', 'once, at this moment (RFC 3339)')
    .option('--every <ms>', 'after each so many ms', integer(1_000))
    .option('--cron <expression>', 'minute hour day month weekday')
    .option('--time-zone <name>', 'of --cron', 'UTC')
    .option('-x, --exchange <name>', 'where it is published', 'amq.default')
    .option('-k, --key <key>', 'routing key; the name of a queue for the default exchange', '')
    .option('-H, --header <name=value>', "of the message's own; repeatable", pairs)
    .option('--missed <what>', 'skip or once', 'once')
    .action(async (name: string, body: string, options, command: Command) => {
      const { at, every: everyMs, cron, timeZone, exchange, key, header, missed } = options
      if ([at, everyMs, cron].filter((one) => one !== undefined).length !== 1) {
        return command.error('give one of --at, --every and --cron')
      }
      const { sluice, vhost } = open(command)
      const message = { routingKey: key, body, ...(header && { headers: header }) }
      await sluice.request('PUT', pathIn(vhost, 'schedules', name), {
        body: { at, everyMs, cron, timeZone, exchange, message, missed },
      })
    })
  for (const what of ['pause', 'resume'] as const) {
    root.command(`${what} <name>`).action(async (name: string, _options, command: Command) => {
      const { sluice, vhost } = open(command)
      await sluice.request('POST', pathIn(vhost, 'schedules', name, what))
    })
  }
  root.command('delete <name>').action(async (name: string, _options, command: Command) => {
    const { sluice, vhost } = open(command)
    await sluice.request('DELETE', pathIn(vhost, 'schedules', name))
  })
  return [root]
}

function when({ at, everyMs, cron, timeZone }: Shown): string {
  if (at !== undefined) return at
  return everyMs === undefined ? `${cron} (${timeZone})` : `every ${duration(everyMs)}`
}
