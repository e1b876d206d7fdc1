/** The few requests that the example makes. */

export interface Place {
  /** Where a broker's HTTP API is, e.g. http://127.0.0.1:8080 */
  readonly url: string
  /** user:password */
  readonly credential: string
}

/** A message as a lease gives it; only what the example reads. */
export interface Leased {
  readonly token: string
  readonly body: string
  readonly redelivered: boolean
}

/** The answer to a batch; only what the example reads. */
export interface BatchSummary {
  /** Messages stored, duplicates included: each of them is confirmed. */
  readonly published: number
  readonly duplicates: number
  readonly queues: Readonly<Record<string, number>>
}

/** A queue with its live counts; only what the example reads. */
export interface Queue {
  readonly messages: { readonly ready: number; readonly unacked: number; readonly delayed: number }
  readonly totals: Readonly<Record<'published' | 'delivered' | 'redelivered' | 'acked', number>>
}

/** Asks with a JSON body, or none. Throws with the broker's words when it is refused. */
export function ask<Answer>(
  place: Place,
  method: string,
  path: string,
  body?: object,
): Promise<Answer> {
  const json = body && { type: 'application/json', body: JSON.stringify(body) }
  return send<Answer>(place, method, path, json)
}

/** Sends lines as they come: the whole is never in memory. */
export function stream<Answer>(
  place: Place,
  path: string,
  lines: AsyncIterable<Uint8Array>,
): Promise<Answer> {
  const body = ReadableStream.from(lines)
  return send<Answer>(place, 'POST', path, { type: 'application/x-ndjson', body })
}

async function send<Answer>(
  { url, credential }: Place,
  method: string,
  path: string,
  content: { readonly type: string; readonly body: string | ReadableStream } | undefined,
): Promise<Answer> {
  const response = await fetch(url + path, {
    method,
    headers: {
      Authorization: `Basic ${Buffer.from(credential).toString('base64')}`,
      ...(content && { 'Content-Type': content.type }),
    },
    ...(content && { body: content.body, duplex: 'half' as const }),
  })
  const text = await response.text()
  if (!response.ok) throw new Error(`${method} ${path} answered ${response.status}: ${text}`)
  return (text === '' ? undefined : JSON.parse(text)) as Answer
}
