/**
 * Encryption at rest, as somebody sees it who has Redis: nothing of a message is there to read.
 *
 * Method: real processes and a Redis of their own. Markers are planted in all that a message
 * carries, in every place that a message may be; then every byte that Redis keeps is searched.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { test } from 'node:test'
import { privateRedis, waitFor } from '@sluice/testkit'
import { AmqpPeer } from '../support/amqp-peer.ts'
import { withBroker } from '../support/broker.ts'
import { type Deployment, deploy, type Vhost } from '../support/deployment.ts'
import {
  encrypt,
  headers,
  keysOf,
  mark,
  newKey,
  open,
  readable,
  type World,
} from '../support/encryption.ts'
import { httpClient, PASSWORD } from '../support/http.ts'

const HOUR_MS = 3_600_000

/** Messages everywhere that a queue may keep them; what they carry is marked all over. */
async function plant({ vhost, deployment }: World): Promise<void> {
  await vhost.put('/exchanges/topic', { type: 'topic' })
  const queues = {
    plain: {},
    levels: { 'x-max-priority': 5 },
    ordered: { 'x-ordering-key': true },
    once: { 'x-dedup-window': 60_000 },
    leased: {},
    held: {},
    failing: { 'x-retry': { base: 60_000 } },
    rejecting: {},
    delayed: {},
  }
  for (const [queue, args] of Object.entries(queues)) {
    await vhost.queue(queue, args)
    await vhost.bind('topic', queue, { routingKey: `${queue}.#` })
    const key = () => `${queue}.${mark('key')}`
    const more = () => ({
      'Idempotency-Key': mark('dedup'),
      'Sluice-Ordering-Key': mark('ordering'),
      'Sluice-Priority': '3',
      ...(queue === 'delayed' && { 'Sluice-Delay': '3600000' }),
    })
    for (let i = 0; i < 3; i++) {
      await vhost.publish('topic', key(), mark('body'), headers(more()))
    }
    const ordering = mark('ordering')
    for (let i = 0; i < 2; i++) {
      const same = headers({ 'Sluice-Ordering-Key': ordering })
      await vhost.publish('topic', key(), mark('body'), same)
    }
  }
  const scheduled = { routingKey: mark('key'), body: mark('body'), headers: { a: mark('header') } }
  const schedule = { everyMs: HOUR_MS, exchange: 'topic', message: scheduled }
  assert.equal((await vhost.router('PUT', '/schedules/s', { body: schedule })).status, 201)
  await vhost.lease('leased', { max: 2, leaseMs: 600_000 })
  for (const [queue, outcome] of [
    ['failing', 'retry'],
    ['rejecting', 'dead-letter'],
  ] as const) {
    for (const message of await vhost.lease(queue, { max: 3 })) {
      await vhost.settle(queue, message, { outcome, reason: mark('error') })
    }
  }
  await plantByAmqp(deployment, vhost)
  await plantByIngest(deployment, vhost)
}

async function plantByAmqp({ processes }: Deployment, vhost: Vhost): Promise<void> {
  const peer = await AmqpPeer.connect(Number(new URL(processes[0]!.doors['amqp']!).port))
  try {
    await peer.login({ user: 'admin', password: PASSWORD, vhost: vhost.name })
    await peer.openChannel(1)
    await peer.call(1, { name: 'confirm.select', noWait: false }, 'confirm.select-ok')
    const properties = { headers: { session: mark('header') }, messageId: mark('message-id') }
    peer.publish(1, 'topic', `held.${mark('key')}`, mark('body'), { properties })
    await peer.expect('basic.ack')
    peer.method(1, { name: 'basic.get', queue: 'held', noAck: false })
    await peer.message('basic.get-ok')
    const requeue = { name: 'basic.nack', deliveryTag: 1, multiple: false, requeue: true } as const
    peer.method(1, requeue)
    await peer.call(
      1,
      { name: 'channel.close', replyCode: 200, replyText: '', classId: 0, methodId: 0 },
      'channel.close-ok',
    )
  } finally {
    await peer.close()
  }
}

