/**
 * Matching of the four exchange types.
 *
 * Method: tables of examples from the specification and RabbitMQ's documentation; random patterns
 * and headers against matchers that are plainly right; and the number of nodes looked at, which
 * must not grow with bindings that do not match.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Table } from '@sluice/amqp'
import fc from 'fast-check'
import type { Arguments, BindingDefinition, ExchangeType } from './definition.ts'
import { compileMatcher, headerKey } from './exchange.ts'

function binding(destination: string, routingKey: string, args: Arguments = {}): BindingDefinition {
  return { source: 'x', destination, destinationType: 'queue', routingKey, arguments: args }
}

function matched(
  type: ExchangeType,
  bindings: BindingDefinition[],
  routingKey: string,
  headers: Table = {},
): string[] {
  const names = new Set<string>()
  compileMatcher(type, bindings).match(
    routingKey,
    () => headers,
    (target) => {
      names.add(target.name)
    },
  )
  return [...names].sort()
}

test('direct matches the routing key itself', () => {
  const bindings = [binding('a', 'k'), binding('b', 'k'), binding('c', 'other')]
  assert.deepEqual(matched('direct', bindings, 'k'), ['a', 'b'])
  assert.deepEqual(matched('direct', bindings, 'K'), [])
})

test('fanout matches whatever the key', () => {
  assert.deepEqual(matched('fanout', [binding('a', 'k'), binding('b', '')], 'z'), ['a', 'b'])
})

test('queue and exchange of one name are two destinations', () => {
  const targets: string[] = []
  const toExchange = { ...binding('a', 'k'), destinationType: 'exchange' as const }
  compileMatcher('direct', [binding('a', 'k'), toExchange]).match(
    'k',
    () => ({}),
    ({ type, name }) => targets.push(`${type} ${name}`),
  )
  assert.deepEqual(targets, ['queue a', 'exchange a'])
})

const topics: [pattern: string, key: string, matches: boolean][] = [
  ['*.orange.*', 'quick.orange.rabbit', true],
  ['*.orange.*', 'quick.orange.new.rabbit', false],
  ['*.*.rabbit', 'lazy.orange.rabbit', true],
  ['lazy.#', 'lazy', true],
  ['lazy.#', 'lazy.orange.new.rabbit', true],
  ['lazy.#', 'lazyx', false],
  ['#', '', true],
  ['#', 'a.b', true],
  ['*', '', false],
  ['*', 'a', true],
  ['*', 'a.b', false],
  ['', '', true],
  ['', 'a', false],
  ['a..b', 'a..b', true],
  ['a.*.b', 'a..b', true],
  ['a.#.b', 'a.b', true],
  ['a.#.b', 'a.x.y.b', true],
  ['a.#.b', 'a.b.x', false],
  ['#.#', '', true],
  ['#.*', '', false],
  ['#.a.#', 'x.a.y', true],
  ['*a', 'xa', false],
]
for (const [pattern, key, matches] of topics) {
  test(`topic '${pattern}' ${matches ? 'matches' : 'does not match'} '${key}'`, () => {
    assert.deepEqual(matched('topic', [binding('q', pattern)], key), matches ? ['q'] : [])
  })
}

const headers: [what: string, args: Arguments, headers: Table, matches: boolean][] = [
  ['all by default', { a: 1, b: 'x' }, { a: 1, b: 'x', c: 2 }, true],
  ['all by default, one missing', { a: 1, b: 'x' }, { a: 1 }, false],
  ['any', { 'x-match': 'any', a: 1, b: 'x' }, { a: 2, b: 'x' }, true],
  ['any, none equal', { 'x-match': 'any', a: 1, b: 'x' }, { a: 2 }, false],
  ['all of nothing', {}, {}, true],
  ['any of nothing', { 'x-match': 'any' }, { a: 1 }, false],
  ['all ignores x-', { a: 1, 'x-b': 2 }, { a: 1 }, true],
  ['any ignores x-', { 'x-match': 'any', 'x-b': 2 }, { 'x-b': 2 }, false],
  ['all-with-x', { 'x-match': 'all-with-x', a: 1, 'x-b': 2 }, { a: 1 }, false],
  ['all-with-x, both', { 'x-match': 'all-with-x', a: 1, 'x-b': 2 }, { a: 1, 'x-b': 2 }, true],
  ['any-with-x', { 'x-match': 'any-with-x', a: 1, 'x-b': 2 }, { 'x-b': 2 }, true],
  ['a void value tests presence', { a: null }, { a: 'whatever' }, true],
  ['a void value, absent', { a: null }, { b: 1 }, false],
  ['a number is no text', { a: 1 }, { a: '1' }, false],
  ['integers by value', { a: 1 }, { a: 1n }, true],
  ['tables by value', { a: { x: 1, y: [2] } }, { a: { y: [2], x: 1 } }, true],
  ['an inherited name is no header', { constructor: null }, {}, false],
]
for (const [what, args, message, matches] of headers) {
  test(`headers: ${what}`, () => {
    const found = matched('headers', [binding('q', 'ignored', args)], 'k', message)
    assert.deepEqual(found, matches ? ['q'] : [])
  })
}

/** The definition of topic matching, word for word: slow, and plainly right. */
function matchesTopic(pattern: string[], words: string[]): boolean {
  const [first, ...rest] = pattern
  if (first === undefined) return words.length === 0
  if (first === '#') {
    return words.length > 0
      ? matchesTopic(rest, words) || matchesTopic(pattern, words.slice(1))
      : matchesTopic(rest, words)
  }
  if (words.length === 0) return false
  return (first === '*' || first === words[0]) && matchesTopic(rest, words.slice(1))
}
const split = (key: string) => (key === '' ? [] : key.split('.'))

