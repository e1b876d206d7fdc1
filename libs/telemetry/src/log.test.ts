import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BrokerError } from '@sluice/core'
import { noteTrace, openLog, reportTo } from './log.ts'

function capture(pretty: boolean) {
  const lines: string[] = []
  return { lines, log: openLog({ level: 'info', pretty, write: (line) => lines.push(line) }) }
}

test('lines are JSON with a time, a level and a message', () => {
  const { lines, log } = capture(false)
  log.info({ queue: 'orders' }, 'declared')
  log.debug('left out')
  const { time, ...line } = JSON.parse(lines.join(''))
  assert.match(time, /^\d{4}-\d\d-\d\dT/)
  assert.deepEqual(line, { level: 'info', queue: 'orders', msg: 'declared' })
})

test('secrets never reach a line: not by field, not in a URL, not in an error', () => {
  for (const pretty of [false, true]) {
    const { lines, log } = capture(pretty)
    log.info(
      { password: 'hush', config: { redisUrl: 'hush', token: 'hush' } },
      'to redis://u:hush@h:1/',
    )
    const cause = new Error('connect rediss://:hush@h')
    Object.assign(cause, { command: { name: 'auth', args: ['hush'] } })
    reportTo(log)(new BrokerError('store_unavailable', 'Redis is away', { cause }))
    reportTo(log)(cause)
    assert.doesNotMatch(lines.join(''), /hush/)
    assert.match(lines.join(''), /redis:\/\/\*\*\*@h:1/)
    assert.match(lines.join(''), /Redis is away/)
  }
})

test('a line about something traced has its ids, in JSON fields of their own', () => {
  const { lines, log } = capture(false)
  const traceparent = '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
  const ids = { trace_id: '0af7651916cd43dd8448eb211c80319c', span_id: 'b7ad6b7169203331' }
  log.info({ trace: { traceparent } }, 'by field')
  const error = new Error('by error')
  noteTrace(error, { traceparent })
  reportTo(log)(error)
  log.info({ trace: { traceparent: 'nonsense' } }, 'none')
  const [byField, byError, none] = lines.map((line) => JSON.parse(line))
  for (const line of [byField, byError]) {
    assert.deepEqual({ trace_id: line.trace_id, span_id: line.span_id }, ids)
  }
  assert.deepEqual(Object.keys(none), ['level', 'time', 'msg'])
})

test('a line that repeats is counted, others are not held up, and the count is told', (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  let dropped = 0
  const lines: string[] = []
  const write = (line: string) => lines.push(line)
  const log = openLog({ level: 'info', pretty: false, write, dropped: () => dropped++ })
  for (let n = 0; n < 500; n++) log.warn({ n }, 'again')
  reportTo(log)(new Error('another'))
  assert.equal(lines.length, 11)
  assert.equal(dropped, 490)
  t.mock.timers.tick(10_000)
  const { time: _, ...summary } = JSON.parse(lines[11]!)
  assert.deepEqual(summary, { level: 'warn', repeated: 490, msg: 'again' })
  log.warn('again')
  assert.equal(lines.length, 13, 'a new window')
})

test('what is told apart is bounded', () => {
  const { lines, log } = capture(false)
  for (let n = 0; n < 5_000; n++) log.info(`line ${n}`)
  assert.equal(lines.length, 5_000)
})

test('the level changes while it runs', () => {
  const { lines, log } = capture(false)
  log.level = 'debug'
  log.debug('now')
  log.level = 'error'
  log.warn('not any more')
  assert.deepEqual(
    lines.map((line) => JSON.parse(line).msg),
    ['now'],
  )
})
