import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LineSplitter } from './ndjson.ts'

function split(text: string, chunkSize: number, lineBytesMax = 100): (string | undefined)[] {
  const lines: (string | undefined)[] = []
  const splitter = new LineSplitter(lineBytesMax, (line, number) => {
    lines.push(line?.toString())
    assert.equal(number, lines.length)
  })
  const bytes = Buffer.from(text)
  for (let at = 0; at < bytes.length; at += chunkSize)
    splitter.push(bytes.subarray(at, at + chunkSize))
  splitter.end()
  return lines
}

test('the same lines come out, whatever the chunk boundaries', () => {
  const text = 'one\ntwö\r\n\n{"three":"3"}\r\nlast'
  for (let chunkSize = 1; chunkSize <= text.length + 1; chunkSize++) {
    assert.deepEqual(split(text, chunkSize), ['one', 'twö', '', '{"three":"3"}', 'last'])
  }
})

test('an end of line at the very end makes no further line', () => {
  assert.deepEqual(split('a\nb\n', 2), ['a', 'b'])
  assert.deepEqual(split('', 1), [])
})

test('a line over the limit is announced once and skipped, and the next one is whole', () => {
  for (const chunkSize of [1, 7, 1_000]) {
    const text = `${'x'.repeat(101)}\n${'y'.repeat(100)}\n${'z'.repeat(500)}`
    assert.deepEqual(split(text, chunkSize), [undefined, 'y'.repeat(100), undefined])
  }
})

test('a long line that comes byte by byte is put together', () => {
  const line = 'abc'.repeat(2_000)
  assert.deepEqual(split(`${line}\nend`, 1, 10_000), [line, 'end'])
})
