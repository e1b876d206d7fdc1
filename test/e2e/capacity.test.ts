/**
 * `npm run capacity`: what it finds is what theory says, and it answers from that.
 *
 * Method: the command itself, short and in a pipe, with a Redis and a broker of its own; the files
 * in a folder of the test. Held to are only what no load on the machine can change. Then every
 * question that docs/capacity.md asks, answered from what was measured.
 */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import { before, test } from 'node:test'
import { findRedisServer } from '@sluice/testkit'
import type { Report } from '../capacity/report.ts'

const ROOT = new URL('../..', import.meta.url)
const PAGE = new URL('../../docs/capacity.md', import.meta.url)
const skip = findRedisServer() === undefined && 'no redis-server to measure'

const folder = mkdtempSync(join(tmpdir(), 'sluice-capacity-'))
process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
const FILES = ['--results', join(folder, 'results.json'), '--svg', join(folder, 'charts.svg')]

let report: Report
let complained: string

before(async () => {
  if (skip !== false) return
  const run = await capacity(['--short', '--json', ...FILES])
  assert.equal(run.code, 0, run.complained)
  report = JSON.parse(run.said) as Report
  complained = run.complained
})

test('it is quiet in a pipe, and leaves a picture', { skip }, () => {
  assert.equal(complained, '')
  assert.match(readFileSync(join(folder, 'charts.svg'), 'utf8'), /^<svg xmlns=.*<\/svg>\n$/s)
})

test('storing takes longer with more messages, and memory is in proportion to them', {
  skip,
}, () => {
  const { timeFit, bytesFit, bodyLine } = report.storage
  assert.ok(timeFit.slope > 0)
  assert.ok(bytesFit.r2 >= 0.98, `R² of memory is ${bytesFit.r2}`)
  assert.ok(bytesFit.slope > 256 && bytesFit.slope < 512, `${bytesFit.slope} bytes a message`)
  const { expected, measured } = report.storage.end
  assert.ok(Math.abs(measured / expected - 1) < 0.35, `full at ${measured}, said ${expected}`)
  assert.ok(bodyLine.slope > 0.95 && bodyLine.slope < 1.6, `${bodyLine.slope} bytes a body byte`)
})

test('more consumers get more done, and never more than their work allows', { skip }, () => {
  for (const { x, y } of report.confirmation.rates) {
    assert.ok(y > 0 && y <= (x * 1_000) / 9, `${x} consumers with 10 ms of work: ${y}/s`)
  }
  assert.ok(report.confirmation.perSecondMax > 0)
})

test('redeliveries are what the probability of an error and the limit say', { skip }, () => {
  const { expectedLine, points, fit } = report.redelivery
  assert.ok(expectedLine.r2 >= 0.98, `R² of deliveries is ${expectedLine.r2}`)
  assert.ok(Math.abs(expectedLine.slope - 1) < 0.15, `the coefficient is ${expectedLine.slope}`)
  for (const { deliveriesMax, deliveries } of points) assert.ok(deliveries <= deliveriesMax)
  for (const { errors, deliveries, dead } of points.filter((point) => point.errors === 0)) {
    assert.deepEqual({ errors, deliveries, dead }, { errors: 0, deliveries: 1, dead: 0 })
  }
  const many = points.find(({ errors, deliveriesMax }) => errors === 0.8 && deliveriesMax === 4)!
  assert.ok(Math.abs(many.dead - many.expectedDead) < 0.1, `${many.dead} are given up`)
  assert.ok(fit.breakAt !== undefined && fit.breakAt.x < 0.7, 'the line through small P ends')
})

test('messages of a key keep their order by an ordering key, and by a queue each', { skip }, () => {
  const { points } = report.order
  const kept = points.filter(({ arrangement }) => /key/.test(arrangement))
  assert.ok(kept.length >= 8)
  for (const point of kept) assert.equal(point.withinKey, 0, JSON.stringify(point))
  for (const { overall } of points.filter(({ queues }) => queues === 1)) assert.equal(overall, 0)
  const several = points.filter(({ queues, arrangement }) => {
    return queues > 1 && arrangement === 'queues in turn'
  })
  for (const { overall, inOrder } of several) assert.ok(overall > 0 && inOrder < 1)
})

test('the model says how often a message is delivered where no line was fitted', { skip }, () => {
  const { error, measured } = report.check
  assert.ok(Math.abs(error.deliveries) < 0.1, `off by ${error.deliveries}`)
  assert.ok(Math.abs(error.memory) < 0.25, `off by ${error.memory}`)
  assert.ok(measured.messagesPerSecond > 0)
})

test('every question of the page is answered without measuring again', { skip }, async () => {
  const page = readFileSync(PAGE, 'utf8')
  const asked = [...page.matchAll(/^npm run capacity -- (.*--messages.*)$/gm)]
  assert.ok(asked.length > 0, 'the page asks a question')
  for (const [, options = ''] of asked) {
    const { said, code, complained } = await capacity([...options.split(/\s+/), ...FILES])
    assert.equal(code, 0, complained)
    assert.match(said, /^rate +[\d. ]+ messages a second/m)
    assert.match(said, /^memory +[\d. ]+ MB of Redis$/m)
  }
})

test('what it cannot answer it says, and how to ask', async () => {
  const wrong: [string[], RegExp][] = [
    [['--messages', 'many'], /--messages is a number from 1 to/],
    [['--messages', '1', '--errors', '1'], /--errors is a number from 0 to 0\.999/],
    [['--consumers', '4'], /--consumers goes with --messages/],
    [['--fsync', 'never'], /--fsync is one of everysec, always, no/],
    [['--mesages', '1'], /Unknown option '--mesages'/],
  ]
  for (const [options, complaint] of wrong) {
    const { code, complained } = await capacity(options)
    assert.equal(code, 1)
    assert.match(complained, complaint)
  }
  const { said, code } = await capacity(['--help'])
  assert.equal(code, 0)
  assert.match(said, /--messages <n>/)
})

async function capacity(options: readonly string[]) {
  const child = spawn(process.execPath, ['tools/run.mjs', 'test/capacity/run.ts', ...options], {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const ended = once(child, 'close')
  const [said, complained] = await Promise.all([text(child.stdout), text(child.stderr)])
  const [code] = (await ended) as [number | null]
  return { said, complained, code }
}
