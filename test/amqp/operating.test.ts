/** What an operator sets or sees: vhost options, alarms, expiry, and that nothing is left. */
import assert from 'node:assert/strict'
import { mkdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { privateRedis, waitFor } from '@sluice/testkit'
import { type AmqpClient, declareExchange, declareQueue, withAmqp } from '../support/amqp-broker.ts'
import { ENCRYPTED } from '../support/encrypted.ts'
import { confirming, consume, consuming, deleteQueue, deliveries, get, store } from './methods.ts'

test('no. 44: a vhost may tolerate declarations that differ, with a warning and a count', async (t) => {
  const { client, request, vhost } = await withAmqp(t)
  const peer = await client()
  await peer.queue('q', { durable: true })
  await peer.exchange('e', 'direct')
  const differing = declareQueue('q', { durable: false, arguments: { 'x-message-ttl': 1_000 } })
  assert.match(await peer.refused(differing), /inequivalent arg 'durable'/)
  const path = `/v1/vhosts/${encodeURIComponent(vhost)}`
  const set = await request('PUT', path, { body: { tolerantRedeclare: true } })
  assert.equal(set.status, 200, set.text)
  assert.deepEqual((await request('GET', path)).json, {
    name: vhost,
    tolerantRedeclare: true,
    holdEta: false,
    maxConnections: -1,
    maxQueues: -1,
    encryption: ENCRYPTED,
  })
  await confirming(peer)
  await store(peer, 'q', ['1', '2'])
  const { messageCount } = await peer.call(1, differing, 'queue.declare-ok')
  assert.equal(messageCount, 2)
  await peer.exchange('e', 'direct', { durable: false })
  const { text } = await request('GET', '/metrics')
  assert.match(text, /sluice_tolerated_redeclares_total 2/)

  assert.match(await peer.refused(declareExchange('e', 'topic')), /inequivalent arg 'type'/)
  assert.match(await peer.refused(declareQueue('q', { exclusive: true })), /RESOURCE_LOCKED/)
})

test('a vhost may hold a message with an eta until then', async (t) => {
  const { client, request, vhost } = await withAmqp(t)
  const peer = await client()
  await peer.queue('q')
  await confirming(peer)
  const inMs = (ms: number) => new Date(Date.now() + ms).toISOString()
  const publish = (body: string, eta: string) =>
    store(peer, 'q', [body], { properties: { headers: { eta, task: 'add' } } })
  await publish('not held', inMs(60_000))
  assert.equal(await peer.get('q'), 'not held')

  await request('PUT', `/v1/vhosts/${encodeURIComponent(vhost)}`, { body: { holdEta: true } })
  await publish('held', inMs(2_000).replace('Z', '+00:00'))
  await publish('without a zone it is UTC', inMs(60_000).replace('Z', ''))
  await publish('past', inMs(-60_000))
  await publish('no time', 'tomorrow')
  assert.equal(await peer.get('q'), 'past')
  assert.equal(await peer.get('q'), 'no time')
  assert.equal(await peer.get('q'), undefined)
  await consuming(peer, 'q', { noAck: true })
  assert.deepEqual(await deliveries(peer, 1), ['held'])
})

test('no. 53: declaring again and getting count as use of a queue that expires', async (t) => {
  const { client, deps, vhost } = await withAmqp(t, { env: { SLUICE_REAPER_PASS_MS: '50' } })
  const peer = await client()
  const args = { 'x-expires': 1_500 } // no stall of a busy machine is as long
  const uses: Record<string, () => Promise<unknown>> = {
    declared: () => peer.queue('declared', { arguments: args }),
    passively: () => peer.queue('passively', { passive: true }),
    got: () => peer.call(1, get('got'), 'basic.get-empty'),
  }
  for (const queue of [...Object.keys(uses), 'unused', 'consumed']) {
    await peer.queue(queue, { arguments: args })
  }
  await consuming(peer, 'consumed')
  const there = (queue: string) => deps.topology.table.queue(vhost, queue) !== undefined
  const begun = performance.now()
  while (performance.now() < begun + 2_800) {
    for (const use of Object.values(uses)) await use()
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  assert.equal(there('unused'), false)
  for (const queue of [...Object.keys(uses), 'consumed']) assert(there(queue), queue)
  await waitFor(() => !Object.keys(uses).some(there), { what: 'the unused queues to expire' })
})

test('no. 49: deleting over HTTP what is consumed over AMQP is refused with ifUnused', async (t) => {
  const { client, request } = await withAmqp(t)
  const peer = await client()
  await peer.queue('q')
  assert.equal((await request('POST', '/queues/q/leases', { body: { max: 1 } })).status, 200)
  await consuming(peer, 'q', { tag: 'c' })
  assert.equal((await request('DELETE', '/queues/q?ifUnused=true')).status, 409)
  await peer.call(1, { name: 'basic.cancel', consumerTag: 'c', noWait: false }, 'basic.cancel-ok')
  assert.equal((await request('DELETE', '/queues/q?ifUnused=true')).status, 200)
})

test('no. 18: publishers wait while Redis is low on memory, and nothing is lost', async (t) => {
  const redis = await privateRedis(t, { aof: false })
  const { client } = await withAmqp(t, { redisUrl: redis.url })
  const capabilities = { 'connection.blocked': true }
  const [blocked, consumer] = [
    await client({ clientProperties: { capabilities } }),
    await client({ clientProperties: { capabilities } }),
  ]
  await blocked.queue('q')
  await consuming(consumer, 'q', { noAck: true })
  // What clients' buffers take is little beside it.
  await redis.redis.setrange('filler', 30 * 1024 * 1024, 'x')
  const used = Number(/used_memory:(\d+)/.exec(await redis.redis.info('memory'))?.[1])
  await redis.redis.config('SET', 'maxmemory', Math.round(used * 1.1))
  let sent = 0
  // Publishes before the alarm is known are refused by the store, and are held all the same.
  while (blocked.unread.length === 0) {
    blocked.publish(1, '', 'q', String(sent++))
    await new Promise((resolve) => setTimeout(resolve, 20))
    assert(sent < 500, 'blocked within 10 s')
  }
  assert.equal((await blocked.expect('connection.blocked', 0)).reason, 'low on memory')
  for (let more = 0; more < 5; more++) blocked.publish(1, '', 'q', String(sent++))
  await redis.redis.config('SET', 'maxmemory', 0)
  await blocked.expect('connection.unblocked', 0)
  const bodies = await deliveries(consumer, sent)
  assert.deepEqual(
    bodies,
    Array.from({ length: sent }, (_, i) => String(i)),
  )
})

test('no. 18: publishers wait while Redis cannot write to its disk, and nothing is lost', async (t) => {
  const { url, redis } = await privateRedis(t, { aof: false })
  const { client, reported } = await withAmqp(t, { redisUrl: url })
  t.after(() => void reported.splice(0)) // heartbeats and settlements are refused as well
  const capabilities = { 'connection.blocked': true }
  const blocked = await client({ clientProperties: { capabilities } })
  await blocked.queue('q')
  // Where a folder is in its way no snapshot can be written, and Redis refuses writes.
  const [, dir] = (await redis.config('GET', 'dir')) as [string, string]
  const [, name] = (await redis.config('GET', 'dbfilename')) as [string, string]
  const inTheWay = join(dir, name)
  await mkdir(join(inTheWay, 'full'), { recursive: true })
  await redis.config('SET', 'save', '3600 1')
  const saved = (status: string) =>
    waitFor(
      async () => {
        await redis.bgsave().catch(() => {}) // one is under way
        return (await redis.info('persistence')).includes(`rdb_last_bgsave_status:${status}`)
      },
      { what: `a snapshot to be ${status}` },
    )
  await saved('err')
  let sent = 0
  // Those before the alarm is known are refused by Redis, and are held all the same.
  while (blocked.unread.length === 0) {
    blocked.publish(1, '', 'q', String(sent++))
    await new Promise((resolve) => setTimeout(resolve, 20))
    assert(sent < 500, 'blocked within 10 s')
  }
  assert.equal((await blocked.expect('connection.blocked', 0)).reason, 'low on disk')
  for (let more = 0; more < 5; more++) blocked.publish(1, '', 'q', String(sent++))
  await rm(inTheWay, { recursive: true })
  await saved('ok')
  await blocked.expect('connection.unblocked', 0)
  const consumer = await client()
  await consuming(consumer, 'q', { noAck: true })
  assert.deepEqual(
    await deliveries(consumer, sent),
    Array.from({ length: sent }, (_, n) => String(n)),
  )
})

test('no. 18: what is refused again and again is stored in the order of publishing', async (t) => {
  const { url, redis } = await privateRedis(t, { aof: false })
  const { client, reported } = await withAmqp(t, { redisUrl: url })
  t.after(() => void reported.splice(0)) // heartbeats and settlements are refused as well
  const [producer, consumer] = [await client(), await client()]
  await producer.queue('q')
  await consuming(consumer, 'q', { noAck: true })
  let sent = 0
  const publishing = setInterval(() => producer.publish(1, '', 'q', String(sent++)), 1)
  for (let times = 0; times < 60; times++) {
    await redis.config('SET', 'maxmemory', 1)
    await sleep(times % 4)
    await redis.config('SET', 'maxmemory', 0)
    await sleep(50)
  }
  clearInterval(publishing)
  const bodies = await deliveries(consumer, sent)
  assert.deepEqual(
    bodies,
    Array.from({ length: sent }, (_, n) => String(n)),
  )
})

test('connections that come and go leave nothing behind', async (t) => {
  const { client, deps, vhost } = await withAmqp(t)
  const lasting = await client()
  await lasting.queue('q', { arguments: { 'x-delivery-limit': -1 } })
  await confirming(lasting)
  await store(lasting, 'q', ['kept'])
  const queue = deps.topology.table.queue(vhost, 'q')!.store
  const timers = () => process.getActiveResourcesInfo().filter((name) => name === 'Timeout').length
  const comeAndGo = async (n: number) => {
    const peer: AmqpClient = await client({ heartbeat: 10 })
    await peer.queue(`mine-${n}`, { exclusive: true })
    await consuming(peer, `mine-${n}`, { noAck: true })
    if (n % 3 === 1) await peer.call(1, deleteQueue(`mine-${n}`), 'queue.delete-ok')
    if (n % 3 === 2) await peer.refused(consume('missing'))
    await consuming(peer, 'q')
    await peer.close()
  }
  await comeAndGo(0)
  const before = timers()
  for (let n = 1; n <= 500; n += 25) {
    await Promise.all(Array.from({ length: 25 }, (_, i) => comeAndGo(n + i)))
  }
  await waitFor(async () => (await queue.stats()).consumers === 0, { what: 'consumers to leave' })
  await waitFor(() => deps.topology.table.queueCount(vhost) === 2, { what: 'their queues to go' })
  assert.equal(queue.onForgotten.size, 0)
  await waitFor(() => timers() <= before + 5, {
    what: `timers to end: ${timers()}, ${before} before`,
  })
  assert.equal(await lasting.get('q'), 'kept')
})
