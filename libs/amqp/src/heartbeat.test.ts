/** Heartbeats: who shows no life is hung up on. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { test } from 'node:test'
import { withDoor } from '../../../test/support/amqp-door.ts'
import { rawFrame } from '../../../test/support/amqp-peer.ts'

const MiB = 1024 * 1024
/** Two to three times the heartbeat, and what a busy machine adds. */
const HUNG_UP_MS_MAX = 10_000

test('no. 14: an idle server sends heartbeats, and hangs up on a silent client', async (t) => {
  const { loggedIn } = await withDoor(t)
  const client = await loggedIn({ heartbeat: 1 })
  const from = performance.now()
  const beats = [from]
  for (let left = 3; left > 0; left--) {
    assert.equal((await client.next()).kind, 'heartbeat')
    beats.push(performance.now())
  }
  // A busy machine makes one late, and not all of them.
  const soonest = Math.min(...beats.slice(1).map((at, index) => at - beats[index]!))
  assert(soonest < 1_000, `${soonest} ms between two`)
  await client.hungUp()
  const took = performance.now() - from
  assert(took > 1_800 && took < HUNG_UP_MS_MAX, `hung up after ${took} ms`)
})

test('no. 14: any octet counts as a sign of life', async (t) => {
  const { loggedIn } = await withDoor(t)
  const client = await loggedIn({ heartbeat: 1 })
  const halves = rawFrame(8, 0, Buffer.alloc(0))
  const from = performance.now()
  for (let at = 0; performance.now() - from < 4_000; at = (at + 1) % halves.length) {
    client.send(halves.subarray(at, at + 1))
    await new Promise((resolve) => setTimeout(resolve, 400))
  }
  assert.equal(client.socket.closed, false)
})

test('no. 14: a client that reads nothing is dead, whatever it sends', async (t) => {
  const { loggedIn, connections } = await withDoor(t)
  const client = await loggedIn({ heartbeat: 1 })
  client.socket.pause()
  connections[0]!.output.push(Buffer.alloc(64 * MiB))
  const flow = setInterval(() => client.method(1, { name: 'channel.flow', active: true }), 100)
  t.after(() => clearInterval(flow))
  const from = performance.now()
  await connections[0]!.closed
  const took = performance.now() - from
  assert(took > 1_800 && took < HUNG_UP_MS_MAX, `hung up after ${took} ms`)
})

test('no. 14: a client that reads slowly is not', async (t) => {
  const { loggedIn, connections } = await withDoor(t)
  const client = await loggedIn({ heartbeat: 1 })
  client.collectRaw()
  const [connection] = connections
  client.socket.pause()
  for (let left = 64; left > 0; left--) connection!.output.push(Buffer.alloc(MiB))
  client.method(1, { name: 'channel.flow', active: true })
  for (const from = performance.now(); performance.now() - from < 4_000; ) {
    await new Promise((resolve) => setTimeout(resolve, 100))
    client.socket.resume()
    await once(client.socket, 'data')
    client.socket.pause()
  }
  assert.equal(client.socket.closed, false)
})
