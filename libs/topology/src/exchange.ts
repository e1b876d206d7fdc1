/**
 * Which bindings of one exchange a message matches: direct, fanout, topic and headers.
 *
 * Hot path. A matcher is compiled once from an exchange's bindings and then only read. Its cost
 * follows what matches, not how many bindings there are: `match` answers how many nodes it looked
 * at, and tests hold that number. Measured by test/bench/routing.bench.ts.
 */
import type { FieldValue, Table } from '@sluice/amqp'
import {
  type Arguments,
  type BindingDefinition,
  canonical,
  type ExchangeType,
  type Json,
} from './definition.ts'

/** Where a binding leads. One object for each destination within a matcher. */
export interface Target {
  readonly type: 'queue' | 'exchange'
  readonly name: string
}

export interface Matcher {
  /** Whether the message's headers decide; if not, a result holds for every such routing key. */
  readonly readsHeaders: boolean
  /**
   * Calls visit(target) for every binding that matches; a target may come several times.
   * Returns how many nodes, buckets or bindings were looked at.
   */
  match(routingKey: string, headers: () => Table, visit: (target: Target) => void): number
}

export function compileMatcher(type: ExchangeType, bindings: Iterable<BindingDefinition>): Matcher {
  const targets = new Map<string, Target>()
  const targetOf = ({ destinationType, destination }: BindingDefinition): Target => {
    const id = `${destinationType} ${destination}`
    return getOrAdd(targets, id, () => ({ type: destinationType, name: destination }))
  }
  switch (type) {
    case 'direct':
      return directMatcher(bindings, targetOf)
    case 'fanout':
      return fanoutMatcher(bindings, targetOf)
    case 'topic':
      return topicMatcher(bindings, targetOf)
    case 'headers':
      return headersMatcher(bindings, targetOf)
  }
}

type TargetOf = (binding: BindingDefinition) => Target

function directMatcher(bindings: Iterable<BindingDefinition>, targetOf: TargetOf): Matcher {
  const byKey = new Map<string, Target[]>()
  for (const binding of bindings) push(byKey, binding.routingKey, targetOf(binding))
  return {
    readsHeaders: false,
    match(routingKey, _headers, visit) {
      const targets = byKey.get(routingKey)
      if (!targets) return 1
      for (const target of targets) visit(target)
      return 1 + targets.length
    },
  }
}

function fanoutMatcher(bindings: Iterable<BindingDefinition>, targetOf: TargetOf): Matcher {
  const targets = new Set<Target>()
  for (const binding of bindings) targets.add(targetOf(binding))
  return {
    readsHeaders: false,
    match(_routingKey, _headers, visit) {
      for (const target of targets) visit(target)
      return targets.size
    },
  }
}

/**
 * A word of the trie of binding keys. The path to a node is the pattern read so far; `#` stands in
 * `hash`, and a node reached by it also stays where it is for every further word.
 */
class TopicNode {
  readonly words = new Map<string, TopicNode>()
  readonly targets: Target[] = []
  readonly repeats: boolean
  star: TopicNode | undefined
  hash: TopicNode | undefined

  constructor(repeats: boolean) {
    this.repeats = repeats
  }
}

/**
 * Topic patterns, as one automaton: all states that the words read so far can be in, each once. So
 * several `#` in a row of patterns cost words x states at most, never a power of them.
 */
function topicMatcher(bindings: Iterable<BindingDefinition>, targetOf: TargetOf): Matcher {
  const root = new TopicNode(false)
  for (const binding of bindings) {
    let node = root
    for (const word of topicWords(binding.routingKey)) node = topicChild(node, word)
    node.targets.push(targetOf(binding))
  }
  return {
    readsHeaders: false,
    match(routingKey, _headers, visit) {
      let states = new Set<TopicNode>()
      enterTopic(states, root)
      let looked = states.size
      for (const word of topicWords(routingKey)) {
        const next = new Set<TopicNode>()
        for (const node of states) {
          if (node.repeats) enterTopic(next, node)
          if (node.star) enterTopic(next, node.star)
          const child = node.words.get(word)
          if (child) enterTopic(next, child)
        }
        looked += next.size
        states = next
      }
      for (const node of states) {
        for (const target of node.targets) visit(target)
      }
      return looked
    },
  }
}

/** As RabbitMQ splits: an empty key has no word at all, and `a..b` has an empty one. */
function topicWords(key: string): string[] {
  return key === '' ? [] : key.split('.')
}

function topicChild(node: TopicNode, word: string): TopicNode {
  if (word === '*') {
    node.star ??= new TopicNode(false)
    return node.star
  }
  if (word === '#') {
    node.hash ??= new TopicNode(true)
    return node.hash
  }
  return getOrAdd(node.words, word, () => new TopicNode(false))
}

/** Adds a state, and those that `#` reaches from it without reading a word. */
function enterTopic(states: Set<TopicNode>, node: TopicNode): void {
  for (let at: TopicNode | undefined = node; at && !states.has(at); at = at.hash) states.add(at)
}

