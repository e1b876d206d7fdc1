/**
 * A broker starts from what an earlier version left in Redis, and nothing is missing.
 *
 * Method: test/support/format-1.jsonl holds every key of a broker that was killed in the middle of
 * its work, as DUMP gives it. `WRITE_FORMAT=1` makes it anew, with the version that is checked out;
 * that is done once for a format, by the last version that writes it.
 */
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { test } from 'node:test'
import { type PrivateRedis, privateRedis, waitFor } from '@sluice/testkit'
import { connect } from 'amqplib'
import { auditAll } from '../support/audit.ts'
import { type Deployment, deploy, Vhost } from '../support/deployment.ts'
import { PASSWORD } from '../support/http.ts'

const FILE = new URL('../support/format-1.jsonl', import.meta.url)
const VHOST = 'left'
const NAMES = Array.from({ length: 6 }, (_, index) => `message-${index}`)

test('what format 1 left is found again', async (t) => {
  const redis = await privateRedis(t)
  if (process.env['WRITE_FORMAT'] === '1') {
    const other = await privateRedis(t)
    await leave(await deploy(t, ['router delivery reaper'], { redisUrl: other.url }))
    await dump(other)
  }
  await restore(redis)
  const deployment = await deploy(t, ['router delivery reaper'], { redisUrl: redis.url })
  const vhost = vhostOf(deployment)
  await waitFor(
    async () => {
      const queues = ['plain', 'leased', 'unacked', 'delayed', 'levels', 'keys']
      const counts = await Promise.all(queues.map((queue) => vhost.counts(queue)))
      return counts.every(({ ready, unacked }) => ready === NAMES.length && unacked === 0)
    },
    { what: 'all that was held to be ready', timeoutMs: 60_000 },
  )
  assert.deepEqual(await auditAll(redis.url, VHOST), [])
  for (const queue of ['plain', 'leased', 'unacked', 'delayed']) {
    assert.deepEqual(await vhost.drain(queue), NAMES, queue)
  }
  assert.deepEqual(await vhost.drain('levels'), NAMES.toReversed())
  for (const name of NAMES) assert.deepEqual(await vhost.drain('keys', { max: 1 }), [name])
  const [letter] = await vhost.lease('amq.dead-letters')
  assert.equal(letter?.body, 'dead')
  assert.equal(letter.headers['x-death'][0].queue, 'dying')

  assert.deepEqual(await vhost.publish('events', 'a.b', 'routed'), ['plain'], 'binding')
})

const vhostOf = ({ routers, deliveries }: Deployment) =>
  new Vhost(VHOST, routers[0]!, deliveries[0]!)

/** Something in every place that a message can be in, and a process that dies of it. */
async function leave(deployment: Deployment): Promise<void> {
  const vhost = vhostOf(deployment)
  await vhost.put('')
  for (const queue of ['plain', 'leased', 'unacked', 'delayed', 'dying']) await vhost.queue(queue)
  await vhost.queue('levels', { 'x-max-priority': 9 })
  await vhost.queue('keys', { 'x-ordering-key': true })
  await vhost.put('/exchanges/events', { type: 'topic' })
  await vhost.bind('events', 'plain', { routingKey: 'a.*' })
  for (const [index, name] of NAMES.entries()) {
    for (const queue of ['plain', 'leased', 'unacked']) await vhost.send(queue, name)
    await vhost.send('delayed', name, { 'Sluice-Delay': 20_000 + index })
    await vhost.send('levels', name, { 'Sluice-Priority': index })
    await vhost.send('keys', name, { 'Sluice-Ordering-Key': 'k' })
  }
  await vhost.send('dying', 'dead')
  const dying = await vhost.leaseOne('dying')
  await vhost.settle('dying', dying, { outcome: 'dead-letter', reason: 'no' })
  await waitFor(async () => (await vhost.counts('amq.dead-letters'))['ready'] === 1)
  assert.equal((await vhost.lease('leased')).length, NAMES.length)
  const [broker] = deployment.processes
  const { port } = new URL(broker!.doors['amqp']!)
  const url = `amqp://admin:${encodeURIComponent(PASSWORD)}@127.0.0.1:${port}/${VHOST}`
  const connection = await connect(url)
  connection.on('error', () => {}) // the broker is killed
  const channel = await connection.createChannel()
  let seen = 0
  await channel.consume('unacked', () => void seen++)
  await waitFor(() => seen === NAMES.length)
  await broker!.kill9()
}

/** Every key but those that end by themselves: heartbeats. */
async function dump({ redis }: PrivateRedis): Promise<void> {
  const lines: string[] = []
  for (const key of (await redis.keys('*')).toSorted()) {
    if ((await redis.pttl(key)) > 0) continue
    const bytes = (await redis.dumpBuffer(key)) as Buffer
    lines.push(JSON.stringify([key, bytes.toString('base64')]))
  }
  writeFileSync(FILE, `${lines.join('\n')}\n`)
}

async function restore({ redis }: PrivateRedis): Promise<void> {
  for (const line of readFileSync(FILE, 'utf8').trimEnd().split('\n')) {
    const [key, bytes] = JSON.parse(line) as [string, string]
    await redis.restore(key, 0, Buffer.from(bytes, 'base64'))
  }
}
