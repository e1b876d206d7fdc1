/** What is said to be on a replica is there, whatever becomes of the primary that was asked. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { privateRedis, waitFor } from '@sluice/testkit'
import { tcpProxy } from '../../../test/support/tcp-proxy.ts'
import { openStore, QUEUE_SETTINGS_DEFAULT } from './index.ts'
import { publish } from './test-queue.ts'

test('a WAIT that a failover interrupts does not answer for the new primary', async (t) => {
  const primary = await privateRedis(t, { aof: false })
  const replication = await tcpProxy(primary.port)
  const broker = await tcpProxy(primary.port)
  t.after(() => Promise.all([replication.close(), broker.close()]))
  const follow = (port: number) => ({ aof: false, args: ['--replicaof', `127.0.0.1 ${port}`] })
  const next = await privateRedis(t, follow(replication.port))
  await privateRedis(t, follow(next.port))
  for (const { redis } of [primary, next]) {
    await waitFor(async () => (await redis.info('replication')).includes('state=online'))
  }
  const store = await openStore({
    url: `redis://127.0.0.1:${broker.port}`,
    report: () => {}, // the heartbeat, while there is no primary
    durability: 'replicas=1',
    replicaTimeoutMs: 5_000,
  })
  t.after(() => store.close())
  const queue = store.queue('/', 'q', 1, QUEUE_SETTINGS_DEFAULT)
  await queue.create()
  assert.deepEqual(await publish(queue, 'a'), ['stored'])

  replication.stall()
  const published = publish(queue, 'b')
  await waitFor(async () =>
    / flags=b .* cmd=wait /.test(String(await primary.redis.client('LIST'))),
  )
  await primary.kill9()
  await replication.close()
  await next.redis.replicaof('NO', 'ONE')
  broker.target = next.port
  broker.reset()
  assert.deepEqual(await published, ['stored'])
  assert.equal(await next.redis.hget(`${queue.base}meta`, 'published'), '2')
})
