/**
 * The audit log: a chain that several processes make, and what verifying it finds.
 *
 * Method: a Redis of its own for each test, since there is one log to a Redis; several `AuditLog`
 * on it are several processes.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type TestContext, test } from 'node:test'
import { privateRedis } from '@sluice/testkit'
import { Redis } from 'ioredis'
import { AuditLog, type AuditOptions } from './audit-log.ts'

const HEAD = 'sluice:{audit}:head'
const LOG = 'sluice:{audit}:log'

async function setup(t: TestContext) {
  const { url } = await privateRedis(t)
  const reported: unknown[] = []
  const opened: { log: AuditLog; redis: Redis }[] = []
  t.after(async () => {
    for (const { log, redis } of opened) {
      await log.close()
      redis.disconnect()
    }
    assert.deepEqual(reported, [])
  })
  const open = (options: Partial<AuditOptions> = {}) => {
    const redis = new Redis(url, {
      maxRetriesPerRequest: 0,
      enableOfflineQueue: false,
      lazyConnect: true,
    })
    redis.on('error', () => {})
    const report = (error: unknown) => reported.push(error)
    const defaults = { key: undefined, keep: 1_000, nowMs: Date.now, report }
    const log = new AuditLog(redis, { ...defaults, ...options })
    opened.push({ log, redis })
    return { log, redis }
  }
  const opening = async (options: Partial<AuditOptions> = {}) => {
    const made = open(options)
    await made.redis.connect()
    return made
  }
  return { open: opening }
}

const act = (what: string, outcome = 'done') => ({ who: 'ann', from: '10.0.0.1', what, outcome })

async function write(log: AuditLog, count: number, name = 'act') {
  for (let i = 0; i < count; i++) log.note(act(`${name} ${i}`))
  await log.flush()
}

test('what was noted is read back in order, each once, with how often it happened', async (t) => {
  const { open } = await setup(t)
  const { log } = await open()
  log.note(act('PUT /v1/users/bob'))
  log.note(act('GET /v1/users', 'refused'))
  log.note(act('GET /v1/users', 'refused'))
  await log.flush()
  const [first, second, ...rest] = await log.read(0)
  assert.equal(rest.length, 0)
  assert.deepEqual(
    [first?.number, first?.what, first?.who, first?.from, first?.outcome, first?.count],
    [1, 'PUT /v1/users/bob', 'ann', '10.0.0.1', 'done', 1],
  )
  assert.equal(second?.count, 2)
  assert.ok(Math.abs(Date.parse(first!.at) - Date.now()) < 5_000)
  assert.deepEqual(await log.read(1), [second])
})

test('processes that write at once make one chain, which is intact', async (t) => {
  const { open } = await setup(t)
  const logs = await Promise.all([open(), open(), open()])
  for (let round = 0; round < 5; round++) {
    await Promise.all(logs.map(({ log }, i) => write(log, 20, `process ${i} round ${round}`)))
  }
  const { log } = logs[0]!
  const entries = await log.read(0, 1_000)
  assert.equal(new Set(entries.map(({ what }) => what)).size, 300)
  const verdict = await log.verify()
  assert.deepEqual([verdict.kind, 'last' in verdict && verdict.last], ['intact', 300])
})

test('an entry that is changed, taken out, put in or cut off at the end is found', async (t) => {
  const { open } = await setup(t)
  const { log, redis } = await open()
  await write(log, 10)
  const noted = (await log.read(9))[0]!
  const entries = await redis.xrange(LOG, '-', '+')
  const restore = async () => {
    await redis.del(LOG)
    for (const [id, fields] of entries) await redis.xadd(LOG, id, ...fields)
    await redis.hset(HEAD, 'number', noted.number, 'hash', noted.hash)
  }
  const found = async (number: number, why: RegExp, what: string) => {
    const verdict = await log.verify({ number: noted.number, hash: noted.hash })
    assert.ok(verdict.kind === 'broken', what)
    assert.equal(verdict.number, number, what)
    assert.match(verdict.why, why, what)
    await restore()
    assert.equal((await log.verify()).kind, 'intact')
  }
  const rewrite = async (change: (fields: string[], number: number) => string[] | undefined) => {
    await redis.del(LOG)
    for (const [i, [id, fields]] of entries.entries()) {
      const kept = change([...fields], i + 1)
      if (kept) await redis.xadd(LOG, id, ...kept)
    }
  }
  await rewrite((fields, n) => {
    return n === 4 ? ['entry', fields[1]!.replace('ann', 'eve'), 'hash', fields[3]!] : fields
  })
  await found(4, /its hash/, 'changed')
  await rewrite((fields, n) => (n === 6 ? undefined : fields))
  await found(6, /missing/, 'taken out')
  await rewrite((fields, n) => (n >= 9 ? undefined : fields))
  await found(9, /missing/, 'cut off')
  await rewrite((fields, n) => (n >= 9 ? undefined : fields))
  await redis.hset(HEAD, 'number', 8, 'hash', entries[7]![1][3]!)
  await found(10, /missing at the end/, 'cut off with its head: who noted the end knows')
})

test('with a key, a chain made anew by who has only Redis is found', async (t) => {
  const { open } = await setup(t)
  const { log, redis } = await open({ key: 'a key of some length' })
  await write(log, 3)
  await redis.flushall()
  const { log: forger } = await open()
  await write(forger, 3)
  assert.equal((await forger.verify()).kind, 'intact')
  assert.equal((await log.verify()).kind, 'broken')
})

test('the oldest go, and what is left is verified from its anchor', async (t) => {
  const { open } = await setup(t)
  const { log, redis } = await open({ keep: 50 })
  for (let round = 0; round < 4; round++) await write(log, 40, `round ${round}`)
  assert.equal(await redis.xlen(LOG), 50)
  const verdict = await log.verify()
  assert.deepEqual(verdict.kind === 'intact' && [verdict.first, verdict.last], [111, 160])
  await redis.hset(HEAD, 'anchorHash', 'another')
  assert.equal((await log.verify()).kind, 'broken')
})

test('refusals beyond a few kinds a second are summed up: strangers cannot fill the log', async (t) => {
  const { open } = await setup(t)
  const { log } = await open()
  for (let i = 0; i < 500; i++) log.note({ ...act(`GET /${i}`, 'refused'), from: `10.0.0.${i}` })
  await log.flush()
  const entries = await log.read(0)
  assert.ok(entries.length <= 12, `${entries.length} entries`)
  const counted = entries.reduce((sum, { count }) => sum + count, 0)
  assert.equal(counted, 500, 'all of them are counted')
})

test('while Redis is away entries wait in memory, bounded, and what is lost is counted', async (t) => {
  const { open } = await setup(t)
  const { log, redis } = await open()
  await write(log, 1)
  const ended = once(redis, 'end')
  redis.disconnect()
  await ended
  for (let i = 0; i < 5_100; i++) log.note(act(`while away ${i}`))
  await log.flush()
  await redis.connect()
  await log.flush()
  await log.flush()
  const entries = await log.read(0, 10_000)
  assert.equal(entries.length, 1_000, 'as many as are kept')
  assert.equal(entries.at(-1)?.what, 'entries')
  assert.equal(entries.at(-1)?.count, 100)
  assert.equal((await log.verify()).kind, 'intact')
})
