import assert from 'node:assert/strict'
import { PassThrough } from 'node:stream'
import { test } from 'node:test'
import fc from 'fast-check'
import { Confirms } from './confirms.ts'
import { FrameWriter } from './frame-writer.ts'
import { Output } from './output.ts'
import { readServerMethod } from './spec.ts'
import { ValueReader } from './values.ts'

interface Sent {
  readonly stored: boolean
  readonly number: number
  readonly multiple: boolean
}

function setup() {
  const socket = new PassThrough()
  const output = new Output(socket, () => {})
  const channel = { id: 1, open: true }
  const confirms = new Confirms(channel, new FrameWriter(output, 4096), output)
  /** What the turn that ends here has sent. */
  const turn = (): Sent[] => {
    output.endTurn()
    const bytes: Buffer = socket.read() ?? Buffer.alloc(0)
    const sent: Sent[] = []
    for (let at = 0; at < bytes.length; at += 21) {
      const reader = new ValueReader(bytes.subarray(at + 7, at + 20))
      const method = readServerMethod(reader.long(), reader)
      assert(method?.name === 'basic.ack' || method?.name === 'basic.nack')
      sent.push({
        stored: method.name === 'basic.ack',
        number: method.deliveryTag,
        multiple: method.multiple,
      })
    }
    return sent
  }
  return { confirms, channel, turn }
}

const ack = (number: number, multiple = false): Sent => ({ stored: true, number, multiple })
const nack = (number: number, multiple = false): Sent => ({ stored: false, number, multiple })

test('no. 57: numbers count from 1, and a turn in order is one answer', () => {
  const { confirms, turn } = setup()
  assert.deepEqual([confirms.add(), confirms.add(), confirms.add()], [1, 2, 3])
  confirms.settle(1, true)
  assert.deepEqual(turn(), [ack(1)])
  confirms.settle(3, true)
  confirms.settle(2, true)
  assert.deepEqual(turn(), [ack(3, true)])
  assert.deepEqual(turn(), [])
})

test('no. 57: multiple never covers a lower publish that is not confirmed', () => {
  const { confirms, turn } = setup()
  for (let i = 0; i < 5; i++) confirms.add()
  confirms.settle(4, true)
  confirms.settle(2, true)
  assert.deepEqual(turn(), [ack(2), ack(4)])
  confirms.settle(1, true)
  assert.deepEqual(turn(), [ack(1)])
  confirms.settle(5, true)
  confirms.settle(3, true)
  assert.deepEqual(turn(), [ack(5, true)])
})

test('no. 57: a refused publish is nacked, and acks around it do not cover it', () => {
  const { confirms, turn } = setup()
  for (let i = 0; i < 6; i++) confirms.add()
  for (const number of [1, 2, 3, 4, 5, 6]) confirms.settle(number, number !== 3)
  assert.deepEqual(turn(), [ack(2, true), nack(3), ack(6, true)])
})

test('a publish is answered once, whatever is said of it later', () => {
  const { confirms, turn } = setup()
  confirms.add()
  confirms.settle(1, true)
  confirms.settle(1, false)
  assert.deepEqual(turn(), [ack(1)])
  confirms.settle(1, false)
  confirms.settle(2, true)
  assert.deepEqual(turn(), [])
})

test('a closed channel confirms nothing', () => {
  const { confirms, channel, turn } = setup()
  confirms.add()
  confirms.settle(1, true)
  channel.open = false
  assert.deepEqual(turn(), [])
})

test('a client that keeps the books sees every publish answered once, as it was settled', () => {
  const publishes = fc.array(fc.record({ stored: fc.boolean(), rank: fc.nat(1_000) }), {
    minLength: 1,
    maxLength: 200,
  })
  fc.assert(
    fc.property(publishes, fc.integer({ min: 1, max: 20 }), (list, perTurn) => {
      const { confirms, turn } = setup()
      const open = new Map(list.map((_, i) => [i + 1, true]))
      for (const _ of list) confirms.add()
      const order = list.map(({ rank }, i) => ({ rank, number: i + 1 }))
      order.sort((a, b) => a.rank - b.rank)
      const settled = new Set<number>()
      for (let from = 0; from < order.length; from += perTurn) {
        for (const { number } of order.slice(from, from + perTurn)) {
          confirms.settle(number, list[number - 1]!.stored)
          settled.add(number)
        }
        for (const { stored, number, multiple } of turn()) {
          const covered = [...open.keys()].filter((n) => n === number || (multiple && n < number))
          assert(covered.includes(number), 'answered once')
          for (const n of covered) {
            assert(settled.has(n), 'not before it is settled')
            assert.equal(list[n - 1]!.stored, stored)
            open.delete(n)
          }
        }
        assert.equal([...open.keys()].filter((n) => settled.has(n)).length, 0, 'in its own turn')
      }
      assert.equal(open.size, 0)
      assert.equal(confirms.outstanding, 0)
    }),
    { numRuns: 300 },
  )
})