async function plantByIngest({ routers, deliveries }: Deployment, vhost: Vhost): Promise<void> {
  await vhost.queue('requests')
  const name = `in-${vhost.name}`
  const fairness = { by: { header: 'X-Client' } }
  const kept = ['x-session']
  await vhost.put(`/ingests/${name}`, { queue: 'requests', fairness, headers: kept })
  for (let i = 0; i < 3; i++) {
    const answer = await routers[0]!.request(
      'POST',
      `/ingest/${name}/${mark('path')}?q=${mark('query')}`,
      {
        body: mark('body'),
        headers: {
          'Content-Type': 'text/plain',
          'X-Session': mark('header'),
          'X-Client': mark('client'),
          'Idempotency-Key': mark('key'),
        },
      },
    )
    assert.equal(answer.status, 202, answer.text)
  }
  assert.ok(deliveries.length > 0)
}

test('Redis keeps nothing of a message in an encrypted vhost that could be read', async (t) => {
  const world = await open(t)
  await encrypt(world)
  await plant(world)
  await waitFor(async () => (await world.vhost.counts('amq.dead-letters'))['ready'] === 3)
  assert.deepEqual(await readable(world), [])

  // All of it is there for who may read it.
  const [letter] = await world.vhost.lease('amq.dead-letters', { max: 1 })
  assert.match(letter!.body, /^plantedmarker-body/)
  assert.match(letter!.headers['x-sluice-error'], /^plantedmarker-error/)
  assert.match(letter!.headers['Session'], /^plantedmarker-header/)
  const plain = await world.vhost.lease('plain')
  assert.equal(plain.length, 5)
  assert.match(plain[0]!.routingKey, /^plain\.plantedmarker-key/)
})

test('the search finds what is not encrypted', async (t) => {
  const world = await open(t)
  await world.vhost.queue('open')
  await world.vhost.send('open', mark('body'), headers())
  const found = await readable(world)
  for (const kind of ['body', 'header']) {
    assert.ok(
      found.some((one) => one.includes(kind)),
      `${kind}: ${found}`,
    )
  }
})

test('what dies in an encrypted queue of an open vhost is not laid down in the clear', async (t) => {
  const world = await open(t)
  const { vhost } = world
  await vhost.queue('own', { 'x-encryption': true })
  await vhost.put('/exchanges/dlx', { type: 'fanout' })
  await vhost.queue('letters')
  await vhost.bind('dlx', 'letters')
  await vhost.queue('sends', { 'x-encryption': true, 'x-dead-letter-exchange': 'dlx' })
  for (const queue of ['own', 'sends']) {
    await vhost.send(queue, mark('body'), headers())
    const message = await vhost.leaseOne(queue)
    await vhost.settle(queue, message, { outcome: 'dead-letter', reason: mark('error') })
  }
  await waitFor(async () => (await vhost.counts('amq.dead-letters'))['ready'] === 1)
  await waitFor(async () => (await vhost.counts('letters'))['ready'] === 1)
  assert.deepEqual(await readable(world), [])

  // Sent back, it is sealed again.
  const { status } = await vhost.delivery('POST', '/queues/amq.dead-letters/redrive', { body: {} })
  assert.ok(status < 300, String(status))
  await waitFor(async () => (await vhost.counts('own'))['ready'] === 1)
  assert.deepEqual(await readable(world), [])
  assert.match((await vhost.leaseOne('own')).body, /^plantedmarker-body/)
  assert.match((await vhost.leaseOne('letters')).body, /^plantedmarker-body/)

  // Its key goes with the queue, and all that it sealed with the key.
  assert.deepEqual((await keysOf(world)).map(({ queue }) => queue).sort(), ['own', 'sends'])
  assert.equal((await vhost.router('DELETE', '/queues/sends')).status, 200)
  assert.deepEqual(
    (await keysOf(world)).map(({ queue }) => queue),
    ['own'],
  )
})

test('a policy encrypts what comes from then on; a fanout is sealed for each of its queues', async (t) => {
  const world = await open(t)
  const { vhost } = world
  await vhost.put('/exchanges/all', { type: 'fanout' })
  for (const queue of ['secret-1', 'secret-2', 'open']) {
    await vhost.queue(queue)
    await vhost.bind('all', queue)
  }
  await vhost.publish('all', '', 'before')
  const policy = { pattern: '^secret', applyTo: 'queues', definition: { encryption: true } }
  await vhost.put('/policies/secrets', policy)
  await vhost.publish('all', '', 'after')
  for (const queue of ['secret-1', 'secret-2', 'open']) {
    assert.deepEqual(await vhost.drain(queue), ['before', 'after'])
  }
  const keys = await keysOf(world)
  assert.deepEqual(keys.map(({ queue }) => queue).sort(), ['secret-1', 'secret-2'])
})

