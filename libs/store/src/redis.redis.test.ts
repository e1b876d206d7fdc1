/** What a caller hears when Redis goes away, by connection. Each test owns its server. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { type PrivateRedis, privateRedis } from '@sluice/testkit'
import { connect } from './redis.ts'

async function open(t: TestContext, server: PrivateRedis, role: 'work' | 'writes') {
  const redis = await connect(server, role)
  t.after(() => redis.disconnect())
  return redis
}

test('work under way when the connection ends is rejected, and the next one is served', async (t) => {
  const server = await privateRedis(t)
  const work = await open(t, server, 'work')
  server.pause()
  const waiting = assert.rejects(Promise.all([work.get('a'), work.incr('a')]))
  await server.kill9()
  const ready = new Promise((resolve) => work.once('ready', resolve))
  await server.restart()
  await Promise.all([waiting, ready])
  assert.equal(await work.ping(), 'PONG')
})

test('writes under way when the connection ends are sent again', async (t) => {
  const server = await privateRedis(t)
  const writes = await open(t, server, 'writes')
  server.pause()
  const waiting = Promise.all([writes.rpush('list', 'a'), writes.rpush('list', 'b')])
  await server.kill9()
  await server.restart()
  assert.deepEqual(await waiting, [1, 2])
})
