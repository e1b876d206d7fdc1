/** A test-fire: one message sent once, past queue, rate and breaker, and all that was said. */
import { isUtf8 } from 'node:buffer'
import { z } from 'zod'
import type { Exchange } from './exchange.ts'
import type { Guard } from './guard.ts'
import type { PushMessage, PushRequest } from './request.ts'
import { Endpoint, type Witness } from './send.ts'
import { MASK, type Subscription, VERDICTS } from './subscription.ts'

/** Of the request's body, bytes: whoever fires knows it, but not in the form it is sent in. */
const SHOWN_BYTES_MAX = 1024

const headers = z.array(z.string()).meta({ description: 'As on the wire: `Name: value`.' })
const ms = z.number().optional()

export const Fired = z
  .object({
    exchanges: z
      .array(
        z.object({
          request: z.object({
            line: z.string(),
            headers,
            body: z.string().meta({ description: 'Its first 1 KiB, as text.' }),
            bodyBytes: z.int(),
          }),
          answer: z
            .object({
              status: z.int(),
              headers,
              body: z.string().meta({ description: 'Its first 1 KiB, as text.' }),
            })
            .optional(),
          error: z
            .string()
            .optional()
            .meta({ description: 'Why there is no answer, or no whole one.' }),
        }),
      )
      .meta({ description: 'One, and one more for each redirect that was followed.' }),
    timings: z
      .object({ lookupMs: ms, connectMs: ms, tlsMs: ms, headMs: ms, totalMs: z.number() })
      .meta({ description: 'When each was done, ms since the start; headMs: the first answer’s.' }),
    error: z.string().optional(),
    verdict: z.enum(VERDICTS).meta({ description: 'What would become of the message.' }),
    retryAfterMs: z.number().optional(),
  })
  .meta({ id: 'FiredPush' })
export type Fired = z.output<typeof Fired>

/** Never rejects. */
export async function fire(
  place: { readonly vhost: string; readonly name: string },
  subscription: Subscription,
  guard: Guard,
  message: PushMessage,
  signal: AbortSignal,
): Promise<Fired> {
  const exchanges: Fired['exchanges'] = []
  let headMs: number | undefined
  const times = {}
  const witness: Witness = {
    times,
    saw(url, request, exchange) {
      headMs ??= exchange.headMs
      exchanges.push(shown(url, request, exchange))
    },
  }
  const endpoint = new Endpoint(place.vhost, place.name, subscription, guard, { witness })
  try {
    const { durationMs, error, verdict, retryAfterMs } = await endpoint.send(message, signal)
    return {
      exchanges,
      timings: { ...rounded({ ...times, headMs }), totalMs: tenths(durationMs) },
      ...(error !== undefined && { error }),
      verdict,
      ...(retryAfterMs !== undefined && { retryAfterMs }),
    }
  } finally {
    await endpoint.close()
  }
}

function shown(url: URL, request: PushRequest, exchange: Exchange): Fired['exchanges'][number] {
  const { method, path, body, ownHeaders } = request
  const { status, rawHeaders, failure, note } = exchange
  const said = lines(request.headers).map((line, index) =>
    index < ownHeaders ? line.replace(/: .*$/s, `: ${MASK}`) : line,
  )
  const error = failure?.reason ?? note
  return {
    request: {
      line: `${method} ${path} HTTP/1.1`,
      headers: [`Host: ${url.host}`, ...said, `Content-Length: ${body.length}`],
      body: body.subarray(0, SHOWN_BYTES_MAX).toString(),
      bodyBytes: body.length,
    },
    ...(status !== undefined && {
      answer: {
        status,
        headers: lines(rawHeaders),
        body: exchange.body.subarray(0, SHOWN_BYTES_MAX).toString(),
      },
    }),
    ...(error !== undefined && { error }),
  }
}

/** Name and value in turn, as bytes or as latin1, into lines of text: UTF-8 where they are. */
function lines(headers: readonly (Buffer | string)[]): string[] {
  const text = (part: Buffer | string) => {
    const bytes = typeof part === 'string' ? Buffer.from(part, 'latin1') : part
    return bytes.toString(isUtf8(bytes) ? 'utf8' : 'latin1')
  }
  const all: string[] = []
  for (let i = 0; i + 1 < headers.length; i += 2) {
    all.push(`${text(headers[i]!)}: ${text(headers[i + 1]!)}`)
  }
  return all
}

function rounded(times: Readonly<Record<string, number | undefined>>) {
  return Object.fromEntries(
    Object.entries(times).flatMap(([name, ms]) => (ms === undefined ? [] : [[name, tenths(ms)]])),
  )
}

const tenths = (ms: number) => Math.round(ms * 10) / 10
