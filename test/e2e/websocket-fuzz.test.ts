/** Frames that no client should send: the door answers or closes, and serves everybody else. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import { test } from 'node:test'
import { randomFor, waitFor } from '@sluice/testkit'
import { AUTHORIZATION, withBroker } from '../support/broker.ts'
import { WsPeer } from '../support/ws-peer.ts'

const RUNS = process.env['SHORT'] ? 40 : 400

const FRAMES = [
  { type: 'open', vhost: '/' },
  { type: 'consume', id: 1, consumer: 'c', queue: 'q', credit: 10, priority: 0 },
  { type: 'credit', consumer: 'c', credit: 5 },
  { type: 'settle', deliveries: [1, 2, 3], outcome: 'retry', delayMs: 1, reason: 'x' },
  { type: 'publish', id: 2, exchange: '', routingKey: 'q', body: 'x', headers: { a: 1 } },
  { type: 'publish', id: 3, event: { specversion: '1.0', id: '1', source: 's', type: 'q' } },
  { type: 'cancel', id: 4, consumer: 'c' },
  { type: 'ping', id: 5 },
]
const VALUES = [
  ...[null, -1, 0, 1.5, 1e300, '', '\u0000', 'x'.repeat(70_000), '\ud800', [], {}, [[]], true],
  ...[{ __proto__: null }, ['c'], Number.MAX_SAFE_INTEGER, 'ack', 'amq.default', '__proto__'],
]

test('mutated frames never break the door', async (t) => {
  const broker = await withBroker(t)
  await broker.request('PUT', '/queues/q', { body: {} })
  const { pick, int, chance } = randomFor(t)

  const frame = (): string => {
    const base = structuredClone(pick(FRAMES)) as Record<string, unknown>
    for (let changes = int(0, 2); changes > 0; changes--) {
      const name = pick([...Object.keys(base), 'extra', '__proto__'])
      if (chance(0.25)) delete base[name]
      else base[name] = pick(VALUES)
    }
    const text = JSON.stringify(base)
    if (chance(0.9)) return text
    return text.slice(0, int(0, text.length)) + pick(['', '[', '\u2028', '{"'.repeat(999)])
  }

  for (let run = 0; run < RUNS; run++) {
    const peer = new WsPeer(broker.http)
    await once(peer.socket, 'open')
    const authorization = chance(0.8) ? AUTHORIZATION : pick(['Bearer x', ''])
    peer.send({ type: 'open', vhost: broker.vhost, authorization })
    if (chance(0.8)) await waitFor(() => peer.frames.length > 0 || peer.closed)
    for (let left = 20; left > 0 && !peer.closed; left--) peer.send(frame())
    if (chance(0.5)) peer.socket.terminate()
    else peer.socket.close()
    await peer.ended()
  }
  const honest = await WsPeer.open(broker.http, { vhost: broker.vhost })
  await honest.ask({ type: 'publish', routingKey: 'q', body: 'still there' }, 'published')
  await honest.close()
})

test('bytes that are no WebSocket end their connection alone', async (t) => {
  const broker = await withBroker(t)
  const { int } = randomFor(t)
  const { port } = new URL(broker.http)
  const upgrade =
    'GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
    'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: sluice.v1\r\n' +
    'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n'
  for (let run = 0; run < RUNS / 4; run++) {
    const socket = connect(Number(port), '127.0.0.1').on('error', () => {})
    await once(socket, 'connect')
    const noise = Buffer.from(Array.from({ length: int(1, 200) }, () => int(0, 255)))
    socket.write(upgrade)
    await once(socket, 'data')
    socket.end(noise)
    socket.resume()
    await once(socket, 'close')
  }
  const honest = await WsPeer.open(broker.http, { vhost: broker.vhost })
  assert.equal((await honest.ask({ type: 'ping' }, 'pong')).type, 'pong')
  await honest.close()
})
