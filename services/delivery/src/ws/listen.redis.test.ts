/** Half-open connections, with a heartbeat that a test can wait for. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type TestContext, test } from 'node:test'
import { limits } from '@sluice/core'
import { AUTHORIZATION, withBroker } from '../../../../test/support/broker.ts'
import { WsPeer } from '../../../../test/support/ws-peer.ts'
import { Feeds } from '../feeds.ts'
import { WebSocketDoor } from './listen.ts'

/** A busy machine is as slow to pass on an answer as this at times. */
const HEARTBEAT_MS = 500

/** A door of its own on the broker's parts; its URL. */
async function withDoor(t: TestContext): Promise<{ http: string; vhost: string }> {
  const { deps, vhost } = await withBroker(t)
  const sizes = { messageBytesMax: limits.MESSAGE_BYTES_DEFAULT, amqpAckTimeoutMs: 0 }
  const door = new WebSocketDoor(deps, sizes, new Feeds(deps.report), HEARTBEAT_MS)
  const stop = new AbortController()
  const { closed } = await door.run(stop.signal)
  const server = createServer().on('upgrade', door.upgrade.accept)
  await once(server.listen(0, '127.0.0.1'), 'listening')
  t.after(async () => {
    stop.abort()
    await closed
    server.close()
  })
  return { http: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, vhost }
}

test('a client that answers pings stays, one that is gone silently is closed', async (t) => {
  const { http, vhost } = await withDoor(t)
  const alive = await WsPeer.open(http, { vhost })
  const gone = await WsPeer.open(http, { vhost, silent: true })
  assert.equal((await gone.ended()).code, 1006)
  for (let pings = 0; pings < 3; pings++) await once(alive.socket, 'ping')
  await alive.ask({ type: 'ping' }, 'pong')
  await alive.close()
})

test('a credential in the headers is enough', async (t) => {
  const { http, vhost } = await withDoor(t)
  const headers = { Authorization: AUTHORIZATION }
  const peer = new WsPeer(http, { headers })
  await once(peer.socket, 'open')
  peer.send({ type: 'open', vhost })
  const { creditMax } = await peer.next('opened')
  assert.equal(creditMax, limits.WEBSOCKET_CREDIT_MAX)
  await peer.close()
})
