/** What of HTTP goes into the audit log: acts that succeeded, and whoever was refused. */
import { type Credentials, describePrincipal, type Principal } from '@sluice/security'
import type { AuditLog } from '@sluice/store'
import type { Request, Response } from 'express'
import type { Route } from './route.ts'

export type Audit = Pick<AuditLog, 'note'>

/** Routes of messages: who may use them is an act, and a refusal; using them is neither. */
const MESSAGE_TAGS: ReadonlySet<string> = new Set(['publish', 'consume'])

export function isAct({ method, tag }: Pick<Route, 'method' | 'tag'>): boolean {
  return method !== 'get' && !MESSAGE_TAGS.has(tag)
}

/** Of a request that was answered. Its body and query, which may hold secrets, are not noted. */
export function noteRequest(
  audit: Audit,
  credentials: Pick<Credentials, 'claimed'>,
  req: Request,
  res: Response,
): void {
  const { statusCode: status } = res
  const principal = res.locals['principal'] as Principal | undefined
  const from = req.socket.remoteAddress ?? ''
  if (status === 401 || (status === 429 && principal === undefined)) {
    const who = credentials.claimed(req.headers.authorization)
    const outcome = status === 401 ? 'refused' : 'refused unheard, after too many'
    audit.note({ who, from, what: 'login over HTTP', outcome })
  } else if (principal !== undefined && (status === 403 || (status < 400 && res.locals['act']))) {
    const what = `${req.method} ${req.path}`
    const outcome = status === 403 ? 'refused' : 'done'
    audit.note({ who: describePrincipal(principal), from, what, outcome })
  }
}
