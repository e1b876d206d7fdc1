import assert from 'node:assert/strict'
import { test } from 'node:test'
import { z } from 'zod'
import { docsPage } from './docs-page.ts'
import { openApi } from './openapi.ts'
import { route } from './route.ts'

const Item = z.object({ name: z.string() }).meta({ id: 'Item' })

const routes = [
  route({
    method: 'get',
    path: '/v1/items',
    tag: 'topology',
    needs: 'login',
    summary: 'List <items>',
    answers: { 200: { description: 'All.', body: z.object({ items: z.array(Item) }) } },
    handle: () => ({ status: 200, body: { items: [] } }),
  }),
  route({
    method: 'post',
    path: '/v1/items/:item/settlements',
    tag: 'publish',
    needs: 'login',
    summary: 'Settle',
    description: 'Answers `stale` when too late.',
    body: z.strictObject({
      max: z.int().min(1).max(9).default(3).meta({ description: 'How many.' }),
      list: z.array(
        z.discriminatedUnion('outcome', [
          z.strictObject({ outcome: z.literal('ack') }).meta({ description: 'Done.' }),
          z.strictObject({ outcome: z.literal('retry'), delayMs: z.int().optional() }),
        ]),
      ),
      data: z.record(z.string(), z.json()).optional(),
    }),
    answers: { 200: { description: 'Done.' } },
    handle: () => ({ status: 200 }),
  }),
]
const html = docsPage(openApi(routes))

test('sections come in the order in which one meets them', () => {
  assert.match(html, /<h2 id="publish">.*<h2 id="topology">.*<h2 id="schemas">/s)
})

test('texts are escaped, and code between backticks is code', () => {
  assert.match(html, /List &lt;items&gt;/)
  assert.match(html, /Answers <code>stale<\/code> when too late\./)
})

test('fields are listed with type, bounds, default and meaning, alternatives each', () => {
  const max =
    /<code>max<\/code><\/td><td>integer, from 1, to 9, default <code>3<\/code><\/td><td>How many/
  assert.match(html, max)
  assert.match(html, /array of one of:, required/)
  assert.match(html, /<p>Done\.<\/p><table>.*<code>ack<\/code>.*<code>retry<\/code>/s)
  assert.match(html, /array of <a href="#schema-Item">Item<\/a>/)
})

test('any JSON has one name', () => {
  assert.match(html, /object of <a href="#schema-Json">Json<\/a>/)
  assert.match(html, /id="schema-Json"/)
  assert.doesNotMatch(html, /__schema/)
})

test('an example has a body that its route accepts', async () => {
  const [, body] = /-d &#39;(\{.*\})&#39;/.exec(html) ?? []
  const example = JSON.parse(body!.replaceAll('&quot;', '"'))
  assert.deepEqual(example, { max: 3, list: [{ outcome: 'ack' }] })
  assert.ok((routes[1]!.body as z.ZodType).safeParse(example).success)
})
