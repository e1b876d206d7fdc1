import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isOpen, type Window } from './windows.ts'

const WEEKDAYS: Window['days'] = ['mon', 'tue', 'wed', 'thu', 'fri']
const OFFICE: Window = { days: WEEKDAYS, from: '08:00', to: '20:00', timeZone: 'Europe/Berlin' }

const at = (time: string, ...windows: Window[]) => isOpen(windows, Date.parse(time))

test('without windows it is always open', () => {
  assert.equal(isOpen([], 0), true)
})

test('a window opens on its days, from its first minute to before its last, on its own clock', () => {
  // 2026-11-23 is a Monday; Berlin is an hour ahead in winter and two in summer.
  assert.equal(at('2026-11-23T06:59:59Z', OFFICE), false)
  assert.equal(at('2026-11-23T07:00:00Z', OFFICE), true)
  assert.equal(at('2026-11-23T18:59:59Z', OFFICE), true)
  assert.equal(at('2026-11-23T19:00:00Z', OFFICE), false)
  assert.equal(at('2026-11-22T12:00:00Z', OFFICE), false, 'a Sunday')
  assert.equal(at('2026-07-20T06:00:00Z', OFFICE), true)
  assert.equal(at('2026-07-20T18:00:00Z', OFFICE), false)
})

test('a window that ends before it begins reaches into the next day', () => {
  const night: Window = { days: ['fri'], from: '22:00', to: '06:00', timeZone: 'UTC' }
  assert.equal(at('2026-11-27T21:59:00Z', night), false)
  assert.equal(at('2026-11-27T22:00:00Z', night), true)
  assert.equal(at('2026-11-28T05:59:00Z', night), true)
  assert.equal(at('2026-11-28T06:00:00Z', night), false)
  assert.equal(at('2026-11-28T22:00:00Z', night), false)
  assert.equal(at('2026-11-27T05:00:00Z', night), false, 'it did not open on Thursday')
})

test('a whole day, and more than one window', () => {
  const sunday: Window = { days: ['sun'], from: '00:00', to: '24:00', timeZone: 'UTC' }
  assert.equal(at('2026-11-22T23:59:59Z', sunday), true)
  assert.equal(at('2026-11-23T00:00:00Z', sunday), false)
  assert.equal(at('2026-11-22T12:00:00Z', OFFICE, sunday), true)
})
