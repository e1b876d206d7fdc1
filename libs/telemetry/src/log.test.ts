import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BrokerError } from '@sluice/core'
import { openLog, reportTo } from './log.ts'

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
    reportTo(log)(new BrokerError('store_unavailable', 'Redis is away', { cause }))
    assert.doesNotMatch(lines.join(''), /hush/)
    assert.match(lines.join(''), /redis:\/\/\*\*\*@h:1/)
    assert.match(lines.join(''), /Redis is away/)
  }
})
