/** dead-letters, redrive: what was given up on, why, and the way back. */
import { readFileSync } from 'node:fs'
import type {
  DeadLetterFilter,
  Letter,
  Redrive,
  RedriveStatus,
  RedriveTarget,
} from '@sluice/client'
import { Command, InvalidArgumentError, Option, type OptionValues } from 'commander'
import { Exit } from './exit.ts'
import { short } from './look.ts'
import { integer, open } from './profile.ts'
import { grouped, type Terminal, table } from './terminal.ts'

const LOOK_MS = 300
const QUEUE_DEFAULT = 'amq.dead-letters'

function filtered(command: Command): Command {
  return command
    .addOption(
      new Option('--reason <reason>', 'why it died').choices([
        ...['rejected', 'expired', 'maxlen', 'delivery_limit'],
      ]),
    )
    .option('--died-in <queue>', 'where it died')
    .option('--since <time>', 'died then or later, e.g. 2030-01-31T12:00:00Z', time)
    .option('--until <time>', 'died before', time)
    .option('--header <name[=value]>', 'has this header')
    .option('--exchange <name>', 'where it was first published')
    .option('--routing-key <key>', 'by which it was first published')
    .option('--text <text>', 'has this in its body')
}

function filterOf(options: OptionValues): DeadLetterFilter {
  const { reason, diedIn, since, until, header, exchange, routingKey, text } = options
  return { reason, diedIn, since, until, header, exchange, routingKey, text }
}

export function deadLetterCommands(terminal: Terminal): Command[] {
  const list = listCommand(terminal)
  list.addCommand(copyCommand(terminal))
  list.addCommand(discardCommand(terminal))
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
      const { sluice, json } = open(command)
      const letters = sluice.deadLetters(queue)
      const filter = filterOf(options)
      const found: Letter[] = []
      let after: string | undefined = options.after
      let scanned = 0
      do {
        const pageSize = options.limit - found.length
        const page = await letters.searchPage({ ...filter, pageSize, ...(after && { after }) })
        found.push(...page.letters)
        scanned += page.scanned
        after = page.next
        terminal.progress(() => `${grouped(scanned)} looked at, ${grouped(found.length)} found`)
      } while (after !== undefined && found.length < options.limit)
      if (json) for (const letter of found) terminal.print(letter, { json })
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
      const { sluice, json } = open(command)
      const headers = (options.setHeader as string[]).map((header) => {
        const at = header.indexOf('=')
        if (at < 1) throw command.error('--set-header is name=value') as never
        return [header.slice(0, at), header.slice(at + 1)]
      })
      const receipt = await sluice.deadLetters(queue).sendCopy(id, {
        body: options.file === undefined ? options.body : readFileSync(options.file),
        ...(headers.length > 0 && { headers: Object.fromEntries(headers) }),
        removeHeaders: options.removeHeader,
        queue: options.toQueue,
        exchange: options.toExchange,
        routingKey: options.key,
        remove: options.remove === true,
      })
      terminal.print(receipt, { json, text: () => `copied to ${receipt.queues.join(', ')}` })
    })
}

function discardCommand(terminal: Terminal): Command {
  return new Command('discard')
    .description('throw one away')
    .argument('<queue>', 'where it is kept')
    .argument('<id>', 'which one')
    .action(async (queue: string, id: string, _options, command: Command) => {
      const { sluice, json } = open(command)
      const removed = await sluice.deadLetters(queue).discard(id)
      terminal.print({ removed }, { json, text: () => (removed ? 'discarded' : 'was not there') })
    })
}

const collect = (value: string, all: string[]): string[] => [...all, value]

function time(text: string): Date {
  const at = new Date(text)
  if (Number.isNaN(at.getTime())) throw new InvalidArgumentError('It is a time (RFC 3339).')
  return at
}

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
      const { sluice, json } = open(command)
      const letters = sluice.deadLetters(queue)
      const { id, toQueue, toExchange, rate: perSecond, limit, dryRun, wait } = options
      const origin = toExchange ? 'exchange' : 'queue'
      const to: RedriveTarget = toQueue === undefined ? origin : { queue: toQueue }
      if (id !== undefined) {
        const back = await letters.redriveOne(id, { to })
        const text = () => `back in ${back || 'its exchange'}`
        return terminal.print({ queue: back }, { json, text })
      }
      const filter = filterOf(options)
      const job = await letters.startRedrive({ filter, to, perSecond, limit, dryRun })
      if (!wait) return terminal.print({ id: job.id }, { json, text: () => `job ${job.id}` })
      for await (const status of job.watch({ everyMs: LOOK_MS })) {
        terminal.progress(() => progressText(status))
        if (!isOver(status)) continue
        terminal.print(status, { json, text: () => told(status) })
        if (status.state !== 'done') throw new Exit(1)
      }
    })
}

