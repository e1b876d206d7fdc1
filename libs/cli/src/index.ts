/**
 * The `sluice` commands that talk to a broker, over its HTTP API and nothing else.
 *
 * Exit codes: 0 done; 1 refused or failed; 2 not understood; 3 the broker does not answer; 4 it was
 * asked whether something is as it should be, and it is not (diff, doctor).
 */
import { SluiceError } from '@sluice/client'
import { Command, CommanderError } from 'commander'
import { benchCommand } from './bench.ts'
import { completionCommand } from './completion.ts'
import { consumeCommand } from './consume.ts'
import { dataKeyCommands } from './data-keys.ts'
import { deadLetterCommands } from './dead-letters.ts'
import { declareCommands } from './declare.ts'
import { definitionCommands } from './definitions.ts'
import { doctorCommand } from './doctor.ts'
import { Exit } from './exit.ts'
import { lookCommands } from './look.ts'
import { connectionOptions, profileCommands } from './profile.ts'
import { publishCommand } from './publish.ts'
import { scheduleCommands } from './schedules.ts'
import { Terminal } from './terminal.ts'
import { topCommand } from './top.ts'

const UNREACHABLE: ReadonlySet<string> = new Set(['connection_failed', 'timed_out'])

/** Words that name a command of this program. */
export function commandNames(): string[] {
  return program(new Terminal(process)).commands.flatMap((command) => [
    command.name(),
    ...command.aliases(),
  ])
}

/**
 * Runs one command line, without the program's name. Answers its exit code.
 *
 * @param others words that whoever calls takes for itself: one of them may have been meant
 */
export async function runCommand(
  args: readonly string[],
  others: readonly string[] = [],
): Promise<number> {
  const terminal = new Terminal(process)
  try {
    const root = program(terminal)
    for (const other of others) root.command(other)
    await root.parseAsync([...args], { from: 'user' })
    return 0
  } catch (error) {
    if (error instanceof Exit) return error.code
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2
    terminal.fail(error)
    return error instanceof SluiceError && UNREACHABLE.has(error.code) ? 3 : 1
  } finally {
    terminal.close()
  }
}

function program(terminal: Terminal): Command {
  const root = new Command('sluice').description('Talks to a Sluice broker.')
  connectionOptions(root)
  const groups = [
    ...declareCommands(terminal),
    publishCommand(terminal),
    consumeCommand(terminal),
    ...lookCommands(terminal),
    ...deadLetterCommands(terminal),
    ...scheduleCommands(terminal),
    ...definitionCommands(terminal),
    dataKeyCommands(terminal),
    topCommand(terminal),
    doctorCommand(terminal),
    benchCommand(terminal),
    ...profileCommands(terminal),
  ]
  for (const command of groups) root.addCommand(command)
  root.addCommand(completionCommand(terminal, root))
  return configure(root).showHelpAfterError('(sluice --help says how)')
}

/** Commander asks each command by itself. */
function configure(command: Command): Command {
  for (const sub of command.commands) configure(sub)
  return command
    .exitOverride()
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({
      outputError: (text, write) => write(text.replace(/^(?:error: )?/, 'sluice: ')),
    })
    .showHelpAfterError('(--help says how)')
}
