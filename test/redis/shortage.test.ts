/** Memory and disk that run out: what publishers are told, and what is there once there is room. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { privateRedis, waitFor } from '@sluice/testkit'
import { connect } from 'amqplib'
import { type TestBroker, withBroker } from '../support/broker.ts'
import { type Deployment, deploy, type Vhost } from '../support/deployment.ts'
import { PASSWORD } from '../support/http.ts'
import { WsPeer } from '../support/ws-peer.ts'

const MEMORY_BYTES = 64 * 1024 * 1024
const BODY_BYTES = 64 * 1024
/** Three times the memory, a third of it through each door. */
const EACH = MEMORY_BYTES / BODY_BYTES
const REST_MS = 50

/** A body that says which one it is. */
const bodyOf = (id: string) => id.padEnd(BODY_BYTES, '.')
const idOf = (body: string) => body.slice(0, body.indexOf('.'))

test('three times the memory goes through, and Redis itself never has to refuse', async (t) => {
  const redis = await privateRedis(t, { maxMemoryBytes: MEMORY_BYTES, aof: false })
  const broker = await withBroker(t, { redisUrl: redis.url })
  assert.equal((await broker.request('PUT', '/queues/q')).status, 201)
  const told = new Set<string>()
  const doors = [overHttp, overAmqp, overWebSocket]
  const publishing = Promise.all(doors.map((publish) => publish(broker, told)))
  // Nobody consumes until every door has said that it is full.
  await waitFor(() => told.size === doors.length, { what: 'refusals', timeoutMs: 30_000 })
  const consumed = new Map<string, number>()
  const stop = new AbortController()
  const consuming = consume(broker, consumed, stop.signal)
  await publishing
  await waitFor(() => consumed.size === doors.length * EACH, { what: 'all', timeoutMs: 60_000 })
  stop.abort()
  await consuming
  assert.deepEqual([...told].toSorted(), ['amqp blocked', 'http 429 memory_high', 'ws memory_high'])
  assert.deepEqual(
    [...consumed].filter(([, times]) => times > 1),
    [],
  )
  assert.doesNotMatch(await redis.redis.info('errorstats'), /errorstat_OOM/)
})

async function overHttp(broker: TestBroker, told: Set<string>): Promise<void> {
  for (let left = EACH; left > 0; ) {
    const { status, json } = await broker.request('POST', '/queues/q/messages', {
      body: bodyOf(`http-${left}`),
      headers: { 'Content-Type': 'text/plain' },
    })
    if (status === 200) left--
    else {
      told.add(`http ${status} ${json.title}`)
      await sleep(REST_MS)
    }
  }
}

/** A client that stops when it is told to, as those of RabbitMQ do. */
async function overAmqp(broker: TestBroker, told: Set<string>): Promise<void> {
  const { host } = new URL(broker.doors['amqp']!)
  const login = `admin:${encodeURIComponent(PASSWORD)}`
  const connection = await connect(`amqp://${login}@${host}/${encodeURIComponent(broker.vhost)}`)
  let room = Promise.resolve()
  let unblock = () => {}
  connection.on('blocked', () => {
    told.add('amqp blocked')
    const { promise, resolve } = Promise.withResolvers<void>()
    room = promise
    unblock = resolve
  })
  connection.on('unblocked', () => unblock())
  const channel = await connection.createConfirmChannel()
  for (let left = EACH; left > 0; left--) {
    await room
    channel.sendToQueue('q', Buffer.from(bodyOf(`amqp-${left}`)))
    if (left % 16 === 0) await channel.waitForConfirms()
  }
  await channel.waitForConfirms()
  await connection.close()
}

async function overWebSocket(broker: TestBroker, told: Set<string>) {
  const peer = await WsPeer.open(broker.http, { vhost: broker.vhost })
  for (let left = EACH, id = 1; left > 0; id++) {
    peer.send({ type: 'publish', id, routingKey: 'q', body: bodyOf(`ws-${left}`) })
    const answer = await waitFor(() => peer.frames.shift())
    if (answer.type === 'published') left--
    else {
      told.add(`ws ${answer['problem'].title}`)
      await sleep(REST_MS)
    }
  }
  peer.socket.close()
}

