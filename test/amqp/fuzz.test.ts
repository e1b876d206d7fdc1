/**
 * Hostile clients of a whole broker, seeded: `SEED=n` replays a run, SECONDS is how long (4).
 *
 * A session that a client might have, of everything the broker does, is damaged or sent in another
 * order. Each ends in a close of the protocol or without a word, nothing unexpected is reported,
 * and another connection is served meanwhile as if nobody else was there.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import { type ClientMethod, encodeContent, encodeMethod, encodeProperties } from '@sluice/amqp'
import { type Random, randomFor, waitFor } from '@sluice/testkit'
import { declareExchange, declareQueue, withAmqp } from '../support/amqp-broker.ts'
import { AmqpPeer } from '../support/amqp-peer.ts'
import { PASSWORD } from '../support/broker.ts'
import { ack, cancel, confirming, consume, get, nack, qos, reject, store } from './methods.ts'

const MS = Number(process.env['SECONDS'] ?? 4) * 1_000
const AT_ONCE = 8
const STEPS_MAX = 40

const QUEUES = ['one', 'two', '', 'amq.rabbitmq.reply-to', 'nope']
const EXCHANGES = ['', 'amq.fanout', 'amq.topic', 'own', 'nope']

type Step = (r: Random) => ClientMethod | readonly Buffer[]

const binding = (r: Random) => ({
  queue: r.pick(QUEUES),
  exchange: r.pick(EXCHANGES),
  routingKey: r.pick(['#', 'one', '*.b']),
  arguments: {},
})

const STEPS: readonly Step[] = [
  (r) => declareQueue(r.pick(QUEUES), { exclusive: r.chance(0.5), autoDelete: r.chance(0.5) }),
  (r) => declareQueue('two', { arguments: { 'x-max-priority': r.int(-1, 300) } }),
  (r) => declareQueue('one', { passive: r.chance(0.5), arguments: { 'x-expires': r.int(-1, 50) } }),
  (r) => declareExchange(r.pick(EXCHANGES), r.pick(['direct', 'topic', 'headers', 'strange'])),
  (r) => ({ name: 'exchange.delete', exchange: 'own', ifUnused: r.chance(0.5), noWait: false }),
  (r) => ({ name: 'queue.bind', noWait: r.chance(0.2), ...binding(r) }),
  (r) => ({ name: 'queue.unbind', ...binding(r) }),
  (r) => ({ name: 'queue.purge', queue: r.pick(QUEUES), noWait: false }),
  (r) => ({
    name: 'queue.delete',
    queue: r.pick(QUEUES),
    ifUnused: r.chance(0.5),
    ifEmpty: r.chance(0.5),
    noWait: r.chance(0.2),
  }),
  (r) => qos(r.int(0, 3), r.chance(0.5)),
  (r) => consume(r.pick(QUEUES), { tag: r.pick(['', 'a', 'b']), noAck: r.chance(0.5) }),
  (r) => consume('one', { exclusive: true, arguments: { 'x-priority': r.int(-5, 5) } }),
  (r) => cancel(r.pick(['a', 'b', 'c'])),
  (r) => get(r.pick(QUEUES), r.chance(0.5)),
  (r) => ack(r.int(0, 5), r.chance(0.5)),
  (r) => nack(r.int(0, 5), r.chance(0.5), r.chance(0.5)),
  (r) => reject(r.int(0, 5), r.chance(0.5)),
  (r) => ({ name: 'basic.recover', requeue: r.chance(0.9) }),
  () => ({ name: 'confirm.select', noWait: false }),
  (r) => ({ name: r.pick(['tx.select', 'tx.commit', 'tx.rollback'] as const) }),
]

function publish(r: Random, channel: number): Buffer[] {
  const properties = {
    ...(r.chance(0.3) && { headers: { CC: ['one'], 'x-delay': r.int(0, 20), nested: { a: [1] } } }),
    ...(r.chance(0.2) && { expiration: r.pick(['0', '50', 'never']) }),
    ...(r.chance(0.2) && { replyTo: 'amq.rabbitmq.reply-to' }),
    priority: r.int(0, 255),
  }
  const exchange = r.pick(EXCHANGES)
  const routingKey = r.pick(['one', 'two', 'nobody'])
  const flags = { mandatory: r.chance(0.3), immediate: r.chance(0.02) }
  return [
    encodeMethod(channel, { name: 'basic.publish', exchange, routingKey, ...flags }),
    encodeContent(channel, encodeProperties(properties), Buffer.alloc(r.int(0, 9_000), 7), 4_096),
  ]
}

/** Frames of a session after its handshake. */
function session(r: Random): Buffer[] {
  const frames = [1, 2].map((channel) => encodeMethod(channel, { name: 'channel.open' }))
  for (let steps = r.int(1, STEPS_MAX); steps > 0; steps--) {
    const channel = r.int(1, 2)
    if (r.chance(0.4)) {
      frames.push(...publish(r, channel))
      continue
    }
    const step = r.pick(STEPS)(r)
    if ('name' in step) frames.push(encodeMethod(channel, step))
  }
  return frames
}

/** One to three things wrong: octets, frames lost, doubled, swapped, cut. */
function damage(r: Random, frames: Buffer[]): void {
  for (let wrongs = r.int(0, 3); wrongs > 0; wrongs--) {
    const at = r.int(0, frames.length - 1)
    const frame = frames[at]!
    switch (r.int(0, 4)) {
      case 0:
        frame[r.int(0, frame.length - 1)] = r.int(0, 255)
        break
      case 1:
        frames.splice(at, r.int(0, 1))
        break
      case 2:
        frames.splice(at, 0, frame)
        break
      case 3:
        frames.push(...frames.splice(at, 1))
        break
      case 4:
        frames[at] = frame.subarray(0, r.int(0, frame.length))
    }
    if (frames.length === 0) return
  }
}

test('hostile sessions end as the protocol says, and harm nobody else', async (t) => {
  const r = randomFor(t)
  const { client, amqpPort, vhost, deps } = await withAmqp(t)
  const bystander = await client()
  await bystander.queue('mine')
  await confirming(bystander)
  let over = false
  const served = (async () => {
    let rounds = 0
    for (; !over; rounds++) {
      await store(bystander, 'mine', [`${rounds}`])
      assert.equal(await bystander.get('mine'), `${rounds}`)
    }
    return rounds
  })()
  const attack = async (): Promise<void> => {
    const peer = await AmqpPeer.connect(amqpPort)
    try {
      await peer.login({ user: 'admin', password: PASSWORD, vhost, frameMax: 4_096 })
      peer.collectRaw()
      const frames = session(r)
      damage(r, frames)
      for (const frame of frames) peer.send(frame)
      if (r.chance(0.3)) return
      const bye = { replyCode: 200, replyText: '', classId: 0, methodId: 0 }
      peer.method(0, { name: 'connection.close', ...bye })
      await once(peer.socket, 'close', { signal: AbortSignal.timeout(300) }).catch(() => {})
    } finally {
      await peer.close()
    }
  }
  const until = performance.now() + MS
  let sessions = 0
  await Promise.all(
    Array.from({ length: AT_ONCE }, async () => {
      for (; performance.now() < until; sessions++) await attack()
    }),
  )
  over = true
  assert((await served) > 10, 'the bystander was served')
  t.diagnostic(`${sessions} sessions`)
  const left = () =>
    deps.topology.table.queues(vhost).filter(({ definition }) => definition.exclusive !== '')
  await waitFor(() => left().length === 0, { what: 'their exclusive queues to go' })
})
