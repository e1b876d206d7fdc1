/**
 * The delivery promises, and every feature, where Redis is more than one server.
 *
 * Method: the files of test/contract and those of features run unchanged, as a process of their
 * own, against a cluster of three primaries and against a primary behind sentinels. `SHORT=1` runs
 * some of them, redrives by BullMQ among them. What has not ended in time is killed with all that
 * it started: a file whose process does not end has no limit of its own.
 */
import { globSync } from 'node:fs'
import { test } from 'node:test'
import { privateCluster, privateSentinel } from '@sluice/testkit'
import { runSuite } from '../support/suite.ts'

const SHORT = process.env['SHORT'] === '1'
/** What has state in Redis beside queues: jobs, ticks, requests, data keys, users. */
const FEATURES =
  '{stories-*,schedules,ingest,ingest-replay,encryption,data-keys,permissions,websocket}'
const FILES = globSync(
  SHORT
    ? ['test/contract/{dead-letters,redelivery}.test.ts']
    : ['test/contract/*.test.ts', `test/e2e/${FEATURES}.test.ts`],
)
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
