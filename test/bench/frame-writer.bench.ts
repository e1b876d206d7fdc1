/**
 * How fast deliveries and confirms become bytes in a socket's hands.
 *
 * Turns of 100 deliveries (256-byte bodies, then 64 KiB ones) and of 100 single confirms, each turn
 * flushed as one gathered write into a stream that drops it. Median and worst of 15 rounds, after 5
 * to warm up; run it alone: `node test/bench/frame-writer.bench.ts`.
 */

import type { Duplex } from 'node:stream'
import { Writable } from 'node:stream'
import { encodeProperties, FrameWriter, Output } from '@sluice/amqp'
import { bench, median } from './bench.ts'

const PER_TURN = 100
const ROUNDS = 20
const WARM_UP = 5

await bench('frame-writer', async (b) => {
  const turns = b.short ? 100 : 1_000
  const wire = new Writable({
    write: (_chunk, _encoding, done) => done(),
    writev: (_chunks, done) => done(),
  }) as Duplex
  const output = new Output(wire, () => {})
  const writer = new FrameWriter(output, 131_072)
  const properties = encodeProperties({
    contentType: 'application/json',
    deliveryMode: 2,
    messageId: '0123456789',
  })
  let tag = 0

  for (const size of [256, 65_536]) {
    const body = Buffer.alloc(size, 'x')
    b.line({
      what: `deliveries of ${size} bytes`,
      ...(await rounds(turns, () => {
        writer.deliver(
          1,
          'ctag-1',
          ++tag,
          false,
          'amq.topic',
          'orders.eu.created',
          properties,
          body,
        )
      })),
    })
  }
  b.line({
    what: 'confirms, one by one',
    ...(await rounds(turns, () => writer.ack(1, ++tag, false))),
  })
})

async function rounds(
  turns: number,
  one: () => void,
): Promise<{ unit: string; median: number; worst: number; nsEach: number }> {
  const rates: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const from = performance.now()
    for (let turn = 0; turn < turns; turn++) {
      for (let i = 0; i < PER_TURN; i++) one()
      await new Promise(setImmediate) // the turn's end, and the socket's callbacks
    }
    const ms = performance.now() - from
    if (round >= WARM_UP) rates.push(Math.round((turns * PER_TURN * 1_000) / ms))
  }
  const rate = median(rates)
  return {
    unit: 'frames/s',
    median: rate,
    worst: Math.min(...rates),
    nsEach: Math.round(1e9 / rate),
  }
}
