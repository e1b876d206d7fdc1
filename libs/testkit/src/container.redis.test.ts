import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Redis } from 'ioredis'
import { startContainer } from './redis.ts'

test('where there is no server, a container serves', async (t) => {
  const url = await startContainer()
  if (url === undefined) return t.skip('no container engine answers')
  const redis = new Redis(url)
  t.after(() => redis.disconnect())
  assert.equal(await redis.ping(), 'PONG')
})
