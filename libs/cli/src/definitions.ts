/** export, diff, apply: definitions as one document, RabbitMQ's too. */
import { writeFile } from 'node:fs/promises'
import { text } from 'node:stream/consumers'
import { Command } from 'commander'
import { Exit } from './exit.ts'
import { open } from './profile.ts'
import { type Terminal, table } from './terminal.ts'

interface Step {
  readonly action: 'create' | 'change' | 'same' | 'refused' | 'ignored'
  readonly kind: string
  readonly vhost: string
  readonly name: string
  readonly detail?: string
}

interface Report {
  readonly applied: boolean
  readonly counts: Readonly<Record<Step['action'], number>>
  readonly steps: readonly Step[]
}

const PATH = '/v1/definitions'
const FILE = 'a definitions.json, of Sluice or RabbitMQ; - is standard input'

export function definitionCommands(terminal: Terminal): Command[] {
  const exporting = new Command('export')
    .description('vhosts, users, permissions, exchanges, queues, bindings, policies as JSON')
    .argument('[file]', 'where to; else standard output')
    .option('--only-vhost', 'only the virtual host that --vhost names, without users', false)
    .action(async (file: string | undefined, { onlyVhost }, command: Command) => {
      const { sluice, vhost } = open(command)
      const document = await sluice.request('GET', PATH, { query: onlyVhost ? { vhost } : {} })
      const text = `${JSON.stringify(document, null, 2)}\n`
      if (file === undefined) terminal.write(text)
      else await writeFile(file, text, { mode: 0o600 }) // it holds password hashes
    })
  const diff = new Command('diff')
    .description('what an import would change; exit code 4 where that is something')
    .argument('<file>', FILE)
    .action(async (file: string, _options, command: Command) => {
      const report = await post(terminal, command, file, { dryRun: true })
      const { create, change, refused } = report.counts
      if (create + change + refused > 0) throw new Exit(4)
    })
  const apply = new Command('apply')
    .description('import definitions; removes nothing, and twice is as good as once')
    .argument('<file>', FILE)
    .option('--skip-refused', 'do the rest where something cannot be done', false)
    .action(async (file: string, { skipRefused }, command: Command) => {
      await post(terminal, command, file, { skipRefused })
    })
  return [exporting, diff, apply]
}

async function post(
  terminal: Terminal,
  command: Command,
  file: string,
  query: Readonly<Record<string, boolean>>,
): Promise<Report> {
  const { sluice, json } = open(command)
  const body = parse(file, await text(terminal.read(file)))
  const report = (await sluice.request('POST', PATH, { query, body })) as Report
  terminal.print(report, { json, text: () => told(report) })
  return report
}

function parse(file: string, text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new Error(`${file} is no JSON`, { cause })
  }
}

const SIGNS = { create: '+', change: '~', same: '=', refused: '!', ignored: '-' } as const

function told({ applied, counts, steps }: Report): string {
  const rows = steps.map(({ action, kind, vhost, name, detail }) => [
    ...[`${SIGNS[action]} ${action}`, kind, vhost, name, detail ?? ''],
  ])
  const { create, change, same, refused, ignored } = counts
  const verb = applied ? 'done' : 'to do'
  const sum =
    `${verb}: ${create} created, ${change} changed; ${same} just so, ` +
    `${refused} refused, ${ignored} without equivalent`
  const headings = ['', 'KIND', 'VHOST', 'NAME', '']
  return rows.length === 0 ? sum : `${table(headings, rows)}\n\n${sum}`
}
