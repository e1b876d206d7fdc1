/** What a vhost and a user may have, over all processes: behaviour 9 of docs/amqp.md. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { privateRedis, waitFor } from '@sluice/testkit'
import { type AmqpBroker, declareQueue, withAmqp } from '../support/amqp-broker.ts'
import { AmqpPeer, type LoginOptions } from '../support/amqp-peer.ts'
import { PASSWORD } from '../support/broker.ts'
import { startProcess } from '../support/processes.ts'

const USER = { user: 'guest', password: 'guest-guest' }

/** Two brokers of one Redis, and what limits there are. */
async function setup(t: TestContext, limits: { vhost?: object; user?: object }) {
  const { url } = await privateRedis(t, { aof: false })
  const here = await withAmqp(t, { redisUrl: url })
  const there = await withAmqp(t, { redisUrl: url })
  const { vhost, request } = here
  const put = async (path: string, body: object) => {
    const { status, text } = await request('PUT', path, { body })
    assert(status < 300, text)
  }
  await put(`/v1/vhosts/${encodeURIComponent(vhost)}`, limits.vhost ?? {})
  await put(`/v1/users/${USER.user}`, { password: USER.password, ...limits.user })
  const all = { configure: '.*', write: '.*', read: '.*' }
  await put(`/v1/users/${USER.user}/permissions/${encodeURIComponent(vhost)}`, all)
  await there.deps.topology.refresh()
  return { url, here, there, vhost }
}

/** A client of the vhost: itself, or why it was refused. */
async function enter({ client }: AmqpBroker, login: LoginOptions): Promise<AmqpPeer | string> {
  try {
    return await client(login)
  } catch (error) {
    return /"replyText":"([^"]+)"/.exec(String(error))?.[1] ?? String(error)
  }
}

/** The same, once there is room. */
async function entered(broker: AmqpBroker, login: LoginOptions): Promise<AmqpPeer> {
  let peer: AmqpPeer | string = ''
  const came = async () => {
    peer = await enter(broker, login)
    return peer instanceof AmqpPeer
  }
  await waitFor(came, { what: 'room for one more', timeoutMs: 20_000 })
  return peer as unknown as AmqpPeer
}

test('no. 9: a vhost has no more connections than it may, over all processes', async (t) => {
  const { here, there, vhost } = await setup(t, { vhost: { maxConnections: 2 } })
  const login = { user: 'admin', password: PASSWORD, vhost }
  const first = await enter(here, login)
  const second = await enter(there, login)
  assert(first instanceof AmqpPeer && second instanceof AmqpPeer)
  const refused =
    `NOT_ALLOWED - access to vhost '${vhost}' refused for user 'admin': ` +
    'vhost connection limit (2) is reached'
  for (const broker of [here, there]) assert.equal(await enter(broker, login), refused)
  await second.close()
  await entered(here, login)
})

test('no. 9: of many that come at once, none passes a limit', async (t) => {
  const { here, there, vhost } = await setup(t, { user: { maxConnections: 3 } })
  const login = { ...USER, vhost }
  const asked = Array.from({ length: 12 }, (_, n) => enter(n % 2 ? here : there, login))
  const came = (await Promise.all(asked)).filter((peer) => peer instanceof AmqpPeer)
  assert(came.length <= 3, `${came.length} came in`)
  while (came.length < 3) came.push(await entered(here, login))
  assert.equal(
    await enter(there, login),
    "NOT_ALLOWED - connection refused for user 'guest': user connection limit (3) is reached",
  )
})

test('no. 9: what a killed process had is forgotten', async (t) => {
  const { url, here, vhost } = await setup(t, { vhost: { maxConnections: 1 } })
  const login = { user: 'admin', password: PASSWORD, vhost }
  const dying = await startProcess(t, { redisUrl: url, services: ['delivery'] })
  const amqpPort = Number(new URL(dying.doors['amqp']!).port)
  const peer = await AmqpPeer.connect(amqpPort)
  await peer.login(login)
  assert.match(String(await enter(here, login)), /limit \(1\) is reached/)
  await dying.kill9()
  await peer.close()
  await entered(here, login)
})

test('no. 9: a user has no more channels than it may', async (t) => {
  const { here, there, vhost } = await setup(t, { user: { maxChannels: 2 } })
  const login = { ...USER, vhost }
  const [one, other] = [await enter(here, login), await enter(here, login)]
  assert(one instanceof AmqpPeer && other instanceof AmqpPeer)
  one.method(2, { name: 'channel.open' })
  const { replyCode, replyText } = await one.expect('connection.close')
  assert.equal(replyCode, 530)
  assert.match(replyText, /for user 'guest' has reached the maximum allowed user limit of \(2\)/)
  const again = await enter(here, login)
  assert(again instanceof AmqpPeer)
  await waitFor(async () => /\(2\)/.test(String(await enter(there, login))))
})

test('no. 9: a vhost has no more queues than it may; those that are there stay', async (t) => {
  const { here } = await setup(t, { vhost: { maxQueues: 1 } })
  const client = await here.client()
  await client.queue('first')
  await client.queue('first')
  const { vhost } = here
  assert.equal(
    await client.refused(declareQueue('second')),
    "channel PRECONDITION_FAILED - cannot declare queue 'second': " +
      `queue limit in vhost '${vhost}' (1) is reached (406, method 50.10)`,
  )
  const path = `/v1/vhosts/${encodeURIComponent(vhost)}`
  assert.equal((await here.request('PUT', path, { body: { maxQueues: -1 } })).status, 200)
  await client.queue('second')
})
