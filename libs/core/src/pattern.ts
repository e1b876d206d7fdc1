/**
 * Regular expressions that users supply, for policies and filters, in time that their author
 * cannot blow up.
 *
 * JavaScript's RegExp backtracks: `(a|a)*$` or `.*.*.*.*x` against a name of 255 characters runs for
 * longer than the universe, and no list of forbidden constructs catches every such pattern. So a
 * pattern is compiled here to an automaton (K. Thompson, Regular Expression Search Algorithm) that
 * is in each of its states at most once: a match costs at most states x characters.
 *
 * Understood, with RegExp's meaning: characters, `.`, `[...]`, `\d \D \w \W \s \S`, `\t \n \r`, an
 * escaped punctuation mark, `^`, `$`, `(...)`, `(?:...)`, `|`, `*`, `+`, `?`, `{n}`, `{n,}`, `{n,m}`.
 * Back references, look-around and flags are refused; they have no place in a name's pattern.
 */
import { BrokerError } from './errors.ts'

/** Whether the pattern is found anywhere in a name. */
export type Pattern = (name: string) => boolean

/** A policy's pattern is a few words; names have 255 bytes. */
export const PATTERN_LENGTH_MAX = 255
/** `{n,m}` copies what it repeats; past this an expression is refused rather than compiled. */
const STATES_MAX = 1_000
const DEPTH_MAX = 50

type Test = (code: number) => boolean

/** One step of the automaton. `test` reads a character; the others read nothing. */
type State =
  | { kind: 'test'; test: Test; next: number }
  | { kind: 'split'; next: number; other: number }
  | { kind: 'start'; next: number }
  | { kind: 'end'; next: number }
  | { kind: 'found' }

type Tree =
  | { kind: 'test'; test: Test }
  | { kind: 'start' }
  | { kind: 'end' }
  | { kind: 'all'; parts: Tree[] }
  | { kind: 'any'; parts: Tree[] }
  | { kind: 'repeat'; part: Tree; min: number; max: number }

/** Throws BrokerError invalid_request for what is not understood, too long or too large. */
export function compilePattern(source: string): Pattern {
  if (source.length > PATTERN_LENGTH_MAX) {
    throw refused(`it has at most ${PATTERN_LENGTH_MAX} characters`)
  }
  const tree = new Parser(source).parse()
  const states: State[] = [{ kind: 'found' }]
  const first = build(tree, 0, states)
  return nativePattern(source, tree) ?? ((name) => search(states, first, name))
}

/**
 * RegExp itself, which is some fifty times faster, for patterns that cannot make it backtrack more
 * than alternatives x characters squared: one repetition at most, of a character, and one `|` group.
 */
function nativePattern(source: string, tree: Tree): Pattern | undefined {
  let choices = 0
  let repeats = 0
  const walk = (node: Tree): boolean => {
    if (node.kind === 'repeat') return ++repeats <= 1 && node.part.kind === 'test'
    if (node.kind === 'any' && ++choices > 1) return false
    return node.kind === 'all' || node.kind === 'any' ? node.parts.every(walk) : true
  }
  if (!walk(tree)) return undefined
  try {
    const native = new RegExp(source, 'u')
    return (name) => native.test(name)
  } catch {
    return undefined // an escape that RegExp refuses, such as \-
  }
}

function search(states: readonly State[], first: number, name: string): boolean {
  const characters = Array.from(name, (character) => character.codePointAt(0)!)
  let current = new Set<number>()
  for (let at = 0; at <= characters.length; at++) {
    enter(states, first, at, characters.length, current) // a match may begin at any character
    if (current.has(0)) return true
    const code = characters[at]
    if (code === undefined) return false
    const next = new Set<number>()
    for (const index of current) {
      const state = states[index]!
      if (state.kind === 'test' && state.test(code)) {
        enter(states, state.next, at + 1, characters.length, next)
      }
    }
    current = next
  }
  return false
}

