/**
 * Users' regular expressions.
 *
 * Method: random patterns of what is understood must agree with RegExp on random names; what would
 * make RegExp run for ever is answered at once.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { BrokerError } from './errors.ts'
import { compilePattern, PATTERN_LENGTH_MAX } from './pattern.ts'

const atom = fc.constantFrom(
  ...[
    'a',
    'b',
    '-',
    '.',
    '\\.',
    '\\d',
    '\\w',
    '\\S',
    '[ab]',
    '[^a]',
    '[a-c1]',
    '[]',
    '[^]',
    '^',
    '$',
  ],
)
const quantifier = fc.constantFrom('', '', '*', '+', '?', '{2}', '{0,2}', '{1,}', '*?', '{0}')
const { pattern } = fc.letrec<{ pattern: string }>((tie) => ({
  pattern: fc
    .array(
      fc.oneof(
        { depthSize: 'small' },
        fc.tuple(atom, quantifier).map(([a, q]) => (a === '^' || a === '$' ? a : a + q)),
        fc.tuple(tie('pattern'), quantifier).map(([p, q]) => `(${p})${q}`),
        fc.tuple(tie('pattern'), tie('pattern')).map(([p, q]) => `(?:${p}|${q})`),
      ),
      { maxLength: 4 },
    )
    .map((parts) => parts.join('')),
}))
const name = fc.string({ unit: fc.constantFrom('a', 'b', 'c', '1', '.', '-', '\n'), maxLength: 8 })

test('random patterns agree with RegExp', () => {
  fc.assert(
    fc.property(pattern, fc.array(name, { minLength: 3, maxLength: 6 }), (source, names) => {
      fc.pre(source.length <= 60)
      const ours = compilePattern(source)
      for (const text of names) {
        assert.equal(ours(text), new RegExp(source, 'u').test(text), `/${source}/ on ${text}`)
      }
    }),
    { numRuns: 5_000 },
  )
})

const examples: [source: string, name: string, found: boolean][] = [
  ['', 'anything', true],
  ['.*', '', true],
  ['^orders\\.', 'orders.eu', true],
  ['^orders\\.', 'ordersx', false],
  ['^(eu|us)-\\d{2,3}$', 'us-123', true],
  ['^(eu|us)-\\d{2,3}$', 'us-1234', false],
  ['^amq\\.gen-', 'amq.gen-abc', true],
  ['[\\w-]+', '--', true],
  ['日本?', '日', true],
]
for (const [source, text, found] of examples) {
  test(`/${source}/ ${found ? 'finds' : 'does not find'} '${text}'`, () => {
    assert.equal(compilePattern(source)(text), found)
  })
}

const unfit = [
  '(',
  ')',
  '[a',
  'a**',
  '*',
  'a{2',
  'a{3,2}',
  '(?=a)',
  '(?<n>a)',
  '\\1',
  '\\b',
  '\\p{L}',
]
for (const source of [...unfit, '[z-a]', '\\', 'a{9999}', '((a{99}){99}){99}', '^*']) {
  test(`/${source}/ is refused`, () => {
    assert.throws(
      () => compilePattern(source),
      (error) => error instanceof BrokerError && error.code === 'invalid_request',
    )
  })
}

test('patterns have a length limit, and groups a depth', () => {
  assert.throws(() => compilePattern('a'.repeat(PATTERN_LENGTH_MAX + 1)), BrokerError)
  assert.throws(() => compilePattern('('.repeat(120) + ')'.repeat(120)), BrokerError)
})

test('patterns that make a backtracking engine run for ever are answered', {
  timeout: 20_000,
}, () => {
  const text = `${'a'.repeat(254)}!`
  for (const source of ['^(a*)*$', '^(a|a)*$', '(a+)+$', '.*.*.*.*.*.*.*.*x', '(a?){200}a{40}x']) {
    assert.equal(compilePattern(source)(text), false)
    assert.equal(compilePattern(source)(`${text}aaa${'a'.repeat(40)}x`), source.endsWith('x'))
  }
  const choices = `${'(a|a)'.repeat(49)}x`
  assert.equal(compilePattern(choices)(text), false)
})
