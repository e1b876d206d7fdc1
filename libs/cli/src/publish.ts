/** publish: a message, standard input, files, NDJSON; in batches, at a rate, with progress. */
import { stat } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import type { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { setTimeout as sleep } from 'node:timers/promises'
import type { BatchMessage, Body, MessageOptions, Sluice, Target } from '@sluice/client'
import { Command } from 'commander'
import { Exit } from './exit.ts'
import { integer, open, pairs } from './profile.ts'
import { duration, grouped, type Terminal } from './terminal.ts'

/** Lines sent together, where no rate asks for fewer. */
const BATCH_MAX = 500
/** Batches a second at a rate. */
const BATCHES_A_SECOND = 20

interface Options {
  readonly exchange?: string
  readonly key: string
  readonly file?: string
  readonly lines: boolean
  readonly ndjson: boolean
  readonly rate: number
  readonly type?: string
  readonly header?: Record<string, unknown>
  readonly idempotencyKey?: string
  readonly delay?: number
  readonly ttl?: number
  readonly priority?: number
  readonly orderingKey?: string
}

export function publishCommand(terminal: Terminal): Command {
  return new Command('publish')
    .description('a message, or many: from the command line, a file or standard input')
    .argument('[queue]', 'where to; with --exchange it is left out')
    .argument('[body]', 'the message; else --file, else standard input')
    .option('-x, --exchange <name>', 'publish to an exchange, under --key')
    .option('-k, --key <key>', 'routing key', '')
    .option('-f, --file <path>', 'read it from there')
    .option('-l, --lines', 'each line is a message', false)
    .option('-n, --ndjson', 'each line is a message as JSON', false)
    .option('-r, --rate <n>', 'at most so many lines a second', integer(1, 1_000_000), 0)
    .option('-t, --type <media type>', 'content type')
    .option('-H, --header <name=value>', "of the message's own; repeatable", pairs)
    .option('--idempotency-key <key>', 'store it once, however often it is published')
    .option('--delay <ms>', 'not delivered before', integer(0))
    .option('--ttl <ms>', 'dead after', integer(0))
    .option('--priority <n>', 'in queues that have any', integer(0, 255))
    .option('--ordering-key <key>', 'in queues that keep the order of one')
    .action(async (first: string | undefined, second, options: Options, command: Command) => {
      const { sluice, json } = open(command)
      const [queue, text] = options.exchange === undefined ? [first, second] : ['', first]
      if (queue === undefined) return command.error('name a queue, or --exchange')
      const target: Target =
        options.exchange === undefined
          ? { queue }
          : { exchange: options.exchange, routingKey: options.key }
      try {
        if (options.lines || options.ndjson) {
          const source = text === undefined ? terminal.read(options.file) : undefined
          if (!source) return command.error('lines come from --file or standard input')
          await publishLines(terminal, sluice, target, source, options, json)
        } else {
          const body = text ?? (await buffer(terminal.read(options.file)))
          const receipt = await sluice.publish(target, bodyOf(body), messageOptions(options))
          terminal.print(receipt, {
            json,
            text: () =>
              receipt.routed ? `published to ${receipt.queues.join(', ')}` : 'no queue wanted it',
          })
          if (!receipt.routed) throw new Exit(1)
        }
      } finally {
        await sluice.close()
      }
    })
}

const bodyOf = (body: string | Buffer): Body =>
  typeof body === 'string' ? body : new Uint8Array(body)

function messageOptions(options: Options): MessageOptions {
  const { type, header, idempotencyKey, delay, ttl, priority, orderingKey } = options
  return {
    ...(type !== undefined && { contentType: type }),
    ...(header !== undefined && { headers: header as MessageOptions['headers'] & object }),
    ...(idempotencyKey !== undefined && { idempotencyKey }),
    ...(delay !== undefined && { delayMs: delay }),
    ...(ttl !== undefined && { ttlMs: ttl }),
    ...(priority !== undefined && { priority }),
    ...(orderingKey !== undefined && { orderingKey }),
  }
}

/** One batch after the other; what the broker refuses is counted, and the first reasons said. */
async function publishLines(
  terminal: Terminal,
  sluice: Sluice,
  target: Target,
  source: Readable,
  options: Options,
  json: boolean,
): Promise<void> {
  const { rate, file, ndjson } = options
  const size = file === undefined || file === '-' ? 0 : (await stat(file)).size
  const most =
    rate === 0 ? BATCH_MAX : Math.max(1, Math.min(BATCH_MAX, Math.ceil(rate / BATCHES_A_SECOND)))
  const shared = messageOptions(options)
  const totals = { published: 0, duplicates: 0, unrouted: 0, failed: 0 }
  const begun = performance.now()
  let bytes = 0
  let lines = 0
  let batch: BatchMessage[] = []
  const send = async () => {
    const receipt = await sluice.publishBatch(target, batch)
    totals.published += receipt.published
    totals.duplicates += receipt.duplicates
    totals.unrouted += receipt.unrouted
    totals.failed += receipt.failures.length
    for (const { index, error } of receipt.failures.slice(0, 3)) {
      terminal.note(`line ${lines - batch.length + index + 1}: ${error.message}`)
    }
    batch = []
    const early = rate === 0 ? 0 : (lines / rate) * 1_000 - (performance.now() - begun)
    if (early > 0) await sleep(early)
    terminal.progress(() => progressLine(lines, bytes, size, performance.now() - begun))
  }
  for await (const line of createInterface({
    input: source,
    crlfDelay: Number.POSITIVE_INFINITY,
  })) {
    bytes += Buffer.byteLength(line) + 1
    if (line === '') continue
    lines++
    batch.push({ ...shared, body: ndjson ? parsed(line, lines) : line })
    if (batch.length === most) await send()
  }
  if (batch.length > 0) await send()
  const seconds = Math.max((performance.now() - begun) / 1_000, 0.001)
  terminal.print(totals, {
    json,
    text: () =>
      `${grouped(totals.published)} published in ${duration(seconds * 1_000)}` +
      `${totals.duplicates > 0 ? `, ${grouped(totals.duplicates)} were there` : ''}` +
      `${totals.unrouted > 0 ? `, ${grouped(totals.unrouted)} that no queue wanted` : ''}` +
      `${totals.failed > 0 ? `, ${grouped(totals.failed)} refused` : ''}`,
  })
  if (totals.failed + totals.unrouted > 0) throw new Exit(1)
}

function parsed(line: string, number: number): Body {
  try {
    return JSON.parse(line) as Body
  } catch (cause) {
    throw new Error(`line ${number} is no JSON; everything before it is published`, { cause })
  }
}

function progressLine(lines: number, bytes: number, size: number, ms: number): string {
  const rate = `${grouped(lines)} published, ${grouped((lines * 1_000) / Math.max(ms, 1))}/s`
  if (size === 0) return rate
  const share = Math.min(bytes / size, 1)
  const bar = '█'.repeat(Math.round(share * 30)).padEnd(30, '░')
  return `${bar} ${Math.round(share * 100)} %  ${rate}`
}
