/** The trace that a message belongs to, in its header table as AMQP clients see it. */
import { addHeaders, decodeProperties } from '@sluice/amqp'
import { readTraceContext, type TraceContext } from '@sluice/telemetry'

/** Of the property flags: there is a header table (specification 4.2.6.1). */
const HAS_HEADERS = 0x20
/** As it stands in a header table: most messages have none, and are not decoded for it. */
const NAMES = [Buffer.from('\x0btraceparent'), Buffer.from('\x07baggage')] as const

/** What a message carries; undefined when it carries nothing, or cannot be read. */
export function carriedContext(properties: Buffer): TraceContext | undefined {
  if (((properties[0] ?? 0) & HAS_HEADERS) === 0) return undefined
  if (!(properties.includes(NAMES[0]) || properties.includes(NAMES[1]))) return undefined
  try {
    return readTraceContext(decodeProperties(properties).headers ?? {})
  } catch {
    return undefined
  }
}

/** Properties with a context that they do not have; one that is there, even malformed, stays. */
export function withTraceparent(properties: Buffer, context: TraceContext): Buffer {
  if (properties.includes(NAMES[0])) return properties
  const { traceparent, tracestate } = context
  return addHeaders(properties, { traceparent, tracestate })
}
