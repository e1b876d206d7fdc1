/**
 * Data keys through their lives, in several processes: rotated, shredded, wrapped anew, taken away.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { json } from 'node:stream/consumers'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { waitFor } from '@sluice/testkit'
import { AmqpPeer } from '../support/amqp-peer.ts'
import { encrypt, keptBy, keysOf, mark, newKey, open, readable } from '../support/encryption.ts'
import { PASSWORD } from '../support/http.ts'

const DAY_MS = 86_400_000

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
  const message = { routingKey: 'elsewhere', body: mark('body') }
  const schedule = { body: { everyMs: DAY_MS, message } }
  assert.equal((await vhost.router('PUT', '/schedules/s', schedule)).status, 201)
  const client = deployment.routers[0]!
  const impaired = async () => 'impaired' in (await client.request('GET', '/readyz')).json
  for (const wrong of [newKey(), '', 'no key']) {
    writeFileSync(file, wrong)
    await waitFor(impaired)
    const headers = { 'Content-Type': 'text/plain', 'Sluice-Routing-Key': 'q' }
    const path = '/exchanges/amq.default/messages'
    const refused = await vhost.router('POST', path, { body: mark('body'), headers })
    assert.equal(refused.json.title, 'encryption_unavailable')
    const lease = await vhost.delivery('POST', '/queues/q/leases', { body: { max: 1 } })
    assert.equal(lease.json.title, 'encryption_unavailable')
    const [shown] = (await vhost.delivery('GET', '/queues/q/messages')).json.messages
    assert.equal(shown.body, '')
    const locked = (await vhost.router('GET', '/schedules/s')).json
    assert.deepEqual([locked.unreadable, locked.message], ['locked', undefined])
    const put = await vhost.router('PUT', '/schedules/s', schedule)
    assert.equal(put.json.title, 'encryption_unavailable')
    writeFileSync(file, key)
    await waitFor(async () => !(await impaired()))
    await vhost.send('q', 'more')
  }
  assert.deepEqual(await readable(world), [])
  assert.deepEqual((await vhost.router('GET', '/schedules/s')).json.message, message)
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

test('a KMS that is away is waited for, and needed no more once a key is unwrapped', async (t) => {
  let well = true
  const wrapped = new Map<string, string>()
  const kms = createServer(async (req, res) => {
    const asked = (await json(req)) as { plaintext: string; wrapped: string }
    if (!well || req.headers.authorization !== 'Bearer kms') return res.writeHead(500).end()
    if (req.url === '/unwrap') {
      return res.end(JSON.stringify({ plaintext: wrapped.get(asked.wrapped) }))
    }
    wrapped.set(`w${wrapped.size}`, asked.plaintext)
    return res.end(JSON.stringify({ wrapped: `w${wrapped.size - 1}` }))
  }).listen(0, '127.0.0.1')
  await once(kms, 'listening')
  t.after(() => {
    kms.closeAllConnections()
    kms.close()
  })
  const url = `http://127.0.0.1:${(kms.address() as AddressInfo).port}`
  const env = { SLUICE_ENCRYPTION_KMS_URL: url, SLUICE_ENCRYPTION_KMS_TOKEN: 'kms' }
  const world = await open(t, env)
  const { vhost, deployment } = world
  await encrypt(world)
  await vhost.queue('q')
  await vhost.send('q', 'one')
  well = false
  await vhost.send('q', 'two')
  const [process] = deployment.processes
  await process!.kill9()
  await process!.restart()
  const client = deployment.routers[0]!
  const impaired = async () => 'impaired' in (await client.request('GET', '/readyz')).json
  assert.equal(await impaired(), true)
  const lease = await vhost.delivery('POST', '/queues/q/leases', { body: { max: 1 } })
  assert.equal(lease.json.title, 'encryption_unavailable')
  well = true
  await waitFor(async () => !(await impaired()))
  assert.deepEqual(await vhost.drain('q'), ['one', 'two'])

  well = false
  const refused = await vhost.router('POST', '/data-keys', { body: {} })
  assert.equal(refused.json.title, 'encryption_unavailable')
  const unwrapped = await client.request('POST', '/v1/data-keys/rewrap')
  assert.equal(unwrapped.json.title, 'encryption_unavailable')
  assert.equal(await impaired(), true)
  well = true
  await waitFor(async () => !(await impaired()))
})

test('a first message to an encrypted queue is answered as any other while Redis cannot store', async (t) => {
  const world = await open(t)
  const { vhost, deployment, redis } = world
  const queues = ['full', 'no-disk', 'away', 'away-by-amqp'] as const
  for (const queue of queues) await vhost.queue(queue, { 'x-encryption': true })
  const send = (queue: (typeof queues)[number]) => {
    const headers = { 'Content-Type': 'text/plain', 'Sluice-Routing-Key': queue }
    const path = '/exchanges/amq.default/messages'
    return vhost.router('POST', path, { body: queue, headers })
  }
  await redis.redis.config('SET', 'maxmemory', '1mb')
  assert.equal((await send('full')).json.title, 'memory_high')
  await redis.redis.config('SET', 'maxmemory', '0')
  await waitFor(async () => (await send('full')).status === 200)

  await redis.redis.config('SET', 'min-replicas-to-write', '1')
  const refused = (await send('no-disk')).json
  await redis.redis.config('SET', 'min-replicas-to-write', '0')
  assert.equal(refused.title, 'store_unavailable')

  const peer = await AmqpPeer.connect(Number(new URL(deployment.processes[0]!.doors['amqp']!).port))
  t.after(() => peer.close())
  await peer.login({ user: 'admin', password: PASSWORD, vhost: vhost.name })
  await peer.openChannel(1)
  await peer.call(1, { name: 'confirm.select', noWait: false }, 'confirm.select-ok')
  await redis.kill9()
  const waiting = send('away')
  peer.publish(1, '', 'away-by-amqp', 'away-by-amqp')
  await sleep(1_000) // longer than a look at Redis takes
  await redis.restart()
  assert.equal((await waiting).status, 200)
  await peer.expect('basic.ack')
  for (const queue of ['away', 'away-by-amqp']) assert.deepEqual(await vhost.drain(queue), [queue])
})
