/**
 * `npm run interop`: what programs written for RabbitMQ do, run against Sluice and against a
 * RabbitMQ, and compared.
 *
 *   npm run interop [-- OPTIONS]
 *
 *   --target=sluice,rabbitmq   brokers; both unless told
 *   --suite=pika,celery        clients; all unless told
 *   --scenario=TEXT            only scenarios whose name contains it
 *   --record                   keep what RabbitMQ answers in recorded.json
 *
 * Installs the clients it can (install.ts), and fetches a Redis where there is none.
 * RABBITMQ_URL and SLUICE_AMQP_URL name brokers that run already; else they are started and
 * stopped. Without a RabbitMQ, Sluice is held to recorded.json.
 * Prints a table for each broker, then whatever differs. Exit code 1 when a scenario fails on
 * Sluice, or ends otherwise than on RabbitMQ where differences.ts does not say why.
 */
import { parseArgs } from 'node:util'
import { findRedisServer } from '@sluice/testkit'
import { fetchRedis } from '../../tools/redis-fetch.mjs'
import type { Json } from './client.ts'
import { type Difference, differences } from './compare.ts'
import { DIFFERENCES } from './differences.ts'
import { install } from './install.ts'
import { record, recordedOutcome } from './recorded.ts'
import { runSuites, type SuiteResults } from './suite-runs.ts'
import { SUITES } from './suites.ts'
import { table } from './table.ts'
import { openTarget, type TargetName } from './targets.ts'

const { values: options } = parseArgs({
  options: {
    target: { type: 'string', default: 'rabbitmq,sluice' },
    suite: { type: 'string', default: Object.keys(SUITES).join() },
    scenario: { type: 'string', default: '' },
    record: { type: 'boolean', default: false },
  },
})

const say = (line: string) => process.stderr.write(`interop: ${line}\n`)
const targets = options.target.split(',') as TargetName[]
const suites = options.suite.split(',')
const whole = options.scenario === '' && suites.length === Object.keys(SUITES).length

const absent = install(say, {
  rabbitmq: targets.includes('rabbitmq') && !process.env['RABBITMQ_URL'],
})
if (absent.length > 0) say(`not installed, so skipped: ${absent.join(' ')} (needs root and apt)`)

// Sluice and Celery's results need one of their own; npm test fetches it in the same way.
if (findRedisServer() === undefined) await fetchRedis(process.env, say)

const results = new Map<TargetName, SuiteResults>()
for (const name of targets) {
  const seen = await runTarget(name)
  if (seen) results.set(name, seen)
}
process.exitCode = judge() ? 0 : 1

async function runTarget(name: TargetName): Promise<SuiteResults | undefined> {
  const target = await openTarget(name)
  if ('missing' in target) {
    console.log(`\n${name}: skipped, ${target.missing}`)
    return undefined
  }
  const begun = performance.now()
  const interrupted = () => void target.stop().finally(() => process.exit(1))
  process.once('SIGINT', interrupted)
  try {
    say(`${name} at ${new URL(target.url).host}`)
    const seen = await runSuites(target.url, suites, options.scenario)
    const seconds = Math.round((performance.now() - begun) / 1_000)
    console.log(`\n${name}, ${seconds} s\n\n${table(seen)}`)
    return seen
  } finally {
    process.off('SIGINT', interrupted)
    await target.stop()
  }
}

/** Prints what failed and what differs; false when that must not be. */
function judge(): boolean {
  const rabbitmq = results.get('rabbitmq')
  const sluice = results.get('sluice')
  let good = sluice !== undefined || !targets.includes('sluice')
  for (const [name, seen] of results) {
    for (const { suite, scenario, error } of flat(seen)) {
      if (error === undefined) continue
      console.log(`\nFAILED on ${name}: ${suite}: ${scenario}\n${error}`)
      good = false
    }
  }
  if (rabbitmq) {
    if (options.record) record(flat(rabbitmq).filter(hasOutcome))
    else if (!process.env['RABBITMQ_URL']) good = compareWithRecord(rabbitmq) && good
  }
  return (sluice === undefined || compare(sluice, rabbitmq)) && good
}

/** RabbitMQ with what it answered before: a scenario that tells two stories is of no use. */
function compareWithRecord(rabbitmq: SuiteResults): boolean {
  let same = true
  for (const { suite, scenario, outcome } of flat(rabbitmq).filter(hasOutcome)) {
    const before = recordedOutcome(suite, scenario)
    if (before === undefined || JSON.stringify(before) === JSON.stringify(outcome)) continue
    same = false
    console.log(`\nRabbitMQ is not as recorded: ${suite}: ${scenario}`)
    for (const one of differences(suite, scenario, before, outcome)) {
      console.log(shown(one, 'recorded'))
    }
  }
  return same
}

function compare(sluice: SuiteResults, rabbitmq: SuiteResults | undefined): boolean {
  const needed = new Set<string>()
  /** Clients that saw it, by scenario and what differs. */
  const seen = new Map<string, string[]>()
  for (const { suite, scenario, outcome } of flat(sluice).filter(hasOutcome)) {
    const expected =
      rabbitmq?.get(suite)?.get(scenario)?.outcome ?? recordedOutcome(suite, scenario)
    if (expected === undefined) {
      console.log(`\nnothing to compare with: ${suite}: ${scenario}`)
      continue
    }
    const found = differences(suite, scenario, expected, outcome)
    for (const { why } of found) if (why) needed.add(why)
    const undeclared = found.filter(({ why }) => why === undefined)
    if (undeclared.length === 0) continue
    const text = undeclared.map((one) => shown(one, 'RabbitMQ')).join('\n')
    const key = `${scenario}\n${text}`
    seen.set(key, [...(seen.get(key) ?? []), suite])
  }
  for (const [key, by] of seen) console.log(`\nSluice differs, by ${by.join(', ')}: ${key}`)
  let good = seen.size === 0
  console.log('\nDifferences on purpose:')
  for (const { scenario, why } of DIFFERENCES) {
    const stale = whole && !needed.has(why)
    console.log(`  ${stale ? 'NOT SEEN ' : ''}${scenario}: ${why}`)
    if (stale) good = false
  }
  return good
}

function shown({ at, expected, seen }: Difference, expectedBy: string): string {
  return `  ${at || 'all of it'}\n    ${expectedBy}: ${expected}\n    seen: ${seen}`
}

function flat(seen: SuiteResults) {
  return [...seen].flatMap(([suite, scenarios]) =>
    [...scenarios].map(([scenario, result]) => ({ suite, ...result, scenario })),
  )
}

function hasOutcome<T extends { outcome?: Json }>(result: T): result is T & { outcome: Json } {
  return result.outcome !== undefined
}
