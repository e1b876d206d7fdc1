/** What a caller hears when Redis goes away, by connection. Each test owns its server. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { freePort, type PrivateRedis, privateCluster, privateRedis, waitFor } from '@sluice/testkit'
import type { Cluster } from 'ioredis'
import { connect } from './redis.ts'
import { openStore } from './store.ts'

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

test('a cluster that serves nobody is given up', { timeout: 20_000 }, async (t) => {
  const args = ['--cluster-enabled', 'yes', '--cluster-port', String(await freePort())]
  const { port } = await privateRedis(t, { aof: false, args })
  const url = `redis+cluster://127.0.0.1:${port}`
  await assert.rejects(connect({ url }, 'work'), { code: 'store_unavailable' })
})

test('whoever names a Redis that will not do is told what is wrong', async (t) => {
  const [server, sentinel] = [await privateRedis(t, { aof: false }), await freePort()]
  const at = `127.0.0.1:${server.port}`
  const node = await privateRedis(t, {
    aof: false,
    args: ['--cluster-enabled', 'yes', '--cluster-port', String(await freePort())],
  })
  const said = async (url: string) => {
    const error = await openStore({ url, report: () => {} }).then(
      async (store) => {
        await store.close()
        return assert.fail(`${url} will do`)
      },
      (error: Error & { code: string }) => error,
    )
    assert.equal(error.code, 'store_unavailable', error.message)
    return error.message
  }
  const locked = await privateRedis(t, { aof: false })
  await locked.redis.config('SET', 'requirepass', 'of-redis')
  const all = await Promise.all([
    said(`redis://${at}/99`),
    said(`redis+cluster://${at}`),
    said(`redis+sentinel://${at}/main`),
    said(`redis+sentinel://127.0.0.1:${sentinel}/main`),
    said(`redis://127.0.0.1:${sentinel}`),
    said(`redis://127.0.0.1:${node.port}`),
    said(`redis://127.0.0.1:${locked.port}`),
    said(`redis://:not-this@127.0.0.1:${locked.port}`),
  ])
  for (const [index, wanted] of [
    /cannot be used: .*DB index/, // and not used as number 0
    /is no cluster/,
    /knows a primary 'main': .*unknown command/,
    /knows a primary 'main': .*ECONNREFUSED/,
    /127\.0\.0\.1:\d+ \(REDIS_URL\) cannot be used: .*ECONNREFUSED/,
    /is part of a cluster/,
    /wants a password/,
    /refuses the user or the password/,
  ].entries()) {
    assert.match(all[index]!, wanted)
    assert.doesNotMatch(all[index]!, /not-this/)
  }
  const redis = await connect(server, 'work')
  assert.equal(await redis.dbsize(), 0)
  redis.disconnect()
})

test('a connection to a cluster that ends while it looks who is there looks no more', async (t) => {
  const { url } = await privateCluster(t, { aof: false })
  const redis = (await connect({ url }, 'work')) as unknown as Cluster
  const twin = redis.duplicate()
  await twin.connect()
  const looks: string[] = []
  for (const one of [redis, twin]) {
    await waitFor(() => one.status === 'ready')
    const looking = one as unknown as { readonly isRefreshing: boolean }
    while (!looking.isRefreshing) await new Promise((resolve) => setImmediate(resolve))
    const ended = new Promise((resolve) => one.once('end', resolve))
    one.disconnect()
    await ended
    one.refreshSlotsCache = () => void looks.push(one.status)
  }
  await sleep(1_250) // two looks
  assert.deepEqual(looks, [])
})
