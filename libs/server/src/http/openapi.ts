/** The OpenAPI 3.1 document, made from the routes and their zod schemas. */
import { type ErrorCode, limits } from '@sluice/core'
import { z } from 'zod'
import { Problem, STATUS } from './problem.ts'
import type { RawBody, Route } from './route.ts'

type Json = { [key: string]: unknown }

/** Codes that any route may answer with. */
const COMMON: readonly ErrorCode[] = ['invalid_request', 'store_unavailable', 'draining']

export function openApi(routes: readonly Route[]): Json {
  const schemas: Json = {}
  const paths: Record<string, Json> = {}
  for (const route of routes) {
    const path = route.path.replace(/:(\w+)/g, '{$1}')
    paths[path] ??= {}
    paths[path][route.method] = operation(route, schemas)
  }
  toSchema(Problem, schemas)
  return {
    openapi: '3.1.0',
    info: {
      title: 'Sluice',
      version: '1',
      description: 'A message broker on Redis Streams. Every refusal is a problem (RFC 9457).',
      license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
    },
    paths,
    components: {
      schemas,
      securitySchemes: {
        basic: { type: 'http', scheme: 'basic' },
        bearer: { type: 'http', scheme: 'bearer' },
      },
    },
    security: [{ basic: [] }, { bearer: [] }],
  }
}

function operation(route: Route, schemas: Json): Json {
  const { method, path, tag, summary, description, needs, query, headers, body } = route
  const parameters = [
    ...[...path.matchAll(/:(\w+)/g)].map(([, name]) => ({
      name,
      in: 'path',
      required: true,
      schema: { type: 'string', maxLength: limits.NAME_BYTES_MAX },
    })),
    ...parametersOf('query', query, schemas),
    ...parametersOf('header', headers, schemas),
  ]
  return {
    operationId: `${method} ${path}`
      .replace(/^(\w+) \/(?:v1\/)?/, '$1/')
      .replace(/[^\w]+(\w?)/g, (_, c: string) => c.toUpperCase()),
    tags: [tag],
    summary,
    ...(description && { description }),
    ...(needs === 'nothing' && { security: [] }),
    'x-needs': needs,
    ...(parameters.length > 0 && { parameters }),
    ...(body && { requestBody: requestBody(body, schemas) }),
    responses: responses(route, schemas),
  }
}

function parametersOf(
  place: 'query' | 'header',
  schema: z.ZodObject | undefined,
  schemas: Json,
): Json[] {
  return Object.entries(schema?.shape ?? {}).map(([name, field]) => {
    const { description, ...json } = toSchema(field as z.ZodType, schemas)
    const required = !z.safeParse(field as z.ZodType, undefined).success
    return {
      name,
      in: place,
      ...(required && { required }),
      ...(description !== undefined && { description }),
      schema: json,
    }
  })
}

function requestBody(body: z.ZodType | RawBody, schemas: Json): Json {
  if (body instanceof z.ZodType) {
    const required = !body.safeParse({}).success
    return { required, content: { 'application/json': { schema: toSchema(body, schemas) } } }
  }
  const content: Json = {}
  for (const [type, schema] of Object.entries(body.types)) {
    content[type] = schema === undefined ? {} : { schema: toSchema(schema, schemas) }
  }
  return { description: body.description, required: true, content }
}

function responses(route: Route, schemas: Json): Json {
  const answers: Json = {}
  for (const [status, { description, body, type = 'application/json' }] of Object.entries(
    route.answers,
  )) {
    answers[status] = {
      description,
      ...(body && { content: { [type]: { schema: toSchema(body, schemas, 'output') } } }),
    }
  }
  const own =
    route.body === undefined ? [] : (['message_too_large', 'unsupported_media_type'] as const)
  const credential = route.needs === 'nothing' ? [] : (['unauthenticated', 'forbidden'] as const)
  const codes = new Set<ErrorCode>([...COMMON, ...credential, ...own, ...(route.refusals ?? [])])
  const byStatus = Map.groupBy(codes, (code) => String(STATUS[code]))
  for (const [status, list] of [...byStatus].sort()) {
    answers[status] ??= {
      description: list.join(', '),
      content: { 'application/problem+json': { schema: { $ref: '#/components/schemas/Problem' } } },
    }
  }
  return answers
}

/** The schema as JSON Schema 2020-12; those with an id move to `schemas` and are referred to. */
function toSchema(schema: z.ZodType, schemas: Json, io: 'input' | 'output' = 'input'): Json {
  const {
    $schema: _,
    $defs,
    id,
    ...json
  } = z.toJSONSchema(schema, { io, unrepresentable: 'any' }) as Json
  // Of our schemas only z.json() is recursive; zod gives what has no id a name like __schema0.
  const text = JSON.stringify({ json, $defs: $defs ?? {} })
    .replaceAll('"#/$defs/', '"#/components/schemas/')
    .replaceAll(/"(#\/components\/schemas\/)?__schema\d+"/g, '"$1Json"')
  const moved = JSON.parse(text) as { json: Json; $defs: { [name: string]: Json } }
  for (const [name, { id: _id, ...definition }] of Object.entries(moved.$defs))
    schemas[name] = definition
  if (typeof id !== 'string') return moved.json
  schemas[id] = moved.json
  return { $ref: `#/components/schemas/${id}` }
}
