/**
 * A week of earthquakes through the broker, every one of them accounted for: `npm run example`.
 *
 * Publishes earthquakes.ndjson to a topic exchange, twice, under the ids of the events; two
 * consumer processes work on three queues; halfway through, one is killed with SIGKILL while it
 * holds messages. At the end each event must have been acknowledged once in each queue it belongs
 * to, and the broker's counts must be those of the consumers. Exit code 0 if so, 1 if not, with
 * what is wrong.
 */
import { randomUUID } from 'node:crypto'
import { createReadStream, readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { ask, type BatchSummary, type Place, type Queue, stream } from './api.ts'
import { openBroker } from './broker.ts'
import { type Consumer, Crew } from './crew.ts'
import { Ledger } from './ledger.ts'

interface Earthquake {
  readonly id: string
  readonly time: string
  /** Who located it: ak Alaska, ci and nc California, us the rest of the world, ... */
  readonly network: string
  readonly type: string
  readonly magnitude: number
}

interface Story {
  readonly first: BatchSummary
  readonly second: BatchSummary
  readonly victim: Consumer
  /** Messages that the victim held when it was killed. */
  readonly held: number
  readonly survivor: Consumer
  readonly stored: ReadonlyMap<string, Queue>
}

const FILE = new URL('earthquakes.ndjson', import.meta.url)
const EXCHANGE = 'earthquakes'
const TIMEOUT_MS = 60_000

/** The queues, the keys they are bound with, and which events those should let through. */
const QUEUES: readonly {
  readonly name: string
  readonly keys: readonly string[]
  readonly wants: (event: Earthquake) => boolean
}[] = [
  { name: 'archive', keys: ['#'], wants: () => true },
  {
    name: 'california',
    keys: ['ci.*', 'nc.*'],
    wants: ({ network }) => network === 'ci' || network === 'nc',
  },
  {
    name: 'alerts',
    keys: ['*.light', '*.moderate', '*.strong'],
    wants: ({ magnitude }) => magnitude >= 4,
  },
]

/** Who located it, and how strong it was, by the usual classes. */
function routingKey({ network, magnitude }: Earthquake): string {
  const classes = ['minor', 'light', 'moderate', 'strong', 'major', 'great']
  const index = Math.min(Math.floor(magnitude) - 3, classes.length - 1)
  return `${network}.${classes[index] ?? 'micro'}`
}

const shows = process.stderr.isTTY
const say = (line: string) => {
  if (shows) process.stderr.write(`\x1b[2K\r${line}\n`)
}

process.exitCode = await main().catch((error: unknown) => {
  process.stderr.write(`example: ${error instanceof Error ? error.message : error}\n`)
  return 1
})

async function main(): Promise<number> {
  const stopped = Promise.withResolvers<never>()
  stopped.promise.catch(() => {}) // told to whoever waits
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => stopped.reject(new Error(`stopped by ${signal}`)))
  }
  const timer = setTimeout(() => {
    stopped.reject(new Error(`not done after ${TIMEOUT_MS / 1_000} s`))
  }, TIMEOUT_MS)

  const broker = await openBroker(say)
  const { place } = broker
  const vhost = `example-${randomUUID()}`
  const ledger = new Ledger(expectedIds())
  const queues = QUEUES.map(({ name }) => name)
  const progress = () => {
    if (shows) process.stderr.write(`\x1b[2K\r${ledger.acked} of ${ledger.expected} acknowledged`)
  }
  const crew = new Crew({ place, vhost, queues, ledger, progress })
  try {
    const story = await Promise.race([play({ place, vhost, ledger, crew }), stopped.promise])
    return print(story, ledger)
  } finally {
    clearTimeout(timer)
    crew.close()
    await ask(place, 'DELETE', `/v1/vhosts/${vhost}`).catch(() => {}) // the broker may be gone
    await broker.close()
  }
}

interface Scene {
  readonly place: Place
  readonly vhost: string
  readonly ledger: Ledger
  readonly crew: Crew
}

