/** dead-letters, redrive: what was given up on, why, and the way back. */
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { Command, Option } from 'commander'
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

interface Page {
  readonly messages: readonly DeadLetter[]
  readonly next?: string
  readonly scanned: number
}

interface Status {
  readonly id: string
  readonly state: 'waiting' | 'running' | 'paused' | 'done' | 'cancelled' | 'failed'
  readonly dryRun: boolean
  readonly total?: number
  readonly scanned: number
  readonly matched: number
  readonly redriven: number
  readonly skipped: number
  readonly causes: Readonly<Record<string, number>>
  readonly rate: number
  readonly error?: string
}

const FILTER = ['reason', 'diedIn', 'since', 'until', 'header', 'exchange', 'routingKey', 'text']

function filtered(command: Command): Command {
  return command
    .addOption(
      new Option('--reason <reason>', 'why it died').choices([
        ...['rejected', 'expired', 'maxlen', 'delivery_limit'],
      ]),
    )
    .option('--died-in <queue>', 'where it died')
    .option('--since <time>', 'died then or later, e.g. 2030-01-31T12:00:00Z')
    .option('--until <time>', 'died before')
    .option('--header <name[=value]>', 'has this header')
    .option('--exchange <name>', 'where it was first published')
    .option('--routing-key <key>', 'by which it was first published')
    .option('--text <text>', 'has this in its body')
}

const filterOf = (options: Readonly<Record<string, unknown>>): Record<string, string> =>
  Object.fromEntries(
    FILTER.filter((name) => options[name] !== undefined).map((name) => [name, `${options[name]}`]),
  )

export function deadLetterCommands(terminal: Terminal): Command[] {
  const list = listCommand(terminal)
  list.addCommand(copyCommand(terminal))
  const redrive = redriveCommand(terminal)
  redrive.addCommand(jobsCommand(terminal))
  for (const command of changeCommands(terminal)) redrive.addCommand(command)
  return [list, redrive]
}

function listCommand(terminal: Terminal): Command {
  return filtered(
    new Command('dead-letters')
      .description('messages that were given up on, with the reason')
      .argument('[queue]', 'where they are kept', QUEUE_DEFAULT),
  )
    .option('-n, --limit <n>', 'how many', integer(1, 500), 20)
    .option('--after <cursor>', 'go on behind what was shown')
    .action(async (queue: string, options, command: Command) => {
      const { sluice, vhost, json } = open(command)
      const path = pathIn(vhost, 'queues', queue, 'dead-letters')
      const found: DeadLetter[] = []
      let after: string | undefined = options.after
      let scanned = 0
      do {
        const query = {
          ...filterOf(options),
          limit: `${options.limit - found.length}`,
          ...(after !== undefined && { after }),
        }
        const page = (await sluice.request('GET', path, { query })) as Page
        found.push(...page.messages)
        scanned += page.scanned
        after = page.next
        terminal.progress(() => `${grouped(scanned)} looked at, ${grouped(found.length)} found`)
      } while (after !== undefined && found.length < options.limit)
      if (json) for (const message of found) terminal.print(message, { json })
      else terminal.print(found, { json, text: () => deadTable(found) })
      if (after !== undefined) terminal.note(`there are more: --after ${after}`)
    })
}

function copyCommand(terminal: Terminal): Command {
  return new Command('edit')
    .description('publish an edited copy of one')
    .argument('<queue>', 'where it is kept')
    .argument('<id>', 'which one')
    .option('-b, --body <text>', 'another body')
    .option('-f, --file <file>', 'another body, from a file')
    .option('-H, --set-header <name=value>', 'set a header', collect, [])
    .option('--remove-header <name>', 'without this header', collect, [])
    .option('--to-queue <queue>', 'into this queue instead of where it died')
    .option('--to-exchange <exchange>', 'through this exchange')
    .option('-k, --key <key>', 'by this routing key')
    .option('--remove', 'remove the original once the copy is stored')
    .action(async (queue: string, id: string, options, command: Command) => {
      const { sluice, vhost, json } = open(command)
      const headers = (options.setHeader as string[]).map((header) => {
        const at = header.indexOf('=')
        if (at < 1) throw command.error('--set-header is name=value') as never
        return [header.slice(0, at), header.slice(at + 1)]
      })
      const body = {
        ...(options.body !== undefined && { body: options.body }),
        ...(options.file !== undefined && {
          bodyBase64: readFileSync(options.file).toString('base64'),
        }),
        ...(headers.length > 0 && { headers: Object.fromEntries(headers) }),
        ...(options.removeHeader.length > 0 && { removeHeaders: options.removeHeader }),
        ...(options.toQueue !== undefined && { queue: options.toQueue }),
        ...(options.toExchange !== undefined && { exchange: options.toExchange }),
        ...(options.key !== undefined && { routingKey: options.key }),
        remove: options.remove === true,
      }
      const path = pathIn(vhost, 'queues', queue, 'dead-letters', id, 'copies')
      const answer = (await sluice.request('POST', path, { body })) as { queues: string[] }
      terminal.print(answer, { json, text: () => `copied to ${answer.queues.join(', ')}` })
    })
}

const collect = (value: string, all: string[]): string[] => [...all, value]

const rateOption = () =>
  new Option('--rate <n>', 'letters a second; 0: as fast as it goes').argParser(
    integer(0, 1_000_000),
  )

