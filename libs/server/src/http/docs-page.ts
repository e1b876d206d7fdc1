/** The OpenAPI document as a page for people: HTML without scripts, every text of it escaped. */
import { limits } from '@sluice/core'

export type Json = { readonly [key: string]: unknown }

interface Operation {
  readonly tags: readonly string[]
  readonly summary: string
  readonly description?: string
  readonly security?: readonly unknown[]
  readonly parameters?: readonly {
    readonly name: string
    readonly in: string
    readonly required?: boolean
    readonly description?: string
    readonly schema: Json
  }[]
  readonly requestBody?: {
    readonly description?: string
    readonly content: Record<string, { schema?: Json }>
  }
  readonly responses: Record<
    string,
    { description: string; content?: Record<string, { schema?: Json }> }
  >
}

/** In the order in which one meets them; others come behind. */
const TAGS = ['publish', 'consume', 'topology', 'operate']

export function docsPage(document: Json): string {
  const paths = document['paths'] as Record<string, Record<string, Operation>>
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ method, path, operation })),
  )
  const byTag = Map.groupBy(operations, ({ operation }) => operation.tags[0] ?? '')
  const tags = [...new Set([...TAGS, ...byTag.keys()])].filter((tag) => byTag.has(tag))
  const sections = tags.map((tag) => {
    const list = byTag.get(tag)!
    const html = list.map(({ method, path, operation }) => operationHtml(method, path, operation))
    return `<h2 id="${escapeHtml(tag)}">${escapeHtml(tag)}</h2>${html.join('')}`
  })
  const { schemas } = document['components'] as { schemas: Record<string, Json> }
  const schemaSections = Object.entries(schemas).map(
    ([name, schema]) =>
      `<h3 id="schema-${escapeHtml(name)}">${escapeHtml(name)}</h3>` +
      (fieldsHtml(schema, 'answer') || `<p>${typeHtml(schema)}</p>`),
  )
  const links = [...tags, 'schemas'].map(
    (tag) => `<a href="#${escapeHtml(tag)}">${escapeHtml(tag)}</a>`,
  )
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Sluice HTTP API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="/docs.css"></head><body>
<header><h1>Sluice HTTP API</h1>
<nav>${links.join(' ')} <a href="/openapi.json">openapi.json</a></nav></header>
<main><p>Every request carries a credential, as <code>Basic</code> or <code>Bearer</code>. A
virtual host <code>/</code> is <code>%2F</code> in a path. A refusal is
<code>application/problem+json</code>; its <code>title</code> is a stable code. At most
${limits.HTTP_HEADERS_MAX} headers with ${limits.HTTP_HEADER_BYTES_MAX} bytes in all, and
${limits.HTTP_URL_BYTES_MAX} bytes of URL.</p>
${sections.join('\n')}
<h2 id="schemas">schemas</h2>${schemaSections.join('\n')}</main></body></html>
`
}

function operationHtml(method: string, path: string, operation: Operation): string {
  const parameters = (operation.parameters ?? []).map(
    ({ name, in: place, required, description = '', schema }) =>
      `<tr><td><code>${escapeHtml(name)}</code></td><td>${place}${required ? ', required' : ''}</td>` +
      `<td>${typeHtml(schema)}</td><td>${prose(description)}</td></tr>`,
  )
  const { content = {}, description: about = '' } = operation.requestBody ?? {}
  const bodies = Object.entries(content).map(
    ([type, { schema }]) =>
      `<p><code>${escapeHtml(type)}</code>${schema ? `: ${typeHtml(schema)}` : ''}</p>` +
      (schema ? fieldsHtml(schema, 'request') : ''),
  )
  const answers = Object.entries(operation.responses).map(
    ([status, { description, content = {} }]) =>
      `<tr><td>${status}</td><td>${prose(description)}${Object.values(content)
        .map(({ schema }) => (schema ? answerHtml(status, schema) : ''))
        .join('')}</td></tr>`,
  )
  const verb = method.toUpperCase()
  return `<details><summary><b class="${escapeHtml(method)}">${escapeHtml(verb)}</b>
