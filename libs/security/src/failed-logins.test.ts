import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BrokerError } from '@sluice/core'
import { FailedLogins } from './failed-logins.ts'

function failing(perMinute: number) {
  let now = 0
  const failures = new FailedLogins(perMinute, () => now)
  const heard = (address: string, name = '') => {
    try {
      failures.check(address, name)
      return true
    } catch (error) {
      assert.ok(error instanceof BrokerError && error.code === 'too_many_requests')
      return false
    }
  }
  const fail = (count: number, address: string, name = '') => {
    for (let i = 0; i < count; i++) failures.failed(address, name)
  }
  return { heard, fail, pass: (ms: number) => (now += ms) }
}

test('an address that fails too often is not heard, whatever the name, until time has passed', () => {
  const { heard, fail, pass } = failing(10)
  fail(9, '10.0.0.1', 'a')
  assert.ok(heard('10.0.0.1', 'b'))
  fail(1, '10.0.0.1', 'b')
  assert.ok(!heard('10.0.0.1', 'c'))
  assert.ok(heard('10.0.0.2', 'a'))
  pass(6_000)
  assert.ok(heard('10.0.0.1', 'c'), 'a tenth of a minute allows one more')
  fail(1, '10.0.0.1')
  assert.ok(!heard('10.0.0.1'))
})

test('a name that fails from many addresses is not heard from any', () => {
  const { heard, fail } = failing(10)
  for (let i = 0; i < 40; i++) fail(1, `10.0.1.${i}`, 'admin')
  assert.ok(!heard('10.0.2.1', 'admin'))
  assert.ok(heard('10.0.2.1', 'other'))
})

test('an IPv6 customer has one bucket for all of its addresses; IPv4 looks alike in both forms', () => {
  const { heard, fail } = failing(10)
  for (let i = 0; i < 10; i++) fail(1, `2001:db8:1:2::${i.toString(16)}`)
  assert.ok(!heard('2001:db8:1:2:ffff::1'))
  assert.ok(heard('2001:db8:1:3::1'))
  fail(10, '::ffff:10.0.0.9')
  assert.ok(!heard('10.0.0.9'))
})

test('the table is bounded, and 0 is no limit', () => {
  const { heard, fail } = failing(1)
  fail(1, 'first')
  assert.ok(!heard('first'))
  for (let i = 0; i < 10_000; i++) fail(1, `10.${i}`)
  assert.ok(heard('first'), 'it is forgotten')
  const unlimited = failing(0)
  unlimited.fail(1_000, 'a')
  assert.ok(unlimited.heard('a'))
})
