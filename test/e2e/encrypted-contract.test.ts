/**
 * What is promised of queues and of AMQP holds where everything stored is encrypted.
 *
 * Method: the files of test/contract and test/amqp run unchanged, as a process of their own, with
 * brokers whose vhosts are encrypted. Left out are those that start further processes, which have
 * no key, and one that counts on confirms before deliveries. `SHORT=1` runs some of the others.
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { globSync } from 'node:fs'
import { basename } from 'node:path'
import { test } from 'node:test'
import { privateRedis } from '@sluice/testkit'

const LEFT_OUT = ['redelivery', 'operating', 'outages', 'processes', 'consume']
const SHORT = ['dead-letters', 'order', 'settle']
const RUN_MS_MAX = process.env['SHORT'] === '1' ? 120_000 : 600_000

const named = (names: readonly string[]) => (file: string) =>
  names.includes(basename(file, '.test.ts'))

test('everything promised of queues holds where they are encrypted', async (t) => {
  const { url } = await privateRedis(t)
  const all = globSync('test/{contract,amqp}/*.test.ts').filter((file) => !named(LEFT_OUT)(file))
  const files = process.env['SHORT'] === '1' ? all.filter(named(SHORT)) : all
  assert.ok(files.length >= 3)
  // A test runner inside a test would report to the outer one.
  const { NODE_TEST_CONTEXT: _, ...env } = process.env
  const args = ['--test', '--test-concurrency=2', '--test-timeout=60000', ...files]
  const child = spawn(process.execPath, args, {
    env: { ...env, REDIS_URL: url, BROKER_ENCRYPTED: '1' },
    detached: true, // as a group
  })
  const end = () => child.exitCode ?? process.kill(-child.pid!, 'SIGKILL')
  const late = setTimeout(end, RUN_MS_MAX)
  t.after(end)
  let said = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      said = (said + chunk.toString()).slice(-50_000)
    })
  }
  const [code] = await once(child, 'close')
  clearTimeout(late)
  assert.equal(code, 0, said)
  assert.match(said, /ℹ pass [1-9]/)
})
