/**
 * What is promised of queues and of AMQP holds where everything stored is encrypted.
 *
 * Method: the files of test/contract and test/amqp run unchanged, as a process of their own, with
 * brokers whose vhosts are encrypted. Left out are those that start further processes, which have
 * no key, and one that counts on confirms before deliveries. `SHORT=1` runs some of the others.
 */
import assert from 'node:assert/strict'
import { globSync } from 'node:fs'
import { basename } from 'node:path'
import { test } from 'node:test'
import { privateRedis } from '@sluice/testkit'
import { runSuite } from '../support/suite.ts'

const LEFT_OUT = ['redelivery', 'operating', 'outages', 'processes', 'consume']
const SHORT = ['dead-letters', 'order', 'settle']
const RUN_MS_MAX = process.env['SHORT'] === '1' ? 120_000 : 600_000

const named = (names: readonly string[]) => (file: string) =>
  names.includes(basename(file, '.test.ts'))

test('everything promised of queues holds where they are encrypted', async (t) => {
  const { url } = await privateRedis(t)
  const all = globSync('test/{contract,amqp}/*.test.ts').filter((file) => !named(LEFT_OUT)(file))
  const files = process.env['SHORT'] === '1' ? all.filter(named(SHORT)) : all
  assert.ok(files.length >= 3)
  await runSuite(t, files, RUN_MS_MAX, { REDIS_URL: url, BROKER_ENCRYPTED: '1' })
})