/** Adds a state and all that it leads to without reading a character. */
function enter(states: readonly State[], from: number, at: number, end: number, to: Set<number>) {
  const open = [from]
  for (let index = open.pop(); index !== undefined; index = open.pop()) {
    if (to.has(index)) continue
    to.add(index)
    const state = states[index]!
    if (state.kind === 'split') open.push(state.next, state.other)
    else if (state.kind === 'start' && at === 0) open.push(state.next)
    else if (state.kind === 'end' && at === end) open.push(state.next)
  }
}

/** Adds the states of `tree`, which lead on to `next`; returns where they begin. */
function build(tree: Tree, next: number, states: State[]): number {
  const add = (state: State): number => {
    if (states.length >= STATES_MAX) throw refused('it repeats too much')
    return states.push(state) - 1
  }
  switch (tree.kind) {
    case 'test':
      return add({ kind: 'test', test: tree.test, next })
    case 'start':
    case 'end':
      return add({ kind: tree.kind, next })
    case 'all':
      return tree.parts.reduceRight((after, part) => build(part, after, states), next)
    case 'any':
      return tree.parts
        .map((part) => build(part, next, states))
        .reduceRight((other, begin) => add({ kind: 'split', next: begin, other }))
    case 'repeat': {
      let begin = next
      if (tree.max === Number.POSITIVE_INFINITY) {
        begin = add({ kind: 'split', next: 0, other: next })
        states[begin] = { kind: 'split', next: build(tree.part, begin, states), other: next }
      } else {
        for (let i = tree.min; i < tree.max; i++) {
          begin = add({ kind: 'split', next: build(tree.part, begin, states), other: next })
        }
      }
      for (let i = 0; i < tree.min; i++) begin = build(tree.part, begin, states)
      return begin
    }
  }
}

const isDigit: Test = (code) => code >= 48 && code <= 57
const isWord: Test = (code) =>
  isDigit(code) || (code >= 65 && code <= 90) || (code >= 97 && code <= 122) || code === 95
const isSpace: Test = (code) => /\s/.test(String.fromCodePoint(code))
const isLineEnd: Test = (code) => code === 10 || code === 13 || code === 0x2028 || code === 0x2029
const not =
  (test: Test): Test =>
  (code) =>
    !test(code)
const is =
  (wanted: string): Test =>
  (code) =>
    code === wanted.codePointAt(0)

const CLASSES: Readonly<Record<string, Test>> = {
  d: isDigit,
  D: not(isDigit),
  w: isWord,
  W: not(isWord),
  s: isSpace,
  S: not(isSpace),
}
const CONTROLS: Readonly<Record<string, string>> = { t: '\t', n: '\n', r: '\r' }

class Parser {
  readonly #characters: readonly string[]
  #at = 0

  constructor(source: string) {
    this.#characters = Array.from(source)
  }

  parse(): Tree {
    const tree = this.#alternatives(0)
    if (this.#peek() !== undefined) throw refused('a ) closes no group')
    return tree
  }

  #peek(): string | undefined {
    return this.#characters[this.#at]
  }

  #skip(text: string): boolean {
    if (
      !this.#characters
        .slice(this.#at, this.#at + text.length)
        .join('')
        .startsWith(text)
    ) {
      return false
    }
    this.#at += text.length
    return true
  }

