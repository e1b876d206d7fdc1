/**
 * `npm run capacity`: measures what an article says of message brokers in four formulas, fits the
 * lines, says where they end, and answers how much this machine takes. See docs/capacity.md.
 *
 * What was measured is kept in a file, from which questions are answered without measuring again.
 */
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { parseArgs } from 'node:util'
import { findRedisServer } from '@sluice/testkit'
import { fetchRedis } from '../../tools/redis-fetch.mjs'
import { measureCheck } from './check.ts'
import { measureConfirmation } from './confirmation.ts'
import { answer, type Question } from './model.ts'
import { measureOrder } from './order.ts'
import { answerText, svgOf, textOf } from './panels.ts'
import { measureRedelivery } from './redelivery.ts'
import { coefficientsOf, findingsOf, machine, type Report } from './report.ts'
import { type Fsync, openRig, type Rig } from './rig.ts'
import { measureStorage } from './storage.ts'

const HELP = `npm run capacity -- [options]

Measures storage time, confirmation time, redeliveries and order on this machine (a few minutes,
with a Redis and a broker of its own), fits the lines, and draws them.

  --short            seconds instead: rough
  --messages <n>     with these, answers from what was measured last (or measures first):
  --consumers <m>    n messages waiting, m consumers (1), a share p of deliveries that fails (0):
  --errors <p>       which rate, which delay, how much memory
  --work <ms>        how long a consumer works on a delivery (10)
  --body <bytes>     of a message's body (256)
  --limit <l>        deliveries that may fail before a message is given up (20)
  --fsync <when>     Redis's appendfsync: everysec (usual), always or no
  --json             the report, or the answer, as one line of JSON
  --svg <file>       where the charts go (.data/capacity.svg)
  --results <file>   where what was measured is kept (.data/capacity.json)
  --help             this`

const shows = process.stderr.isTTY === true
const CLEAR_LINE = '\r\u001B[2K'

process.exitCode = await main().catch((error: unknown) => {
  process.stderr.write(`capacity: ${error instanceof Error ? error.message : error}\n`)
  return 1
})

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      short: { type: 'boolean', default: false },
      messages: { type: 'string' },
      consumers: { type: 'string' },
      errors: { type: 'string' },
      work: { type: 'string' },
      body: { type: 'string' },
      limit: { type: 'string' },
      fsync: { type: 'string', default: 'everysec' },
      json: { type: 'boolean', default: false },
      svg: { type: 'string', default: '.data/capacity.svg' },
      results: { type: 'string', default: '.data/capacity.json' },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) {
    process.stdout.write(`${HELP}\n`)
    return 0
  }
  const { json, svg, results } = values
  const question = questionOf(values)
  const fsync = oneOf('fsync', values.fsync, ['everysec', 'always', 'no'])
  const known = question !== undefined && existsSync(results)
  const report = known ? kept(results) : await measured({ short: values.short, fsync })
  if (!known) {
    write(results, `${JSON.stringify(report)}\n`)
    write(svg, svgOf(report))
  }
  const answered = question && answer(report.coefficients, question)
  if (json) {
    const { machine, measuredAt, short } = report
    const said = answered && { ...{ machine, measuredAt, short, question }, answer: answered }
    process.stdout.write(`${JSON.stringify(said ?? report)}\n`)
  } else if (question !== undefined && answered !== undefined) {
    const rough = report.short ? ', in a short run: rough' : ''
    const from = `From what ${results} says of ${report.machine}, ${report.measuredAt}${rough}`
    process.stdout.write(`${from}\n${answerText(question, answered)}\n`)
  } else process.stdout.write(`${textOf(report)}\n\nThe charts are in ${svg}\n`)
  return 0
}

interface Asked {
  readonly messages?: string
  readonly consumers?: string
  readonly errors?: string
  readonly work?: string
  readonly body?: string
  readonly limit?: string
}

/** undefined where nothing is asked. */
function questionOf({ messages, ...asked }: Asked): Question | undefined {
  const { consumers = '1', errors = '0', work = '10', body = '256', limit = '20' } = asked
  if (messages === undefined) {
    const names = ['consumers', 'errors', 'work', 'body', 'limit'] as const
    const lonely = names.find((name) => asked[name] !== undefined)
    if (lonely !== undefined) throw new Error(`--${lonely} goes with --messages: how many wait`)
    return undefined
  }
  return {
    messages: within('messages', messages, 1, 1e12),
    consumers: Math.round(within('consumers', consumers, 1, 1e6)),
    errors: within('errors', errors, 0, 0.999),
    workMs: within('work', work, 0, 1e9),
    bodyBytes: within('body', body, 0, 1e9),
    deliveriesMax: Math.round(within('limit', limit, 0, 1e6)) + 1,
  }
}

function within(name: string, given: string, from: number, to: number): number {
  const value = Number(given)
  const is = given.trim() !== '' && value >= from && value <= to
  if (!is) throw new Error(`--${name} is a number from ${from} to ${to}, not '${given}'`)
  return value
}

function oneOf(name: string, given: string, all: readonly Fsync[]): Fsync {
  const found = all.find((one) => one === given)
  if (found === undefined) throw new Error(`--${name} is one of ${all.join(', ')}, not '${given}'`)
  return found
}

function kept(file: string): Report {
  try {
    const report = JSON.parse(readFileSync(file, 'utf8')) as Partial<Report>
    if (report.coefficients !== undefined) return report as Report
    throw new Error('without coefficients')
  } catch {
    throw new Error(`${file} is no report: delete it, and it is measured again`)
  }
}

function write(file: string, content: string): void {
  mkdirSync(dirname(file), { recursive: true })
  writeFileSync(file, content)
}

async function measured(options: { readonly short: boolean; fsync: Fsync }): Promise<Report> {
  const begunMs = performance.now()
  const say = (text: string) => {
    const seconds = Math.round((performance.now() - begunMs) / 1_000)
    if (shows) process.stderr.write(`${CLEAR_LINE}${text === '' ? '' : `${seconds} s  ${text}`}`)
  }
  if (findRedisServer() === undefined) {
    await fetchRedis(process.env, (line: string) => process.stderr.write(`capacity: ${line}\n`))
  }
  const ends: (() => void | Promise<void>)[] = []
  const stopped = Promise.withResolvers<never>()
  stopped.promise.catch(() => {}) // told to whoever waits
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => stopped.reject(new Error(`stopped by ${signal}`)))
  }
  const scope = {
    after: (end: unknown) => void ends.push(end as () => void),
    skip: (why?: string | boolean) => {
      throw new Error(String(why))
    },
  }
  try {
    return await Promise.race([
      run(await openRig(scope, { ...options, say }), options),
      stopped.promise,
    ])
  } finally {
    say('')
    for (let end = ends.shift(); end; end = ends.shift()) await end()
  }
}

async function run(rig: Rig, options: { short: boolean; fsync: Fsync }): Promise<Report> {
  const parts = {
    storage: await measureStorage(rig),
    confirmation: await measureConfirmation(rig),
    redelivery: await measureRedelivery(rig),
    order: await measureOrder(rig),
  }
  const coefficients = coefficientsOf(parts)
  return {
    measuredAt: new Date().toISOString(),
    machine: machine(),
    ...options,
    ...parts,
    coefficients,
    check: await measureCheck(rig, coefficients),
    findings: findingsOf(parts),
  }
}
