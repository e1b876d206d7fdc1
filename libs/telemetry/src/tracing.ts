/**
 * Traces: a span for each thing that happens to a message, exported by OTLP/HTTP.
 *
 * A message carries its context in its own headers (trace-context.ts), so what happens to it in any
 * process, at any time, joins one trace. Where a publisher says nothing, the broker starts the
 * trace and stores the context with the message: a client without instrumentation still gets one.
 * Decided once, at the publish: what a publisher samples is recorded, what it does not is not, and
 * of the rest a share. Every later span follows the message's flag.
 *
 * Off is a boolean: callers look at `on` and go on. The SDK is loaded only when on.
 *
 *   span         │ kind     │ parent, links
 *   ─────────────┼──────────┼──────────────────────────────────────────────────────────
 *   publish      │ producer │ the publisher's context
 *   deliver      │ consumer │ the message's; until it is settled
 *   receive      │ consumer │ the request's; a link to each message leased
 *   ack, retry, release, dead-letter, settle │ client │ the delivery
 *   move         │ internal │ the message's: to its dead letters, with the reason
 *   redrive      │ internal │ the message's; a link to the request
 *
 * No body, header or routing key gets into a span.
 */
import {
  type Attributes,
  type AttributeValue,
  createTraceState,
  type Link,
  ROOT_CONTEXT,
  type Span,
  type SpanContext,
  SpanKind,
  SpanStatusCode,
  TraceFlags,
  type Tracer,
  trace,
} from '@opentelemetry/api'
import type { Report } from '@sluice/core'
import { parseTraceparent, type TraceContext } from './trace-context.ts'

export type { Span }

const OPERATIONS = {
  publish: { type: 'send', kind: SpanKind.PRODUCER },
  deliver: { type: 'process', kind: SpanKind.CONSUMER },
  receive: { type: 'receive', kind: SpanKind.CONSUMER },
  ack: { type: 'settle', kind: SpanKind.CLIENT },
  retry: { type: 'settle', kind: SpanKind.CLIENT },
  release: { type: 'settle', kind: SpanKind.CLIENT },
  'dead-letter': { type: 'settle', kind: SpanKind.CLIENT },
  extend: { type: 'settle', kind: SpanKind.CLIENT },
  move: { type: 'send', kind: SpanKind.INTERNAL },
  redrive: { type: 'send', kind: SpanKind.INTERNAL },
} as const
export type Operation = keyof typeof OPERATIONS

export interface TracingOptions {
  /** Where OTLP/HTTP is taken; `/v1/traces` is added. */
  readonly endpoint: string
  /** Headers of each export, as for authentication. */
  readonly headers: Readonly<Record<string, string>>
  /** Share of publishes without a context of their own that start a trace, 0..1. */
  readonly ratio: number
  readonly serviceName: string
  readonly serviceVersion: string
  /** Tells processes apart. */
  readonly instance: string
  /** Hears of exports that failed. */
  readonly report: Report
}

/** Spans that wait for their export; further ones are dropped rather than kept in memory. */
const SPANS_WAITING_MAX = 16_384
const SPANS_A_BATCH = 512
const EXPORT_EVERY_MS = 1_000
const EXPORT_MS_MAX = 10_000
/** Messages that one span links to; a lease of more links to the first. */
const LINKS_MAX = 128

export interface SpanOptions {
  readonly attributes?: Attributes
  readonly links?: readonly (TraceContext | undefined)[]
}

export class Tracing {
  static readonly OFF: Tracing = new Tracing(undefined, 0, async () => {})

  /** Whether anything is recorded; hot paths look at this and nothing else while it is false. */
  readonly on: boolean
  /** For queues that say nothing else. */
  readonly ratio: number
  readonly #tracer: Tracer | undefined
  readonly #close: () => Promise<void>

  constructor(tracer: Tracer | undefined, ratio: number, close: () => Promise<void>) {
    this.on = tracer !== undefined
    this.ratio = ratio
    this.#tracer = tracer
    this.#close = close
  }

  /**
   * Starts a span below `parent`; undefined where that is not sampled, or is none.
   *
   * @param destination the exchange or queue.
   */
  start(
    operation: Operation,
    vhost: string,
    destination: string,
    parent: TraceContext | Span | undefined,
    options: SpanOptions = {},
  ): Span | undefined {
    if (parent === undefined) return undefined
    const context = 'spanContext' in parent ? parent.spanContext() : spanContext(parent)
    if (context === undefined || (context.traceFlags & TraceFlags.SAMPLED) === 0) return undefined
    return this.#start(operation, vhost, destination, context, options)
  }