function jobsCommand(terminal: Terminal): Command {
  return new Command('jobs')
    .description('redrives under way, and those of the last day')
    .argument('[queue]', 'of which queue', QUEUE_DEFAULT)
    .action(async (queue: string, _options, command: Command) => {
      const { sluice, json } = open(command)
      const redrives = await sluice.deadLetters(queue).listRedrives()
      if (json) for (const status of redrives) terminal.print(status, { json })
      else terminal.print(redrives, { json, text: () => jobTable(redrives) })
    })
}

function changeCommands(terminal: Terminal): Command[] {
  type Change = (job: Redrive, rate: { perSecond?: number }) => Promise<RedriveStatus>
  const change = (name: string, description: string, act: Change) =>
    new Command(name)
      .description(description)
      .argument('<job>', 'which redrive')
      .argument('[queue]', 'of which queue', QUEUE_DEFAULT)
      .action(async (id: string, queue: string, _options, command: Command) => {
        const { sluice, json } = open(command)
        const { rate: perSecond } = command.optsWithGlobals() // `redrive` takes it where both could
        const status = await act(sluice.deadLetters(queue).redrive(id), { perSecond })
        terminal.print(status, { json, text: () => `${status.state}: ${progressText(status)}` })
      })
  return [
    change('pause', 'a redrive waits', (job) => job.pause()),
    change('resume', 'it goes on, at another rate if one is given', (job, rate) =>
      job.resume(rate),
    ).addOption(rateOption()),
    change('cancel', 'it ends where it is', (job) => job.cancel()),
  ]
}

const isOver = ({ state }: RedriveStatus) => ['done', 'failed', 'cancelled'].includes(state)

function progressText({ total = 0, scanned, redriven, skipped, rate }: RedriveStatus): string {
  const share = total > 0 ? Math.min(100, Math.floor((100 * scanned) / total)) : 0
  const counts = `${grouped(redriven)} back, ${grouped(skipped)} left`
  return `${share} % of ${grouped(total)}: ${counts}, ${grouped(Math.round(rate))}/s`
}

function told({ state, dryRun, redriven, skipped, causes, error }: RedriveStatus): string {
  if (state === 'failed') return `failed: ${error ?? 'for reasons unknown'}`
  const back = dryRun ? 'would go back to their queues' : 'back in their queues'
  const left = `${grouped(redriven)} ${back}, ${grouped(skipped)} left where they are`
  const why = Object.entries(causes).map(([cause, count]) => `${cause} ${grouped(count)}`)
  const counts = why.length > 0 ? `${left} (${why.join(', ')})` : left
  return state === 'cancelled' ? `cancelled: ${counts}` : counts
}

function deadTable(letters: readonly Letter[]): string {
  return table(
    ['ID', 'DIED IN', 'REASON', 'DELIVERIES', 'LAST ERROR', 'BODY'],
    letters.map(({ id, death, body }) => [
      ...[id, death.queue, death.reason ?? '', death.deliveryCount ?? 0],
      ...[short(death.lastError ?? ''), shown(body)],
    ]),
  )
}

/** Bytes are told by their number. */
const shown = (body: unknown) =>
  body instanceof Uint8Array ? `${grouped(body.length)} bytes` : short(body)

function jobTable(redrives: readonly RedriveStatus[]): string {
  return table(
    ['JOB', 'STATE', 'SCANNED', 'MATCHED', 'BACK', 'LEFT', 'RATE'],
    redrives.map(({ id, state, scanned, matched, redriven, skipped, rate }) => [
      ...[id, state, scanned, matched, redriven, skipped, Math.round(rate)],
    ]),
  )
}