async function consume(broker: TestBroker, seen: Map<string, number>, signal: AbortSignal) {
  while (!signal.aborted) {
    const lease = { max: 50, waitMs: 100 }
    const { json } = await broker.request('POST', '/queues/q/leases', { body: lease })
    const settlements = json.messages.map(({ token, body }: { token: string; body: string }) => {
      seen.set(idOf(body), (seen.get(idOf(body)) ?? 0) + 1)
      return { token, outcome: 'ack' }
    })
    if (settlements.length === 0) continue
    const settled = await broker.request('POST', '/queues/q/settlements', { body: { settlements } })
    assert.equal(settled.status, 200, settled.text)
  }
}

const DISK = '40m'
/** More than what is published until the disk is full: consuming writes to the AOF, too. */
const FILLER_BYTES = 26 * 1024 * 1024

for (const fsync of ['everysec', 'always'] as const) {
  test(`a full disk, appendfsync ${fsync}: what is confirmed is there afterwards`, async (t) => {
    const dir = smallDisk(t)
    if (dir === undefined) return
    const redis = await privateRedis(t, { fsync, args: ['--dir', dir] })
    const env = { SLUICE_DURABILITY: fsync === 'always' ? 'fsync' : 'memory' }
    const deployment = await deploy(t, ['router delivery reaper'], { redisUrl: redis.url, env })
    const vhost = await deployment.vhost()
    await vhost.queue('q', { 'x-dedup-window': 3_600_000 })
    const filler = join(dir, 'filler')
    writeFileSync(filler, Buffer.alloc(FILLER_BYTES))

    const confirmed: string[] = []
    const refused = await publishUntil(vhost, confirmed, (status) => status !== 200)
    assert.equal(refused, '503 store_unavailable')
    await ready(deployment, 503)
    rmSync(filler)
    // With `always`, Redis ends rather than to answer for what is not on disk.
    if (fsync === 'always') await redis.restart()
    await ready(deployment)
    await publishUntil(vhost, confirmed, (status) => status === 200)
    if (fsync === 'everysec') await sleep(1_100) // what a second of the AOF may lose is not the point
    await redis.kill9()
    await ready(deployment, 503)
    await redis.restart()
    await ready(deployment)
    const bodies = new Set<string>()
    for (let page = ['']; page.length > 0; ) {
      page = (await vhost.drain('q', { waitMs: 1_000 })).map(idOf)
      for (const id of page) bodies.add(id)
    }
    assert.deepEqual(
      confirmed.filter((id) => !bodies.has(id)),
      [],
    )
    assert(confirmed.length > 20, `${confirmed.length} were confirmed`)
  })
}

/** A file system of a few megabytes; skips, saying so, where none may be mounted. */
function smallDisk(t: TestContext): string | undefined {
  const dir = mkdtempSync(join(tmpdir(), 'sluice-disk-'))
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${DISK}`, 'tmpfs', dir])
  const unmount = () => {
    if (mounted.status === 0) spawnSync('umount', ['-l', dir])
    rmSync(dir, { recursive: true, force: true })
  }
  t.after(unmount)
  if (mounted.status === 0) return dir
  t.skip('mounting a small file system needs root')
  return undefined
}

/** Publishes until an answer is as wanted; that answer. */
async function publishUntil(
  vhost: Vhost,
  confirmed: string[],
  wanted: (status: number) => boolean,
): Promise<string> {
  for (let left = 2_000; left > 0; left--) {
    const id = randomUUID()
    const { status, json } = await vhost.router('POST', '/queues/q/messages', {
      body: bodyOf(id),
      headers: { 'Content-Type': 'text/plain', 'Idempotency-Key': id },
    })
    if (status === 200) confirmed.push(id)
    else await sleep(REST_MS)
    if (wanted(status)) return `${status} ${json.title ?? ''}`
  }
  return assert.fail('no such answer came')
}

async function ready({ routers }: Deployment, status = 200): Promise<void> {
  const isReady = async () => (await routers[0]!.request('GET', '/readyz')).status === status
  await waitFor(isReady, { what: `/readyz to answer ${status}`, timeoutMs: 20_000 })
}
