/** What clients leave behind when they go while Redis is away; what it costs to be away oneself. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { privateRedis, waitFor } from '@sluice/testkit'
import { type AmqpBroker, type AmqpClient, withAmqp } from '../support/amqp-broker.ts'
import { AmqpPeer } from '../support/amqp-peer.ts'
import { PASSWORD } from '../support/broker.ts'
import { startProcess } from '../support/processes.ts'
import { type TcpProxy, tcpProxy } from '../support/tcp-proxy.ts'
import { cancel, confirming, consume, consuming, deliveries, get, store } from './methods.ts'

interface Outage {
  /** A broker with a wire to Redis that can be cut, and a client of it. */
  readonly wire: TcpProxy
  readonly far: AmqpBroker
  readonly client: AmqpClient
  /** Another client of the same vhost, through a broker of its own. */
  readonly near: AmqpBroker
  readonly other: AmqpClient
}

async function setup(t: TestContext): Promise<Outage> {
  // Of its own: what is declared beside it by others would let its declares begin anew.
  const { url, port } = await privateRedis(t, { aof: false })
  const wire = await tcpProxy(port)
  const near = await withAmqp(t, { redisUrl: url })
  const far = await withAmqp(t, { redisUrl: `redis://127.0.0.1:${wire.port}` })
  // Its heartbeats and looks at Redis find it away, and say so.
  t.after(() => {
    far.reported.splice(0)
    return wire.close()
  })
  const other = await near.client()
  const client = await far.client({ vhost: near.vhost })
  return { wire, far, client, near, other }
}

/** Redis is away from when `act` waits for it; what was sent by then may still arrive. */
async function cut(wire: TcpProxy, text: string, act: () => unknown): Promise<void> {
  wire.stall()
  act()
  await waitFor(() => wire.keeps(text), { what: text })
  wire.strand(Promise.resolve())
}

const gone = ({ deps, vhost }: AmqpBroker, queue: string) =>
  waitFor(() => deps.topology.table.queue(vhost, queue) === undefined, { what: `${queue} to go` })

test('no. 65: a consumer that could not be told it was there is not', async (t) => {
  const { wire, client, other } = await setup(t)
  await client.queue('q')
  const first = await consuming(client, 'q') // which registers the process
  await client.call(1, cancel(first), 'basic.cancel-ok')
  const alone = consume('q', { tag: 'alone', exclusive: true })
  await cut(wire, 'alone', () => client.method(1, alone))
  await client.expect('connection.close')
  await waitFor(async () => !/in exclusive use/.test(await refusalOf(other)), { what: 'its turn' })
})

/** '' when the consumer was accepted. */
async function refusalOf(client: AmqpClient): Promise<string> {
  client.method(1, consume('q', { exclusive: true, tag: 'next' }))
  const frame = await client.next()
  assert(frame.kind === 'method')
  if (frame.method.name === 'basic.consume-ok') return ''
  assert(frame.method.name === 'channel.close')
  client.method(1, { name: 'channel.close-ok' })
  await client.openChannel(1)
  return frame.method.replyText
}

test('no. 46: an exclusive queue goes, though Redis was away when its connection ended', async (t) => {
  const { wire, near, client } = await setup(t)
  await client.queue('mine', { exclusive: true })
  await cut(wire, 'topology', () => client.close())
  await gone(near, 'mine')
})

test('no. 46: an exclusive queue whose declare was not answered goes with its connection', async (t) => {
  const { wire, near, client } = await setup(t)
  await client.queue('known', { exclusive: true })
  wire.stall()
  client.queue('mine', { exclusive: true }).catch(() => {}) // the connection ends instead
  await waitFor(() => wire.keeps('mine'), { what: 'the declare' })
  wire.strand(Promise.resolve())
  await waitFor(() => near.deps.topology.table.queue(near.vhost, 'mine'), { what: 'the queue' })
  await client.close()
  await gone(near, 'mine')
  await gone(near, 'known')
})

