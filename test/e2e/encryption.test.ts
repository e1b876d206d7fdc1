/**
 * Encryption at rest, as somebody sees it who has Redis: nothing of a message is there to read, and
 * whoever has lost the key has lost it too.
 *
 * Method: real processes and a Redis of their own. Markers are planted in all that a message
 * carries, in every place that a message may be; then every byte that Redis keeps is searched.
 */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { type PrivateRedis, privateRedis, waitFor } from '@sluice/testkit'
import { AmqpPeer } from '../support/amqp-peer.ts'
import { type Deployment, deploy, type Vhost } from '../support/deployment.ts'
import { PASSWORD } from '../support/http.ts'

const ALL = 'router delivery reaper'
const newKey = () => randomBytes(32).toString('hex')

/** In bodies, headers, routing keys and whatever else is nobody's business. */
const MARKER = 'plantedmarker'
let planted = 0
const mark = (kind: string) => `${MARKER}-${kind}-${planted++}`

interface World {
  readonly redis: PrivateRedis
  readonly deployment: Deployment
  readonly vhost: Vhost
}

async function open(
  t: TestContext,
  env: Record<string, string> = { SLUICE_ENCRYPTION_KEY: newKey() },
  layout: readonly string[] = [ALL],
): Promise<World> {
  const redis = await privateRedis(t, { args: ['--rdbcompression', 'no'] })
  const deployment = await deploy(t, layout, { redisUrl: redis.url, env })
  const vhost = await deployment.vhost()
  return { redis, deployment, vhost }
}

const encrypt = async ({ vhost }: World) => {
  const { status } = await vhost.router('PUT', '', { body: { encryption: true } })
  assert.equal(status, 200)
}

/** Each key and its value. */
async function keptBy({ redis: { redis } }: World): Promise<Buffer> {
  const parts: Buffer[] = []
  for (let cursor = '0'; ; ) {
    const [next, keys] = await redis.scanBuffer(cursor, 'COUNT', 1_000)
    for (const key of keys) parts.push(key, (await redis.dumpBuffer(key)) ?? Buffer.alloc(0))
    cursor = next.toString()
    if (cursor === '0') return Buffer.concat(parts)
  }
}

/** Every byte that Redis has: also the snapshot and the append-only file. */
async function dump(world: World): Promise<Buffer> {
  const { redis, dir } = world.redis
  const parts = [await keptBy(world)]
  await redis.save()
  for (const file of readdirSync(dir, { recursive: true, withFileTypes: true })) {
    if (file.isFile()) parts.push(readFileSync(join(file.parentPath, file.name)))
  }
  return Buffer.concat(parts)
}

async function readable(world: World): Promise<string[]> {
  const all = (await dump(world)).toString('latin1')
  const found = new Set<string>()
  for (const form of [MARKER, Buffer.from(MARKER).toString('hex')]) {
    for (const match of all.matchAll(new RegExp(`${form}-[a-z]*`, 'g'))) found.add(match[0])
  }
  return [...found]
}

const headers = (more: Record<string, string> = {}) => ({
  'Sluice-Header-Session': mark('header'),
  'Sluice-Message-Id': mark('message-id'),
  ...more,
})

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

const keysOf = async ({ deployment: { routers }, vhost }: World) => {
  const { json } = await routers[0]!.request('GET', '/v1/data-keys?pageSize=500')
  return (json.items as KeyJson[]).filter((key) => key.vhost === vhost.name)
}
interface KeyJson {
  readonly id: string
  readonly vhost: string
  readonly queue: string
  readonly wrappedBy: string
  readonly state: string
  readonly newest: boolean
}

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

