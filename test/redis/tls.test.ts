/** Redis over TLS, with client certificates and passwords: a server, a sentinel, a cluster. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { openStore, QUEUE_SETTINGS_DEFAULT } from '@sluice/store'
import { freePort, launch, privateRedis, waitFor } from '@sluice/testkit'
import { bodies, lease, publish } from '../../libs/store/src/test-queue.ts'

const file = (name: string) => fileURLToPath(new URL(`../support/tls/${name}`, import.meta.url))
const CLIENT = {
  caFile: file('ca.pem'),
  certFile: file('client.pem'),
  keyFile: file('client-key.pem'),
}
const SERVER = {
  'tls-cert-file': file('server.pem'),
  'tls-key-file': file('server-key.pem'),
  'tls-ca-cert-file': file('ca.pem'),
  'tls-auth-clients': 'yes',
  'tls-replication': 'yes',
}

const flags = (settings: Readonly<Record<string, string>>) =>
  Object.entries(settings).flatMap(([name, value]) => [`--${name}`, value])
const lines = (settings: Readonly<Record<string, string>>) =>
  Object.entries(settings).map(([name, value]) => `${name} ${value}`)

/** A server that also speaks TLS, on a port of its own. */
async function startTls(t: TestContext, settings: Readonly<Record<string, string>> = {}) {
  const port = await freePort()
  const args = flags({ 'tls-port': String(port), ...SERVER, ...settings })
  return { port, redis: (await privateRedis(t, { aof: false, args })).redis }
}

async function works(t: TestContext, url: string): Promise<void> {
  const store = await openStore({ url, ...CLIENT, report: (error) => assert.fail(String(error)) })
  t.after(() => store.close())
  const queue = store.queue('/', 'q', 1, QUEUE_SETTINGS_DEFAULT)
  await queue.create()
  assert.deepEqual(await publish(queue, 'a'), ['stored'])
  assert.deepEqual(bodies(await lease(queue, 1)), ['a'])
}

test('a server is spoken to over TLS, and has to be who it says', async (t) => {
  const { port } = await startTls(t)
  const url = `rediss://127.0.0.1:${port}`
  await works(t, url)
  const { caFile: _, ...unknown } = CLIENT
  await assert.rejects(
    openStore({ url, ...unknown, report: () => {} }),
    /cannot be used: .*certificate/,
  )
})

test('a primary is found and spoken to over TLS, with the passwords of both', async (t) => {
  const { port, redis } = await startTls(t)
  await redis.acl('SETUSER', 'app', 'on', '>of-redis', '~*', '&*', '+@all')
  const sentinelPort = await freePort()
  const settings = [
    ...lines({ ...SERVER, 'tls-port': String(sentinelPort) }),
    `sentinel monitor main 127.0.0.1 ${port} 1`,
    'sentinel auth-user main app',
    'sentinel auth-pass main of-redis',
  ]
  const sentinel = await launch(t, ['--sentinel'], `${settings.join('\n')}\n`)
  await sentinel.redis.acl('SETUSER', 'asks', 'on', '>of-sentinels', '&*', '+@all')
  for (const open of [redis, sentinel.redis]) {
    await open.acl('SETUSER', 'default', 'resetkeys', '-@all', '+ping', '+info')
  }
  const at = `127.0.0.1:${sentinelPort}`
  const asks = 'sentinelUser=asks&sentinelPassword=of-sentinels'
  await works(t, `rediss+sentinel://app:of-redis@${at}/main?${asks}`)
})

test('the nodes of a cluster are spoken to over TLS', async (t) => {
  const { port, redis } = await startTls(t, {
    'cluster-enabled': 'yes',
    'tls-cluster': 'yes',
    'cluster-announce-ip': '127.0.0.1',
    'cluster-port': String(await freePort()),
  })
  await redis.call('CLUSTER', 'ADDSLOTSRANGE', 0, 16_383)
  await waitFor(async () => String(await redis.cluster('INFO')).includes('cluster_state:ok'))
  await works(t, `rediss+cluster://127.0.0.1:${port}`)
})
