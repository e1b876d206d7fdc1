import assert from 'node:assert/strict'
import { test } from 'node:test'
import { longFunctions } from './long-functions.ts'

const body = (indent: string) => Array.from({ length: 3 }, () => `${indent}work()`)

test('functions of every shape are measured from header to closing brace', () => {
  for (const [header, close, indent] of [
    ['function plain() {', '}', ''],
    ['export async function typed(a: string): Promise<void> {', '}', ''],
    ['const arrow = async (t) => {', '}', ''],
    ["test('a sentence', async (t) => {", '})', ''],
    ['  async #method(a: number): Promise<void> {', '  }', '  '],
    ['  constructor(a: number) {', '  }', '  '],
  ] as const) {
    const lines = [header, ...body(`${indent}  `), `${indent}${close.trim()}`]
    assert.deepEqual(longFunctions(lines, 4), [{ line: 1, length: 5 }], header)
    assert.deepEqual(longFunctions(lines, 5), [], header)
  }
})

test('a header of several lines belongs to its function', () => {
  const lines = ['function wide(', '  a: string,', '): void {', ...body('  '), '}']
  assert.deepEqual(longFunctions(lines, 6), [{ line: 1, length: 7 }])
})

test('a long condition or an object is no function', () => {
  const condition = ['if (', '  a &&', '  b', ') {', ...body('  '), '}']
  const object = ['const table = {', ...body('  '), '}']
  assert.deepEqual(longFunctions([...condition, ...object], 2), [])
})