test('a new data key seals what comes, in every process; order and duplicates outlive it', async (t) => {
  const env = { SLUICE_ENCRYPTION_KEY: newKey() }
  const world = await open(t, env, ['router delivery reaper', 'router delivery'])
  const { vhost, deployment } = world
  const there = deployment.elsewhere(vhost)
  await encrypt(world)
  await vhost.queue('q', { 'x-ordering-key': true, 'x-dedup-window': 60_000 })
  const ordered = { 'Sluice-Ordering-Key': 'ann' }
  await vhost.send('q', 'one', { ...ordered, 'Idempotency-Key': 'k' })
  const rotated = await there.router('POST', '/data-keys', { body: {} })
  assert.equal(rotated.status, 201, rotated.text)
  await vhost.send('q', 'two', ordered)
  await there.send('q', 'one again', { ...ordered, 'Idempotency-Key': 'k' })
  assert.deepEqual(
    (await keysOf(world)).map(({ newest }) => newest),
    [true, false],
  )
  const [first, ...others] = await there.lease('q', { waitMs: 0 })
  assert.equal(first!.body, 'one')
  assert.deepEqual(others, [], 'the key of the order holds the next one back')
  await there.settle('q', first!, { outcome: 'ack' })
  assert.deepEqual(await vhost.drain('q'), ['two'])
})

