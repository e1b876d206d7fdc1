/** Data keys that are replaced since they are old. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import type { KeyInfo } from '@sluice/server'
import { privateRedis, waitFor } from '@sluice/testkit'
import { type TestBroker, withBroker } from '../support/broker.ts'
import { newKey } from '../support/encryption.ts'

const DAY_MS = 86_400_000

test('a data key that is old enough is replaced by one new key, however many reapers look', async (t) => {
  const redisUrl = (await privateRedis(t, { aof: false })).url
  const env = {
    SLUICE_ENCRYPTION_KEY: newKey(),
    SLUICE_DATA_KEY_ROTATION_MS: String(7 * DAY_MS),
    SLUICE_REAPER_SWEEP_MS: '1000',
  }
  const brokers = [await withBroker(t, { redisUrl, env }), await withBroker(t, { redisUrl, env })]
  const [{ vhost, request, deps }, { deps: others }] = brokers as [TestBroker, TestBroker]
  await request('PUT', '/queues/q', { body: { arguments: { 'x-encryption': true } } })
  const send = (body: string) =>
    request('POST', '/queues/q/messages', { body, headers: { 'Content-Type': 'text/plain' } })
  await send('old')
  const keys = () => deps.encryption.list().filter((key) => key.vhost === vhost)
  const [first] = keys()
  const ages = (days: number) =>
    deps.topology.changeDocument('data-key', vhost, first!.id, (document) => {
      const { createdAt, ...rest } = document as unknown as KeyInfo
      return { ...rest, createdAt: createdAt - days * DAY_MS }
    })
  await ages(6)
  await others.topology.refresh()
  await sleep(1_500) // a look of each
  assert.equal(keys().length, 1, 'it is not old enough')
  await ages(2)
  await waitFor(() => keys().length > 1, { what: 'a new key' })
  await send('new')
  const replaced = await Promise.all(
    [deps, others, deps, others].map(({ encryption }) => encryption.replace(keys()[0]!)),
  )
  assert.equal(replaced.filter((key) => key !== undefined).length, 1)
  await sleep(1_500)
  assert.deepEqual(
    keys().map(({ generation, newest }) => [generation, newest]),
    [
      [3, true],
      [2, false],
      [1, false],
    ],
  )
  const counted = await Promise.all(brokers.map(({ request }) => request('GET', '/metrics')))
  const texts = counted.map(({ text }) => /^sluice_data_keys_rotated_total (\d)$/m.exec(text)?.[1])
  assert.deepEqual(texts.sort().join(), '1,')
  const { json } = await request('POST', '/queues/q/leases', { body: { max: 2 } })
  assert.deepEqual(
    json.messages.map(({ body }: { body: string }) => body),
    ['old', 'new'],
  )
})