const word = fc.constantFrom('a', 'b', '')
const key = fc.array(word, { maxLength: 6 }).map((words) => words.join('.'))
const pattern = fc
  .array(fc.oneof(word, fc.constantFrom('*', '#')), { maxLength: 6 })
  .map((words) => words.join('.'))

test('topic: random patterns match exactly what their definition says', () => {
  fc.assert(
    fc.property(fc.array(pattern, { maxLength: 20 }), key, (patterns, routingKey) => {
      const bindings = patterns.map((p, i) => binding(`q${i}`, p))
      const expected = bindings
        .filter((b) => matchesTopic(split(b.routingKey), split(routingKey)))
        .map((b) => b.destination)
      assert.deepEqual(matched('topic', bindings, routingKey), expected.sort())
    }),
    { numRuns: 3_000 },
  )
})

const headerName = fc.constantFrom('a', 'b', 'x-c')
const headerValue = fc.constantFrom(1, 2, 'v')
const headersTable = fc.dictionary(headerName, headerValue, { noNullPrototype: true })
const headersArguments = fc
  .tuple(
    fc.constantFrom(undefined, 'all', 'any', 'all-with-x', 'any-with-x'),
    fc.dictionary(headerName, fc.oneof(headerValue, fc.constant(null)), { noNullPrototype: true }),
  )
  .map(([mode, args]): Arguments => (mode ? { ...args, 'x-match': mode } : args))

function matchesHeaders(args: Arguments, message: Table): boolean {
  const mode = String(args['x-match'] ?? 'all')
  const holds = Object.entries(args)
    .filter(([name]) => name !== 'x-match')
    .filter(([name]) => mode.endsWith('-with-x') || !name.startsWith('x-'))
    .map(
      ([name, value]) =>
        Object.hasOwn(message, name) &&
        (value === null || headerKey(value) === headerKey(message[name]!)),
    )
  return mode.startsWith('any') ? holds.includes(true) : !holds.includes(false)
}

test('headers: random bindings match exactly what their definition says', () => {
  fc.assert(
    fc.property(fc.array(headersArguments, { maxLength: 12 }), headersTable, (all, message) => {
      const bindings = all.map((args, i) => binding(`q${i}`, '', args))
      const expected = bindings
        .filter((b) => matchesHeaders(b.arguments, message))
        .map((b) => b.destination)
      assert.deepEqual(matched('headers', bindings, '', message), expected.sort())
    }),
    { numRuns: 3_000 },
  )
})

/** Nodes looked at with n bindings that do not match beside three that do. */
function looked(type: ExchangeType, n: number): number {
  const others = Array.from({ length: n }, (_, i) =>
    type === 'headers'
      ? binding(`o${i}`, '', { id: i, kind: 'order', region: `r${i % 7}` })
      : binding(`o${i}`, `other${i}.*.k${i}.#`),
  )
  const ours =
    type === 'headers'
      ? [binding('q', '', { kind: 'order', id: 'mine' }), binding('q', '', {})]
      : [binding('q', 'my.key'), binding('q', 'my.*'), binding('q', '#.key')]
  let visits = 0
  const matcher = compileMatcher(type, [...others, ...ours])
  const message = { kind: 'order', id: 'mine', region: 'r1' }
  const count = matcher.match(
    'my.key',
    () => message,
    () => visits++,
  )
  assert(visits > 0)
  return count
}

for (const type of ['direct', 'topic', 'headers'] as const) {
  test(`${type}: bindings that do not match cost nothing`, () => {
    assert.equal(looked(type, 10_000), looked(type, 10))
  })
}

test('topic: many # in many patterns stay cheap', () => {
  const bindings = Array.from({ length: 50 }, (_, i) => binding(`q${i}`, '#.a.'.repeat(i) + '#'))
  const routingKey = Array(127).fill('a').join('.')
  const count = compileMatcher('topic', bindings).match(
    routingKey,
    () => ({}),
    () => {},
  )
  assert(count < 128 * 2 * 50, `looked at ${count} nodes`)
})
