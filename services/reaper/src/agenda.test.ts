/** The agenda with visits that the test ends by hand. */
import assert from 'node:assert/strict'
import { type TestContext, test } from 'node:test'
import { waitFor } from '@sluice/testkit'
import { Agenda } from './agenda.ts'

interface Visiting {
  readonly base: string
  readonly at: number
  readonly end: (nextMs?: number) => void
  readonly fail: (error: Error) => void
}

function setup(t: TestContext) {
  const visits: Visiting[] = []
  const reported: unknown[] = []
  const agenda = new Agenda(
    (base) =>
      new Promise((resolve, reject) => {
        visits.push({ base, at: performance.now(), end: resolve, fail: reject })
      }),
    (error) => reported.push(error),
  )
  const stop = new AbortController()
  t.after(() => stop.abort())
  const running = agenda.run(stop.signal)
  const count = (n: number) => waitFor(() => visits.length >= n && visits, { what: `${n} visits` })
  return { agenda, visits, reported, stop, running, count }
}

test('a queue is visited when it is due, the earliest first', async (t) => {
  const { agenda, count } = setup(t)
  const start = performance.now()
  agenda.note('late', 60)
  agenda.note('early', 20)
  agenda.note('late', 600_000) // the earlier date stays
  const [first, second] = await count(2)
  assert.deepEqual([first!.base, second!.base], ['early', 'late'])
  assert.ok(first!.at - start >= 19 && second!.at - start >= 59)
})

test('hints during a visit make one more visit, after it and not at once', async (t) => {
  const { agenda, visits, count } = setup(t)
  agenda.note('q', 0)
  const [first] = await count(1)
  for (let i = 0; i < 100; i++) agenda.note('q', 0)
  await new Promise(setImmediate)
  assert.equal(visits.length, 1, 'never twice at a time')
  const ended = performance.now()
  first!.end()
  const [, second] = await count(2)
  assert.ok(second!.at - ended >= 40, `${second!.at - ended} ms later`)
  second!.end()
  agenda.note('other', 0)
  assert.equal((await count(3))[2]!.base, 'other')
})

test('a visit says when the next one is worth it', async (t) => {
  const { agenda, count } = setup(t)
  agenda.note('q', 0)
  const [first] = await count(1)
  first!.end(80)
  const [, second] = await count(2)
  assert.ok(second!.at - first!.at >= 79)
})

test('at most eight visits are under way, and the others follow', async (t) => {
  const { agenda, visits, count } = setup(t)
  for (let i = 0; i < 20; i++) agenda.note(`q${i}`, 0)
  await count(8)
  await new Promise(setImmediate)
  assert.equal(visits.length, 8)
  for (let ended = 0; ended < 20; ended++) (await count(ended + 1))[ended]!.end()
  assert.equal(new Set(visits.map(({ base }) => base)).size, 20)
})

test('a visit that fails is reported, and the queue is visited again when asked', async (t) => {
  const { agenda, reported, count } = setup(t)
  agenda.note('q', 0)
  const [first] = await count(1)
  first!.fail(new Error('away'))
  agenda.note('q', 0)
  await count(2)
  assert.deepEqual(reported.map(String), ['Error: away'])
})

test('once told to stop it finishes the visits under way and starts none', async (t) => {
  const { agenda, visits, stop, running, count } = setup(t)
  agenda.note('q', 0)
  const [first] = await count(1)
  agenda.note('later', 10)
  stop.abort()
  let closed = false
  const closing = running.closed.then(() => {
    closed = true
  })
  await new Promise(setImmediate)
  assert.equal(closed, false)
  first!.end(0)
  await closing
  assert.equal(visits.length, 1)
})
