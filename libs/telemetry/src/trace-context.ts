/**
 * W3C trace context and baggage as they travel: text under three names, in HTTP headers, message
 * headers and CloudEvents attributes alike. Reading never trusts; what is malformed is not there.
 */

export interface TraceContext {
  readonly traceparent?: string | undefined
  readonly tracestate?: string | undefined
  readonly baggage?: string | undefined
}

/** Longest values that are passed on: as the recommendations ask of those who propagate them. */
const CHARACTERS_MAX = { traceparent: 64, tracestate: 512, baggage: 8_192 } as const
export const TRACE_FIELDS = ['traceparent', 'tracestate', 'baggage'] as const

const TRACEPARENT =
  /^(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})$/

/** What a carrier says of the trace that it belongs to; undefined when it says nothing. */
export function readTraceContext(
  carrier: Readonly<Record<string, unknown>>,
): TraceContext | undefined {
  const { traceparent, tracestate, baggage } = carrier
  if (traceparent === undefined && baggage === undefined) return undefined
  const context: { -readonly [Field in keyof TraceContext]: TraceContext[Field] } = {}
  if (parseTraceparent(traceparent) !== undefined) {
    context.traceparent = traceparent as string
    if (isCarried('tracestate', tracestate)) context.tracestate = tracestate
  }
  if (isCarried('baggage', baggage)) context.baggage = baggage
  return context.traceparent === undefined && context.baggage === undefined ? undefined : context
}

/** Writes a context into a carrier, over what is there. */
export function writeTraceContext(
  context: TraceContext | undefined,
  carrier: Record<string, unknown>,
): void {
  for (const field of TRACE_FIELDS) {
    if (context?.[field] !== undefined) carrier[field] = context[field]
  }
}

function isCarried(field: (typeof TRACE_FIELDS)[number], value: unknown): value is string {
  return typeof value === 'string' && value !== '' && value.length <= CHARACTERS_MAX[field]
}

/** Undefined for anything but a valid traceparent. */
export function parseTraceparent(
  value: unknown,
): { traceId: string; spanId: string; sampled: boolean } | undefined {
  if (typeof value !== 'string') return undefined
  const match = TRACEPARENT.exec(value)
  if (match === null) return undefined
  const [, traceId, spanId, flags] = match as unknown as [string, string, string, string]
  return { traceId, spanId, sampled: (Number.parseInt(flags, 16) & 1) === 1 }
}
