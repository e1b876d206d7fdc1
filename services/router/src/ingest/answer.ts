/** Who waits for the backend's answer, how long, and how it is passed on. */
import { isUtf8 } from 'node:buffer'
import type { ServerResponse } from 'node:http'
import { BrokerError, limits } from '@sluice/core'
import { type FoundRequest, isOver, type KeptAnswer } from '@sluice/store'
import { z } from 'zod'

/** About the connection between the broker and the backend, or computed anew. */
const OF_CONNECTION =
  /^(?:connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade|content-length)$/i

/** `Prefer: wait=10` (RFC 7240), in ms and within bounds; 0 = it is not asked for. */
export function preferredWaitMs(prefer: string | string[] | undefined): number {
  if (prefer === undefined) return 0
  const seconds = /(?:^|[,;\s])wait\s*=\s*"?(\d{1,6})"?\s*(?:$|[,;\s])/i.exec(String(prefer))?.[1]
  return Math.min(Number(seconds ?? 0) * 1_000, limits.REQUEST_WAIT_MS_MAX)
}

/**
 * Answers as the backend did; false when its answer is not there, or not whole. Throws
 * request_failed when there will be none.
 */
export function passOn(res: ServerResponse, id: string, { state, answer }: FoundRequest): boolean {
  if (!isOver(state)) return false
  if (answer === undefined || answer.status === 0) {
    if (state === 'delivered') return false
    throw new BrokerError('request_failed', answer?.error ?? 'It was given up on.', {
      details: { id },
    })
  }
  if (answer.truncated) return false
  for (const [name, values] of headersByName(answer)) res.setHeader(name, values)
  res.setHeader('Sluice-Request-Id', id)
  res.statusCode = answer.status
  const bodiless = answer.status === 204 || answer.status === 304
  if (!bodiless) res.setHeader('Content-Length', answer.body.length)
  res.end(bodiless ? undefined : answer.body)
  return true
}

function headersByName({ headers }: KeptAnswer): Map<string, string[]> {
  const byName = new Map<string, string[]>()
  for (const [name, value] of headers) {
    if (OF_CONNECTION.test(name)) continue
    const values = byName.get(name.toLowerCase())
    if (values) values.push(value)
    else byName.set(name.toLowerCase(), [value])
  }
  return byName
}

export const RequestJson = z
  .object({
    id: z.string(),
    vhost: z.string(),
    ingest: z.string(),
    state: z.enum(['waiting', 'failed', 'delivered', 'dead']).meta({
      description:
        'failed: an attempt failed, and there will be another; dead: there will be none.',
    }),
    acceptedAt: z.iso.datetime().optional(),
    answer: z
      .object({
        status: z.int().optional().meta({ description: 'Absent when there was no answer.' }),
        at: z.iso.datetime(),
        headers: z.record(z.string(), z.union([z.string(), z.array(z.string())])),
        body: z.string().optional().meta({ description: 'When it is text in UTF-8.' }),
        bodyBase64: z.string().optional().meta({ description: 'Otherwise.' }),
        truncated: z.boolean().meta({ description: 'More came than is kept.' }),
        error: z.string().optional(),
      })
      .optional()
      .meta({ description: 'The last one of the backend.' }),
  })
  .meta({ id: 'Request' })

export function requestJson(id: string, { state, record, answer }: FoundRequest) {
  const { vhost, ingest, atMs } = record
  return {
    id,
    vhost,
    ingest,
    state,
    ...(atMs > 0 && { acceptedAt: new Date(atMs).toISOString() }),
    ...(answer && { answer: answerJson(answer) }),
  }
}

function answerJson(answer: KeptAnswer) {
  const { status, atMs, body, truncated, error } = answer
  const headers = [...headersByName(answer)].map(
    ([name, values]) => [name, values.length === 1 ? values[0] : values] as const,
  )
  return {
    ...(status > 0 && { status }),
    at: new Date(atMs).toISOString(),
    headers: Object.fromEntries(headers),
    ...(isUtf8(body) ? { body: body.toString() } : { bodyBase64: body.toString('base64') }),
    truncated,
    ...(error !== undefined && { error }),
  }
}
