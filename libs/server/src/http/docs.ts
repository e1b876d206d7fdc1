/** /openapi.json and the page at /docs, both made from the routes of this process. */
import { limits } from '@sluice/core'
import { page } from './headers.ts'
import { openApi } from './openapi.ts'
import { type Route, route } from './route.ts'

type Json = { readonly [key: string]: unknown }

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

export function docsRoutes(routes: readonly Route[]): Route[] {
  const document = openApi(routes)
  const html = Buffer.from(docsPage(document))
  const asset = (path: string, summary: string, type: string, bytes: Buffer) =>
    route({
      method: 'get',
      path,
      tag: 'operate',
      summary,
      answers: { 200: { description: type } },
      handle({ res }) {
        page(res)
        res.setHeader('Content-Type', `${type}; charset=utf-8`)
        res.end(bytes)
        return undefined
      },
    })
  return [
    route({
      method: 'get',
      path: '/openapi.json',
      tag: 'operate',
      summary: 'This API as an OpenAPI 3.1 document',
      answers: { 200: { description: 'The document.' } },
      handle: () => ({ status: 200, body: document }),
    }),
    asset('/docs', 'This API as a page', 'text/html', html),
    asset('/docs.css', 'The style of that page', 'text/css', Buffer.from(CSS)),
  ]
}

function docsPage(document: Json): string {
  const paths = document['paths'] as Record<string, Record<string, Operation>>
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({
      method: method.toUpperCase(),
      path,
      operation,
    })),
  )
  const byTag = Map.groupBy(operations, ({ operation }) => operation.tags[0] ?? '')
  const sections = [...byTag].map(
    ([tag, list]) =>
      `<h2 id="${escapeHtml(tag)}">${escapeHtml(tag)}</h2>` +
      list.map(({ method, path, operation }) => operationHtml(method, path, operation)).join(''),
  )
  const schemas = Object.entries((document['components'] as { schemas: Json }).schemas).map(
    ([name, schema]) =>
      `<h3 id="schema-${escapeHtml(name)}">${escapeHtml(name)}</h3>${schemaHtml(schema as Json)}`,
  )
  const links = [...byTag.keys(), 'schemas'].map(
    (tag) => `<a href="#${escapeHtml(tag)}">${escapeHtml(tag)}</a>`,
  )
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Sluice HTTP API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="/docs.css"></head><body>
<header><h1>Sluice HTTP API</h1><nav>${links.join(' ')} <a href="/openapi.json">openapi.json</a></nav></header>
<main><p>Every request carries the admin credential, as <code>Basic</code> or <code>Bearer</code>. A
virtual host <code>/</code> is <code>%2F</code> in a path. A refusal is
<code>application/problem+json</code>;
its <code>title</code> is a stable code. At most ${limits.HTTP_HEADERS_MAX} headers with
${limits.HTTP_HEADER_BYTES_MAX} bytes in all, and ${limits.HTTP_URL_BYTES_MAX} bytes of URL.</p>
${sections.join('\n')}
<h2 id="schemas">schemas</h2>${schemas.join('')}</main></body></html>
`
}

function operationHtml(method: string, path: string, operation: Operation): string {
  const parameters = (operation.parameters ?? []).map(
    ({ name, in: place, required, description, schema }) =>
      `<tr><td><code>${escapeHtml(name)}</code></td><td>${place}${required ? ', required' : ''}</td>` +
      `<td>${escapeHtml(typeText(schema))}</td><td>${escapeHtml(description ?? '')}</td></tr>`,
  )
  const bodies = Object.entries(operation.requestBody?.content ?? {}).map(
    ([type, { schema }]) =>
      `<p><code>${escapeHtml(type)}</code></p>${schema ? schemaHtml(schema) : ''}`,
  )
  const answers = Object.entries(operation.responses).map(
    ([status, { description, content }]) =>
      `<tr><td>${status}</td><td>${escapeHtml(description)}</td><td>${Object.values(content ?? {})
        .map(({ schema }) => (schema ? schemaHtml(schema) : ''))
        .join('')}</td></tr>`,
  )
  return `<details><summary><b class="${method.toLowerCase()}">${method}</b> <code>${escapeHtml(path)}</code> ${escapeHtml(operation.summary)}</summary>
${operation.description ? `<p>${escapeHtml(operation.description)}</p>` : ''}
${parameters.length > 0 ? `<h4>Parameters</h4><table>${parameters.join('')}</table>` : ''}
${bodies.length > 0 ? `<h4>Body</h4><p>${escapeHtml(operation.requestBody?.description ?? '')}</p>${bodies.join('')}` : ''}
<h4>Answers</h4><table>${answers.join('')}</table>
<h4>Example</h4><pre>${escapeHtml(curl(method, path, operation))}</pre></details>
`
}

function curl(method: string, path: string, { requestBody, security }: Operation): string {
  const example = path.replace('{vhost}', '%2F').replace(/\{(\w+)\}/g, 'my-$1')
  const type = Object.keys(requestBody?.content ?? {})[0]
  return [
    'curl',
    ...(security === undefined ? ['-u admin:$(cat .data/admin-password)'] : []),
    ...(method === 'GET' ? [] : [`-X ${method}`]),
    ...(type === undefined
      ? []
      : [`-H 'Content-Type: ${type === '*/*' ? 'text/plain' : type}'`, "-d '...'"]),
    `http://127.0.0.1:8080${example}`,
  ].join(' ')
}

function schemaHtml(schema: Json): string {
  const reference = schema['$ref']
  if (typeof reference === 'string') {
    const name = reference.slice(reference.lastIndexOf('/') + 1)
    return `<a href="#schema-${escapeHtml(name)}">${escapeHtml(name)}</a>`
  }
  return `<pre>${escapeHtml(JSON.stringify(schema, null, 2))}</pre>`
}

function typeText({ type, enum: values, minimum, maximum, default: fallback }: Json): string {
  const parts = [Array.isArray(values) ? values.join(' | ') : String(type ?? 'any')]
  if (typeof minimum === 'number' && minimum > Number.MIN_SAFE_INTEGER)
    parts.push(`from ${minimum}`)
  if (typeof maximum === 'number' && maximum < Number.MAX_SAFE_INTEGER) parts.push(`to ${maximum}`)
  if (fallback !== undefined) parts.push(`default ${JSON.stringify(fallback)}`)
  return parts.join(', ')
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

const CSS = `:root{color-scheme:light dark;font:16px/1.5 system-ui,sans-serif}
body{max-width:60rem;margin:0 auto;padding:1rem}
nav a{margin-right:1rem}
h2{border-bottom:1px solid #8886;text-transform:capitalize}
details{border:1px solid #8886;border-radius:.4rem;margin:.4rem 0;padding:.4rem .8rem}
summary{cursor:pointer}
summary b{display:inline-block;min-width:4.5rem}
.get{color:#1a7f37}.post{color:#0969da}.put{color:#9a6700}.delete{color:#cf222e}
table{border-collapse:collapse;width:100%}
td{border-top:1px solid #8883;padding:.2rem .5rem;vertical-align:top}
pre{overflow:auto;background:#8881;padding:.5rem;border-radius:.3rem;max-height:24rem}
`
