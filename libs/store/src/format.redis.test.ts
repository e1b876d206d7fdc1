/** What a version of the broker makes of data that another version wrote. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { privateRedis } from '@sluice/testkit'
import { openStore } from './store.ts'

const KEY = 'sluice:{topology}:format'
const report = (error: unknown) => assert.fail(String(error))

test('data carries the version of its format', async (t) => {
  const { url, redis } = await privateRedis(t, { aof: false })
  await (await openStore({ url, report })).close()
  assert.equal(await redis.get(KEY), '1')
  await redis.del(KEY) // as data from before there was a format
  await (await openStore({ url, report })).close()
  assert.equal(await redis.get(KEY), '1')
})

test('data of a newer format is refused and left alone', async (t) => {
  const { url, redis } = await privateRedis(t, { aof: false })
  await redis.set(KEY, '2')
  await assert.rejects(openStore({ url, report }), {
    code: 'store_unavailable',
    message: /format 2.*up to 1/,
  })
  assert.deepEqual(await redis.keys('*'), [KEY])
  assert.equal(await redis.get(KEY), '2')
})