test('what a shredded key sealed comes to an end, and nothing else does', async (t) => {
  const env = { SLUICE_ENCRYPTION_KEY: newKey() }
  const world = await open(t, env, ['router delivery reaper', 'router delivery'])
  const { vhost, deployment } = world
  const there = deployment.elsewhere(vhost)
  await encrypt(world)
  await vhost.queue('q')
  await vhost.queue('streamed')
  for (let i = 0; i < 300; i++) await vhost.send(i % 2 ? 'q' : 'streamed', `old ${i}`)
  const [old] = await keysOf(world)
  await there.router('POST', '/data-keys', { body: {} })
  await there.send('q', 'new')
  await there.send('streamed', 'new')
  const field = `document/data-key/${encodeURIComponent(vhost.name)}/${old!.id}`
  const definitions = await world.redis.redis.hget('sluice:{topology}:definitions', field)
  const { wrapped } = JSON.parse(definitions!) as { wrapped: string }
  const { status } = await there.router('DELETE', `/data-keys/${old!.id}`)
  assert.equal(status, 204)
  await waitFor(async () => !(await keptBy(world)).includes(wrapped))

  assert.deepEqual(await vhost.drain('q', { max: 500 }), ['new'])
  const peer = await AmqpPeer.connect(Number(new URL(deployment.processes[0]!.doors['amqp']!).port))
  t.after(() => peer.close())
  await peer.login({ user: 'admin', password: PASSWORD, vhost: vhost.name })
  await peer.openChannel(1)
  const consume = { name: 'basic.consume', queue: 'streamed', consumerTag: 'c' } as const
  const off = { noLocal: false, noAck: false, exclusive: false, noWait: false, arguments: {} }
  await peer.call(1, { ...consume, ...off }, 'basic.consume-ok')
  const { body, method } = await peer.message('basic.deliver')
  assert.equal(body.toString(), 'new')
  peer.method(1, { name: 'basic.ack', deliveryTag: method.deliveryTag, multiple: false })
  for (const queue of ['q', 'streamed']) {
    await waitFor(async () => {
      const { ready, unacked } = await vhost.counts(queue)
      return ready === 0 && unacked === 0
    })
  }
  const metrics = await deployment.deliveries[0]!.request('GET', '/metrics')
  assert.match(metrics.text, /unreadable[^\n]*shredded[^\n]* \d/)
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

test('without its key nothing is stored in the clear, nothing is lost, and it comes back', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-keys-'))
  t.after(() => rmSync(folder, { recursive: true }))
  const file = join(folder, 'keys')
  const key = newKey()
  writeFileSync(file, key)
  const world = await open(t, { SLUICE_ENCRYPTION_KEY_FILE: file })
  const { vhost, deployment } = world
  await encrypt(world)
  await vhost.queue('q')
  await vhost.send('q', 'kept')
  const client = deployment.routers[0]!
  const ready = async () => (await client.request('GET', '/readyz')).status
  for (const wrong of [newKey(), '', 'no key']) {
    writeFileSync(file, wrong)
    await waitFor(async () => (await ready()) === 503)
    const headers = { 'Content-Type': 'text/plain', 'Sluice-Routing-Key': 'q' }
    const path = '/exchanges/amq.default/messages'
    const refused = await vhost.router('POST', path, { body: mark('body'), headers })
    assert.equal(refused.json.title, 'encryption_unavailable')
    const lease = await vhost.delivery('POST', '/queues/q/leases', { body: { max: 1 } })
    assert.equal(lease.json.title, 'encryption_unavailable')
    const [shown] = (await vhost.delivery('GET', '/queues/q/messages')).json.messages
    assert.equal(shown.body, '')
    writeFileSync(file, key)
    await waitFor(async () => (await ready()) === 200)
    await vhost.send('q', 'more')
  }
  assert.deepEqual(await readable(world), [])
  assert.deepEqual(await vhost.drain('q'), ['kept', 'more', 'more', 'more'])
})

test('data keys are wrapped by a new key, and the old one is not needed any more', async (t) => {
  const [first, second] = [newKey(), newKey()]
  const folder = mkdtempSync(join(tmpdir(), 'sluice-keys-'))
  t.after(() => rmSync(folder, { recursive: true }))
  const file = join(folder, 'keys')
  writeFileSync(file, first)
  const world = await open(t, { SLUICE_ENCRYPTION_KEY_FILE: file })
  const { vhost, deployment } = world
  await encrypt(world)
  await vhost.queue('q')
  await vhost.send('q', 'kept')
  const [before] = await keysOf(world)
  writeFileSync(file, `${second}\n${first}\n`)
  const client = deployment.routers[0]!
  await waitFor(async () => {
    const { json } = await client.request('POST', '/v1/data-keys/rewrap')
    return json.rewrapped === 1
  })
  const [after] = await keysOf(world)
  assert.equal(after!.id, before!.id)
  assert.notEqual(after!.wrappedBy, before!.wrappedBy)
  writeFileSync(file, second)
  await deployment.processes[0]!.kill9()
  await deployment.processes[0]!.restart()
  assert.deepEqual(await vhost.drain('q'), ['kept'])
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

test('processes that are killed while keys are rotated lose no message that was confirmed', async (t) => {
  const layout = ['router delivery reaper', 'router']
  const world = await open(t, { SLUICE_ENCRYPTION_KEY: newKey() }, layout)
  const { vhost, deployment } = world
  const there = deployment.elsewhere(vhost)
  await encrypt(world)
  await vhost.queue('q')
  const confirmed: string[] = []
  const ends = new AbortController()
  const publishing = (async () => {
    for (let i = 0; !ends.signal.aborted; i++) {
      await vhost.send('q', `m${i}`)
      confirmed.push(`m${i}`)
    }
  })()
  const victim = deployment.processes[1]!
  for (let kill = 0; kill < 3; kill++) {
    const rotations = Array.from({ length: 5 }, () =>
      there.router('POST', '/data-keys', { body: {} }).catch(() => undefined),
    )
    await Promise.race(rotations)
    await victim.kill9()
    await Promise.all(rotations)
    await victim.restart()
  }
  ends.abort()
  await publishing
  assert.ok((await keysOf(world)).length >= 4)
  const read: string[] = []
  while (read.length < confirmed.length) {
    const some = await vhost.drain('q', { waitMs: 2_000 })
    assert.ok(some.length > 0, `${read.length} of ${confirmed.length}`)
    read.push(...some)
  }
  assert.deepEqual(read, confirmed)
})

test('a process that slept through the end of a key confirms nothing that it sealed with it', async (t) => {
  const layout = ['router delivery reaper', 'router']
  const world = await open(t, { SLUICE_ENCRYPTION_KEY: newKey() }, layout)
  const { vhost, deployment } = world
  const there = deployment.elsewhere(vhost)
  await encrypt(world)
  await vhost.queue('q')
  await there.send('q', 'before')
  const [old] = await keysOf(world)
  deployment.processes[1]!.pause()
  const late = Array.from({ length: 20 }, (_, i) => there.send('q', `late ${i}`))
  assert.equal((await vhost.router('DELETE', `/data-keys/${old!.id}`)).status, 204)
  deployment.processes[1]!.cont()
  await Promise.all(late)
  const read: string[] = []
  await waitFor(async () => {
    read.push(...(await vhost.drain('q', { waitMs: 0 })))
    return read.length >= late.length
  })
  assert.equal(new Set(read).size, late.length)
})