<code>${escapeHtml(path)}</code> <span>${prose(operation.summary)}</span></summary>
${operation.description ? `<p>${prose(operation.description)}</p>` : ''}
${parameters.length > 0 ? `<h4>Parameters</h4><table>${parameters.join('')}</table>` : ''}
${bodies.length > 0 ? `<h4>Body</h4><p>${prose(about)}</p>${bodies.join('')}` : ''}
<h4>Answers</h4><table>${answers.join('')}</table>
<h4>Example</h4><pre>${escapeHtml(curl(verb, path, operation))}</pre></details>
`
}

/** Refusals all look alike, and need no words; of other answers the form is what one asks for. */
function answerHtml(status: string, schema: Json): string {
  return status >= '400' ? '' : fieldsHtml(schema, 'answer') || ` ${typeHtml(schema)}`
}

function curl(method: string, path: string, { requestBody, security }: Operation): string {
  const url = path.replace('{vhost}', '%2F').replace(/\{(\w+)\}/g, 'my-$1')
  const [type, content] = Object.entries(requestBody?.content ?? {})[0] ?? []
  const body = content?.schema ? JSON.stringify(sample(content.schema)) : 'Hello'
  return [
    ['curl', ...(security === undefined ? ['-u "admin:$(cat .data/admin-password)"'] : [])],
    method === 'GET' || (method === 'POST' && type !== undefined) ? [] : [`-X ${method}`],
    type === undefined ? [] : [`-H 'Content-Type: ${type === '*/*' ? 'text/plain' : type}'`],
    type === undefined ? [] : [`-d '${body}'`],
    [`http://127.0.0.1:8080${url}`],
  ]
    .filter((words) => words.length > 0)
    .map((words) => words.join(' '))
    .join(' \\\n  ')
}

/** A value that fits a schema: what must be given, and what has a default. */
function sample(schema: Json): unknown {
  if (schema['default'] !== undefined) return schema['default']
  if (schema['const'] !== undefined) return schema['const']
  const [first] = (schema['enum'] ?? schema['oneOf'] ?? []) as unknown[]
  if (first !== undefined) return schema['enum'] ? first : sample(first as Json)
  switch (schema['type']) {
    case 'object':
      return sampleObject(schema)
    case 'array':
      return [sample(schema['items'] as Json)]
    case 'integer':
    case 'number':
      return schema['minimum'] ?? 1
    case 'boolean':
      return true
    default:
      return '...'
  }
}

function sampleObject({ properties = {}, required = [] }: Json): Record<string, unknown> {
  const all = Object.entries(properties as Record<string, Json>)
  const wanted = all.filter(
    ([name, field]) => (required as string[]).includes(name) || field['default'] !== undefined,
  )
  const shown = wanted.length > 0 ? wanted : all.slice(0, 1)
  return Object.fromEntries(shown.map(([name, field]) => [name, sample(field)]))
}

/** The fields of an object, of an array's objects, or of each alternative; '' = there are none. */
function fieldsHtml(schema: Json, of: 'request' | 'answer'): string {
  const alternatives = schema['oneOf'] as Json[] | undefined
  if (alternatives) {
    return alternatives
      .map((one) => `<p>${prose(String(one['description'] ?? 'Or:'))}</p>${fieldsHtml(one, of)}`)
      .join('')
  }
  if (schema['type'] === 'array') return fieldsHtml(schema['items'] as Json, of)
  const properties = Object.entries((schema['properties'] ?? {}) as Record<string, Json>)
  const required = new Set((schema['required'] ?? []) as string[])
  const rows = properties.map(([name, field]) => {
    const must = required.has(name)
    const mark = of === 'request' ? (must ? ', required' : '') : must ? '' : ', optional'
    return (
      `<tr><td><code>${escapeHtml(name)}</code></td><td>${typeHtml(field)}${mark}</td>` +
      `<td>${prose(String(field['description'] ?? ''))}${fieldsHtml(field, of)}</td></tr>`
    )
  })
  return rows.length > 0 ? `<table>${rows.join('')}</table>` : ''
}

