/**
 * A million dead letters: searched, and redriven at a set rate while their queue is in use.
 *
 * Method: a private Redis (everysec), all services in one process, the load from this one. The
 * letters are published with the headers that a death leaves, 256 bytes each. Pages of a search
 * that finds one letter at the end are timed one by one. Live traffic is 50 publishes a second to
 * the queue where the letters died, each timed until its confirm, while 8 consumers lease and
 * acknowledge by the hundred: first alone, then with the redrive. At last others are redriven as
 * fast as it goes, with nothing beside.
 */
import assert from 'node:assert/strict'
import { setTimeout as sleep } from 'node:timers/promises'
import { privateRedis } from '@sluice/testkit'
import { type Bench, bench } from './bench.ts'
import { declare, headers, residentBytes, startServices } from './broker-process.ts'

const CHUNK = 1_000
const CONSUMERS = 8
const BODY = 'x'.repeat(240)
const VHOST = '/v1/vhosts/%2F'

await bench('dead-letters', async (b) => {
  const redis = await privateRedis(b)
  const { url, pid } = await startServices(b, ['router', 'delivery', 'reaper'], redis.url)
  const letters = b.short ? 10_000 : 1_000_000
  const perSecond = 5_000
  for (const queue of ['src', 'dead']) await declare(url, queue)
  const ask = asker(url)
  b.say(`storing ${letters} dead letters`)
  for (let at = 0; at < letters; at += CHUNK) await store(ask, at)
  const redisMiB = async () => {
    const used = /used_memory:(\d+)/.exec(await redis.redis.info('memory'))![1]
    return Math.round(Number(used) / 2 ** 20)
  }
  b.line({ case: 'stored', letters, redisMiB: await redisMiB() })
  await search(b, ask, letters)

  const aloneMs = b.short ? 2_000 : 20_000
  b.line({ case: 'publish, live traffic alone', ...(await live(ask, () => sleep(aloneMs))) })
  let paced: Done | undefined
  const during = await live(ask, async () => {
    paced = await redrive(b, ask, letters, perSecond)
  })
  b.line({ case: 'publish, during the redrive', ...during })
  const brokerMiB = Math.round(residentBytes(pid) / 2 ** 20)
  b.line({ case: 'redrive', perSecond, ...paced, redisMiB: await redisMiB(), brokerMiB })

  const others = b.short ? 10_000 : 200_000
  for (let at = 0; at < others; at += CHUNK) await store(ask, at)
  b.line({ case: 'redrive, as fast as it goes', ...(await redrive(b, ask, others)) })
})

type Ask = ReturnType<typeof asker>

function asker(url: string) {
  return async (method: string, path: string, body?: string, type = 'application/json') => {
    const options = { method, headers: headers(type), ...(body !== undefined && { body }) }
    const response = await fetch(`${url}${VHOST}${path}`, options)
    const text = await response.text()
    assert.ok(response.ok, text)
    return text === '' ? undefined : JSON.parse(text)
  }
}

async function store(ask: Ask, from: number): Promise<void> {
  const death = { 'x-last-death-queue': 'src', 'x-last-death-reason': 'rejected' }
  const lines = Array.from({ length: CHUNK }, (_, i) =>
    JSON.stringify({ body: `${from + i} ${BODY}`, headers: death, routingKey: 'dead' }),
  )
  await ask('POST', '/exchanges/amq.default/batch', lines.join('\n'), 'application/x-ndjson')
}

async function search(b: Bench, ask: Ask, letters: number): Promise<void> {
  const times: number[] = []
  let found = 0
  let after = ''
  do {
    const begun = performance.now()
    const query = new URLSearchParams({ text: `${letters - 1} x`, limit: '1', after })
    const page = await ask('GET', `/queues/dead/dead-letters?${query}`)
    times.push(performance.now() - begun)
    found += page.messages.length
    after = page.next ?? ''
  } while (after !== '')
  assert.equal(found, 1)
  b.line({ case: 'search, a page', pages: times.length, ...spread(times) })
}

/** Publishes and consumes until `work` is done; ms until a publish is confirmed. */
async function live(ask: Ask, work: () => Promise<unknown>) {
  const times: number[] = []
  let over = false
  const consumers = Array.from({ length: CONSUMERS }, async () => {
    while (!over) {
      const wanted = JSON.stringify({ max: 100, waitMs: 200 })
      const { messages } = await ask('POST', '/queues/src/leases', wanted)
      const settlements = messages.map(({ token }: { token: string }) => ({
        token,
        outcome: 'ack',
      }))
      if (messages.length === 0) continue
      await ask('POST', '/queues/src/settlements', JSON.stringify({ settlements }))
    }
  })
  const publisher = (async () => {
    while (!over) {
      const begun = performance.now()
      await ask('POST', '/queues/src/messages', BODY, 'text/plain')
      times.push(performance.now() - begun)
      await sleep(20)
    }
  })()
  await work()
  over = true
  await Promise.all([...consumers, publisher])
  return spread(times)
}

interface Done {
  readonly matched: number
  readonly redriven: number
  readonly skipped: number
  /** Letters a second. */
  readonly rate: number
}

/** Redrives all, and holds the report to what was stored. */
async function redrive(b: Bench, ask: Ask, letters: number, perSecond?: number): Promise<Done> {
  const { id } = await ask('POST', '/queues/dead/redrive', JSON.stringify({ perSecond }))
  for (;;) {
    await sleep(500)
    const status = await ask('GET', `/queues/dead/redrives/${id}`)
    const { matched, redriven, skipped, rate } = status
    if (status.state === 'done') {
      assert.deepEqual([matched, redriven, skipped], [letters, letters, 0])
      return { matched, redriven, skipped, rate: Math.round(rate) }
    }
    assert.notEqual(status.state, 'failed', status.error)
    b.say(`${redriven} of ${status.total} redriven`)
  }
}

function spread(times: readonly number[]) {
  const sorted = times.toSorted((x, y) => x - y)
  const at = (share: number) =>
    Math.round(10 * sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!) / 10
  return { unit: 'ms', p50: at(0.5), p99: at(0.99) }
}
