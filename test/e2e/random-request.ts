/** Requests drawn at random for the operations of an OpenAPI document: some fit, most do not. */
import type { Random } from '@sluice/testkit'
import type { RequestOptions } from '../support/http.ts'

// biome-ignore lint/suspicious/noExplicitAny: a JSON schema, and the document around it
type Json = any

export interface Operation {
  readonly method: string
  readonly path: string
  /** What it may answer, by the document. */
  readonly statuses: ReadonlySet<string>
  readonly document: Json
  readonly spec: Json
}

export function operationsOf(document: Json): Operation[] {
  return Object.entries(document.paths as Json).flatMap(([path, methods]) =>
    Object.entries(methods as Json).map(([method, spec]: [string, Json]) => ({
      method: method.toUpperCase(),
      path,
      statuses: new Set(Object.keys(spec.responses)),
      document,
      spec,
    })),
  )
}

/** Names that may exist, and names that nobody should have. */
const NAMES = [
  ...['v', 'q', 'x', 'amq.dead-letters', 'amq.topic', 'amq.default', '/'],
  ...['', '..', 'a b', 'ü', '%', '\0', '{}', 'x'.repeat(255), 'y'.repeat(256), '__proto__'],
]

const ODD: readonly Json[] = [
  ...[null, true, false, 0, -1, 1.5, 1e308, 2 ** 53, 4_294_967_296],
  ...['', '0', '-1', 'x'.repeat(2_000), '\u0000', '\ud800', '__proto__', 'a.*.#', '(((', '[a-'],
  ...[[], {}, [[]], { constructor: 1 }, [1, 'a', null], { 'x-match': 'all' }],
]

export function randomRequest(
  { path, spec, document, method }: Operation,
  random: Random,
): { path: string; options: RequestOptions } {
  const query: string[] = []
  const headers: Record<string, string> = {}
  let filled = path
  for (const { name, in: place, schema } of spec.parameters ?? []) {
    if (place === 'path') {
      const fitting = name === 'vhost' ? 'v' : name === 'queue' ? 'q' : random.pick(NAMES)
      const value = random.chance(0.7) ? fitting : random.pick(NAMES)
      filled = filled.replace(`{${name}}`, random.chance(0.98) ? encodeURIComponent(value) : '%zz')
    } else if (random.chance(0.25)) {
      const value = text(
        random.chance(0.6) ? sample(schema, document, random, 0) : random.pick(ODD),
      )
      if (place === 'query') query.push(`${name}=${encodeURIComponent(value)}`)
      else
        headers[name.replace('{Name}', 'n')] = Buffer.from(
          value.replace(/[^\t -\uffff]/g, ''),
        ).toString('latin1')
    }
  }
  if (random.chance(0.05)) query.push('unknown=1')
  const body =
    method === 'GET' ? undefined : randomBody(spec.requestBody, document, random, headers)
  const options = { headers, ...(body !== undefined && { body }) }
  return { path: query.length > 0 ? `${filled}?${query.join('&')}` : filled, options }
}

function text(value: Json): string {
  const string = typeof value === 'string' ? value : JSON.stringify(value)
  return string.toWellFormed()
}

function randomBody(
  requestBody: Json,
  document: Json,
  random: Random,
  headers: Record<string, string>,
): string | undefined {
  const types = Object.keys(requestBody?.content ?? {})
  if (types.length === 0 || random.chance(0.1)) {
    return random.chance(0.9) ? undefined : '{"unexpected": true}'
  }
  const type = random.pick(types)
  const fitting = type === '*/*' ? 'text/plain' : type
  headers['Content-Type'] = random.chance(0.95)
    ? fitting
    : random.pick(['text/html', '', 'a/b;;', 'x'])
  const schema = requestBody.content[type].schema
  if (schema === undefined || random.chance(0.05)) return 'any bytes \0 at all'
  const one = () =>
    text(random.chance(0.9) ? sample(schema, document, random, 0) : random.pick(ODD))
  const body = type.endsWith('ndjson')
    ? Array.from({ length: random.int(0, 20) }, one).join('\n')
    : one()
  return random.chance(0.95) ? body : body.slice(0, random.int(0, body.length))
}

/** A value that fits the schema, but for the places where it does not. */
function sample(schema: Json, document: Json, random: Random, depth: number): Json {
  if (depth > 6 || random.chance(0.06)) return random.pick(ODD)
  const next = (inner: Json) => sample(inner, document, random, depth + 1)
  if (schema?.$ref) return next(document.components.schemas[schema.$ref.split('/').at(-1)])
  if (schema?.const !== undefined) return schema.const
  if (schema?.enum) return random.pick(schema.enum)
  const options = schema?.anyOf ?? schema?.oneOf
  if (options) return next(random.pick(options))
  switch (schema?.type) {
    case 'integer':
    case 'number':
      return number(schema, random)
    case 'boolean':
      return random.chance(0.5)
    case 'string':
      return random.pick([...NAMES, 'ack', '0123456789abcdef01234567.1', 'application/json'])
    case 'array':
      return Array.from({ length: random.int(0, 3) }, () => next(schema.items))
    case 'object':
      return object(schema, random, next)
    default:
      return random.pick(ODD)
  }
}

function number({ minimum = 0, maximum = 100 }: Json, random: Random): number {
  const small = Math.min(maximum, Math.max(minimum, 0) + 300)
  return random.chance(0.8)
    ? random.int(Math.max(minimum, 0), small)
    : random.pick([minimum, maximum, minimum - 1, maximum + 1])
}

const ARGUMENTS: readonly (readonly [string, Json])[] = [
  ['x-max-length', 3],
  ['x-message-ttl', 50],
  ['x-max-priority', 300],
  ['x-ordering-key', true],
  ['x-retry', { base: 1 }],
  ['x-dead-letter-exchange', 'x'],
  ['alternate-exchange', 'amq.topic'],
  ['x-durability', 'replicas=1'],
  ['__proto__', 1],
]

function object(schema: Json, random: Random, next: (schema: Json) => Json): Json {
  const value = Object.create(null)
  for (const [name, inner] of Object.entries(schema.properties ?? {})) {
    if (schema.required?.includes(name) ? random.chance(0.97) : random.chance(0.4)) {
      value[name] = next(inner)
    }
  }
  if (typeof schema.additionalProperties === 'object') {
    for (let i = random.int(0, 2); i > 0; i--) {
      const [name, argument] = random.pick(ARGUMENTS)
      value[name] = random.chance(0.7) ? argument : random.pick(ODD)
    }
  }
  if (random.chance(0.03)) value['unknown'] = 1
  return value
}
