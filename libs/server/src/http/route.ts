/**
 * The one way to add an HTTP route.
 *
 * A route is a value: what it takes and gives, as zod schemas, and the function that does it. The
 * Express route (app.ts) and the OpenAPI entry (openapi.ts) are both made from it, so the document
 * cannot say something else than the server does.
 *
 *     export const lease = (deps: Deps) => route({
 *       method: 'post',
 *       path: '/v1/vhosts/:vhost/queues/:queue/leases',
 *       tag: 'consume',
 *       needs: { read: 'queue' },
 *       summary: 'Lease messages',
 *       body: z.strictObject({ max: z.int().min(1).max(1_000).default(1) }),
 *       answers: { 200: { description: 'The messages.', body: Leased } },
 *       refusals: ['vhost_not_found', 'queue_not_found'],
 *       async handle({ params: { vhost, queue }, body: { max }, signal }) {
 *         return { status: 200, body: { messages: await ... } }
 *       },
 *     })
 *
 * Unknown query parameters are refused by every route; unknown fields of a body by its schema,
 * which therefore is a strictObject. Errors that `handle` throws become problems (problem.ts).
 */
import { BrokerError, type ErrorCode, limits } from '@sluice/core'
import type { Access, Grants, Operation, Principal, Resource } from '@sluice/security'
import type { Request, Response } from 'express'
import { z } from 'zod'
import { readJson } from './body.ts'
import { missing, type Needs } from './needs.ts'

export type Method = 'get' | 'put' | 'post' | 'delete'

/** What `handle` gives back to be sent as JSON; `undefined` when it answers through `res` itself. */
export interface Reply {
  readonly status: number
  /** Absent: no content. */
  readonly body?: unknown
  readonly headers?: Readonly<Record<string, string>>
}

/** A successful answer, for the OpenAPI document. */
export interface Answer {
  readonly description: string
  readonly body?: z.ZodType
  /** Media type of the body, application/json unless told. */
  readonly type?: string
}

/** A body that the handler reads itself (body.ts), as it came. */
export interface RawBody {
  readonly raw: true
  readonly description: string
  /** For the OpenAPI document: media type -> schema of one body. */
  readonly types: Readonly<Record<string, z.ZodType | undefined>>
}

type ParamName<Path extends string> = Path extends `${string}:${infer Name}/${infer Rest}`
  ? Name | ParamName<Rest>
  : Path extends `${string}:${infer Name}`
    ? Name
    : never
export type Params<Path extends string> = { readonly [Name in ParamName<Path>]: string }

/** One request, as its route's handler sees it. */
export class Call<P, Q, B> {
  readonly req: Request
  readonly res: Response
  /** Path parameters, percent-decoded. */
  readonly params: P
  readonly query: Q
  readonly body: B
  #gone: AbortController | undefined

  constructor(req: Request, res: Response, query: Q, body: B) {
    this.req = req
    this.res = res
    this.params = req.params as P
    this.query = query
    this.body = body
  }

  get principal(): Principal {
    return this.res.locals['principal'] as Principal
  }

  get access(): Access {
    return this.res.locals['access'] as Access
  }

  /** What the caller may do in the vhost of the path. */
  get grants(): Grants {
    return this.access.grants(this.principal, this.#vhost)
  }

  /**
   * Refuses with `forbidden` unless the caller may do this in the vhost of the path: for what only
   * the body names. `routingKey` counts where the exchange is a topic exchange.
   */
  require(operation: Operation, resource: Resource, routingKey?: string): void {
    const why = this.grants.refusal(operation, resource, routingKey)
    if (why !== undefined) throw new BrokerError('forbidden', why)
  }

  get #vhost(): string {
    return (this.params as { vhost?: string }).vhost ?? ''
  }

  /**
   * Aborts when the client hangs up before it was answered, when the process stops, and when the
   * caller's credential ends or loses what the route needs.
   */
  get signal(): AbortSignal {
    if (this.#gone === undefined) {
      const gone = new AbortController()
      this.#gone = gone
      const abort = () => gone.abort()
      const stopping = this.res.locals['stopping'] as AbortSignal | undefined
      if (stopping?.aborted || this.res.destroyed) abort()
      stopping?.addEventListener('abort', abort)
      const unfollow = this.#onRefused(abort)
      this.res.on('close', () => {
        stopping?.removeEventListener('abort', abort)
        unfollow()
        abort()
      })
    }
    return this.#gone.signal
  }

  #onRefused(refused: () => void): () => void {
    const { principal, access, req, res } = this
    if (principal === undefined) return () => {} // a route that needs nothing
    const needs = res.locals['needs'] as Needs
    const asked = { method: req.method.toLowerCase(), params: req.params as Record<string, string> }
    return access.follow(principal, () => {
      const why = access.ended(principal) ?? missing(access, principal, needs, asked)
      if (why !== undefined) refused()
    })
  }
}

