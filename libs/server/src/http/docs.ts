/** /openapi.json and the page at /docs, both made from the routes of this process. */
import { DOCS_CSS, docsPage } from './docs-page.ts'
import { page } from './headers.ts'
import { openApi } from './openapi.ts'
import { type Route, route } from './route.ts'

export function docsRoutes(routes: readonly Route[]): Route[] {
  const document = openApi(routes)
  const html = Buffer.from(docsPage(document))
  const asset = (path: string, summary: string, type: string, bytes: Buffer) =>
    route({
      method: 'get',
      path,
      tag: 'operate',
      needs: 'login',
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
      needs: 'login',
      summary: 'This API as an OpenAPI 3.1 document',
      answers: { 200: { description: 'The document.' } },
      handle: () => ({ status: 200, body: document }),
    }),
    asset('/docs', 'This API as a page', 'text/html', html),
    asset('/docs.css', 'The style of that page', 'text/css', Buffer.from(DOCS_CSS)),
  ]
}
