import assert from 'node:assert/strict'
import { cpus } from 'node:os'
import { test } from 'node:test'
import { figure, usedUp } from './report.ts'

const EASE = { redis: 0.1, broker: 0.2, load: 0.1, others: 0, fsyncsDelayed: 0, rewrites: 0 }

test('who used a core up is named, with the figures', () => {
  const why = usedUp({ ...EASE, redis: 0.4, broker: 0.97 })
  assert.match(why, /^the broker's process has used its core up/)
  assert.match(why, /\(Redis 0\.4, the broker 0\.97, the load 0\.1, others 0 of \d+ cores\)$/)
  assert.match(usedUp({ ...EASE, redis: 0.9 }), /^Redis has used its core up \(/)
  assert.match(usedUp({ ...EASE, load: 0.9 }), /^the consumers, one process here, have used/)
})

test('other work on the machine and a slow disk are named', () => {
  assert.match(usedUp({ ...EASE, others: cpus().length - 0.4 }), /^the machine has no core left/)
  assert.match(usedUp({ ...EASE, fsyncsDelayed: 3 }), /^the disk put off 3 fsyncs/)
  assert.match(usedUp({ ...EASE, rewrites: 1 }), /^Redis rewrote its append-only file/)
})

test('where nothing was used up, it says so', () => {
  assert.match(usedUp(EASE), /^no processor was used up/)
})

test('a figure has three digits that matter', () => {
  assert.equal(figure(0.0083817), '0.00838')
  assert.equal(figure(12.345), '12.3')
  assert.equal(figure(4_861.01), '4 861')
  assert.equal(figure(1_234_567), '1 230 000')
  assert.equal(figure(0), '0')
})
