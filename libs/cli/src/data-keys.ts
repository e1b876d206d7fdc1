/** data-keys: the keys that encrypt queues. None of them is ever shown. */
import { Command } from 'commander'
import { open, pathIn } from './profile.ts'
import { type Terminal, table } from './terminal.ts'

interface Shown {
  readonly id: string
  readonly vhost: string
  readonly queue: string
  readonly createdAt: string
  readonly wrappedBy: string
  readonly state: string
  readonly newest: boolean
}

export function dataKeyCommands(terminal: Terminal): Command {
  const root = new Command('data-keys').description('the keys that encrypt queues')
  root
    .command('list', { isDefault: true })
    .description('all of them, newest first; the one that seals has a *')
    .action(async (_options, command: Command) => {
      const { sluice, json } = open(command)
      const answer = await sluice.request('GET', '/v1/data-keys', { query: { pageSize: 500 } })
      const { items } = answer as { items: Shown[] }
      const rows = items.map(({ id, vhost, queue, createdAt, wrappedBy, state, newest }) => {
        return [newest ? `${id} *` : id, vhost, queue, createdAt, wrappedBy, state]
      })
      const head = ['ID', 'VHOST', 'QUEUE', 'CREATED', 'WRAPPED BY', 'STATE']
      if (json) for (const item of items) terminal.print(item, { json })
      else terminal.print(items, { json, text: () => table(head, rows) })
    })
  root
    .command('rotate [queue]')
    .description('a new key of the vhost, or of a queue: it seals what is stored from here on')
    .action(async (queue: string | undefined, _options, command: Command) => {
      const { sluice, vhost, json } = open(command)
      const body = { queue: queue ?? '' }
      const key = (await sluice.request('POST', pathIn(vhost, 'data-keys'), { body })) as Shown
      terminal.print(key, { json, text: () => key.id })
    })
  root
    .command('shred <id>')
    .description('delete a key: what it sealed is read by nobody any more')
    .action(async (id: string, _options, command: Command) => {
      const { sluice, vhost } = open(command)
      await sluice.request('DELETE', pathIn(vhost, 'data-keys', id))
    })
  root
    .command('rewrap')
    .description('wrap all of them with the first key of the settings')
    .action(async (_options, command: Command) => {
      const { sluice, json } = open(command)
      const done = (await sluice.request('POST', '/v1/data-keys/rewrap')) as Done
      const text = () => `${done.rewrapped} rewrapped, ${done.locked} locked`
      terminal.print(done, { json, text })
    })
  return root
}

interface Done {
  readonly rewrapped: number
  readonly locked: number
}
