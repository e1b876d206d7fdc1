/** Takes what a broker exports by OTLP/HTTP in JSON, and keeps it for the test to look at. */
import { createServer, type IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { waitFor } from '@sluice/testkit'

export interface SunkSpan {
  readonly traceId: string
  readonly spanId: string
  /** '' = the first of its trace. */
  readonly parentSpanId: string
  readonly name: string
  readonly kind: number
  readonly attributes: Readonly<Record<string, unknown>>
  readonly links: readonly { readonly traceId: string; readonly spanId: string }[]
  readonly failed: boolean
  readonly startNs: bigint
  readonly endNs: bigint
}

export interface OtlpSink {
  /** For OTEL_EXPORTER_OTLP_ENDPOINT. */
  readonly url: string
  readonly spans: SunkSpan[]
  /** Names of the metrics that came. */
  readonly metrics: Set<string>
  /** Every body that came, as text: to look for what must not be there. */
  readonly bodies: string[]
  /** Headers of the last request. */
  readonly headers: () => IncomingMessage['headers']
  /** Waits until these spans have come, by name; each once. Returns them in that order. */
  expect(...names: string[]): Promise<SunkSpan[]>
  close(): void
}

/** Close it after the broker, whose last export would have nowhere to go. */
export async function otlpSink(): Promise<OtlpSink> {
  const spans: SunkSpan[] = []
  const metrics = new Set<string>()
  const bodies: string[] = []
  let headers: IncomingMessage['headers'] = {}
  const server = createServer(async (req, res) => {
    const chunks: Buffer[] = []
    for await (const chunk of req) chunks.push(chunk as Buffer)
    const text = Buffer.concat(chunks).toString()
    headers = req.headers
    bodies.push(text)
    const body = JSON.parse(text)
    if (req.url === '/v1/traces') spans.push(...readSpans(body))
    else for (const name of readMetricNames(body)) metrics.add(name)
    res.setHeader('Content-Type', 'application/json')
    res.end('{}')
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    spans,
    metrics,
    bodies,
    headers: () => headers,
    close() {
      server.closeAllConnections()
      server.close()
    },
    async expect(...names) {
      const found = () => names.map((name) => spans.filter((span) => span.name === name))
      await waitFor(() => found().every((list) => list.length > 0), {
        what: `the spans ${names.join(', ')}`,
      })
      return found().map(([first]) => first!)
    },
  }
}

// biome-ignore lint/suspicious/noExplicitAny: OTLP's JSON, read where it is asserted on
type Json = any

function readSpans(body: Json): SunkSpan[] {
  const all: Json[] = body.resourceSpans.flatMap(({ scopeSpans }: Json) =>
    scopeSpans.flatMap(({ spans }: Json) => spans),
  )
  return all.map((span) => ({
    traceId: span.traceId,
    spanId: span.spanId,
    parentSpanId: span.parentSpanId ?? '',
    name: span.name,
    kind: span.kind,
    attributes: Object.fromEntries(
      span.attributes.map(({ key, value }: Json) => [key, Object.values(value)[0]]),
    ),
    links: (span.links ?? []).map(({ traceId, spanId }: Json) => ({ traceId, spanId })),
    failed: span.status?.code === 2,
    startNs: BigInt(span.startTimeUnixNano),
    endNs: BigInt(span.endTimeUnixNano),
  }))
}

function readMetricNames(body: Json): string[] {
  return body.resourceMetrics.flatMap(({ scopeMetrics }: Json) =>
    scopeMetrics.flatMap(({ metrics }: Json) => metrics.map(({ name }: Json) => name)),
  )
}
