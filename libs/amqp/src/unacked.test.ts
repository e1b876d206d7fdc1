import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Unacked } from './unacked.ts'

interface Item {
  readonly n: number
}

function filled(count: number): Unacked<Item> {
  const unacked = new Unacked<Item>()
  for (let n = 1; n <= count; n++) assert.equal(unacked.add({ n }), n)
  return unacked
}

function taken(unacked: Unacked<Item>, tag: number, multiple: boolean): number[] {
  const got: number[] = []
  unacked.take(tag, multiple, ({ n }, of) => {
    assert.equal(of, n)
    got.push(n)
  })
  return got
}

const unknown = (tag: number) => ({
  name: 'AmqpError',
  replyCode: 406,
  message: `PRECONDITION_FAILED - unknown delivery tag ${tag}`,
})

test('no. 70: a delivery is settled once; again, or never delivered, is 406', () => {
  const unacked = filled(3)
  assert.deepEqual(taken(unacked, 2, false), [2])
  for (const tag of [2, 4, 99, 2 ** 40]) {
    assert.throws(() => taken(unacked, tag, false), unknown(tag))
  }
  assert.equal(unacked.size, 2)
})

test('no. 70: multiple settles every one up to the tag, oldest first', () => {
  const unacked = filled(5)
  taken(unacked, 2, false)
  assert.deepEqual(taken(unacked, 4, true), [1, 3, 4])
  assert.deepEqual(taken(unacked, 5, true), [5])
  assert.equal(unacked.size, 0)
})

test('no. 70: multiple with a tag that is not outstanding is 406 and settles none', () => {
  const unacked = filled(3)
  taken(unacked, 2, false)
  assert.throws(() => taken(unacked, 2, true), unknown(2))
  assert.throws(() => taken(unacked, 4, true), unknown(4))
  assert.equal(unacked.size, 2)
})

test('no. 70: tag 0 with multiple is everything, alone it is 406', () => {
  const unacked = filled(3)
  assert.throws(() => taken(unacked, 0, false), unknown(0))
  assert.deepEqual(taken(unacked, 0, true), [1, 2, 3])
  assert.deepEqual(taken(unacked, 0, true), [])
})

test('a delivery that needs no settling uses up its tag', () => {
  const unacked = new Unacked<Item>()
  assert.equal(unacked.add(undefined), 1)
  assert.equal(unacked.add({ n: 2 }), 2)
  assert.throws(() => taken(unacked, 1, false), unknown(1))
  assert.deepEqual(taken(unacked, 2, true), [2])
})

test('one delivery held for long does not keep room for all that follow', () => {
  const unacked = new Unacked<Item>()
  unacked.add({ n: 1 })
  for (let n = 2; n <= 300_000; n++) {
    unacked.add({ n })
    assert.deepEqual(taken(unacked, n, false), [n])
  }
  assert.equal(unacked.size, 1)
  assert.deepEqual(taken(unacked, 1, false), [1])
})

test('as many as are never settled are all returned, in order', () => {
  const unacked = filled(200_000)
  assert.deepEqual(taken(unacked, 100_000, true).length, 100_000)
  const rest = taken(unacked, 0, true)
  assert.deepEqual([rest.length, rest[0], rest.at(-1)], [100_000, 100_001, 200_000])
})

test('it behaves as a sorted list of tags would', () => {
  const step = fc.oneof(
    fc.constant('add' as const),
    fc.constant('no-ack' as const),
    fc.tuple(fc.nat(60), fc.boolean()),
  )
  fc.assert(
    fc.property(fc.array(step, { maxLength: 300 }), (steps) => {
      const unacked = new Unacked<Item>()
      let tags: number[] = []
      let next = 1
      for (const what of steps) {
        if (typeof what === 'string') {
          unacked.add(what === 'add' ? { n: next } : undefined)
          if (what === 'add') tags.push(next)
          next++
          continue
        }
        const [tag, multiple] = what
        if (!tags.includes(tag) && !(tag === 0 && multiple)) {
          assert.throws(() => taken(unacked, tag, multiple), unknown(tag))
          continue
        }
        const settled = tags.filter((n) => n === tag || (multiple && (n < tag || tag === 0)))
        assert.deepEqual(taken(unacked, tag, multiple), settled)
        tags = tags.filter((n) => !settled.includes(n))
      }
      assert.equal(unacked.size, tags.length)
    }),
    { numRuns: 500 },
  )
})

test('the oldest are settled as long as they are due, also far below the others', () => {
  const unacked = filled(70_000)
  taken(unacked, 3, false)
  const got: number[] = []
  unacked.takeOldest(
    ({ n }) => n <= 5,
    ({ n }) => got.push(n),
  )
  assert.deepEqual(got, [1, 2, 4, 5])
  unacked.takeOldest(
    ({ n }) => n <= 5,
    ({ n }) => got.push(n),
  )
  assert.equal(got.length, 4)
  unacked.takeUpTo(8, ({ n }) => got.push(n))
  assert.deepEqual(got.slice(4), [6, 7, 8])
  assert.equal(unacked.size, 70_000 - 8)
})

test('what was settled and is restored is outstanding again, in its old order', () => {
  const unacked = filled(6)
  const settled: [Item, number][] = []
  unacked.take(4, true, (item, tag) => settled.push([item, tag]))
  unacked.take(6, false, (item, tag) => settled.push([item, tag]))
  assert.equal(unacked.size, 1)
  unacked.restore(settled)
  assert.equal(unacked.size, 6)
  assert.deepEqual(taken(unacked, 2, false), [2])
  unacked.add({ n: 7 })
  assert.deepEqual(taken(unacked, 0, true), [1, 3, 4, 5, 6, 7])
  assert.equal(unacked.size, 0)
})
