/** Two versions on one Redis: the short form of `npm run e2e:upgrade`. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { privateRedis } from '@sluice/testkit'
import { startProcess } from '../support/processes.ts'
import { roll } from '../upgrade/roll.ts'
import { EARLIER, hasRevision, PRESENT, type Version, versionOf } from '../upgrade/version.ts'

const LOAD = { loadMs: 300, roundMs: 80 }

function earlierVersion(t: TestContext): Version | undefined {
  if (hasRevision(EARLIER)) return versionOf(t, EARLIER)
  t.skip(`${EARLIER} is not in the history, as in a shallow clone`)
  return undefined
}

test('the version before is replaced by this one and comes back, and nothing is lost', async (t) => {
  const earlier = earlierVersion(t)
  if (!earlier) return
  t.diagnostic(await roll(t, [earlier, PRESENT, earlier], LOAD))
})

test('the version before does not go back to a format that it cannot read', async (t) => {
  const earlier = earlierVersion(t)
  if (!earlier) return
  const { url, redis } = await privateRedis(t, { aof: false })
  await redis.set('sluice:{topology}:format', '2')
  await assert.rejects(
    startProcess(t, { redisUrl: url, ...(earlier.main && { main: earlier.main }) }),
    /did not start:[\s\S]*data of format 2, and this version of Sluice knows formats up to 1/,
  )
})