function redriveCommand(terminal: Terminal): Command {
  return filtered(
    new Command('redrive')
      .description('dead letters back to the queues where they died')
      .argument('[queue]', 'where they are kept', QUEUE_DEFAULT),
  )
    .option('--id <id>', 'only this one')
    .option('--to-exchange', 'as they were first published')
    .option('--to-queue <queue>', 'all to this queue')
    .addOption(rateOption())
    .option('-n, --limit <n>', 'end after that many', integer(1, 1_000_000_000))
    .option('--dry-run', 'count, and move nothing')
    .option('--no-wait', 'do not wait until the job is done')
    .action(async (queue: string, options, command: Command) => {
      const { sluice, vhost, json } = open(command)
      const path = pathIn(vhost, 'queues', queue)
      const { id, toQueue, toExchange, rate, limit, dryRun, wait } = options
      const to = toQueue === undefined ? (toExchange ? 'exchange' : 'queue') : { queue: toQueue }
      const filter = filterOf(options)
      const job = { filter, to, perSecond: rate ?? 0, limit: limit ?? 0, dryRun: dryRun === true }
      const body = id === undefined ? job : { id, to }
      const answer = await sluice.request('POST', `${path}/redrive`, { body })
      if (id !== undefined) {
        const { queue: back } = answer as { queue: string }
        return terminal.print(answer, { json, text: () => `back in ${back || 'its exchange'}` })
      }
      const started = answer as { id: string }
      if (!wait) return terminal.print(answer, { json, text: () => `job ${started.id}` })
      for (;;) {
        const url = `${path}/redrives/${started.id}`
        const status = (await sluice.request('GET', url)) as Status
        terminal.progress(() => progressText(status))
        if (isOver(status)) {
          terminal.print(status, { json, text: () => told(status) })
          if (status.state !== 'done') throw new Exit(1)
          return
        }
        await sleep(LOOK_MS)
      }
    })
}

function jobsCommand(terminal: Terminal): Command {
  return new Command('jobs')
    .description('redrives under way, and those of the last day')
    .argument('[queue]', 'of which queue', QUEUE_DEFAULT)
    .action(async (queue: string, _options, command: Command) => {
      const { sluice, vhost, json } = open(command)
      const answer = await sluice.request('GET', pathIn(vhost, 'queues', queue, 'redrives'))
      const { redrives } = answer as { redrives: Status[] }
      if (json) for (const status of redrives) terminal.print(status, { json })
      else terminal.print(redrives, { json, text: () => jobTable(redrives) })
    })
}

function changeCommands(terminal: Terminal): Command[] {
  const change = (name: string, description: string, body: object) =>
    new Command(name)
      .description(description)
      .argument('<job>', 'which redrive')
      .argument('[queue]', 'of which queue', QUEUE_DEFAULT)
      .addOption(rateOption())
      .action(async (job: string, queue: string, _options, command: Command) => {
        const { sluice, vhost, json } = open(command)
        const { rate } = command.optsWithGlobals() // `redrive` takes it where both could
        const path = pathIn(vhost, 'queues', queue, 'redrives', job)
        const changed = { ...body, ...(rate !== undefined && { perSecond: rate }) }
        const status = (await sluice.request('PUT', path, { body: changed })) as Status
        terminal.print(status, { json, text: () => `${status.state}: ${progressText(status)}` })
      })
  return [
    change('pause', 'a redrive waits', { paused: true }),
    change('resume', 'it goes on, at another rate if one is given', { paused: false }),
    change('cancel', 'it ends where it is', { cancelled: true }),
  ]
}

const isOver = ({ state }: Status) => ['done', 'failed', 'cancelled'].includes(state)

function progressText({ total = 0, scanned, redriven, skipped, rate }: Status): string {
  const share = total > 0 ? Math.min(100, Math.floor((100 * scanned) / total)) : 0
  const counts = `${grouped(redriven)} back, ${grouped(skipped)} left`
  return `${share} % of ${grouped(total)}: ${counts}, ${grouped(Math.round(rate))}/s`
}

function told({ state, dryRun, redriven, skipped, causes, error }: Status): string {
  if (state === 'failed') return `failed: ${error ?? 'for reasons unknown'}`
  const back = dryRun ? 'would go back to their queues' : 'back in their queues'
  const left = `${grouped(redriven)} ${back}, ${grouped(skipped)} left where they are`
  const why = Object.entries(causes).map(([cause, count]) => `${cause} ${grouped(count)}`)
  const counts = why.length > 0 ? `${left} (${why.join(', ')})` : left
  return state === 'cancelled' ? `cancelled: ${counts}` : counts
}

function deadTable(messages: readonly DeadLetter[]): string {
  return table(
    ['ID', 'DIED IN', 'REASON', 'DELIVERIES', 'LAST ERROR', 'BODY'],
    messages.map(({ id, death, body }) => [
      ...[id, death.queue ?? '', death.reason ?? '', death.deliveryCount ?? 0],
      ...[short(death.lastError ?? ''), short(body)],
    ]),
  )
}

function jobTable(redrives: readonly Status[]): string {
  return table(
    ['JOB', 'STATE', 'SCANNED', 'MATCHED', 'BACK', 'LEFT', 'RATE'],
    redrives.map(({ id, state, scanned, matched, redriven, skipped, rate }) => [
      ...[id, state, scanned, matched, redriven, skipped, Math.round(rate)],
    ]),
  )
}
