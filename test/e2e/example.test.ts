/**
 * `npm run example`, as README shows it: real events, a consumer killed midway, all accounted for.
 *
 * Method: the command itself, in a pipe; then its accounting alone, with what must be noticed.
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { text } from 'node:stream/consumers'
import { test } from 'node:test'
import { privateRedis } from '@sluice/testkit'
import type { Queue } from '../../examples/events/api.ts'
import { Ledger } from '../../examples/events/ledger.ts'

const ROOT = new URL('../..', import.meta.url)

test('the example accounts for every event, though a consumer is killed', async (t) => {
  const { url } = await privateRedis(t)
  const { SLUICE: _, ...env } = process.env
  const child = spawn(process.execPath, ['tools/run.mjs', 'examples/events/run.ts'], {
    cwd: ROOT,
    env: { ...env, REDIS_URL: url },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  t.after(() => child.kill('SIGTERM'))
  const ended = once(child, 'close')
  const [said, complained] = await Promise.all([text(child.stdout), text(child.stderr)])
  const [code] = await ended

  assert.equal(complained, '', 'it is quiet in a pipe')
  assert.equal(code, 0, said)
  assert.match(
    said,
    /^1707 earthquakes: 1707 published and confirmed; sent again: 1707 duplicates$/m,
  )
  for (const [queue, events] of Object.entries({ archive: 1707, california: 756, alerts: 128 })) {
    const row = `^${queue} .* ${events} +${events} +${events} +\\d+ +${events} +0$`
    assert.match(said, new RegExp(row, 'm'))
  }
  const held = Number(/killed while it held (\d+)/.exec(said)?.[1])
  const again = [...said.matchAll(/^(?:archive|california|alerts) .* (\d+) +\d+ +0$/gm)]
  assert.ok(held > 0, 'the consumer died with messages in its hands')
  assert.equal(
    again.reduce((sum, [, redelivered]) => sum + Number(redelivered), 0),
    held,
    'what it held came again, and nothing else',
  )
  assert.match(said, /^Everything is accounted for\.$/m)
})

test('an event that no consumer acknowledged is named', () => {
  const ledger = settled({ but: ['b'] })
  assert.deepEqual(ledger.faults(broker({ acked: 1 })), ['orders: never acknowledged: 1 (b)'])
})

test('an event that was acknowledged twice is named', () => {
  const ledger = settled({})
  ledger.note('boris', { kind: 'leased', queue: 'orders', ids: ['a'], redelivered: ['a'] })
  ledger.note('boris', { kind: 'acked', queue: 'orders', ids: ['a'] })
  const faults = ledger.faults(broker({ redelivered: 1 }))
  assert.deepEqual(faults, ['orders: acknowledged twice: 1 (a)'])
})

test('an event that came again without being marked redelivered is named', () => {
  const ledger = settled({})
  ledger.note('boris', { kind: 'leased', queue: 'orders', ids: ['a'], redelivered: [] })
  const faults = ledger.faults(broker({ redelivered: 1 }))
  assert.deepEqual(faults, ['orders: a came again, to boris, and was not marked redelivered'])
})

test('an event in a queue that it does not belong to is named', () => {
  const ledger = settled({})
  ledger.note('boris', { kind: 'leased', queue: 'orders', ids: ['c'], redelivered: [] })
  assert.deepEqual(ledger.faults(broker({})), ['orders: c does not belong there'])
})

test('a count of the broker that differs from what the consumers saw is named', () => {
  const faults = settled({}).faults(broker({ acked: 1 }))
  assert.deepEqual(faults, ['orders: acknowledged is 1 at the broker, 2 here'])
  assert.deepEqual(settled({}).faults(new Map()), ['orders: the broker does not have this queue'])
})

/** Two events of one queue, delivered and acknowledged, apart from the acknowledgements of `but`. */
function settled({ but = [] }: { but?: readonly string[] }): Ledger {
  const ids = ['a', 'b']
  const ledger = new Ledger(new Map([['orders', ids]]))
  ledger.note('anna', { kind: 'leased', queue: 'orders', ids, redelivered: [] })
  const acked = ids.filter((id) => !but.includes(id))
  ledger.note('anna', { kind: 'acked', queue: 'orders', ids: acked })
  return ledger
}

/** What the broker says of that queue when all is well, apart from `totals`. */
function broker(totals: Partial<Queue['totals']>): Map<string, Queue> {
  const counts = { published: 2, delivered: 2, redelivered: 0, acked: 2, ...totals }
  return new Map([['orders', { messages: { ready: 0, unacked: 0, delayed: 0 }, totals: counts }]])
}
