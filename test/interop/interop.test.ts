/**
 * Sluice does what RabbitMQ was recorded to do, through the clients that are here. `npm run interop`
 * brings the others, and a RabbitMQ to compare with.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { differences } from './compare.ts'
import { recordedOutcome } from './recorded.ts'
import { runSuites } from './suite-runs.ts'
import { missing, SUITES } from './suites.ts'
import { openTarget } from './targets.ts'

/** In a short run, half a minute: the ones without a process of their own for each connection. */
const SHORT = ['amqplib', 'rabbitmq-client', '@cloudamqp/amqp-client', 'amqp-connection-manager']

test('clients of RabbitMQ see the same', async (t) => {
  const target = await openTarget('sluice')
  if ('missing' in target) return t.skip(target.missing)
  t.after(() => target.stop())
  const suites = process.env['SHORT'] === '1' ? SHORT : Object.keys(SUITES)
  const results = await runSuites(target.url, suites, '')
  for (const [suite, scenarios] of results) {
    await t.test(suite, async (t) => {
      const why = missing(SUITES[suite]!)
      if (why !== undefined) return t.skip(why)
      for (const { scenario, outcome, skipped, error } of scenarios.values()) {
        await t.test(scenario, { skip: skipped ?? false }, () => {
          assert.equal(error, undefined, error)
          const expected = recordedOutcome(suite, scenario)
          assert(expected !== undefined, 'run npm run interop -- --record')
          const undeclared = differences(suite, scenario, expected, outcome!).filter(
            (one) => one.why === undefined,
          )
          assert.deepEqual(undeclared, [])
        })
      }
    })
  }
})
