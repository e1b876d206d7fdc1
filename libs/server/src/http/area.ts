/**
 * Areas: everything below a path, whatever the method, served past Express by one function.
 *
 * For what is not an API of ours but somebody else's requests passing through. The same measures
 * are taken as for routes (app.ts), but for the credential: the area decides who needs one.
 */
import type { IncomingMessage, RequestListener, ServerResponse } from 'node:http'
import { BrokerError } from '@sluice/core'
import { type AppOptions, measure } from './app.ts'
import { sendProblem, toProblem } from './problem.ts'

export interface Area {
  /** e.g. /ingest/ */
  readonly below: string
  /** Answers. What it throws becomes a problem, as long as nothing was answered. */
  serve(req: IncomingMessage, res: ServerResponse): void
}

/** `app`, but for requests below the areas. */
export function withAreas(
  app: RequestListener,
  areas: readonly Area[],
  options: Pick<AppOptions, 'answered' | 'report' | 'stopping'>,
): RequestListener {
  if (areas.length === 0) return app
  return (req, res) => {
    const area = areas.find(({ below }) => req.url?.startsWith(below))
    if (area === undefined) app(req, res)
    else enter(area, req, res, options)
  }
}

function enter(
  area: Area,
  req: IncomingMessage,
  res: ServerResponse,
  { answered, report, stopping }: Pick<AppOptions, 'answered' | 'report' | 'stopping'>,
): void {
  if (answered !== undefined) {
    const start = performance.now()
    res.on('close', () => {
      answered(`${area.below}*`, res.statusCode, (performance.now() - start) / 1_000)
    })
  }
  try {
    measure(req, res)
    if (stopping?.aborted) {
      res.setHeader('Connection', 'close')
      throw new BrokerError('draining', 'This process is stopping; another one may answer.')
    }
    area.serve(req, res)
  } catch (error) {
    refuse(req, res, error, report)
  }
}

/** Answers with a problem, for who answers by hand; reports what was no refusal. */
export function refuse(
  req: IncomingMessage,
  res: ServerResponse,
  error: unknown,
  report: AppOptions['report'],
): void {
  const problem = toProblem(error)
  if (problem.status === 500) report(error)
  if (!res.destroyed && !res.headersSent) sendProblem(req, res, problem)
}
