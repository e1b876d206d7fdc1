/**
 * The Express app of a process: what every request passes before and after its route.
 *
 * Order is the safety. A request is first measured (headers, URL), then its sender is known, then
 * its route is found and whether the sender may use it, and only then is its body read: a stranger
 * learns and stores nothing.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { BrokerError, limits, type Report } from '@sluice/core'
import type { Credentials, Principal } from '@sluice/security'
import express, { type Express, type Request, type RequestHandler, type Response } from 'express'
import { type Audit, isAct, noteRequest } from './audited.ts'
import { docsRoutes } from './docs.ts'
import { data } from './headers.ts'
import { missing, type Needs, unauthenticated } from './needs.ts'
import { problems } from './problem.ts'
import type { Route } from './route.ts'

export interface AppOptions {
  readonly routes: readonly Route[]
  readonly credentials: Pick<Credentials, 'authenticate' | 'certified' | 'access' | 'claimed'>
  readonly report: Report
  /** Hears of each request once it was answered or given up: its route as declared, its time. */
  readonly answered?: (route: string, status: number, seconds: number) => void
  /** Whom the certificate of a client names. */
  readonly certified?: (socket: Socket) => string | undefined
  /** Hears of acts, and of whoever is refused. */
  readonly audit?: Audit
  /** Once aborted, everything is refused with draining. */
  readonly stopping?: AbortSignal
}

export function httpApp(options: AppOptions): Express {
  const routes = [...options.routes, ...docsRoutes(options.routes)]
  const app = express()
  app.disable('x-powered-by')
  app.disable('etag')
  app.enable('case sensitive routing')
  app.enable('strict routing')
  app.set('query parser', false)

  app.use(guard(options, openPaths(routes)))
  const hot = routes.filter((route) => route.hot)
  for (const route of [...hot, ...routes.filter((route) => !route.hot)]) {
    const label = `${route.method.toUpperCase()} ${route.path}`
    const act = isAct(route)
    const serve: RequestHandler = (req, res) => {
      res.locals['route'] = label
      res.locals['act'] = act
      if (route.needs !== 'nothing') admit(options.credentials, route.needs, req, res)
      return route.serve(req, res)
    }
    app[route.method](route.path, serve)
  }
  for (const [path, methods] of methodsByPath(routes)) {
    app.all(path, (req, res) => {
      res.setHeader('Allow', methods.join(', '))
      throw new BrokerError('method_not_allowed', `${req.method} is not for ${path}.`)
    })
  }
  app.use((req) => {
    const unescaped = req.path.startsWith('/v1/vhosts//')
    const hint = unescaped ? ' The vhost / is written %2F in a path.' : ' /docs has what there is.'
    throw new BrokerError('not_found', `There is nothing at ${req.path}.${hint}`)
  })
  app.use(problems(options.report))
  return app
}

/** Tells the paths of routes that need nothing; a parameter, the last part, may be anything. */
function openPaths(routes: readonly Route[]): (path: string) => boolean {
  const paths = routes.filter(({ needs }) => needs === 'nothing').map((route) => route.path)
  const exact = new Set(paths)
  const below = paths.flatMap((path) => /^(.*\/):\w+$/.exec(path)?.[1] ?? [])
  return (path) => exact.has(path) || below.some((start) => path.startsWith(start))
}

/** What every request passes first. Throws uri_too_long, headers_too_large. */
export function measure(req: IncomingMessage, res: ServerResponse): void {
  data(res)
  if (req.url!.length > limits.HTTP_URL_BYTES_MAX) {
    throw new BrokerError(
      'uri_too_long',
      `A URL here has at most ${limits.HTTP_URL_BYTES_MAX} bytes.`,
    )
  }
  if (req.rawHeaders.length > 2 * limits.HTTP_HEADERS_MAX) {
    throw new BrokerError('headers_too_large', `Send at most ${limits.HTTP_HEADERS_MAX} headers.`)
  }
}

function guard(
  { credentials, certified, answered, audit, stopping }: AppOptions,
  isOpen: (path: string) => boolean,
): RequestHandler {
  return (req, res, next) => {
    res.locals['stopping'] = stopping
    const start = performance.now()
    res.on('close', () => {
      const seconds = (performance.now() - start) / 1_000
      answered?.((res.locals['route'] as string | undefined) ?? 'none', res.statusCode, seconds)
      if (audit !== undefined && res.writableEnded) noteRequest(audit, credentials, req, res)
    })
    measure(req, res)
    if (isOpen(req.path)) return next()

    const { authorization } = req.headers
    const name = authorization === undefined ? certified?.(req.socket) : undefined
    if (name !== undefined) {
      enter(credentials.certified(name), req, res, stopping)
      return next()
    }
    const proven = credentials.authenticate(authorization, req.socket.remoteAddress)
    if (proven instanceof Promise) {
      proven.then((principal) => enter(principal, req, res, stopping)).then(() => next(), next)
    } else {
      enter(proven, req, res, stopping)
      next()
    }
  }
}

/** Lets in whom a credential has proven. */
function enter(
  principal: Principal | undefined,
  req: Request,
  res: Response,
  stopping: AbortSignal | undefined,
): void {
  if (principal === undefined) throw unauthenticated(req.headers.authorization)
  if (req.headers['sec-fetch-site'] === 'cross-site') {
    // A browser adds a remembered Basic credential to forms that other sites submit.
    throw new BrokerError('forbidden', 'Requests that another site makes are refused.')
  }
  if (stopping?.aborted) {
    res.setHeader('Connection', 'close')
    throw new BrokerError('draining', 'This process is stopping; another one may answer.')
  }
  res.locals['principal'] = principal
}

/** Throws forbidden unless the caller has what the route needs; one that says nothing, all. */
function admit(
  { access }: Pick<Credentials, 'access'>,
  needs: Needs = 'administrator',
  req: Request,
  res: Response,
): void {
  res.locals['access'] = access
  res.locals['needs'] = needs
  const asked = { method: req.method.toLowerCase(), params: req.params as Record<string, string> }
  const why = missing(access, res.locals['principal'] as Principal, needs, asked)
  if (why !== undefined) throw new BrokerError('forbidden', why)
}

function methodsByPath(routes: readonly Route[]): Map<string, string[]> {
  const methods = new Map<string, string[]>()
  for (const { method, path } of routes) {
    methods.set(path, [...(methods.get(path) ?? []), method.toUpperCase()])
  }
  return methods
}