test('a schedule’s message is sealed where it goes to an encrypted queue, and outlives its key', async (t) => {
  const world = await open(t)
  const { vhost, redis } = world
  for (const [queue, args] of Object.entries({ own: { 'x-encryption': true }, open: {} })) {
    await vhost.queue(queue, args)
  }
  const put = async (name: string, queue: string, everyMs = HOUR_MS) => {
    const message = { routingKey: queue, body: mark('body'), headers: { a: mark('header') } }
    const { status } = await vhost.router('PUT', `/schedules/${name}`, {
      body: { everyMs, message },
    })
    assert.equal(status, 201)
    return message
  }
  const shown = async (name: string) => (await vhost.router('GET', `/schedules/${name}`)).json
  const kept = (name: string) => {
    const field = `document/schedule/${encodeURIComponent(vhost.name)}/${name}`
    return redis.redis.hget('sluice:{topology}:definitions', field)
  }
  const message = await put('sealed', 'own', 1_000)
  assert.deepEqual(await readable(world), [])
  assert.deepEqual((await shown('sealed')).message, message)
  assert.equal((await vhost.leaseOne('own')).body, message.body)

  // One that was put before its queue was encrypted works on, and is sealed.
  const before = await put('before', 'open', 1_000)
  assert.match((await kept('before'))!, /plantedmarker/)
  assert.equal((await vhost.leaseOne('open')).body, before.body)
  const policy = { pattern: '^open$', applyTo: 'queues', definition: { encryption: true } }
  await vhost.put('/policies/all', policy)
  await waitFor(async () => !(await kept('before'))!.includes('plantedmarker'))
  await vhost.drain('open')
  assert.equal((await vhost.leaseOne('open')).body, before.body)
  const keys = ['definitions', 'changes'].map((name) => `sluice:{topology}:${name}`)
  const feed = async () =>
    Buffer.concat((await Promise.all(keys.map((key) => redis.redis.dumpBuffer(key)))) as Buffer[])
  await waitFor(async () => !(await feed()).includes('plantedmarker'))

  // By a new key too, so that shredding the old one ends no schedule.
  const sealedBefore = await kept('sealed')
  const [old] = (await keysOf(world)).filter(({ queue }) => queue === '')
  assert.equal((await vhost.router('POST', '/data-keys', { body: {} })).status, 201)
  await waitFor(async () => (await kept('sealed')) !== sealedBefore)
  await waitFor(async () => (await vhost.router('POST', '/schedules/sealed/pause')).status === 204)
  assert.equal((await vhost.router('DELETE', `/data-keys/${old!.id}`)).status, 204)
  assert.deepEqual((await shown('sealed')).message, message)
})

test('a schedule whose key is shredded publishes nothing, and says so', async (t) => {
  const world = await open(t, { SLUICE_ENCRYPTION_KEY: newKey() }, ['router delivery', 'reaper'])
  const { vhost, deployment } = world
  await encrypt(world)
  await vhost.queue('q')
  const reaper = deployment.processes[1]!
  await reaper.kill9()
  const body = { everyMs: 1_000, message: { routingKey: 'q', body: 'x' } }
  assert.equal((await vhost.router('PUT', '/schedules/s', { body })).status, 201)
  const [key] = await keysOf(world)
  assert.equal((await vhost.router('DELETE', `/data-keys/${key!.id}`)).status, 204)
  const { json } = await vhost.router('GET', '/schedules/s')
  assert.deepEqual([json.unreadable, json.message, json.sealed], ['shredded', undefined, undefined])
  await reaper.restart()
  const client = httpClient(reaper.http)
  t.after(() => client.close())
  const counted = async () => {
    const { text } = await client.request('GET', '/metrics')
    return /^sluice_scheduled_total\{.*outcome="unreadable"\} [1-9]/m.test(text)
  }
  await waitFor(counted, { timeoutMs: 30_000 })
  assert.equal((await vhost.counts('q'))['ready'], 0)
})

