/**
 * The delivery promises where Redis is more than one server.
 *
 * Method: the files of test/contract run unchanged, as a process of their own, against a cluster of
 * three primaries and against a primary behind sentinels. `SHORT=1` runs some of them. What has not
 * ended in time is killed with all that it started: a file whose process does not end has no limit
 * of its own.
 */
import { globSync } from 'node:fs'
import { test } from 'node:test'
import { privateCluster, privateSentinel } from '@sluice/testkit'
import { runSuite } from '../support/suite.ts'

const SHORT = process.env['SHORT'] === '1'
const FILES = SHORT
  ? ['dead-letters', 'redelivery'].map((name) => `test/contract/${name}.test.ts`)
  : globSync('test/contract/*.test.ts')
const RUN_MS_MAX = SHORT ? 180_000 : 900_000

for (const [name, start] of [
  ['a cluster', privateCluster],
  ['sentinels', privateSentinel],
] as const) {
  test(`everything promised holds with ${name}`, async (t) => {
    const { url } = await start(t)
    await runSuite(t, FILES, RUN_MS_MAX, { REDIS_URL: url })
  })
}
