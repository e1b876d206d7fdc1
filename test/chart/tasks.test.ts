/** What the chart runs beside the broker does what it is for, against a broker that runs. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { findRedisServer, freePort, withRedis } from '@sluice/testkit'
import { AUTHORIZATION, withBroker } from '../support/broker.ts'
import { CHART, Helm, type Manifest, ROOT } from './helm.ts'

const PASSWORD = AUTHORIZATION.slice('Bearer '.length)

test('helm test: the story of its pod goes well, and fails where it should', async (t) => {
  const { http } = await withBroker(t, { redisUrl: (await withRedis(t)).url })
  const env = { SLUICE_URL: http, SLUICE_DELIVERY_URL: http, SLUICE_USER: 'admin' }
  const story = [`${CHART}/test/story.mjs`]
  assert.deepEqual(await run(story, { ...env, SLUICE_PASSWORD: PASSWORD }), {
    code: 0,
    output: 'published, leased and acknowledged\n',
  })
  assert.equal((await run(story, { ...env, SLUICE_PASSWORD: 'wrong-password' })).code, 1)
})

test('definitions from values are there after the job, as often as it runs', async (t) => {
  const helm = Helm.find()
  if (helm === undefined) return t.skip('helm cannot be fetched')
  const objects = await helm.template({
    redis: { bundled: true, password: 'x' },
    adminPassword: PASSWORD,
    definitions: {
      vhosts: [{ name: 'chart' }],
      queues: [{ name: 'orders', vhost: 'chart', durable: true }],
    },
  })
  const called = (kind: string) =>
    objects.find((object) => object.kind === kind && /-definitions$/.test(object.metadata.name))
  const definitions: string = called('Secret').stringData['definitions.json']
  const [container] = called('Job').spec.template.spec.containers
  assert.deepEqual(envNames(container), ['SLUICE_URL', 'SLUICE_USER', 'SLUICE_PASSWORD'])
  const { http } = await withBroker(t, { redisUrl: (await withRedis(t)).url })
  const [command, file] = container.args
  assert.equal(file, '/definitions/definitions.json')
  for (const _ of [1, 2]) {
    const { code, output } = await apply(command, definitions, http)
    assert.equal(code, 0, output)
  }
  const headers = { authorization: AUTHORIZATION }
  const answer = await fetch(`${http}/v1/vhosts/chart/queues/orders`, { headers })
  assert.equal(answer.status, 200)
  await fetch(`${http}/v1/vhosts/chart`, { method: 'DELETE', headers })
})

test('the bundled Redis has a password, and is one that the broker starts on', async (t) => {
  const helm = Helm.find()
  if (helm === undefined) return t.skip('helm cannot be fetched')
  const binary = findRedisServer()
  if (binary === undefined) return t.skip('there is no redis-server')
  const objects = await helm.template({
    redis: { bundled: true, password: 'staple' },
    adminPassword: PASSWORD,
  })
  const { spec } = objects.find(({ kind }) => kind === 'StatefulSet')
  const [container] = spec.template.spec.containers
  const [port, dir] = [await freePort(), mkdtempSync(join(tmpdir(), 'sluice-bundled-'))]
  const args: string[] = container.args.map((arg: string) =>
    arg.replace('$(REDISCLI_AUTH)', 'staple').replace('/data', dir),
  )
  const server = spawn(binary, [...args, '--port', String(port), '--bind', '127.0.0.1'])
  const ended = once(server, 'close')
  const end = async () => {
    server.kill('SIGKILL')
    await ended
    rmSync(dir, { recursive: true })
  }
  t.after(() => t.after(end)) // after the broker
  const url: string = objects.find(({ kind }) => kind === 'Secret').stringData['redis-url']
  assert.equal(url, 'redis://:staple@broker-sluice-redis:6379')
  const redisUrl = url.replace('broker-sluice-redis:6379', `127.0.0.1:${port}`)
  const { http } = await withBroker(t, { redisUrl })
  const { status } = await fetch(`${http}/readyz`)
  assert.equal(status, 200)
})

const envNames = ({ env }: Manifest): string[] => env.map(({ name }: Manifest) => name)

async function apply(command: string, definitions: string, http: string) {
  const main = `${ROOT}services/all-in-one/src/main.ts`
  const env = { SLUICE_URL: http, SLUICE_USER: 'admin', SLUICE_PASSWORD: PASSWORD }
  return await run([main, command, '-'], env, definitions)
}

async function run(args: readonly string[], env: NodeJS.ProcessEnv, input = '') {
  const child = spawn(process.execPath, args, { env: { PATH: process.env['PATH'], ...env } })
  child.stdin.end(input)
  const ended = once(child, 'close')
  const [output, errors] = await Promise.all([text(child.stdout), text(child.stderr)])
  const [code] = (await ended) as [number]
  return { code, output: output || errors }
}
