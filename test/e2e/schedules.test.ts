/** Messages published by the clock: once a tick, whoever dies. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { openStore } from '@sluice/store'
import { privateRedis, waitFor } from '@sluice/testkit'
import { deploy, type Vhost } from '../support/deployment.ts'

const put = (vhost: Vhost, name: string, body: Readonly<Record<string, unknown>>) =>
  vhost.router('PUT', `/schedules/${name}`, { body })

const every = (queue: string, rest: Readonly<Record<string, unknown>> = {}) => ({
  everyMs: 1_000,
  message: { routingKey: queue, body: { hello: 'clock' } },
  ...rest,
})

test('each tick is published once by any of several reapers, though one is killed', async (t) => {
  const deployment = await deploy(t, ['router delivery', 'reaper', 'reaper', 'reaper'])
  const vhost = await deployment.vhost()
  await vhost.queue('q')
  assert.equal((await put(vhost, 'beat', every('q'))).status, 201)
  const shown = await vhost.router('GET', '/schedules/beat')
  assert.equal(shown.json.next.length, 5)
  await waitFor(async () => ((await vhost.counts('q'))['ready'] ?? 0) >= 2)
  await deployment.processes[1]!.kill9()
  await waitFor(async () => ((await vhost.counts('q'))['ready'] ?? 0) >= 5, { timeoutMs: 30_000 })
  assert.equal((await put(vhost, 'beat', every('q', { paused: true }))).status, 200)

  const leased = await vhost.delivery('POST', '/queues/q/leases', { body: { max: 100 } })
  const { messages } = leased.json
  const seconds: number[] = messages.map(
    ({ properties }: { properties: { timestamp: number } }) => properties.timestamp,
  )
  assert.equal(new Set(seconds).size, seconds.length, `a tick came twice: ${seconds}`)
  assert.deepEqual(seconds, seconds.toSorted())
  assert.equal(messages[0].body, '{"hello":"clock"}')
})

test('paused, resumed, changed and deleted act at once, and one moment comes once', async (t) => {
  const deployment = await deploy(t, ['router delivery reaper'])
  const vhost = await deployment.vhost()
  for (const queue of ['a', 'b', 'once']) await vhost.queue(queue)
  await put(vhost, 's', every('a'))
  await waitFor(async () => (await vhost.counts('a'))['ready']! > 0)
  assert.equal((await vhost.router('POST', '/schedules/s/pause')).status, 204)
  assert.deepEqual((await vhost.router('GET', '/schedules/s')).json.next, [])
  await vhost.drain('a')
  await put(vhost, 's', every('b', { everyMs: 2_000 }))
  await waitFor(async () => (await vhost.counts('b'))['ready']! > 0)
  assert.deepEqual((await vhost.counts('a'))['ready'], 0)
  assert.equal((await vhost.router('DELETE', '/schedules/s')).status, 204)
  assert.deepEqual((await vhost.router('GET', '/schedules')).json.items, [])

  const at = new Date(Date.now() + 1_500).toISOString()
  await put(vhost, 'later', { at, message: { routingKey: 'once', body: 'x' } })
  assert.deepEqual((await vhost.router('GET', '/schedules/later')).json.next, [at])
  await waitFor(async () => (await vhost.counts('once'))['ready'] === 1)
  await waitFor(async () => (await vhost.router('GET', '/schedules/later')).status === 404)
})

test('ticks that all reapers missed come once, or not at all, as the schedule says', async (t) => {
  const { url } = await privateRedis(t, { aof: false })
  const deployment = await deploy(t, ['router delivery', 'reaper'], { redisUrl: url })
  const vhost = await deployment.vhost()
  for (const queue of ['once', 'skip']) await vhost.queue(queue)
  for (const missed of ['once', 'skip']) {
    const at = new Date(Date.now() + 3_000).toISOString()
    await put(vhost, missed, { at, missed, message: { routingKey: missed, body: 'x' } })
  }
  const reaper = deployment.processes[1]!
  const store = await openStore({ url, report: (error) => assert.fail(String(error)) })
  t.after(() => store.close())
  await waitFor(async () => (await store.jobs.ticks()).size === 2)
  await reaper.kill9()
  await sleep(8_500) // past what counts as late
  await reaper.restart()
  await waitFor(async () => (await vhost.counts('once'))['ready'] === 1, { timeoutMs: 30_000 })
  await waitFor(async () => (await vhost.router('GET', '/schedules/skip')).status === 404)
  assert.equal((await vhost.counts('skip'))['ready'], 0)
})

test('what is no schedule is refused with what is wrong', async (t) => {
  const deployment = await deploy(t, ['router'])
  const vhost = await deployment.vhost()
  const message = { routingKey: 'q', body: 'x' }
  const wrong: [Readonly<Record<string, unknown>>, RegExp][] = [
    [{ message }, /one of at, everyMs and cron/],
    [{ message, everyMs: 1_000, cron: '* * * * *' }, /one of at, everyMs and cron/],
    [{ message, everyMs: 10 }, /everyMs/],
    [{ message, cron: 'x' }, /no cron expression/],
    [{ message, cron: '* * * * *', timeZone: 'Mars/Base' }, /no time zone/],
    [{ message, at: 'tomorrow' }, /at/],
    [{ message, at: '2001-01-01T00:00:00Z' }, /to come/],
    [{ everyMs: 1_000 }, /message/],
    [{ everyMs: 1_000, message: { nothing: 1 } }, /message/],
    [{ everyMs: 1_000, message: { body: 'x'.repeat(70_000) } }, /at most/],
    [{ everyMs: 1_000, message, colour: 'red' }, /colour/],
  ]
  for (const [body, why] of wrong) {
    const { status, text } = await put(vhost, 's', body)
    assert.equal(status, 400, text)
    assert.match(text, why)
  }
  assert.equal((await vhost.router('POST', '/schedules/s/pause')).status, 404)
})
