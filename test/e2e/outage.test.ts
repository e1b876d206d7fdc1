/** What clients meet when Redis is away, and when a process is told to stop. */
import assert from 'node:assert/strict'
import { Readable } from 'node:stream'
import { type TestContext, test } from 'node:test'
import { type PrivateRedis, privateRedis, waitFor } from '@sluice/testkit'
import { deploy, LAYOUTS, Vhost } from '../support/deployment.ts'
import type { HttpClient } from '../support/http.ts'

const ready = async (client: HttpClient) => (await client.request('GET', '/readyz')).status

function becomes(client: HttpClient, status: number): Promise<unknown> {
  return waitFor(async () => (await ready(client)) === status, {
    what: `/readyz to answer ${status}`,
    timeoutMs: 20_000,
  })
}

/** Every process ready, and a message that goes through. */
async function works(t: TestContext, { redis, clients, vhost }: Awaited<ReturnType<typeof start>>) {
  await Promise.all(clients.map((client) => becomes(client, 200)))
  await vhost.send('q', 'after')
  assert.deepEqual(await vhost.drain('q'), ['before', 'after'])
  assert.equal(await redis.redis.ping(), 'PONG', t.name)
}

async function start(t: TestContext, layout: readonly string[]) {
  const redis: PrivateRedis = await privateRedis(t)
  const deployment = await deploy(t, layout, { redisUrl: redis.url })
  const vhost = await deployment.vhost()
  await vhost.queue('q')
  await vhost.send('q', 'before')
  const clients = [...deployment.routers, ...deployment.deliveries]
  return { redis, deployment, vhost, clients }
}

for (const [name, layout] of Object.entries(LAYOUTS)) {
  test(`${name}: readiness tells of a Redis that hangs, and of its return`, async (t) => {
    const broker = await start(t, layout)
    broker.redis.pause()
    await Promise.all(broker.clients.map((client) => becomes(client, 503)))
    const alive = await broker.clients[0]!.request('GET', '/healthz')
    assert.equal(alive.status, 200)
    broker.redis.cont()
    await works(t, broker)
  })

  test(`${name}: a Redis that dies is answered for, and found again`, async (t) => {
    const broker = await start(t, layout)
    const { vhost } = broker
    await broker.redis.kill9()
    await Promise.all(broker.clients.map((client) => becomes(client, 503)))
    for (const refused of [
      await vhost.router('GET', '/queues/q'),
      await vhost.delivery('POST', '/queues/q/leases', { body: {} }),
    ]) {
      assert.deepEqual([refused.status, refused.json.title], [503, 'store_unavailable'])
      assert.ok(Number(refused.headers['retry-after']) > 0)
    }
    await broker.redis.restart()
    await works(t, broker)
  })
}

test('a process that is told to stop answers what it took, and another takes over', async (t) => {
  const redis = await privateRedis(t)
  const all = 'router delivery reaper'
  const deployment = await deploy(t, [all, all], { redisUrl: redis.url })
  const [stopping, staying] = deployment.routers as [HttpClient, HttpClient]
  const there = await deployment.vhost()
  const vhost = new Vhost(there.name, stopping, stopping)
  const other = new Vhost(there.name, staying, staying)
  for (const queue of ['q', 'quiet', 'held']) await vhost.queue(queue)
  await vhost.send('held', 'x')
  const held = await vhost.leaseOne('held')

  const polls = Array.from({ length: 20 }, () => vhost.lease('quiet', { waitMs: 30_000 }))
  const stream = new Readable({ read() {} })
  const batch = vhost.router('POST', '/exchanges/amq.default/batch?routingKey=q&lines=bodies', {
    body: stream,
    headers: { 'Content-Type': 'application/x-ndjson' },
  })
  stream.push('"streamed"\n')
  await waitFor(async () => (await other.counts('q'))['ready'] === 1, { what: 'the first line' })

  redis.pause() // so that publishes are under way for as long as this likes
  const publishes = Array.from({ length: 50 }, (_, i) => vhost.send('q', `${i}`))
  // A process answers in the order of arrival: who asked later has an answer, so those were read.
  for (let i = 0; i < 5; i++) assert.equal((await stopping.request('GET', '/healthz')).status, 200)
  const code = deployment.processes[0]!.stop()
  const draining = () =>
    stopping.request('GET', '/readyz').then(
      ({ json }) => json.title,
      () => 'gone',
    )
  await waitFor(async () => ['draining', 'gone'].includes(await draining()), { what: 'the stop' })
  redis.cont()

  for (const reached of await Promise.all(publishes)) assert.deepEqual(reached, ['q'])
  for (const messages of await Promise.all(polls)) assert.deepEqual(messages, [])
  const { status, json } = await batch
  assert.deepEqual([status, json.title, json.published, json.stoppedAt], [503, 'draining', 1, 1])
  assert.equal(await code, 0, 'exit code')

  assert.equal(await other.settle('held', held, { outcome: 'ack' }), 'settled')
  const bodies = await other.drain('q')
  assert.equal(bodies.length, 51)
})