  /** Decides for one of many whether it starts a trace. */
  samples(ratio: number): boolean {
    return ratio >= 1 || (ratio > 0 && Math.random() < ratio)
  }

  /** Starts a trace with its first span. */
  startTrace(
    operation: Operation,
    vhost: string,
    destination: string,
    options: SpanOptions,
  ): Span | undefined {
    return this.#start(operation, vhost, destination, undefined, options)
  }

  /** Exports what is waiting; bounded. */
  close(): Promise<void> {
    return this.#close()
  }

  #start(
    operation: Operation,
    vhost: string,
    destination: string,
    parent: SpanContext | undefined,
    { attributes, links = [] }: SpanOptions,
  ): Span | undefined {
    const { type, kind } = OPERATIONS[operation]
    const where = destination === '' ? 'amq.default' : destination
    const linked: Link[] = []
    for (const link of links.slice(0, LINKS_MAX)) {
      const context = link && spanContext(link)
      if (context !== undefined) linked.push({ context })
    }
    return this.#tracer?.startSpan(
      `${operation} ${where}`,
      {
        kind,
        links: linked,
        attributes: {
          'messaging.system': 'sluice',
          'messaging.operation.name': operation,
          'messaging.operation.type': type,
          'messaging.destination.name': where,
          'sluice.vhost': vhost,
          ...attributes,
        },
      },
      parent === undefined ? ROOT_CONTEXT : trace.setSpanContext(ROOT_CONTEXT, parent),
    )
  }
}

/** What a message or request below this span carries. Baggage passes through. */
export function contextOf(span: Span, carried?: TraceContext): TraceContext {
  const { traceId, spanId, traceFlags, traceState } = span.spanContext()
  const flags = traceFlags.toString(16).padStart(2, '0')
  const state = traceState?.serialize()
  return {
    traceparent: `00-${traceId}-${spanId}-${flags}`,
    ...(state !== undefined && state !== '' && { tracestate: state }),
    ...(carried?.baggage !== undefined && { baggage: carried.baggage }),
  }
}

/** Ends a span; with an error it failed. `error` is a word of a short list, never a text. */
export function endSpan(
  span: Span,
  error?: string,
  facts?: Readonly<Record<string, AttributeValue>>,
): void {
  if (facts !== undefined) span.setAttributes(facts)
  if (error !== undefined) {
    span.setAttribute('error.type', error)
    span.setStatus({ code: SpanStatusCode.ERROR })
  }
  span.end()
}

function spanContext({ traceparent, tracestate }: TraceContext): SpanContext | undefined {
  const parsed = parseTraceparent(traceparent)
  if (parsed === undefined) return undefined
  const { traceId, spanId, sampled } = parsed
  return {
    traceId,
    spanId,
    traceFlags: sampled ? TraceFlags.SAMPLED : TraceFlags.NONE,
    isRemote: true,
    ...(tracestate !== undefined && { traceState: createTraceState(tracestate) }),
  }
}

/** Loads the SDK and starts exporting. */
export async function openTracing(options: TracingOptions): Promise<Tracing> {
  const { endpoint, headers, ratio, serviceName, serviceVersion, instance, report } = options
  const [
    { BatchSpanProcessor, TracerProvider },
    { OTLPTraceExporter },
    { resourceFromAttributes },
  ] = await Promise.all([
    import('@opentelemetry/sdk-trace'),
    import('@opentelemetry/exporter-trace-otlp-http'),
    import('@opentelemetry/resources'),
  ])
  const { setGlobalErrorHandler } = await import('@opentelemetry/core')
  setGlobalErrorHandler(report)
  const exporter = new OTLPTraceExporter({
    url: `${endpoint.replace(/\/$/, '')}/v1/traces`,
    headers: { ...headers },
    timeoutMillis: EXPORT_MS_MAX,
  })
  const provider = new TracerProvider({
    resource: resourceFromAttributes({
      'service.name': serviceName,
      'service.version': serviceVersion,
      'service.instance.id': instance,
    }),
    spanLimits: { attributeValueLengthLimit: 256, attributeCountLimit: 32 },
    spanProcessors: [
      new BatchSpanProcessor({
        exporter,
        maxQueueSize: SPANS_WAITING_MAX,
        maxExportBatchSize: SPANS_A_BATCH,
        scheduledDelayMillis: EXPORT_EVERY_MS,
        exportTimeoutMillis: EXPORT_MS_MAX,
      }),
    ],
  })
  const close = () => provider.shutdown().catch(report)
  return new Tracing(provider.getTracer('sluice'), ratio, close)
}
