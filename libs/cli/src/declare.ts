/** declare, delete: what a broker has. */
import { Command } from 'commander'
import { open, pairs } from './profile.ts'
import type { Terminal } from './terminal.ts'

type Arguments = Record<string, never>

export function declareCommands(terminal: Terminal): Command[] {
  return [declaring(terminal), deleting(terminal)]
}

function declaring(terminal: Terminal): Command {
  const root = new Command('declare').description('a queue, an exchange, a binding, a vhost')
  const said = (command: Command, json: boolean, what: string, created: boolean) =>
    terminal.print(
      { kind: command.name(), name: what, created },
      { json, text: () => `${what}: ${created ? 'created' : 'was there'}` },
    )
  root
    .command('queue <name>')
    .description('durable unless told')
    .option('--transient', 'gone with the broker', false)
    .option('--auto-delete', 'gone with its last consumer', false)
    .option('-a, --argument <name=value>', 'e.g. x-message-ttl=60000; repeatable', pairs)
    .action(async (name: string, { transient, autoDelete, argument }, command: Command) => {
      const { sluice, json } = open(command)
      const options = { durable: !transient, autoDelete, arguments: (argument ?? {}) as Arguments }
      said(command, json, name, await sluice.topology.declareQueue(name, options))
    })
  root
    .command('exchange <name>')
    .option('--type <type>', 'direct, fanout, topic or headers', 'direct')
    .option('--transient', 'gone with the broker', false)
    .option('--auto-delete', 'gone with its last binding', false)
    .option('--internal', 'only exchanges publish to it', false)
    .option('-a, --argument <name=value>', 'e.g. alternate-exchange=rest; repeatable', pairs)
    .action(async (name: string, { transient, argument, ...rest }, command: Command) => {
      const { sluice, json } = open(command)
      const options = {
        ...pick(rest),
        durable: !transient,
        arguments: (argument ?? {}) as Arguments,
      }
      said(command, json, name, await sluice.topology.declareExchange(name, options))
    })
  root
    .command('binding <source> <destination>')
    .description('from an exchange to a queue')
    .option('--key <key>', 'binding key', '')
    .option('--to-exchange', 'the destination is an exchange', false)
    .option('-a, --argument <name=value>', 'of a headers exchange; repeatable', pairs)
    .action(async (source: string, destination: string, options, command: Command) => {
      const { sluice, json } = open(command)
      const created = await sluice.topology.bind({
        ...{ source, destination, routingKey: options.key },
        destinationType: options.toExchange ? 'exchange' : 'queue',
        arguments: options.argument ?? {},
      })
      said(command, json, `${source} -> ${destination}`, created)
    })
  root
    .command('vhost')
    .description('the one that --vhost names')
    .action(async (_options, command: Command) => {
      const { sluice, vhost, json } = open(command)
      said(command, json, vhost, await sluice.topology.declareVhost())
    })
  return root
}

function pick({ type, autoDelete, internal }: Record<string, unknown>) {
  return {
    type: type as 'direct',
    autoDelete: autoDelete === true,
    internal: internal === true,
  }
}

function deleting(terminal: Terminal): Command {
  const root = new Command('delete').description(
    'a queue with its messages, an exchange, a binding',
  )
  root
    .command('queue <name>')
    .option('--if-empty', 'refuse while it holds a message', false)
    .option('--if-unused', 'refuse while it has a consumer', false)
    .action(async (name: string, options, command: Command) => {
      await open(command).sluice.topology.deleteQueue(name, options)
    })
  root
    .command('exchange <name>')
    .option('--if-unused', 'refuse while it has bindings', false)
    .action(async (name: string, options, command: Command) => {
      await open(command).sluice.topology.deleteExchange(name, options)
    })
  root
    .command('binding <source> <destination>')
    .option('--key <key>', 'binding key', '')
    .option('--to-exchange', 'the destination is an exchange', false)
    .action(async (source: string, destination: string, options, command: Command) => {
      const { sluice } = open(command)
      const destinationType = options.toExchange ? 'exchange' : 'queue'
      await sluice.topology.unbind({
        source,
        destination,
        destinationType,
        routingKey: options.key,
      })
    })
  root
    .command('vhost')
    .description('the one that --vhost names, with all that is in it')
    .requiredOption('--yes', 'all its messages go')
    .action(async (_options, command: Command) => {
      await open(command).sluice.topology.deleteVhost()
    })
  const purge = root.command('messages <queue>').description('those that wait in a queue')
  purge.action(async (queue: string, _options, command: Command) => {
    const { sluice, json } = open(command)
    const messages = await sluice.topology.purgeQueue(queue)
    terminal.print({ queue, messages }, { json, text: () => `${messages} deleted` })
  })
  return root
}
