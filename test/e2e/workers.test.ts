/** SLUICE_WORKERS: several processes behind one port, one of which dies. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { privateRedis, waitFor } from '@sluice/testkit'
import { Redis } from 'ioredis'
import { declareQueue } from '../support/amqp-broker.ts'
import { AmqpPeer } from '../support/amqp-peer.ts'
import { PASSWORD } from '../support/http.ts'
import { startProcess } from '../support/processes.ts'

const CONSUMERS = 'sluice:{%2F/q}:consumers'
const ALIVE = 'sluice:{slots}:alive:'

async function setup(t: TestContext) {
  const { url } = await privateRedis(t, { aof: false })
  const env = { SLUICE_WORKERS: '2', SLUICE_DRAIN_MS: '5000' }
  const both = await startProcess(t, { redisUrl: url, name: 'two workers', env })
  const redis = new Redis(url)
  const peers: AmqpPeer[] = []
  t.after(async () => {
    for (const peer of peers) await peer.close()
    redis.disconnect()
  })
  const { port } = new URL(both.doors['amqp']!)
  /** A new connection, which consumes. */
  const consume = async () => {
    const peer = await AmqpPeer.connect(Number(port))
    peers.push(peer)
    await peer.login({ user: 'admin', password: PASSWORD })
    await peer.openChannel(1)
    await peer.call(1, declareQueue('q'), 'queue.declare-ok')
    const rest = { noLocal: false, noAck: false, exclusive: false, noWait: false, arguments: {} }
    const method = { name: 'basic.consume', queue: 'q', consumerTag: '', ...rest } as const
    await peer.call(1, method, 'basic.consume-ok')
    return peer
  }
  /** The slots that consume, each once, in the order of their first consumer. */
  const consuming = async () => {
    const consumers = (await redis.hvals(CONSUMERS)).map((value) => value.split(' '))
    consumers.sort((a, b) => Number(a[1]) - Number(b[1]))
    return [...new Set(consumers.map(([slot]) => slot!))]
  }
  const alive = () => redis.keys(`${ALIVE}*`)
  const pidOf = async (slot: string) => {
    const pid = Number.parseInt((await redis.get(ALIVE + slot)) ?? '', 10)
    assert(pid > 0, `${slot} lives`)
    return pid
  }
  return { both, consume, consuming, alive, pidOf }
}

test('connections are spread over workers, and one that dies is replaced', async (t) => {
  const { both, consume, consuming, alive, pidOf } = await setup(t)
  const peers = [await consume(), await consume(), await consume(), await consume()]
  const slots = await consuming()
  assert.equal(slots.length, 2)
  process.kill(await pidOf(slots[0]!), 'SIGKILL')
  await waitFor(() => peers.filter(({ socket }) => socket.closed).length === 2, { what: 'the end' })
  assert.deepEqual(
    peers.map(({ socket }) => socket.closed),
    [true, false, true, false],
    'the other one serves on',
  )
  // Not before: what came while the worker died could be handed to it, and hang.
  const third = async () => (await alive()).some((key) => !slots.includes(key.slice(ALIVE.length)))
  await waitFor(third, { what: 'a new worker', timeoutMs: 30_000 })
  const another = async () => {
    await consume()
    return (await consuming()).find((slot) => !slots.includes(slot))
  }
  const replaced = await waitFor(another, { what: 'it to be connected to', timeoutMs: 30_000 })
  assert.notEqual(await pidOf(replaced), await pidOf(slots[1]!))
  assert.equal(await both.stop(), 0)
  const left = (await alive()).filter((key) => key !== `${ALIVE}${slots[0]}`)
  assert.deepEqual(left, [], 'all but the one killed said goodbye')
})

test('a signal to all, as from a terminal, stops them in order', async (t) => {
  const { both, consume, consuming, alive, pidOf } = await setup(t)
  const peers = [await consume(), await consume()]
  for (const slot of await consuming()) process.kill(await pidOf(slot), 'SIGINT')
  const code = both.stop()
  for (const peer of peers) assert.equal((await peer.expect('connection.close')).replyCode, 320)
  for (const peer of peers) peer.method(0, { name: 'connection.close-ok' })
  assert.equal(await code, 0)
  assert.deepEqual(await alive(), [])
})
