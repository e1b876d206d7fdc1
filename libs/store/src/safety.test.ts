import assert from 'node:assert/strict'
import { test } from 'node:test'
import { both, needsFsync, replicasOf, safetyOf } from './safety.ts'

test('promises add up: a replica does not stand in for the disk, nor the other way round', () => {
  const asked = both(safetyOf('fsync'), safetyOf('replicas=2'))
  assert.equal(needsFsync(asked), true)
  assert.equal(replicasOf(asked), 2)
  assert.equal(both(safetyOf('replicas=1'), asked), asked)
  assert.equal(both(safetyOf('memory'), safetyOf('fsync')), safetyOf('fsync'))
  assert.equal(needsFsync(safetyOf('replicas=3')), false)
  assert.equal(replicasOf(safetyOf('memory')), 0)
})
