/** Definitions out and in as one document, those of a RabbitMQ as it exports them. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { privateRedis } from '@sluice/testkit'
import { deploy } from '../support/deployment.ts'
import type { HttpClient } from '../support/http.ts'

const RABBITMQ = readFileSync(
  new URL('../support/rabbitmq-definitions.json', import.meta.url),
  'utf8',
)
const JSON_TYPE = { 'Content-Type': 'application/json' }

async function start(t: Parameters<typeof deploy>[0]): Promise<HttpClient> {
  const { url } = await privateRedis(t, { aof: false }) // definitions are the whole broker's
  const { routers } = await deploy(t, ['router delivery reaper'], { redisUrl: url })
  return routers[0]!
}

const importing = (client: HttpClient, body: string, query = '') =>
  client.request('POST', `/v1/definitions${query}`, { body, headers: JSON_TYPE })

test('a RabbitMQ’s definitions go in as they are; what has no equivalent is named', async (t) => {
  const client = await start(t)
  const dry = await importing(client, RABBITMQ, '?dryRun=true')
  assert.equal(dry.status, 200, dry.text)
  assert.equal(dry.json.applied, false)
  assert.deepEqual(dry.json.counts, { create: 14, change: 0, same: 2, refused: 0, ignored: 4 })
  assert.equal(
    (await client.request('GET', '/v1/vhosts/shop')).status,
    404,
    'a dry run does nothing',
  )

  const done = await importing(client, RABBITMQ)
  assert.deepEqual([done.json.applied, done.json.counts], [true, dry.json.counts])
  const ignored = done.json.steps.filter(({ action }: { action: string }) => action === 'ignored')
  assert.deepEqual(
    ignored.map(({ kind, name }: Record<string, string>) => [kind, name]),
    [
      ['policy', 'mirrored'],
      ['parameters (shovel)', 'move'],
      ['global_parameters', 'cluster_name'],
      ['global_parameters', 'internal_cluster_id'],
    ],
  )
  const queue = await client.request('GET', '/v1/vhosts/shop/queues/orders')
  assert.deepEqual(queue.json.arguments, { 'x-dead-letter-exchange': 'failed' })
  const [policy] = (await client.request('GET', '/v1/vhosts/shop/policies')).json.items
  assert.deepEqual([policy.name, policy.definition], ['limits', { 'max-length': 1_000 }])

  const login = Buffer.from('ann:test12').toString('base64') // RabbitMQ hashed this password
  const asAnn = await client.request('GET', '/v1/whoami', {
    headers: { Authorization: `Basic ${login}` },
  })
  assert.deepEqual([asAnn.status, asAnn.json.name], [200, 'ann'])

  const again = await importing(client, RABBITMQ)
  assert.equal(again.json.counts.create + again.json.counts.change, 0, again.text)
})

test('what is exported is imported elsewhere, and then the same comes out', async (t) => {
  const [one, other] = [await start(t), await start(t)]
  await importing(one, RABBITMQ)
  await one.request('PUT', '/v1/users/bob', {
    body: { password: 'correct horse', tags: ['monitoring'], maxConnections: 5 },
  })
  await one.request('PUT', '/v1/vhosts/shop', { body: { maxConnections: 9, maxQueues: 40 } })
  const first = await one.request('GET', '/v1/definitions')
  const report = await importing(other, first.text)
  assert.equal(report.status, 200, report.text)
  assert.equal((await other.request('GET', '/v1/definitions')).text, first.text)
  const limits = { component: 'vhost-limits', vhost: 'shop', name: 'limits' }
  assert.deepEqual(first.json.parameters, [
    { ...limits, value: { 'max-connections': 9, 'max-queues': 40 } },
  ])
  assert.equal((await other.request('GET', '/v1/vhosts/shop')).json.maxQueues, 40)
  assert.equal((await other.request('GET', '/v1/users/bob')).json.maxConnections, 5)
  const login = `Basic ${Buffer.from('bob:correct horse').toString('base64')}`
  const asBob = await other.request('GET', '/v1/whoami', { headers: { Authorization: login } })
  assert.equal(asBob.status, 200)
  const shop = await one.request('GET', '/v1/definitions?vhost=shop')
  assert.deepEqual([shop.json.vhosts.length, shop.json.users, shop.json.queues.length], [1, [], 2])
})

test('where something cannot be done nothing is, unless that is asked for', async (t) => {
  const client = await start(t)
  await client.request('PUT', '/v1/vhosts/%2F/queues/q', { body: { durable: false } })
  const document = JSON.stringify({
    queues: [
      { name: 'q', vhost: '/', durable: true },
      { name: 'log', vhost: '/', arguments: { 'x-queue-type': 'stream' } },
      { name: 'new', vhost: '/' },
      { name: 'lost', vhost: 'nowhere' },
    ],
    bindings: [{ source: 'amq.topic', destination: 'absent', vhost: '/' }],
    policies: [{ name: 'p', vhost: '/', pattern: '(', definition: { 'max-length': 1 } }],
    exchanges: [{ name: 'x', vhost: '/', type: 'x-consistent-hash' }],
    users: [{ name: 'u', password_hash: 'short', tags: '' }],
  })
  const refused = await importing(client, document)
  assert.deepEqual([refused.status, refused.json.title], [409, 'declaration_conflict'])
  assert.equal(refused.json.refused, 7)
  assert.match(refused.json.detail, /user 'u': The hash must be base64/)
  assert.equal((await client.request('GET', '/v1/vhosts/%2F/queues/new')).status, 404)

  const done = await importing(client, document, '?skipRefused=true')
  assert.deepEqual([done.json.counts.create, done.json.counts.refused], [1, 7])
  assert.equal((await client.request('GET', '/v1/vhosts/%2F/queues/new')).status, 200)

  for (const wrong of ['{', '[]', '{"queues":[{}]}', '{"queues":{}}']) {
    assert.equal((await importing(client, wrong)).status, 400, wrong)
  }
})
