import assert from 'node:assert/strict'
import { test } from 'node:test'
import { waitFor } from './index.ts'

test('what the condition finally answers is returned', async () => {
  let calls = 0
  assert.equal(await waitFor(() => (++calls < 3 ? undefined : calls)), 3)
})

test('a condition that never holds fails by its name', async () => {
  await assert.rejects(
    waitFor(() => false, { timeoutMs: 30, what: 'the impossible' }),
    /waited 30 ms for the impossible/,
  )
})