type Parsed<S> = S extends z.ZodType ? z.output<S> : undefined

interface Spec<Path extends string, Q, B> {
  readonly method: Method
  /** In Express's form, e.g. /v1/vhosts/:vhost/queues/:queue */
  readonly path: Path
  /** The group it is listed under: publish, consume, topology, operate. */
  readonly tag: string
  readonly summary: string
  readonly description?: string
  /** What its caller must be allowed; without it nobody but the administrator may (needs.ts). */
  readonly needs: Needs
  /** Matched before other routes: publishing must not pay for the length of the list. */
  readonly hot?: true
  /** Query parameters: values are strings, so numbers need `z.coerce`. */
  readonly query?: Q
  /** Request headers, for the OpenAPI document; the handler reads `req.headers` itself. */
  readonly headers?: z.ZodObject
  readonly body?: B
  readonly bodyBytesMax?: number
  /** By status. The first one is what usually happens. */
  readonly answers: Readonly<Record<number, Answer>>
  /** Codes besides invalid_request, unauthenticated, store_unavailable, which any may answer. */
  readonly refusals?: readonly ErrorCode[]
  readonly handle: (
    call: Call<Params<Path>, Parsed<Q>, Parsed<B>>,
  ) => Reply | undefined | Promise<Reply | undefined>
}

/** A route, its types forgotten. Made by `route` only. */
export interface Route
  extends Omit<Spec<string, z.ZodObject | undefined, z.ZodType | RawBody | undefined>, 'handle'> {
  readonly serve: (req: Request, res: Response) => void | Promise<void>
}

export function route<
  const Path extends string,
  Q extends z.ZodObject | undefined = undefined,
  B extends z.ZodType | RawBody | undefined = undefined,
>(spec: Spec<Path, Q, B>): Route {
  const { query, body, bodyBytesMax = limits.HTTP_JSON_BYTES_MAX, handle, ...rest } = spec
  type Handled = Call<Params<Path>, Parsed<Q>, Parsed<B>>

  async function serveJson(req: Request, res: Response): Promise<void> {
    const parsedQuery = parseQuery(query, req.url)
    const parsedBody =
      body instanceof z.ZodType
        ? parsePart('body', body, await readJson(req, res, bodyBytesMax))
        : undefined
    const call = new Call(req, res, parsedQuery, parsedBody) as Handled
    const reply = await handle(call)
    if (reply !== undefined) sendReply(res, reply)
  }

  function serveRaw(req: Request, res: Response): void | Promise<void> {
    const call = new Call(req, res, parseQuery(query, req.url), undefined) as Handled
    const reply = handle(call)
    if (reply instanceof Promise) {
      return reply.then((sent) => {
        if (sent !== undefined) sendReply(res, sent)
      })
    }
    if (reply !== undefined) sendReply(res, reply)
  }

  const serve = body === undefined || body instanceof z.ZodType ? serveJson : serveRaw
  return { ...rest, bodyBytesMax, ...(query && { query }), ...(body && { body }), serve }
}

/** Sends JSON, or nothing where there is no body. */
export function sendReply(res: Response, { status, body, headers }: Reply): void {
  res.statusCode = status
  for (const name in headers) res.setHeader(name, headers[name]!)
  if (body === undefined) {
    res.end()
    return
  }
  const text = JSON.stringify(body)
  if (headers?.['Content-Type'] === undefined) res.setHeader('Content-Type', 'application/json')
  res.setHeader('Content-Length', Buffer.byteLength(text))
  res.end(text)
}

function parseQuery<Q extends z.ZodObject | undefined>(schema: Q, url: string): Parsed<Q> {
  const mark = url.indexOf('?')
  if (mark < 0 && schema === undefined) return undefined as Parsed<Q>
  const pairs = mark < 0 ? [] : [...new URLSearchParams(url.slice(mark + 1))]
  const names = new Set<string>()
  for (const [name] of pairs) {
    if (schema === undefined || !Object.hasOwn(schema.shape, name)) {
      throw new BrokerError(
        'invalid_request',
        `There is no query parameter ${JSON.stringify(name)} here.`,
      )
    }
    if (names.has(name)) throw new BrokerError('invalid_request', `Give ${name} once.`)
    names.add(name)
  }
  return (schema && parsePart('query', schema, Object.fromEntries(pairs))) as Parsed<Q>
}

function parsePart<S extends z.ZodType>(part: string, schema: S, value: unknown): z.output<S> {
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  throw new z.ZodError(
    parsed.error.issues.map((issue) => ({ ...issue, path: [part, ...issue.path] })),
  )
}
