import assert from 'node:assert/strict'
import { test } from 'node:test'
import { every, sparsely } from './every.ts'

test('passes follow each other, never overlap, and one that throws does not end them', async () => {
  const stop = new AbortController()
  const reported: unknown[] = []
  let running = 0
  let passes = 0
  const pass = async () => {
    assert.equal(++running, 1)
    await new Promise(setImmediate)
    running--
    if (++passes === 5) stop.abort()
    if (passes % 2 === 0) throw new Error(`pass ${passes}`)
  }
  await every(1, stop.signal, pass, (error) => reported.push(error)).closed
  assert.equal(passes, 5)
  assert.deepEqual(reported.map(String), ['Error: pass 2', 'Error: pass 4'])
})

test('the pass under way is finished before the loop has closed', async () => {
  const stop = new AbortController()
  const { promise, resolve } = Promise.withResolvers<void>()
  let closed = false
  const { closed: closing } = every(
    1,
    stop.signal,
    () => promise,
    () => {},
  )
  const done = closing.then(() => {
    closed = true
  })
  stop.abort()
  await new Promise(setImmediate)
  assert.equal(closed, false)
  resolve()
  await done
})

test('the same trouble is passed on once a minute, other trouble at once', () => {
  const reported: string[] = []
  let now = 0
  const report = sparsely(
    (error) => reported.push(String(error)),
    () => now,
  )
  for (let i = 0; i < 10; i++) report(new Error('away'))
  report(new Error('other'))
  now = 60_000
  report(new Error('away'))
  assert.deepEqual(reported, ['Error: away', 'Error: other', 'Error: away'])
})
