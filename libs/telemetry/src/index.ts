export { type Family, renderText, type Series } from './exposition.ts'
export { Histogram } from './histogram.ts'
export { type Logger, noteTrace, openLog, reportTo } from './log.ts'
export { METRICS, QUEUES_MEASURED_MAX, QUEUES_SUMMED_MAX, renderMetrics } from './metric-list.ts'
export { type Count, Metrics, type QueueSource } from './metrics.ts'
export { exportMetrics } from './otlp-metrics.ts'
export type { QueueReading } from './queue-figures.ts'
export { rabbitmqFamilies } from './rabbitmq.ts'
export {
  readTraceContext,
  TRACE_FIELDS,
  type TraceContext,
  writeTraceContext,
} from './trace-context.ts'
export {
  contextOf,
  endSpan,
  type Operation,
  openTracing,
  type Span,
  type SpanOptions,
  Tracing,
} from './tracing.ts'