/** A type in a few words. */
function typeHtml(schema: Json): string {
  const { $ref: reference, type, enum: values, format, items, default: fallback } = schema
  if (typeof reference === 'string') return referenceHtml(reference)
  if (schema['const'] !== undefined) return `<code>${escapeHtml(String(schema['const']))}</code>`
  if (schema['oneOf']) return 'one of:'
  const alternatives = (schema['anyOf'] ?? []) as Json[]
  if (alternatives.length > 0) return alternatives.map(typeHtml).join(' or ')
  if (Array.isArray(values)) {
    return (
      values.map((value) => `<code>${escapeHtml(String(value))}</code>`).join(' ') + or(fallback)
    )
  }
  if (type === 'array' && items) return `array of ${typeHtml(items as Json)}`
  const members = schema['additionalProperties']
  if (
    type === 'object' &&
    members &&
    typeof members === 'object' &&
    Object.keys(members).length > 0
  ) {
    return `object of ${typeHtml(members as Json)}`
  }
  return (
    escapeHtml([type ?? 'any', format, ...bounds(schema)].filter(Boolean).join(', ')) + or(fallback)
  )
}

function or(fallback: unknown): string {
  return fallback === undefined
    ? ''
    : `, default <code>${escapeHtml(JSON.stringify(fallback))}</code>`
}

function bounds({ minimum, maximum, minItems, maxItems, maxLength }: Json): string[] {
  const parts: string[] = []
  if (typeof minimum === 'number' && minimum > Number.MIN_SAFE_INTEGER)
    parts.push(`from ${minimum}`)
  if (typeof maximum === 'number' && maximum < Number.MAX_SAFE_INTEGER) parts.push(`to ${maximum}`)
  if (typeof minItems === 'number') parts.push(`at least ${minItems}`)
  if (typeof maxItems === 'number') parts.push(`at most ${maxItems}`)
  if (typeof maxLength === 'number') parts.push(`at most ${maxLength} characters`)
  return parts
}

function referenceHtml(reference: string): string {
  const name = escapeHtml(reference.slice(reference.lastIndexOf('/') + 1))
  return `<a href="#schema-${name}">${name}</a>`
}

const ENTITIES: Record<string, string> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => ENTITIES[character]!)
}

/** A sentence of the document: what stands between backticks is code. */
function prose(text: string): string {
  return escapeHtml(text).replace(/`([^`]+)`/g, '<code>$1</code>')
}

export const DOCS_CSS = `:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}
body{max-width:64rem;margin:0 auto;padding:1rem}
nav a{margin-right:1rem}
h2{border-bottom:1px solid #8886;margin-top:2rem;text-transform:capitalize}
h4{margin:1rem 0 .3rem}
details{border:1px solid #8886;border-radius:.4rem;margin:.4rem 0;padding:.4rem .8rem}
summary{cursor:pointer;overflow-wrap:anywhere}
summary b{display:inline-block;min-width:4.5rem}
summary span{color:color-mix(in srgb,currentColor 70%,transparent);margin-left:.5rem}
.get{color:#1a7f37}.post{color:#0969da}.put{color:#9a6700}.delete{color:#cf222e}
@media (prefers-color-scheme:dark){
.get{color:#3fb950}.post{color:#58a6ff}.put{color:#d29922}.delete{color:#ff7b72}}
table{border-collapse:collapse;width:100%}
td{border-top:1px solid #8883;padding:.2rem .5rem;vertical-align:top;overflow-wrap:anywhere}
td:first-child{white-space:nowrap;width:1%}
td table{margin:.3rem 0}
pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#8881;padding:.5rem;border-radius:.3rem}
@media (max-width:40rem){
td{display:block;border:0}td:empty{display:none}
td:first-child{width:auto;border-top:1px solid #8883;white-space:normal}}
`
