/** /openapi.json and /docs, made from the routes of this process. */
import { openApi } from './openapi.ts'
import { type Route, route } from './route.ts'

export function docsRoutes(routes: readonly Route[]): Route[] {
  const document = openApi(routes)
  return [
    route({
      method: 'get',
      path: '/openapi.json',
      tag: 'operate',
      summary: 'This API as an OpenAPI 3.1 document',
      answers: { 200: { description: 'The document.' } },
      handle: () => ({ status: 200, body: document }),
    }),
  ]
}
