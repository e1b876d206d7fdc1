/**
 * A credential that ends, or loses a permission, ends what it opened: on every process, within 2 s.
 *
 * Method: changed through one process while connections and long polls are open on the others.
 */
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { type TestContext, test } from 'node:test'
import { AmqpPeer } from '../support/amqp-peer.ts'
import { type Deployment, deploy } from '../support/deployment.ts'

const ENDS_MS_MAX = 2_000
const PROCESSES = ['router', 'delivery', 'delivery']

async function twoDeliveries(t: TestContext) {
  const deployment = await deploy(t, PROCESSES, { env: { SLUICE_LOGIN_FAILURES_MAX: '5' } })
  const vhost = await deployment.vhost()
  await vhost.queue('q')
  const [router] = deployment.routers
  const ask = async (method: string, path: string, body?: unknown) => {
    const answer = await router!.request(method, path, { body })
    assert.ok(answer.status < 300, `${method} ${path}: ${answer.text}`)
    return answer
  }
  const user = `u-${randomUUID()}`
  const password = randomUUID()
  await ask('PUT', `/v1/users/${user}`, { password })
  const permit = (read: string) =>
    ask('PUT', `/v1/users/${user}/permissions/${vhost.name}`, { configure: '', write: '', read })
  await permit('.*')
  t.after(() => ask('DELETE', `/v1/users/${user}`).catch(() => {}))
  const authorization = `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`
  return { deployment, vhost: vhost.name, user, password, authorization, ask, permit }
}

/** Lease requests that wait, one on each delivery process; when they ended, ms from now. */
async function polling(deployment: Deployment, vhost: string, authorization: string) {
  const path = `/v1/vhosts/${vhost}/queues/q/leases`
  const headers = { Authorization: authorization }
  const poll = (client: Deployment['deliveries'][number], waitMs: number) =>
    client.request('POST', path, { headers, body: { waitMs } })
  // Once verified, the next request waits for a message at once.
  for (const client of deployment.deliveries) {
    assert.equal((await poll(client, 0)).status, 200)
  }
  const polls = deployment.deliveries.map((client) => poll(client, 30_000))
  await new Promise((resolve) => setTimeout(resolve, 200)) // until they wait
  return polls
}

const within = async <T>(ended: Promise<T>): Promise<T> => {
  const late = AbortSignal.timeout(ENDS_MS_MAX)
  return Promise.race([
    ended,
    new Promise<never>((_, reject) => {
      late.addEventListener('abort', () => reject(new Error(`not within ${ENDS_MS_MAX} ms`)))
    }),
  ])
}

test('deleting a user ends its long polls and AMQP connections on every process', async (t) => {
  const { deployment, vhost, user, password, authorization, ask } = await twoDeliveries(t)
  const polls = await polling(deployment, vhost, authorization)
  const peers: AmqpPeer[] = []
  t.after(() => Promise.all(peers.map((peer) => peer.close())))
  for (const { doors } of deployment.processes.filter(({ name }) => name.startsWith('delivery'))) {
    const peer = await AmqpPeer.connect(Number(new URL(doors['amqp']!).port))
    peers.push(peer)
    await peer.login({ user, password, vhost })
  }
  await ask('DELETE', `/v1/users/${user}`)
  await within(Promise.all(polls))
  await within(Promise.all(peers.map((peer) => peer.expect('connection.close', 0))))
  for (const client of deployment.deliveries) {
    const headers = { Authorization: authorization }
    assert.equal((await client.request('GET', '/openapi.json', { headers })).status, 401)
  }
})

test('a permission taken away ends the long polls that needed it, and refuses the next', async (t) => {
  const { deployment, vhost, authorization, permit } = await twoDeliveries(t)
  const polls = await polling(deployment, vhost, authorization)
  await permit('^other$')
  await within(Promise.all(polls))
  for (const client of deployment.deliveries) {
    const headers = { Authorization: authorization }
    const path = `/v1/vhosts/${vhost}/queues/q/leases`
    assert.equal((await client.request('POST', path, { headers, body: {} })).status, 403)
  }
})

test('an API key that expires ends its long polls by itself', async (t) => {
  const { deployment, vhost, user, ask } = await twoDeliveries(t)
  const { json } = await ask('POST', '/v1/api-keys', { owner: user, expiresInMs: 5_000 })
  const polls = await polling(deployment, vhost, `Bearer ${json.key}`)
  await Promise.all(polls)
  const lateMs = Date.now() - Date.parse(json.expiresAt)
  assert.ok(lateMs < ENDS_MS_MAX, `${lateMs} ms late`)
})

test('who guesses is not heard any more, while who was verified is', async (t) => {
  const { deployment, user, authorization } = await twoDeliveries(t)
  const [router] = deployment.routers
  const ask = (authorization: string) =>
    router!.request('GET', '/v1/whoami', { headers: { Authorization: authorization } })
  assert.equal((await ask(authorization)).status, 200)
  const guess = (password: string) =>
    ask(`Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`)
  let heard = 0
  while ((await guess(`guess ${heard}`)).status === 401) heard++
  assert.ok(heard >= 5 && heard <= 8, `${heard} of 5 a minute`)
  assert.equal((await guess('guess')).status, 429)
  assert.equal((await ask(authorization)).status, 200)
  assert.equal((await ask('Bearer correct horse')).status, 200, 'as is the administrator')
})
