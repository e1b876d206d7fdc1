/**
 * From a client through an ingest to its backend and back, each service in processes of its own, of
 * which one of each kind is killed midway.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { text } from 'node:stream/consumers'
import { type TestContext, test } from 'node:test'
import { waitFor } from '@sluice/testkit'
import { deploy } from '../support/deployment.ts'
import type { HttpClient } from '../support/http.ts'
import { accepted } from '../support/ingest.ts'

const REQUESTS = 400
const LAYOUT = ['router', 'delivery', 'router', 'delivery', 'reaper']

/** Answers 201 with what came, and 422 to orders that end in 7. */
async function openBackend(t: TestContext) {
  const seen = new Map<string, number>()
  const server = createServer(async (req, res) => {
    const body = await text(req)
    seen.set(body, (seen.get(body) ?? 0) + 1)
    res.writeHead(body.endsWith('7') ? 422 : 201).end(`${req.method} ${req.url} ${body}`)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  return { seen, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/api` }
}

async function start(t: TestContext) {
  const backend = await openBackend(t)
  const deployment = await deploy(t, LAYOUT, { env: { SLUICE_PUSH_ALLOW: '127.0.0.0/8' } })
  const vhost = await deployment.vhost()
  const name = vhost.name
  await vhost.put(`/ingests/${name}`, { queue: 'q', open: true })
  const subscription = { queue: 'q', endpoint: { url: backend.url }, replay: true }
  const shape = { perSecond: 300, burst: 30 }
  const put = await vhost.delivery('PUT', '/subscriptions/s', { body: { ...subscription, shape } })
  assert.equal(put.status, 201, put.text)
  const [here, there] = deployment.routers as [HttpClient, HttpClient]
  const at = `/ingest/${name}`
  const known = async () => (await there.request('POST', `${at}/known`)).status === 202
  await waitFor(known)
  return { backend, deployment, at, here, there }
}

type World = Awaited<ReturnType<typeof start>>

async function waitingClient({ at, here, there }: World): Promise<void> {
  const headers = { Prefer: 'wait=20' }
  const yes = await here.request('PUT', `${at}/orders/1?x=%20`, { headers, body: 'a' })
  assert.deepEqual([yes.status, yes.text], [201, 'PUT /api/orders/1?x=%20 a'])
  const no = await there.request('POST', at, { headers, body: '7' })
  assert.deepEqual([no.status, no.text], [422, 'POST /api 7'])
}

async function killedProcesses({ backend, deployment, at, here, there }: World): Promise<void> {
  const { processes } = deployment
  const ids = new Map<string, string>()
  const sender = async (loop: number) => {
    for (let i = loop; i < REQUESTS; i += 16) {
      const options = { headers: { 'Idempotency-Key': `${i}` }, body: `order ${i}` }
      const send = (router: HttpClient) => accepted(router.request('POST', at, options))
      ids.set(options.body, await send(here).catch(() => send(there)))
      if (ids.size === REQUESTS / 4) await processes[0]!.kill9()
      if (ids.size === REQUESTS / 2) await processes[1]!.kill9()
    }
  }
  await Promise.all(Array.from({ length: 16 }, (_, loop) => sender(loop)))
  assert.equal(ids.size, REQUESTS)
  for (const [body, id] of ids) {
    const headers = { Prefer: 'wait=30' }
    const { json } = await there.request('GET', `/v1/requests/${id}`, {
      headers,
      timeoutMs: 40_000,
    })
    const refused = body.endsWith('7')
    assert.equal(json.state, refused ? 'dead' : 'delivered', body)
    assert.equal(json.answer.body, `POST /api ${body}`)
  }
  const twice = [...backend.seen.values()].filter((times) => times > 1).length
  assert.ok(twice < 100, `${twice} came again: only what was under way in the killed process may`)
}

test('an ingest whose requests are replayed', async (t) => {
  const world = await start(t)
  await t.test('who waits gets the backend’s answer through another process', () =>
    waitingClient(world),
  )
  await t.test('though a router and a delivery are killed, every request is answered', () =>
    killedProcesses(world),
  )
})
