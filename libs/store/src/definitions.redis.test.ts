/**
 * Definitions in Redis: commits, the change feed, loading everything.
 *
 * Method: a Redis of its own for each test, since there is one topology to a Redis; several
 * `Definitions` on it are several processes.
 */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { privateRedis } from '@sluice/testkit'
import { Redis } from 'ioredis'
import { COMMIT_CHANGES_MAX, Definitions, type Mark, NO_DEFINITIONS } from './definitions.ts'

async function setup(t: TestContext) {
  const { url } = await privateRedis(t)
  const redis = new Redis(url)
  const subscriber = new Redis(url)
  t.after(() => {
    redis.disconnect()
    subscriber.disconnect()
  })
  const definitions = new Definitions(redis, subscriber)
  async function put(mark: Mark, ...changes: [string, string | null][]): Promise<Mark> {
    const result = await definitions.commit(mark, changes)
    assert(result.kind === 'committed')
    return result.mark
  }
  return { definitions, redis, put }
}

test('an empty Redis is version 0 and holds nothing', async (t) => {
  const { definitions } = await setup(t)

  assert.equal(await definitions.readVersion(), 0)
  const { mark, definitions: all } = await definitions.load()
  assert.deepEqual(mark, NO_DEFINITIONS)
  assert.equal(all.size, 0)
  assert.deepEqual(await definitions.changesSince(mark), { kind: 'changes', mark, changes: [] })
})

test('a commit counts the version up, and its changes are read back by feed and load', async (t) => {
  const { definitions, put } = await setup(t)
  const one = await put(NO_DEFINITIONS, ['a', '1'], ['b', '2'])
  const two = await put(one, ['a', null], ['c', '3'])

  assert.equal(await definitions.readVersion(), 2)
  assert.deepEqual(await definitions.changesSince(one), {
    kind: 'changes',
    mark: two,
    changes: [
      ['a', null],
      ['c', '3'],
    ],
  })
  const { mark, definitions: all } = await definitions.load()
  assert.deepEqual(mark, two)
  assert.deepEqual(Object.fromEntries(all), { b: '2', c: '3' })
})

test('of two who commit after the same version one gets a conflict and changes nothing', async (t) => {
  const { definitions, put } = await setup(t)
  const one = await put(NO_DEFINITIONS, ['a', '1'])

  const results = await Promise.all([
    definitions.commit(one, [['b', '2']]),
    definitions.commit(one, [['c', '3']]),
  ])
  assert.deepEqual(results.map(({ kind }) => kind).sort(), ['committed', 'conflict'])
  const { definitions: all } = await definitions.load()
  assert.equal(all.size, 2)
  assert.equal(await definitions.readVersion(), 2)
})

test('a Redis that came back from an older copy is noticed, though the version fits', async (t) => {
  const { definitions, redis, put } = await setup(t)
  const lost = await put(NO_DEFINITIONS, ['a', '1'])
  await redis.flushall()
  await put(NO_DEFINITIONS, ['b', '2'])

  assert.deepEqual(await definitions.changesSince(lost), { kind: 'behind' })
  assert.deepEqual(await definitions.commit(lost, [['c', '3']]), { kind: 'conflict' })
  await redis.flushall()
  assert.deepEqual(await definitions.changesSince(lost), { kind: 'behind' })
})

test('a reader that fell behind the feed is told so, and loads', async (t) => {
  const { definitions, redis, put } = await setup(t)
  let mark = await put(NO_DEFINITIONS, ['first', '1'])
  const first = mark
  for (let i = 0; i < 250; i++) mark = await put(mark, [`f${i}`, 'v'])

  const near = await definitions.changesSince(first)
  assert(near.kind === 'changes' && near.changes.length === 250)
  await redis.xtrim('sluice:{topology}:changes', 'MAXLEN', 10)
  assert.deepEqual(await definitions.changesSince(first), { kind: 'behind' })
  assert.deepEqual(await definitions.changesSince(NO_DEFINITIONS), { kind: 'behind' })
  const { definitions: all } = await definitions.load()
  assert.equal(all.size, 251)
})

test('the feed is bounded', async (t) => {
  const { redis, put } = await setup(t)
  let mark = NO_DEFINITIONS
  for (let i = 0; i < 1_010; i++) mark = await put(mark, ['a', String(i)])

  assert.equal(await redis.xlen('sluice:{topology}:changes'), 1_000)
})

test('the largest commit is applied whole', async (t) => {
  const { definitions, put } = await setup(t)
  const changes = Array.from({ length: COMMIT_CHANGES_MAX }, (_, i): [string, string] => [
    `f${i}`,
    'v'.repeat(200),
  ])
  await put(NO_DEFINITIONS, ...changes)

  const { definitions: all } = await definitions.load()
  assert.equal(all.size, COMMIT_CHANGES_MAX)
})

test('a load while others commit gives exactly the state of one version', async (t) => {
  const { definitions, put } = await setup(t)
  let mark = NO_DEFINITIONS
  const state = new Map<string, string>()
  const states = new Map<number, Map<string, string>>()
  async function change(...changes: [string, string | null][]) {
    mark = await put(mark, ...changes)
    for (const [field, value] of changes) {
      if (value === null) state.delete(field)
      else state.set(field, value)
    }
    states.set(mark.version, new Map(state))
  }
  for (let i = 0; i < 10; i++) {
    await change(...Array.from({ length: 400 }, (_, j): [string, string] => [`f${i}.${j}`, 'old']))
  }
  const before = mark.version
  const loading = definitions.load()
  for (let i = 0; i < 50; i++) await change([`f0.${i}`, null], [`f9.${i}`, 'new'])

  const loaded = await loading
  assert(loaded.mark.version > before, 'it went on while others committed')
  assert.deepEqual(loaded.definitions, states.get(loaded.mark.version))
})

test('whoever watches gets a hint of each commit, until it stops', async (t) => {
  const { definitions, put } = await setup(t)
  const hinted = Promise.withResolvers<void>()
  const stop = await definitions.watch(hinted.resolve)
  await put(NO_DEFINITIONS, ['a', '1'])
  await hinted.promise
  stop()
})
