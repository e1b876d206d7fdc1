/**
 * What is promised of queues and of AMQP holds where everything stored is encrypted.
 *
 * Method: the files of test/contract and test/amqp run unchanged, as a process of their own, with
 * brokers whose vhosts are encrypted, and processes that have their key. All of them by `npm run
 * e2e encrypted-contract`; `SHORT=1`, as in `npm test`, runs some.
 */
import assert from 'node:assert/strict'
import { globSync } from 'node:fs'
import { basename } from 'node:path'
import { test } from 'node:test'
import { privateRedis } from '@sluice/testkit'
import { runSuite } from '../support/suite.ts'

const SHORT = ['dead-letters', 'order', 'settle']
const RUN_MS_MAX = process.env['SHORT'] === '1' ? 120_000 : 900_000

test('everything promised of queues holds where they are encrypted', async (t) => {
  const { url } = await privateRedis(t)
  const all = globSync('test/{contract,amqp}/*.test.ts')
  const short = all.filter((file) => SHORT.includes(basename(file, '.test.ts')))
  assert.equal(short.length, SHORT.length + 1, 'dead letters have a file in both folders')
  const files = process.env['SHORT'] === '1' ? short : all
  await runSuite(t, files, RUN_MS_MAX, { REDIS_URL: url, BROKER_ENCRYPTED: '1' })
})