test('no. 52: an auto-delete queue goes with its last consumer, though Redis was away', async (t) => {
  const { wire, near, client } = await setup(t)
  await client.queue('auto', { autoDelete: true })
  await consuming(client, 'auto', { tag: 'last' })
  await cut(wire, 'last', () => client.close())
  await gone(near, 'auto')
})

test('no. 16, 69: a process that was taken for dead closes its connections; the next consumer is active', async (t) => {
  const { near, far, client, other } = await setup(t)
  await client.queue('q', { arguments: { 'x-single-active-consumer': true } })
  await consuming(client, 'q')
  await consuming(other, 'q')
  const { slot, redis } = far.deps.store
  await redis.del(`sluice:{slots}:alive:${slot.name}`)
  const { replyCode, replyText } = await client.expect('connection.close')
  assert.equal(replyCode, 320)
  assert.match(replyText, /away for longer than its heartbeat/)
  const publisher = await near.client()
  await confirming(publisher)
  await store(publisher, 'q', ['x'])
  assert.deepEqual(await deliveries(other, 1), ['x'])
  const again = await far.client({ vhost: near.vhost })
  await again.queue('q', { passive: true })
})

test('no. 16, 18: who only publishes waits while Redis is away, is told so, and goes on', async (t) => {
  const { url, redis } = await privateRedis(t, { aof: false })
  const pid = Number(/process_id:(\d+)/.exec(await redis.info('server'))![1])
  const { client, reported } = await withAmqp(t, { redisUrl: url })
  t.after(() => void reported.splice(0)) // heartbeats find Redis away
  const clientProperties = { capabilities: { 'connection.blocked': true } }
  const [sure, plain] = [await client({ clientProperties }), await client({ clientProperties })]
  const consumer = await client()
  await sure.queue('q')
  await sure.queue('consumed')
  await consuming(consumer, 'consumed')
  await confirming(sure)
  process.kill(pid, 'SIGSTOP')
  t.after(() => process.kill(pid, 'SIGCONT'))
  const stopped = performance.now()
  let sent = 0
  for (const peer of [sure, plain]) {
    while (peer.unread.length === 0) {
      peer.publish(1, '', 'q', String(sent++))
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
    assert.match((await peer.expect('connection.blocked', 0)).reason, /Redis does not answer/)
  }
  await new Promise((resolve) => setTimeout(resolve, 12_000 - (performance.now() - stopped)))
  process.kill(pid, 'SIGCONT')
  let told = await sure.next()
  // Its confirms come first, and the others' nothing at all.
  while (told.kind === 'method' && told.method.name === 'basic.ack') told = await sure.next()
  assert.equal(told.kind === 'method' && told.method.name, 'connection.unblocked')
  await plain.expect('connection.unblocked', 0)
  assert.equal((await consumer.expect('connection.close')).replyCode, 320)
  const next = await client()
  assert.equal((await next.call(1, get('q'), 'basic.get-ok')).messageCount, sent - 1)
  await store(sure, 'q', ['more'])
})

test('a process that cannot drain ends all the same', async (t) => {
  const { url, port } = await privateRedis(t, { aof: false })
  const wire = await tcpProxy(port)
  t.after(() => wire.close())
  const near = await withAmqp(t, { redisUrl: url })
  const publisher = await near.client()
  await publisher.queue('q')
  await confirming(publisher)
  const dying = await startProcess(t, {
    redisUrl: `redis://127.0.0.1:${wire.port}`,
    services: ['delivery'],
    env: { SLUICE_DRAIN_MS: '500' },
  })
  const peer = await AmqpPeer.connect(Number(new URL(dying.doors['amqp']!).port))
  t.after(() => peer.close())
  await peer.login({ user: 'admin', password: PASSWORD, vhost: near.vhost })
  await peer.openChannel(1)
  await peer.call(1, consume('q'), 'basic.consume-ok')
  await store(publisher, 'q', ['held'])
  await peer.message('basic.deliver')
  wire.stall()
  wire.reset() // what it holds can be told to nobody, and the client does not answer its close
  assert.equal(await dying.stop(), 1)
  assert.match(dying.log, /did not drain within 500 ms/)
})
