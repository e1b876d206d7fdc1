/**
 * The one place where a refusal becomes an HTTP answer: problem details, RFC 9457.
 *
 * Complete by type: a new error code does not compile until it has a status here.
 */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { BrokerError, type ErrorCode, type Report } from '@sluice/core'
import { noteTrace, readTraceContext } from '@sluice/telemetry'
import type { ErrorRequestHandler } from 'express'
import { z } from 'zod'
import { hangUpAfter, hasNoBody } from './body.ts'

export const STATUS = {
  invalid_request: 400,
  unauthenticated: 401,
  forbidden: 403,
  not_found: 404,
  method_not_allowed: 405,
  vhost_not_found: 404,
  exchange_not_found: 404,
  queue_not_found: 404,
  binding_not_found: 404,
  policy_not_found: 404,
  message_not_found: 404,
  ingest_not_found: 404,
  subscription_not_found: 404,
  request_not_found: 404,
  declaration_conflict: 409,
  in_use: 409,
  not_empty: 409,
  unroutable: 422,
  batch_incomplete: 422,
  idempotency_key_reused: 422,
  request_failed: 502,
  message_too_large: 413,
  unsupported_media_type: 415,
  uri_too_long: 414,
  headers_too_large: 431,
  request_timeout: 408,
  too_many_requests: 429,
  queue_full: 429,
  memory_high: 429,
  overloaded: 503,
  durability_unavailable: 503,
  encryption_unavailable: 503,
  store_unavailable: 503,
  draining: 503,
} as const satisfies Record<ErrorCode, number>

/** Seconds after which the same request may succeed. Others fail again, however often repeated. */
const RETRY_AFTER_S: { readonly [code in ErrorCode]?: number } = {
  too_many_requests: 1,
  queue_full: 1,
  memory_high: 5,
  overloaded: 1,
  durability_unavailable: 1,
  encryption_unavailable: 1,
  store_unavailable: 1,
  draining: 1,
}

/** Most schema violations listed in one answer. */
const ERRORS_MAX = 20

/** What a refused request is answered with, as application/problem+json. */
export const Problem = z
  .looseObject({
    type: z.string().meta({ description: 'urn:sluice:error:<code>' }),
    title: z.string().meta({ description: 'The code; stable, for programs.' }),
    status: z.int(),
    detail: z.string().optional().meta({ description: 'For people.' }),
    errors: z
      .array(z.object({ at: z.string(), message: z.string() }))
      .optional()
      .meta({ description: 'With invalid_request: what does not fit, and where.' }),
  })
  .meta({ id: 'Problem' })
export type Problem = z.infer<typeof Problem>

/** Last in every app. `report` hears only what was not a refusal: those are ours to fix. */
export function problems(report: Report): ErrorRequestHandler {
  return (error, req, res, next) => {
    const problem = toProblem(error)
    if (problem.status === 500) noteTrace(error, readTraceContext(req.headers))
    if (res.headersSent) {
      report(error)
      return next(error) // a stream broke midway: Express drops the connection
    }
    if (problem.status === 500) report(error)
    sendProblem(req, res, problem)
  }
}

export function toProblem(error: unknown): Problem {
  if (error instanceof BrokerError) return refusal(error.code, error.message, error.details)
  if (error instanceof z.ZodError) {
    const errors = error.issues.slice(0, ERRORS_MAX).map(({ path, message }) => ({
      at: path.join('.'),
      message,
    }))
    return refusal('invalid_request', 'The request does not fit its schema.', { errors })
  }
  if (error instanceof URIError) return refusal('invalid_request', error.message, {})
  // Ours to fix. No detail goes out: it may hold a secret.
  return { type: 'about:blank', title: 'internal_error', status: 500 }
}

/** Answers with a problem. A body that nobody has read costs the client its connection. */
export function sendProblem(req: IncomingMessage, res: ServerResponse, problem: Problem): void {
  const text = JSON.stringify(problem)
  res.statusCode = problem.status
  res.setHeader('Content-Type', 'application/problem+json')
  res.setHeader('Content-Length', Buffer.byteLength(text))
  const told = problem['retryAfterS']
  const retryAfterS = typeof told === 'number' ? told : RETRY_AFTER_S[problem.title as ErrorCode]
  if (retryAfterS !== undefined) res.setHeader('Retry-After', retryAfterS)
  if (problem.status === 401) {
    // A header line each: Chromium takes a line for one challenge, and refuses it as malformed.
    res.setHeader('WWW-Authenticate', ['Basic realm="sluice", charset="UTF-8"', 'Bearer'])
  }
  if (req.complete || hasNoBody(req)) res.end(text)
  else hangUpAfter(req, res, text)
}

function refusal(code: ErrorCode, detail: string, facts: object): Problem {
  return { type: `urn:sluice:error:${code}`, title: code, status: STATUS[code], detail, ...facts }
}
