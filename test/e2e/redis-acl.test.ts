/**
 * The user that `sluice redis-acl` describes lets the broker do all of its work, and nothing besides.
 *
 * Method: a Redis with that user; what Redis denies is in its own log of denials.
 */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { type TestContext, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { privateRedis, waitFor } from '@sluice/testkit'
import { Redis } from 'ioredis'
import { type AmqpBroker, withAmqp } from '../support/amqp-broker.ts'
import { succeed } from '../support/users.ts'

const MAIN = fileURLToPath(new URL('../../services/all-in-one/src/main.ts', import.meta.url))

/** As whoever sets it up does it: by the words that the command prints. */
async function limitedUser(t: TestContext) {
  const { url, redis } = await privateRedis(t)
  const { stdout } = spawnSync(process.execPath, [MAIN, 'redis-acl'], { encoding: 'utf8' })
  await redis.call('ACL', 'SETUSER', 'sluice', 'on', '>a-password', ...stdout.trim().split(' '))
  const denied = async () => (await redis.call('ACL', 'LOG')) as unknown[][]
  return { redis, denied, url: url.replace('redis://', 'redis://sluice:a-password@') }
}

async function work(broker: AmqpBroker): Promise<void> {
  const put = (path: string, body: unknown) => succeed(broker, 'PUT', path, body)
  const post = async (path: string, body: unknown) =>
    (await succeed(broker, 'POST', path, body)).json
  await put('/queues/q', {})
  await put('/queues/ordered', { arguments: { 'x-ordering-key': true } })
  await put('/queues/limited', { arguments: { 'x-max-length': 2, 'x-message-ttl': 100 } })
  await put('/policies/p', {
    pattern: '^limited$',
    applyTo: 'queues',
    definition: { 'max-length': 1 },
  })
  await put('/bindings', { source: 'amq.topic', destination: 'q', routingKey: '#' })
  for (const queue of ['q', 'q', 'limited', 'limited', 'limited']) {
    await post(`/queues/${queue}/messages`, 'x')
  }
  const settle = async (outcome: object) => {
    const { messages } = await post('/queues/q/leases', { waitMs: 10_000 })
    await post('/queues/q/settlements', { settlements: [{ token: messages[0].token, ...outcome }] })
  }
  await settle({ outcome: 'extend', leaseMs: 1_000 })
  await settle({ outcome: 'retry', delayMs: 50 })
  await settle({ outcome: 'dead-letter', reason: 'test' })
  const letters = '/queues/amq.dead-letters/dead-letters'
  await waitFor(async () => (await broker.request('GET', letters)).json.messages.length > 0)
  const { id } = await post('/queues/amq.dead-letters/redrive', {})
  const redrive = `/queues/amq.dead-letters/redrives/${id}`
  await waitFor(async () => (await broker.request('GET', redrive)).json.state === 'done')
  await succeed(broker, 'GET', '/queues/q/messages')
  await put(`/v1/users/ann`, { password: 'a password' })
  const peer = await broker.client()
  const queue = await peer.queue('', { exclusive: true })
  await peer.bind(queue, 'amq.direct', 'key')
  peer.publish(1, 'amq.direct', 'key', 'over AMQP')
  await waitFor(async () => (await peer.get(queue)) === 'over AMQP')
  await succeed(broker, 'DELETE', '/queues/q/messages')
  await succeed(broker, 'DELETE', '/queues/q')
  await succeed(broker, 'GET', '/v1/audit')
}

test('the broker does all of its work as this user', async (t) => {
  const { url: redisUrl, denied } = await limitedUser(t)
  const env = { SLUICE_REAPER_PASS_MS: '50', SLUICE_REAPER_SWEEP_MS: '1000' }
  const broker = await withAmqp(t, { redisUrl, env })
  await work(broker)
  // A sweep, and what is looked at each second.
  await new Promise((resolve) => setTimeout(resolve, 1_500))
  assert.deepEqual(await denied(), [])
})

test('this user reads and writes no other keys, hears no other channels, and administers nothing', async (t) => {
  const { url, redis } = await limitedUser(t)
  await redis.set('others', 'x')
  const user = new Redis(url)
  t.after(() => user.disconnect())
  const commands = [
    ['GET', 'others'],
    ['SET', 'others', 'y'],
    ['DEL', 'others'],
    ['EVAL', "return redis.call('GET', 'others')", '0'],
    ['SUBSCRIBE', 'others'],
    ['PUBLISH', 'others', 'x'],
    ['KEYS', '*'],
    ['RANDOMKEY'],
    ['FLUSHALL'],
    ['CONFIG', 'SET', 'maxmemory', '1'],
    ['ACL', 'LIST'],
    ['CLIENT', 'KILL', 'ID', '1'],
    ['MONITOR'],
    ['REPLICAOF', 'NO', 'ONE'],
    ['SCRIPT', 'FLUSH'],
    ['FUNCTION', 'LIST'],
    ['MODULE', 'LIST'],
    ['SAVE'],
    ['SHUTDOWN', 'NOSAVE'],
  ]
  for (const [command, ...args] of commands) {
    await assert.rejects(user.call(command!, ...args), /NOPERM|ACL failure|can't access/i, command)
  }
  assert.equal(await redis.get('others'), 'x')
})
