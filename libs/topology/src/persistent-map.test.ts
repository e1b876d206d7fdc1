/** The map against JavaScript's own, and every version against what it was when it was made. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { PersistentMap } from './persistent-map.ts'

const changes = fc.array(
  fc.tuple(
    fc.nat(300).map((n) => `key-${n}`),
    fc.option(fc.nat(), { nil: undefined }),
  ),
  { maxLength: 120 },
)

test('random edits agree with a Map, and no version ever changes', () => {
  fc.assert(
    fc.property(fc.array(changes, { maxLength: 8 }), (edits) => {
      let map = PersistentMap.empty<number>()
      const expected = new Map<string, number>()
      const versions: [PersistentMap<number>, number[]][] = []
      for (const edit of edits) {
        map = map.with(new Map(edit))
        for (const [key, value] of new Map(edit)) {
          if (value === undefined) expected.delete(key)
          else expected.set(key, value)
        }
        versions.push([map, [...expected.values()].sort()])
        for (const [key] of edit) {
          assert.equal(map.get(key), expected.get(key))
          assert.equal(map.has(key), expected.has(key))
        }
      }
      for (const [version, values] of versions) {
        assert.equal(version.size, values.length)
        assert.deepEqual([...version.values()].sort(), values)
      }
    }),
    { numRuns: 500 },
  )
})

test('an edit that changes nothing gives back the same map', () => {
  const map = PersistentMap.empty<number>().with(new Map([['a', 1]]))
  assert.equal(map.with(new Map([['a', 1]])), map)
  assert.equal(map.with(new Map([['b', undefined]])), map)
})