async function play({ place, vhost, ledger, crew }: Scene): Promise<Story> {
  await declare(place, vhost)
  say('publishing the file, and once more')
  const first = await publish(place, vhost)
  const second = await publish(place, vhost)

  const victim = crew.start('anna')
  const survivor = crew.start('boris')
  await crew.untilAcked(Math.floor(ledger.expected / 2))
  const held = await crew.kill(victim)
  say(`${victim.name} is killed while it holds ${held} messages`)
  await crew.untilAcked(ledger.expected)
  await crew.dismiss(survivor)

  const stored = new Map<string, Queue>()
  for (const { name } of QUEUES) {
    stored.set(name, await ask<Queue>(place, 'GET', `/v1/vhosts/${vhost}/queues/${name}`))
  }
  return { first, second, victim, held, survivor, stored }
}

async function declare(place: Place, vhost: string): Promise<void> {
  const base = `/v1/vhosts/${vhost}`
  await ask(place, 'PUT', base)
  await ask(place, 'PUT', `${base}/exchanges/${EXCHANGE}`, { type: 'topic' })
  for (const { name, keys } of QUEUES) {
    await ask(place, 'PUT', `${base}/queues/${name}`)
    for (const key of keys) {
      const binding = { source: EXCHANGE, destination: name, routingKey: key }
      await ask(place, 'PUT', `${base}/bindings`, binding)
    }
  }
}

/** Publishes the file, a line at a time. What was stored under its id is not stored again. */
function publish(place: Place, vhost: string): Promise<BatchSummary> {
  return stream(place, `/v1/vhosts/${vhost}/exchanges/${EXCHANGE}/batch`, messages())
}

async function* messages(): AsyncGenerator<Uint8Array> {
  for await (const line of createInterface({ input: createReadStream(FILE) })) {
    const event = JSON.parse(line) as Earthquake
    const message = {
      routingKey: routingKey(event),
      idempotencyKey: event.id,
      messageId: event.id,
      type: event.type,
      timestamp: Math.floor(Date.parse(event.time) / 1_000),
      body: event,
    }
    yield Buffer.from(`${JSON.stringify(message)}\n`)
  }
}

/** What should reach each queue, by the events' own fields: not by asking the broker. */
function expectedIds(): Map<string, string[]> {
  const lines = readFileSync(FILE, 'utf8').trimEnd().split('\n')
  const events = lines.map((line) => JSON.parse(line) as Earthquake)
  const ids = ({ wants }: (typeof QUEUES)[number]) => events.filter(wants).map(({ id }) => id)
  return new Map(QUEUES.map((queue) => [queue.name, ids(queue)]))
}

/** Tells how it went. Returns the exit code. */
function print({ first, second, victim, held, survivor, stored }: Story, ledger: Ledger): number {
  say('')
  const rows = ledger.rows()
  const events = rows[0]!.expected
  const faults = ledger.faults(stored)
  if (first.published !== events || first.duplicates > 0) {
    faults.push(`of ${events} events ${first.published - first.duplicates} were confirmed as new`)
  }
  if (second.duplicates !== events) {
    faults.push(`sent again, ${second.duplicates} of ${events} were known`)
  }
  if (held === 0) faults.push(`${victim.name} held nothing when it was killed`)

  const table = rows.map(({ queue, expected, delivered, redelivered, acked }) => {
    const { messages, totals } = stored.get(queue)!
    const left = messages.ready + messages.unacked + messages.delayed
    return [
      queue,
      QUEUES.find(({ name }) => name === queue)!.keys.join(' '),
      ...[expected, totals.published, delivered, redelivered, acked, left].map(String),
    ]
  })
  const titles = ['queue', 'bound by', 'in file', 'stored', 'delivered', 'redelivered', 'acked']
  const lines = [
    `${events} earthquakes: ${first.published} published and confirmed; sent again: ${second.duplicates} duplicates`,
    '',
    ...columns([[...titles, 'left'], ...table]),
    '',
    `${victim.name} acknowledged ${victim.acked}, then was killed while it held ${held}`,
    `${survivor.name} acknowledged ${survivor.acked}, those among them`,
    '',
    ...(faults.length === 0 ? ['Everything is accounted for.'] : faults),
  ]
  process.stdout.write(`${lines.join('\n')}\n`)
  return faults.length === 0 ? 0 : 1
}

/** Text to the left, numbers to the right. */
function columns(table: readonly (readonly string[])[]): string[] {
  const widths = table[0]!.map((_, at) => Math.max(...table.map((row) => row[at]!.length)))
  return table.map((row) =>
    row
      .map((cell, at) => (at < 2 ? cell.padEnd(widths[at]!) : cell.padStart(widths[at]!)))
      .join('  '),
  )
}