  #alternatives(depth: number): Tree {
    if (depth > DEPTH_MAX) throw refused(`its groups nest at most ${DEPTH_MAX} deep`)
    const parts = [this.#sequence(depth)]
    while (this.#skip('|')) parts.push(this.#sequence(depth))
    return parts.length === 1 ? parts[0]! : { kind: 'any', parts }
  }

  #sequence(depth: number): Tree {
    const parts: Tree[] = []
    for (let next = this.#peek(); next !== undefined && next !== '|' && next !== ')'; ) {
      parts.push(this.#repeated(this.#one(depth)))
      next = this.#peek()
    }
    return { kind: 'all', parts }
  }

  #repeated(part: Tree): Tree {
    const [min, max] = this.#quantifier()
    if (min === 1 && max === 1) return part
    if (part.kind === 'start' || part.kind === 'end') throw refused('an anchor is not repeated')
    this.#skip('?') // lazy: which match is found first does not matter here
    if ('*+?{'.includes(this.#peek() ?? ' ')) throw refused('a repetition is repeated')
    return { kind: 'repeat', part, min, max }
  }

  #quantifier(): [min: number, max: number] {
    if (this.#skip('*')) return [0, Number.POSITIVE_INFINITY]
    if (this.#skip('+')) return [1, Number.POSITIVE_INFINITY]
    if (this.#skip('?')) return [0, 1]
    if (this.#peek() !== '{') return [1, 1]
    const rest = this.#characters.slice(this.#at).join('')
    const [text, from, comma, to] = /^\{(\d{1,4})(,?)(\d{0,4})\}/.exec(rest) ?? []
    if (text === undefined || (comma === '' && to !== '')) throw refused('a { begins {n,m}')
    this.#at += text.length
    const min = Number(from)
    const max = comma === '' ? min : to === '' ? Number.POSITIVE_INFINITY : Number(to)
    if (max < min) throw refused('in {n,m} n is the smaller')
    if (min === 1 && max === 1) return [1, 1]
    return [min, max]
  }

  #one(depth: number): Tree {
    const character = this.#characters[this.#at++]!
    switch (character) {
      case '(': {
        if (this.#skip('?') && !this.#skip(':')) throw refused('only (?: may follow a (')
        const group = this.#alternatives(depth + 1)
        if (!this.#skip(')')) throw refused('a group is not closed')
        return group
      }
      case '[':
        return { kind: 'test', test: this.#set() }
      case '.':
        return { kind: 'test', test: not(isLineEnd) }
      case '^':
        return { kind: 'start' }
      case '$':
        return { kind: 'end' }
      case '*':
      case '+':
      case '?':
      case '{':
      case '}':
      case ']':
        throw refused(`write \\${character} for the character ${character}`)
      case '\\': {
        const escaped = this.#escape()
        return { kind: 'test', test: typeof escaped === 'string' ? is(escaped) : escaped }
      }
      default:
        return { kind: 'test', test: is(character) }
    }
  }

  /** After a backslash: a class, or the character that is meant. */
  #escape(): Test | string {
    const character = this.#characters[this.#at++]
    if (character === undefined) throw refused('a \\ ends it')
    const known = CLASSES[character] ?? CONTROLS[character]
    if (known !== undefined) return known
    if (/[\p{L}\p{N}]/u.test(character)) throw refused(`\\${character} is not supported`)
    return character
  }

  #set(): Test {
    const negated = this.#skip('^')
    const tests: Test[] = []
    while (!this.#skip(']')) {
      const from = this.#member()
      if (typeof from === 'string' && this.#peek() === '-' && this.#ahead(1) !== ']') {
        this.#at++
        const to = this.#member()
        if (typeof to !== 'string') throw refused('a range ends in a class')
        tests.push(range(from, to))
      } else {
        tests.push(typeof from === 'string' ? is(from) : from)
      }
    }
    const test: Test = (code) => tests.some((member) => member(code))
    return negated ? not(test) : test
  }

  #ahead(by: number): string | undefined {
    return this.#characters[this.#at + by]
  }

  #member(): Test | string {
    const character = this.#characters[this.#at++]
    if (character === undefined) throw refused('a [ is not closed')
    return character === '\\' ? this.#escape() : character
  }
}

function range(from: string, to: string): Test {
  const [low, high] = [from.codePointAt(0)!, to.codePointAt(0)!]
  if (high < low) throw refused('a range runs backwards')
  return (code) => code >= low && code <= high
}

const refused = (why: string) =>
  new BrokerError('invalid_request', `This pattern is not accepted: ${why}.`)
