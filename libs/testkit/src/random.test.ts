import assert from 'node:assert/strict'
import { test } from 'node:test'
import { random } from './index.ts'

test('the same seed gives the same numbers, another seed others', () => {
  const draw = (seed: number) => {
    const { next } = random(seed)
    return Array.from({ length: 5 }, next)
  }
  assert.deepEqual(draw(7), draw(7))
  assert.notDeepEqual(draw(7), draw(8))
})

test('integers fill the range they are asked for, both ends included', () => {
  const { int } = random(1)
  const seen = new Set(Array.from({ length: 200 }, () => int(3, 6)))
  assert.deepEqual([...seen].sort(), [3, 4, 5, 6])
})
