/** What a version of the broker makes of data that another version wrote. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { privateRedis } from '@sluice/testkit'
import { checkFormat } from './format.ts'
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

test('who writes a newer format raises it, and nobody lowers it', async (t) => {
  const { redis } = await privateRedis(t, { aof: false })
  await redis.set(KEY, '1')
  await checkFormat(redis, { written: 2, readMax: 2 })
  assert.equal(await redis.get(KEY), '2')
  await checkFormat(redis, { written: 1, readMax: 2 }) // the version before still works beside it
  assert.equal(await redis.get(KEY), '2')
  await assert.rejects(checkFormat(redis, { written: 1, readMax: 1 }), /format 2.*up to 1/)
})