/** One way into a binding of a headers exchange: where it leads if the other pairs hold too. */
interface HeadersRule {
  readonly target: Target
  /** Header names and the keys of their values; null asks for presence alone. */
  readonly rest: readonly (readonly [name: string, key: string | null])[]
}

/**
 * Headers (amqp-0-9-1, 36: all, any, all-with-x, any-with-x). The bindings are indexed by header
 * and value, `all` under the one of its pairs that the fewest bindings ask for, `any` under each. A
 * message looks its own headers up, so bindings that share nothing with it are never looked at.
 */
function headersMatcher(bindings: Iterable<BindingDefinition>, targetOf: TargetOf): Matcher {
  const always: Target[] = []
  const { rules, asked } = headersRules(bindings, targetOf, always)
  const index = new Map<string, Map<string | null, HeadersRule[]>>()
  const enter = ([name, key]: HeadersRule['rest'][number], rule: HeadersRule) => {
    push(
      getOrAdd(index, name, () => new Map()),
      key,
      rule,
    )
  }
  for (const { any, pairs, target } of rules) {
    const rarest = pairs.reduce((a, b) => (asked.get(pairId(b))! < asked.get(pairId(a))! ? b : a))
    const entries = any ? pairs : [rarest]
    const rest = any ? [] : pairs.filter((pair) => pair !== rarest)
    for (const pair of entries) enter(pair, { target, rest })
  }
  return {
    readsHeaders: index.size > 0,
    match(_routingKey, headers, visit) {
      for (const target of always) visit(target)
      if (index.size === 0) return always.length
      return always.length + matchHeaders(index, headers(), visit)
    },
  }
}

function matchHeaders(
  index: ReadonlyMap<string, ReadonlyMap<string | null, HeadersRule[]>>,
  headers: Table,
  visit: (target: Target) => void,
): number {
  const keys = new Map<string, string>()
  for (const [name, value] of Object.entries(headers)) keys.set(name, headerKey(value))
  let looked = keys.size
  for (const [name, key] of keys) {
    const byKey = index.get(name)
    if (!byKey) continue
    for (const rules of [byKey.get(null), byKey.get(key)]) {
      if (!rules) continue
      looked += rules.length
      for (const { target, rest } of rules) {
        const holds = rest.every(([name, key]) =>
          key === null ? keys.has(name) : keys.get(name) === key,
        )
        if (holds) visit(target)
      }
    }
  }
  return looked
}

/** The bindings with pairs, and how many bindings ask for each pair; the others go to `always`. */
function headersRules(
  bindings: Iterable<BindingDefinition>,
  targetOf: TargetOf,
  always: Target[],
): {
  rules: { any: boolean; pairs: HeadersRule['rest'][number][]; target: Target }[]
  asked: Map<string, number>
} {
  const rules: ReturnType<typeof headersRules>['rules'] = []
  const asked = new Map<string, number>()
  for (const binding of bindings) {
    const { any, pairs } = headersRule(binding.arguments)
    const target = targetOf(binding)
    if (pairs.length === 0) {
      if (!any) always.push(target) // `all` of nothing holds, `any` of nothing does not
      continue
    }
    for (const pair of pairs) asked.set(pairId(pair), (asked.get(pairId(pair)) ?? 0) + 1)
    rules.push({ any, pairs, target })
  }
  return { rules, asked }
}

const pairId = ([name, key]: HeadersRule['rest'][number]) => `${key === null} ${name}\0${key}`

/**
 * What a headers binding asks for: header names and keys of their values (headerKey). A null value
 * asks for presence alone, and without `-with-x` what starts with `x-` is not looked at.
 */
function headersRule(args: Arguments): {
  any: boolean
  pairs: [name: string, key: string | null][]
} {
  const mode = args['x-match'] ?? 'all'
  const withX = mode === 'all-with-x' || mode === 'any-with-x'
  const pairs: [string, string | null][] = []
  for (const [name, value] of Object.entries(args)) {
    if (name === 'x-match' || (!withX && name.startsWith('x-'))) continue
    pairs.push([name, value === null ? null : headerKey(value)])
  }
  return { any: mode === 'any' || mode === 'any-with-x', pairs }
}

/**
 * A text that is equal for header values that are equal. Integers compare by value whatever their
 * width, and text never equals a number.
 */
export function headerKey(value: FieldValue | Json): string {
  if (typeof value === 'string') return `s${value}`
  if (typeof value === 'number' || typeof value === 'bigint') return `n${value}`
  return canonical(plain(value as FieldValue))
}

/** A field value as JSON with a tag on each type that JSON has no word for. */
function plain(value: FieldValue): Json {
  if (typeof value === 'bigint') return { '\0integer': String(value) }
  if (Buffer.isBuffer(value)) return { '\0bytes': value.toString('base64') }
  if (value instanceof Date) return { '\0time': value.getTime() }
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([name, field]) => [name, plain(field)]))
}

function push<K, T>(map: Map<K, T[]>, key: K, value: T): void {
  getOrAdd(map, key, () => []).push(value)
}

function getOrAdd<K, T>(map: Map<K, T>, key: K, make: () => T): T {
  let value = map.get(key)
  if (value === undefined) {
    value = make()
    map.set(key, value)
  }
  return value
}
