import assert from 'node:assert/strict'
import { test } from 'node:test'
import { random } from '@sluice/testkit'
import { overtaken } from './order.ts'

test('messages done in their order have no inversions', () => {
  assert.deepEqual(overtaken([3, 5, 8, 9]), { inversions: 0, inOrder: 1 })
  assert.deepEqual(overtaken([]), { inversions: 0, inOrder: 1 })
})

test('a message that comes last of all was overtaken by every other', () => {
  assert.deepEqual(overtaken([1, 2, 3, 0]), { inversions: 3, inOrder: 0.75 })
  assert.deepEqual(overtaken([3, 2, 1, 0]), { inversions: 6, inOrder: 0.25 })
})

test('inversions are what comparing every pair counts', () => {
  const chance = random(5)
  const done = Array.from({ length: 200 }, (_, at) => at).sort(() => chance.next() - 0.5)
  const pairs = done.flatMap((older, at) => done.slice(0, at).filter((one) => one > older))
  assert.equal(overtaken(done).inversions, pairs.length)
})
