/**
 * One suite against one broker, in a process of its own: a library that hangs or throws out of turn
 * fails its scenario and nothing else. Usage: worker.ts SUITE URL [FILTER]. A line of JSON each.
 */
import { connect } from 'amqplib'
import { type Json, Lacks } from './client.ts'
import { cleaned, type Scenario, Scene } from './scene.ts'
import { type Program, SCENARIOS, SUITES } from './suites.ts'

export interface Result {
  readonly scenario: string
  readonly ms: number
  readonly outcome?: Json
  readonly skipped?: string
  readonly error?: string
}

const SCENARIO_MS_MAX = 90_000

const [suiteName = '', url = '', filter = ''] = process.argv.slice(2)
const suite = SUITES[suiteName]
if (suite === undefined) throw new Error(`there is no suite ${suiteName}`)

let outOfTurn: (error: unknown) => void = () => {}
process.on('unhandledRejection', (error) => outOfTurn(error))
process.on('uncaughtException', (error) => outOfTurn(error))

const run = Math.random().toString(36).slice(2, 8)
let count = 0

for (const [name, scenario] of Object.entries(suite.client ? SCENARIOS : {})) {
  if (name.includes(filter)) await report(name, () => play(scenario))
}
for (const [name, program] of Object.entries(suite.programs ?? {})) {
  if (name.includes(filter)) await report(name, () => start(program))
}
process.exit() // whatever a library left open

async function report(scenario: string, work: () => Promise<Json>): Promise<void> {
  const started = performance.now()
  const stray = Promise.withResolvers<never>()
  stray.promise.catch(() => {})
  outOfTurn = stray.reject
  const late = Promise.withResolvers<never>()
  const timer = setTimeout(
    () => late.reject(new Error(`not done after ${SCENARIO_MS_MAX} ms`)),
    SCENARIO_MS_MAX,
  )
  let result: Partial<Result>
  try {
    result = { outcome: await Promise.race([work(), stray.promise, late.promise]) }
  } catch (error) {
    if (error instanceof Lacks) result = { skipped: `has no ${error.message}` }
    else result = { error: error instanceof Error ? (error.stack ?? error.message) : String(error) }
  }
  clearTimeout(timer)
  const ms = Math.round(performance.now() - started)
  await new Promise<void>((resolve) =>
    process.stdout.write(`${JSON.stringify({ scenario, ms, ...result })}\n`, () => resolve()),
  )
}

async function play(scenario: Scenario): Promise<Json> {
  const scene = new Scene(suite!.client!, url, prefix())
  try {
    return scene.clean(await scenario(scene))
  } finally {
    const { queues, exchanges } = scene.leftovers
    await scene.close()
    await remove(queues, exchanges)
  }
}

async function start(program: Program): Promise<Json> {
  const own = prefix()
  const queues: string[] = []
  const name = (suffix: string) => {
    queues.push(own + suffix)
    return own + suffix
  }
  try {
    const outcome = await program(url, name)
    return cleaned(outcome, own, url)
  } finally {
    await remove(queues, queues)
  }
}

/** Deletes what a scenario declared; deleting what is gone already is no error. */
async function remove(queues: readonly string[], exchanges: readonly string[]): Promise<void> {
  const model = await connect(url)
  model.on('error', () => {})
  const channel = await model.createChannel()
  channel.on('error', () => {})
  try {
    for (const queue of queues) await channel.deleteQueue(queue)
    for (const exchange of exchanges) await channel.deleteExchange(exchange)
  } catch {
    // Somebody else's exclusive queue: it goes with its connection.
  }
  await model.close()
}

function prefix(): string {
  return `interop-${run}-${++count}.`
}