test('a vhost whose key is locked keeps no other’s schedules from being sealed', async (t) => {
  const redisUrl = (await privateRedis(t, { aof: false })).url
  const env = { SLUICE_ENCRYPTION_KEY: newKey() }
  const { request, deps, reported } = await withBroker(t, { redisUrl, env })
  const { topology, encryption } = deps
  const vhosts = ['a', 'locked', 'z']
  const body = { everyMs: HOUR_MS, message: { routingKey: 'q', body: 'x' } }
  for (const vhost of vhosts) {
    await request('PUT', `/v1/vhosts/${vhost}`, { body: {} })
    assert.equal((await request('PUT', `/v1/vhosts/${vhost}/schedules/s`, { body })).status, 201)
  }
  const { json: key } = await request('POST', '/v1/vhosts/locked/data-keys', { body: {} })
  await topology.changeDocument('data-key', 'locked', key.id, (document) => {
    return { ...(document as object), kek: 'away' }
  })
  await waitFor(() => encryption.locked === 1, { what: 'the key to be locked' })
  for (const vhost of ['locked', 'a', 'z']) {
    await request('PUT', `/v1/vhosts/${vhost}`, { body: { encryption: true } })
  }
  const sealed = () =>
    vhosts.filter((vhost) => {
      const kept = topology.table.documents.get('schedule', vhost, 's')
      return 'sealed' in (kept as object)
    })
  await waitFor(() => sealed().length === 2, { what: 'two schedules to be sealed' })
  assert.deepEqual(sealed(), ['a', 'z'])
  const why = reported.splice(0).map((error) => (error as { code?: string }).code)
  assert.deepEqual([...new Set(why)], ['encryption_unavailable'])
})

test('a broker without a key promises no encryption, and stays ready', async (t) => {
  const deployment = await deploy(t, ['router delivery reaper'])
  const vhost = await deployment.vhost()
  const definition = { encryption: true }
  const asked: [path: string, body: object][] = [
    ['', { encryption: true }],
    ['/queues/q', { arguments: { 'x-encryption': true } }],
    ['/policies/p', { pattern: '.*', definition }],
  ]
  for (const [path, body] of asked) {
    const { json } = await vhost.router('PUT', path, { body })
    assert.equal(json.title, 'encryption_unavailable', path)
    assert.match(json.detail, /SLUICE_ENCRYPTION_KEY/)
  }
  await vhost.queue('q')
  assert.deepEqual(await vhost.send('q', 'open'), ['q'])
  assert.equal((await deployment.routers[0]!.request('GET', '/readyz')).status, 200)
})

test('what a backend answered, and how a push failed, is sealed too', async (t) => {
  const backend = createServer((req, res) => {
    req.resume()
    const failed = req.url!.includes('fail')
    res.writeHead(failed ? 500 : 201, { 'X-Told': mark('answer') }).end(mark('answer'))
  }).listen(0, '127.0.0.1')
  await once(backend, 'listening')
  t.after(() => {
    backend.closeAllConnections()
    backend.close()
  })
  const env = { SLUICE_ENCRYPTION_KEY: newKey(), SLUICE_PUSH_ALLOW: '127.0.0.1' }
  const world = await open(t, env)
  const { vhost, deployment } = world
  await encrypt(world)
  await vhost.queue('requests', { 'x-retry': { base: 600_000 } })
  const name = `in-${vhost.name}`
  await vhost.put(`/ingests/${name}`, { queue: 'requests' })
  const url = `http://127.0.0.1:${(backend.address() as AddressInfo).port}`
  const subscription = { queue: 'requests', endpoint: { url }, replay: true }
  const put = await vhost.delivery('PUT', '/subscriptions/s', { body: subscription })
  assert.equal(put.status, 201, put.text)
  const client = deployment.routers[0]!
  const sent = async (path: string) => {
    const answer = await client.request('POST', `/ingest/${name}/${path}`, { body: mark('body') })
    assert.equal(answer.status, 202, answer.text)
    return answer.json.id as string
  }
  const [good, bad] = [await sent('good'), await sent('fail')]
  const shown = async (id: string) => (await client.request('GET', `/v1/requests/${id}`)).json
  await waitFor(async () => (await shown(good)).state === 'delivered')
  await waitFor(async () => (await shown(bad)).state === 'failed')
  assert.deepEqual(await readable(world), [])
  assert.match(JSON.stringify(await shown(good)), /plantedmarker-answer/)
  const looked = await vhost.delivery('GET', '/queues/requests/messages?state=delayed')
  assert.match(looked.text, /plantedmarker-answer/)
})
